/* softmax.c: softmax, log-softmax and hardmax of scale · x + mask along one axis. Computed in float (double for double).

   How to think
   - A row is brought into a dense buffer (the output itself where that is dense), its greatest element is taken out, e^x and the sum are formed, and the row is scaled.
   - Where another axis lies dense, up to 64 rows advance together, as columns of a block.
   - Softmax of a narrow float rounds x - max, e^x and the sum to that type, as the specification's function body does.
   - NaN anywhere makes the row NaN; a row of -inf gives NaN, as the formula says. */
#include "sx_expr.h"
#include "sx_math.h"
#include "sx_vec.h"

#define WORK 16384
#define COLUMNS 64
#define BLOCK 262144 /* bytes of a column block, if 16 columns fit */

typedef struct {
    const sx_call *call;
    int axis, near, mode, doubles;     /* near: the axis rows are grouped along; -1: none */
    int64_t n, rows, per;
    double scale;
} plan;

#define SOFTMAX(T, S) \
    static void row_##S(T *restrict y, int64_t n, int mode) { \
        T top = sx_max_##S(y, n), sum; \
        if (mode == 2) { \
            int64_t at = 0; \
            for (int64_t i = n - 1; i >= 0; i--) if (y[i] == top || y[i] != y[i]) at = i; \
            for (int64_t i = 0; i < n; i++) y[i] = 0; \
            y[at] = 1; \
            return; } \
        if (mode == 1) { \
            T room[256]; \
            double total = 0; \
            for (int64_t i = 0; i < n; i += 256) { \
                int64_t m = sx_min64(256, n - i); \
                for (int64_t k = 0; k < m; k++) y[i + k] -= top, room[k] = sx_exp_##S(y[i + k]); \
                total += sx_sum_##S(room, m); } \
            T log = sx_log_##S((T)total); \
            for (int64_t i = 0; i < n; i++) y[i] -= log; \
            return; } \
        for (int64_t i = 0; i < n; i++) y[i] = sx_exp_##S(y[i] - top); \
        sum = sx_sum_##S(y, n); \
        T inverse = (T)1 / sum; \
        for (int64_t i = 0; i < n; i++) y[i] *= inverse; }
SX_SMALL static void row_f64(double *restrict y, int64_t n, int mode);
SOFTMAX(float, f32)
SOFTMAX(double, f64)

/* The softmax of a row that is stored in a narrow type; `half`: room for n elements of it. */
SX_SMALL static void row_narrow(float *restrict y, int64_t n, int dtype, char *half) {
    float top = sx_max_f32(y, n), sum;
    for (int64_t i = 0; i < n; i++) y[i] -= top;
    sx_store_row(dtype, SX_F32, half, 1, y, n), sx_load_row(dtype, SX_F32, y, half, 1, n);
    for (int64_t i = 0; i < n; i++) y[i] = sx_exp_f32(y[i]);
    sx_store_row(dtype, SX_F32, half, 1, y, n), sx_load_row(dtype, SX_F32, y, half, 1, n);
    sum = sx_sum_f32(y, n);
    sx_store_row(dtype, SX_F32, half, 1, &sum, 1), sx_load_row(dtype, SX_F32, &sum, half, 1, 1);
    for (int64_t i = 0; i < n; i++) y[i] /= sum;
}

#define SCALED(T) { \
    T *restrict y_ = (T *)y; const T *m_ = (const T *)m; T s = (T)scale; \
    if (m) for (int64_t i = 0; i < n; i++) y_[i] = y_[i] * s + m_[i]; \
    else if (!(s == 1)) for (int64_t i = 0; i < n; i++) y_[i] *= s; }

static void scale_row(char *y, const char *m, double scale, int64_t n, int doubles) {
    if (doubles) SCALED(double) else SCALED(float)
}

