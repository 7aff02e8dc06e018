/* gather.c: Gather, GatherElements, GatherND: elements or slices at positions given by data. Indices count from the end where negative and are checked as they are read. */
#include "sx_expr.h"
#include "sx_rows.h"

#define WORK 32768

typedef struct {
    const sx_call *call;
    int mode, axis, tuple;                 /* tuple: GatherND's index length */
    int lead;                              /* axes of y that choose a slice; the rest are the slice */
    int rank;                              /* the slice, merged */
    int64_t dim[SX_RANK], xs[SX_RANK], ys[SX_RANK];
    int64_t item, slices, size, per;
} plan;

static int64_t read_index(const sx_view *v, int64_t at) { return v->dtype == SX_INT64 ? ((const int64_t *)v->data)[at] : ((const int32_t *)v->data)[at]; }

/* The index at offset `at`, counted from the front; -1: out of range, reported. */
static int64_t checked(const plan *p, int64_t at, int64_t size) {
    int64_t i = read_index(p->call->in + 1, at);
    if (i < -size || i >= size) {
        sx_fail(p->call, SX_E_INDEX, 1, i, size);
        return -1;
    }
    return i < 0 ? i + size : i;
}

static void copy_slice(const plan *p, char *y, const char *x) {
    int64_t index[SX_RANK] = {0};
    for (;;) {
        int last = p->rank - 1, d = last - 1;
        copy_row(y, p->ys[last], x, p->xs[last], p->dim[last], p->item);
        for (; d >= 0; d--) {
            x += p->xs[d] * p->item, y += p->ys[d] * p->item;
            if (++index[d] < p->dim[d]) break;
            x -= p->xs[d] * p->dim[d] * p->item, y -= p->ys[d] * p->dim[d] * p->item;
            index[d] = 0;
        }
        if (d < 0) return;
    }
}

/* Slice number `s`: where it goes and where it comes from. 0: a bad index. */
static int one_slice(const plan *p, int64_t s) {
    const sx_view *x = p->call->in, *index = p->call->in + 1, *y = p->call->out;
    int64_t at[SX_RANK], xat = 0, yat = 0, iat = 0;
    for (int d = p->lead - 1; d >= 0; d--) at[d] = s % y->dim[d], s /= y->dim[d], yat += at[d] * y->stride[d];
    if (p->mode == 0) {
        for (int d = 0; d < index->rank; d++) iat += at[p->axis + d] * index->stride[d];
        for (int d = 0; d < p->axis; d++) xat += at[d] * x->stride[d];
    } else {
        int given = p->mode == 1 ? index->rank : index->rank - 1;
        for (int d = 0; d < given; d++) iat += at[d] * index->stride[d];
        if (p->mode == 1) for (int d = 0; d < x->rank; d++) xat += d == p->axis ? 0 : at[d] * x->stride[d];
        else for (int d = 0; d < p->axis; d++) xat += at[d] * x->stride[d];
    }
    for (int k = 0; k < (p->mode == 2 ? p->tuple : 1); k++) {
        int axis = p->axis + k;
        int64_t i = checked(p, iat + (p->mode == 2 ? k * index->stride[index->rank - 1] : 0), x->dim[axis]);
        if (i < 0) return 0;
        xat += i * x->stride[axis];
    }
    copy_slice(p, y->data + yat * p->item, x->data + xat * p->item);
    return 1;
}

static void task(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    int64_t end = sx_min64(p->slices, (number + 1) * p->per);
    for (int64_t s = number * p->per; s < end; s++) if (!one_slice(p, s)) return;
}

/* The axes of the slice: y's from `lead` on, x's from `from` on. */
static void merge_slice(plan *p, int from) {
    const sx_view *x = p->call->in, *y = p->call->out;
    p->size = 1;
    for (int d = p->lead; d < y->rank; d++) {
        int64_t n = y->dim[d], xs = x->stride[from + d - p->lead], ys = y->stride[d];
        p->size *= n;
        if (n == 1) continue;
        int last = p->rank - 1;
        if (p->rank && p->xs[last] == xs * n && p->ys[last] == ys * n) p->dim[last] *= n;
        else last = p->rank++, p->dim[last] = n;
        p->xs[last] = xs, p->ys[last] = ys;
    }
    if (!p->rank) p->rank = 1, p->dim[0] = p->xs[0] = p->ys[0] = 1;
}

int64_t SX_NAME(sx_scratch_gather)(const sx_call *call) {
    (void)call;
    return 0;
}

int SX_NAME(sx_k_gather)(const sx_call *call) {
    const sx_view *x = call->in, *index = call->in + 1, *y = call->out;
    plan p = {.call = call, .axis = (int)call->param[0], .mode = (int)call->param[1], .item = sx_element_bytes(x->dtype), .slices = 1};
    for (int d = 0; d < y->rank; d++) if (!y->dim[d]) return 0;
    p.tuple = p.mode == 2 ? (int)index->dim[index->rank - 1] : 1;
    p.lead = p.mode == 0 ? p.axis + index->rank : p.mode == 1 ? y->rank : index->rank - 1;
    merge_slice(&p, p.mode == 0 ? p.axis + 1 : p.mode == 1 ? x->rank : p.axis + p.tuple);
    for (int d = 0; d < p.lead; d++) p.slices *= y->dim[d];
    p.per = sx_max64(1, WORK / sx_max64(p.size * p.item, 64));
    sx_tiles(call, sx_ceil_div(p.slices, p.per), task, &p);
    return 0;
}