/* One row. `room`: n elements of the compute type, and as many for a mask that is not dense. */
static void do_row(const plan *p, const int64_t *at, char *room) {
    const sx_call *c = p->call;
    const sx_view *x = c->in, *y = c->out, *mask = c->n_in > 1 && c->in[1].dtype ? c->in + 1 : NULL;
    int type = p->doubles ? SX_F64 : SX_F32, axis = p->axis;
    int64_t n = p->n, wide = p->doubles ? 8 : 4;
    char *to = y->data + at[1] * sx_element_bytes(y->dtype);
    const char *from = x->data + at[0] * sx_element_bytes(x->dtype), *m = NULL;
    int dense = y->stride[axis] == 1 && y->dtype == sx_native_dtype(type);
    char *work = dense ? to : room;
    if (mask) {
        m = mask->data + at[2] * sx_element_bytes(mask->dtype);
        if (mask->stride[axis] != 1 || mask->dtype != sx_native_dtype(type)) sx_load_row(mask->dtype, type, room + n * wide, m, mask->stride[axis], n), m = room + n * wide;
    }
    if (work != from) sx_load_row(x->dtype, type, work, from, x->stride[axis], n);
    scale_row(work, m, p->scale, n, p->doubles);
    if (p->doubles) row_f64((double *)work, n, p->mode);
    else if (p->mode == 0 && x->dtype != SX_FLOAT) row_narrow((float *)work, n, x->dtype, room + n * wide); /* the mask is used up */
    else row_f32((float *)work, n, p->mode);
    if (!dense) sx_store_row(y->dtype, type, to, y->stride[axis], work, n);
}

/* -- columns ------------------------------------------------------------------------------------------------------------------------------------------- */

#define COLUMN_SOFTMAX(T, S) \
    static void columns_##S(T *restrict y, int64_t n, int64_t cols, int mode) { \
        T top[COLUMNS], sum[COLUMNS]; \
        for (int64_t c = 0; c < cols; c++) top[c] = y[c], sum[c] = 0; \
        for (int64_t i = 1; i < n; i++) for (int64_t c = 0; c < cols; c++) { T v = y[i * cols + c]; top[c] = top[c] > v || top[c] != top[c] ? top[c] : v; } \
        for (int64_t i = 0; i < n; i++) \
            for (int64_t c = 0; c < cols; c++) { \
                T d = y[i * cols + c] - top[c], e = sx_exp_##S(d); \
                sum[c] += e, y[i * cols + c] = mode ? d : e; } \
        for (int64_t c = 0; c < cols; c++) sum[c] = mode ? sx_log_##S(sum[c]) : (T)1 / sum[c]; \
        for (int64_t i = 0; i < n; i++) for (int64_t c = 0; c < cols; c++) y[i * cols + c] = mode ? y[i * cols + c] - sum[c] : y[i * cols + c] * sum[c]; }
SX_SMALL static void columns_f64(double *restrict y, int64_t n, int64_t cols, int mode);
COLUMN_SOFTMAX(float, f32)
COLUMN_SOFTMAX(double, f64)

static int64_t column_count(const sx_call *call) {
    int64_t n = call->out->dim[call->param[0]], wide = call->out->dtype == SX_DOUBLE ? 8 : 4;
    return sx_min64(COLUMNS, sx_max64(16, BLOCK / sx_max64(n * wide, 1)));
}

/* `cols` rows side by side from offsets at[]. */
static void do_columns(const plan *p, const int64_t *at, int64_t cols, char *room) {
    const sx_call *c = p->call;
    const sx_view *x = c->in, *y = c->out, *mask = c->n_in > 1 && c->in[1].dtype ? c->in + 1 : NULL;
    int type = p->doubles ? SX_F64 : SX_F32;
    int64_t wide = p->doubles ? 8 : 4, n = p->n;
    char *line = room + n * cols * wide; /* a row of the mask */
    for (int64_t i = 0; i < n; i++) {
        char *to = room + i * cols * wide;
        sx_load_row(x->dtype, type, to, x->data + (at[0] + i * x->stride[p->axis]) * sx_element_bytes(x->dtype), x->stride[p->near], cols);
        if (mask) sx_load_row(mask->dtype, type, line, mask->data + (at[2] + i * mask->stride[p->axis]) * sx_element_bytes(mask->dtype), mask->stride[p->near], cols);
        scale_row(to, mask ? line : NULL, p->scale, cols, p->doubles);
    }
    if (p->doubles) columns_f64((double *)room, n, cols, p->mode);
    else columns_f32((float *)room, n, cols, p->mode);
    for (int64_t i = 0; i < n; i++)
        sx_store_row(y->dtype, type, y->data + (at[1] + i * y->stride[p->axis]) * sx_element_bytes(y->dtype), y->stride[p->near], room + i * cols * wide, cols);
}

static void offsets(const plan *p, int64_t rest, int64_t near, int64_t *at) {
    const sx_call *c = p->call;
    at[0] = at[1] = at[2] = 0;
    for (int d = c->out->rank - 1; d >= 0; d--) {
        if (d == p->axis) continue;
        int64_t i = near;
        if (d != p->near) i = rest % c->out->dim[d], rest /= c->out->dim[d];
        at[0] += i * c->in->stride[d], at[1] += i * c->out->stride[d];
        if (c->n_in > 1 && c->in[1].dtype) at[2] += i * c->in[1].stride[d];
    }
}

static void column_task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    int64_t width = column_count(p->call), count = p->call->out->dim[p->near], across = sx_ceil_div(count, width), at[3];
    int64_t col = number % across * width;
    offsets(p, number / across, col, at);
    do_columns(p, at, sx_min64(width, count - col), p->call->scratch + worker * p->call->scratch_bytes);
}

#ifndef __wasm__ /* where no row is so long */
/* -- long rows of floats, one after the other, in parts: a run can be left between them, and several workers share a row ------------------------------------- */

#define LONG (1 << 20)
#define PART (1 << 16)
#define PIECE 1024

/* work: the row, the output itself or scratch. greatest, sums: of each part; top, last: of all, and what the third pass multiplies by or takes off. */
typedef struct { const plan *p; int64_t at[3]; float *work, top, last; float *greatest; double *sums; } long_row;

static int is_long(const plan *p) { return p->n >= LONG && !p->doubles && p->mode < 2 && (p->mode || p->call->in->dtype == SX_FLOAT); }

static void part_in(void *arg, int64_t number, int worker) {
    const long_row *l = arg;
    const sx_call *c = l->p->call;
    const sx_view *x = c->in, *mask = c->n_in > 1 && c->in[1].dtype ? c->in + 1 : NULL;
    int64_t first = number * PART, n = sx_min64(PART, l->p->n - first), axis = l->p->axis;
    float *work = l->work + first, room[PIECE];
    const char *from = x->data + (l->at[0] + first * x->stride[axis]) * sx_element_bytes(x->dtype);
    (void)worker;
    if ((const char *)work != from) sx_load_row(x->dtype, SX_F32, work, from, x->stride[axis], n);
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t m = sx_min64(PIECE, n - i);
        if (mask) sx_load_row(mask->dtype, SX_F32, room, mask->data + (l->at[2] + (first + i) * mask->stride[axis]) * sx_element_bytes(mask->dtype), mask->stride[axis], m);
        scale_row((char *)(work + i), mask ? (const char *)room : NULL, l->p->scale, m, 0);
    }
    l->greatest[number] = sx_max_f32(work, n);
}

static void part_exp(void *arg, int64_t number, int worker) {
    const long_row *l = arg;
    int64_t n = sx_min64(PART, l->p->n - number * PART);
    float *restrict y = l->work + number * PART, room[PIECE];
    double sum = 0;
    (void)worker;
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t m = sx_min64(PIECE, n - i);
        for (int64_t k = 0; k < m; k++) y[i + k] -= l->top, room[k] = sx_exp_f32(y[i + k]);
        if (!l->p->mode) for (int64_t k = 0; k < m; k++) y[i + k] = room[k];
        sum += sx_sum_f32(room, m);
    }
    l->sums[number] = sum;
}

static void part_out(void *arg, int64_t number, int worker) {
    const long_row *l = arg;
    const sx_view *y = l->p->call->out;
    int64_t first = number * PART, n = sx_min64(PART, l->p->n - first), stride = y->stride[l->p->axis];
    float *restrict work = l->work + first;
    char *to = y->data + (l->at[1] + first * stride) * sx_element_bytes(y->dtype);
    (void)worker;
    if (l->p->mode) for (int64_t i = 0; i < n; i++) work[i] -= l->last;
    else for (int64_t i = 0; i < n; i++) work[i] *= l->last;
    if ((char *)work != to) sx_store_row(y->dtype, SX_F32, to, stride, work, n);
}

static void long_rows(const plan *p) {
    const sx_call *c = p->call;
    const sx_view *y = c->out;
    int64_t parts = sx_ceil_div(p->n, PART), near = p->near < 0 ? 1 : y->dim[p->near];
    float *room = (float *)(void *)c->scratch; /* of the first worker: twice the row */
    long_row l = {.p = p, .sums = (double *)(void *)(room + sx_ceil_div(p->n, 16) * 16)};
    l.greatest = (float *)(l.sums + parts);
    for (int64_t row = 0; row < p->rows; row++) {
        offsets(p, row / near, row % near, l.at);
        l.work = y->stride[p->axis] == 1 && y->dtype == SX_FLOAT ? (float *)(void *)y->data + l.at[1] : room;
        if (!sx_tiles(c, parts, part_in, &l)) return;
        l.top = l.greatest[0];
        for (int64_t i = 1; i < parts; i++) l.top = l.top > l.greatest[i] || l.top != l.top ? l.top : l.greatest[i];
        if (!sx_tiles(c, parts, part_exp, &l)) return;
        double sum = 0;
        for (int64_t i = 0; i < parts; i++) sum += l.sums[i];
        l.last = p->mode ? sx_log_f32((float)sum) : 1 / (float)sum;
        if (!sx_tiles(c, parts, part_out, &l)) return;
    }
}
#endif

/* -- tasks --------------------------------------------------------------------------------------------------------------------------------------------- */

static void task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    const sx_call *c = p->call;
    char *room = c->scratch + worker * c->scratch_bytes;
    int64_t end = sx_min64(p->rows, (number + 1) * p->per);
    for (int64_t row = number * p->per; row < end; row++) {
        int64_t at[3], near = p->near < 0 ? 1 : c->out->dim[p->near];
        offsets(p, row / near, row % near, at); /* the near axis runs fastest */
        do_row(p, at, room);
    }
}

int64_t SX_NAME(sx_scratch_softmax)(const sx_call *call) {
    int64_t n = call->out->dim[call->param[0]], wide = call->out->dtype == SX_DOUBLE ? 8 : 4;
    return sx_max64(2 * n, (n + 1) * column_count(call)) * wide;
}

int SX_NAME(sx_k_softmax)(const sx_call *call) {
    const sx_view *y = call->out;
    plan p = {.call = call, .axis = (int)call->param[0], .near = -1, .mode = (int)call->param[1], .doubles = y->dtype == SX_DOUBLE, .rows = 1, .scale = sx_param_float(call->param[2])};
    p.n = y->dim[p.axis];
    for (int d = 0; d < y->rank; d++) {
        if (!y->dim[d]) return 0;
        if (d == p.axis) continue;
        p.rows *= y->dim[d];
        if (y->dim[d] > 1 && (p.near < 0 || sx_magnitude(y->stride[d]) <= sx_magnitude(y->stride[p.near]))) p.near = d;
    }
    int narrow = p.mode == 0 && y->dtype != SX_FLOAT && y->dtype != SX_DOUBLE;
    if (p.near >= 0 && y->dim[p.near] >= 4 && y->stride[p.axis] != 1 && sx_magnitude(y->stride[p.near]) == 1 && p.mode < 2 && !narrow) {
        sx_tiles(call, p.rows / y->dim[p.near] * sx_ceil_div(y->dim[p.near], column_count(call)), column_task, &p);
        return 0;
    }
#ifndef __wasm__
    if (is_long(&p)) {
        long_rows(&p);
        return 0;
    }
#endif
    p.per = sx_max64(1, WORK / p.n);
    sx_tiles(call, sx_ceil_div(p.rows, p.per), task, &p);
    return 0;
}
