/* scatter.c: ScatterElements and ScatterND: Y = X, then every update in row-major order, replacing what is there or combined with it.

   How to think
   - X is copied by the copy kernel, unless X and Y are the same memory.
   - Updates that may hit the same place must keep their order; what can never meet runs side by side. Elements: lines along `axis` never meet, so the other axes are cut into tasks, and a task
     walks `axis` in order with a stretch of the densest axis inside. Slices (ND): the slice is cut, and every task walks all tuples.
   - Indices become offsets of up to CHUNK places at a time; one small loop for each type and reduction does the rest. Narrow floats round after every update, as NumPy does. */
#include "sx_expr.h"

#define CHUNK 256
#define WORK 8192

int SX_NAME(sx_k_copy)(const sx_call *call);

/* y[to[i]] = y[to[i]] ∘ u[i * us], i in order. */
typedef void (*fold_fn)(char *y, const int64_t *to, const char *u, int64_t us, int64_t n);

typedef struct {
    const sx_call *call;
    fold_fn fold;
    int axis, inner, rank;                          /* rank: merged axes of a slice */
    int64_t item, tasks, per, stretch, stretches;   /* stretch: along `inner`, of one task */
    int64_t tuples, rows, cols, dim[SX_RANK], ys[SX_RANK], us[SX_RANK];
} plan;

/* ---- one small loop for each type and reduction ---- */

typedef struct { uint64_t half[2]; } wide;

#define FOLD(NAME, T, expression) \
    static void NAME(char *y_, const int64_t *to, const char *u_, int64_t us, int64_t n) { \
        T *y = (T *)y_; \
        const T *u = (const T *)u_; \
        for (int64_t i = 0; i < n; i++) { T a = y[to[i]], b = u[i * us]; (void)a; y[to[i]] = (T)(expression); } }
#define MOST(a, b) ((a) > (b) || (a) != (a) ? (a) : (b))
#define LEAST(a, b) ((a) < (b) || (a) != (a) ? (a) : (b))
FOLD(put_1, uint8_t, b) FOLD(put_2, uint16_t, b) FOLD(put_4, uint32_t, b) FOLD(put_8, uint64_t, b)
static void put_16(char *y, const int64_t *to, const char *u, int64_t us, int64_t n) { for (int64_t i = 0; i < n; i++) ((wide *)y)[to[i]] = ((const wide *)u)[i * us]; }
#define SUMS(S, T) FOLD(add_##S, T, a + b) FOLD(multiply_##S, T, a * b)
#define EXTREMES(S, T) FOLD(most_##S, T, MOST(a, b)) FOLD(least_##S, T, LEAST(a, b))
SUMS(8, uint8_t) SUMS(16, uint16_t) SUMS(32, uint32_t) SUMS(64, uint64_t) SUMS(f32, float) SUMS(f64, double)
EXTREMES(u8, uint8_t) EXTREMES(u16, uint16_t) EXTREMES(u32, uint32_t) EXTREMES(u64, uint64_t) EXTREMES(i8, int8_t) EXTREMES(i16, int16_t) EXTREMES(i32, int32_t) EXTREMES(i64, int64_t)
EXTREMES(f32, float) EXTREMES(f64, double)

/* The product of 16-bit unsigned numbers is an int: kept from overflowing by wrapping arithmetic (-fwrapv). */
#define NARROW(NAME, DTYPE, expression) \
    static void NAME(char *y, const int64_t *to, const char *u, int64_t us, int64_t n) { \
        for (int64_t i = 0; i < n; i++) { \
            float a, b, made; \
            sx_load_row(DTYPE, SX_F32, &a, y + to[i] * 2, 1, 1); \
            sx_load_row(DTYPE, SX_F32, &b, u + i * us * 2, 1, 1); \
            made = expression; \
            sx_store_row(DTYPE, SX_F32, y + to[i] * 2, 1, &made, 1); } }
#define NARROWS(S, DTYPE) NARROW(add_##S, DTYPE, a + b) NARROW(multiply_##S, DTYPE, a * b) NARROW(most_##S, DTYPE, MOST(a, b)) NARROW(least_##S, DTYPE, LEAST(a, b))
NARROWS(f16, SX_FLOAT16) NARROWS(bf16, SX_BFLOAT16)

static fold_fn fold_of(int dtype, int64_t reduction, int64_t item) {
#define FOUR(sum, extreme) return reduction == 1 ? add_##sum : reduction == 2 ? multiply_##sum : reduction == 3 ? most_##extreme : least_##extreme
    if (!reduction) return item == 1 ? put_1 : item == 2 ? put_2 : item == 4 ? put_4 : item == 8 ? put_8 : put_16;
    switch (dtype) {
    case SX_BOOL: return reduction % 2 ? most_u8 : least_u8; /* a sum is or, a product and */
    case SX_UINT8: FOUR(8, u8);
    case SX_INT8: FOUR(8, i8);
    case SX_UINT16: FOUR(16, u16);
    case SX_INT16: FOUR(16, i16);
    case SX_UINT32: FOUR(32, u32);
    case SX_INT32: FOUR(32, i32);
    case SX_UINT64: FOUR(64, u64);
    case SX_INT64: FOUR(64, i64);
    case SX_FLOAT: FOUR(f32, f32);
    case SX_DOUBLE: FOUR(f64, f64);
    case SX_FLOAT16: FOUR(f16, f16);
    default: FOUR(bf16, bf16);
    }
}

/* The index at offset `at`, counted from the front; -1: out of range, reported. */
static int64_t checked(const plan *p, int64_t at, int64_t size) {
    const sx_view *v = p->call->in + 1;
    int64_t i = v->dtype == SX_INT64 ? ((const int64_t *)v->data)[at] : ((const int32_t *)v->data)[at];
    if (i < -size || i >= size) {
        sx_fail(p->call, SX_E_INDEX, 1, i, size);
        return -1;
    }
    return i < 0 ? i + size : i;
}

/* ---- elements ---- */

static int element_task(const plan *p, int64_t number) {
    const sx_view *index = p->call->in + 1, *u = p->call->in + 2, *y = p->call->out;
    int64_t first = number % p->stretches * p->stretch, rest = number / p->stretches, iat = 0, uat = 0, yat = 0, to[CHUNK];
    int64_t length = sx_min64(p->stretch, index->dim[p->inner] - first), across = p->inner == p->axis ? 1 : index->dim[p->axis], size = y->dim[p->axis];
    for (int d = y->rank - 1; d >= 0; d--) {
        if (d == p->axis || d == p->inner) continue;
        int64_t i = rest % index->dim[d];
        rest /= index->dim[d];
        iat += i * index->stride[d], uat += i * u->stride[d], yat += i * y->stride[d];
    }
    for (int64_t a = 0; a < across; a++) {
        int64_t along = p->inner == p->axis ? 0 : y->stride[p->inner];
        for (int64_t done = 0; done < length; done += CHUNK) {
            int64_t n = sx_min64(CHUNK, length - done), at = first + done, from = iat + a * index->stride[p->axis];
            if (p->inner == p->axis) from = iat;
            for (int64_t i = 0; i < n; i++) {
                int64_t place = checked(p, from + (at + i) * index->stride[p->inner], size);
                if (place < 0) return 0;
                to[i] = place * y->stride[p->axis] + (at + i) * along;
            }
            int64_t given = uat + at * u->stride[p->inner] + (p->inner == p->axis ? 0 : a * u->stride[p->axis]);
            p->fold(y->data + yat * p->item, to, u->data + given * p->item, u->stride[p->inner], n);
        }
    }
    return 1;
}

static void elements(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    int64_t end = sx_min64(p->tasks, (number + 1) * p->per);
    for (int64_t t = number * p->per; t < end; t++) if (!element_task(p, t)) return;
}

static void scatter_elements(plan *p) {
    const sx_view *index = p->call->in + 1, *y = p->call->out;
    for (int d = 0; d < y->rank; d++) if (!index->dim[d]) return;
    p->axis = p->inner = (int)p->call->param[0];
    for (int d = 0; d < y->rank; d++)
        if (index->dim[d] > 1 && (index->dim[p->inner] == 1 || sx_magnitude(y->stride[d]) < sx_magnitude(y->stride[p->inner]))) p->inner = d;
    p->stretch = p->inner == p->axis ? index->dim[p->inner] : CHUNK;
    p->stretches = sx_ceil_div(index->dim[p->inner], p->stretch);
    p->tasks = p->stretches;
    for (int d = 0; d < y->rank; d++) if (d != p->axis && d != p->inner) p->tasks *= index->dim[d];
    p->per = sx_max64(1, WORK / (sx_min64(p->stretch, index->dim[p->inner]) * (p->inner == p->axis ? 1 : index->dim[p->axis])));
    sx_tiles(p->call, sx_ceil_div(p->tasks, p->per), elements, p);
}

/* ---- slices ---- */

/* Rows r0 … r1 and columns c0 … c1 of one slice. */
static void fold_slice(const plan *p, char *y, const char *u, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    int last = p->rank - 1;
    int64_t to[CHUNK], ys = p->ys[last], us = p->us[last];
    for (int64_t r = r0; r < r1; r++) {
        int64_t rest = r, yat = c0 * ys, uat = c0 * us;
        for (int d = last - 1; d >= 0; d--) {
            int64_t i = rest % p->dim[d];
            rest /= p->dim[d];
            yat += i * p->ys[d], uat += i * p->us[d];
        }
        if (!p->call->param[2] && ys == 1 && us == 1) {
            __builtin_memcpy(y + yat * p->item, u + uat * p->item, (uint64_t)((c1 - c0) * p->item));
            continue;
        }
        for (int64_t c = c0; c < c1; c += CHUNK) {
            int64_t n = sx_min64(CHUNK, c1 - c);
            for (int64_t i = 0; i < n; i++) to[i] = (c - c0 + i) * ys;
            p->fold(y + yat * p->item, to, u + (uat + (c - c0) * us) * p->item, us, n);
        }
    }
}

static void slices(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    const sx_view *index = p->call->in + 1, *u = p->call->in + 2, *y = p->call->out;
    int lead = index->rank - 1;
    int64_t length = index->dim[lead], at[SX_RANK] = {0}, iat = 0, uat = 0, r0 = 0, r1 = p->rows, c0 = 0, c1 = p->cols;
    if (p->rows == 1) c0 = number * p->per, c1 = sx_min64(p->cols, c0 + p->per);
    else r0 = number * p->per, r1 = sx_min64(p->rows, r0 + p->per);
    for (int64_t t = 0; t < p->tuples; t++) {
        int64_t yat = 0;
        for (int64_t k = 0; k < length; k++) {
            int64_t place = checked(p, iat + k * index->stride[lead], y->dim[k]);
            if (place < 0) return;
            yat += place * y->stride[k];
        }
        fold_slice(p, y->data + yat * p->item, u->data + uat * p->item, r0, r1, c0, c1);
        for (int d = lead - 1; d >= 0; d--) {
            iat += index->stride[d], uat += u->stride[d];
            if (++at[d] < index->dim[d]) break;
            iat -= index->stride[d] * index->dim[d], uat -= u->stride[d] * index->dim[d], at[d] = 0;
        }
    }
}

/* Slices of one element: runs of tuples along the last axis that counts them. */
static void points(void *arg, int64_t number, int worker) {
    (void)number, (void)worker;
    const plan *p = arg;
    const sx_view *index = p->call->in + 1, *u = p->call->in + 2, *y = p->call->out;
    int lead = index->rank - 1, near = lead - 1;
    int64_t length = index->dim[lead], at[SX_RANK] = {0}, iat = 0, uat = 0, to[CHUNK];
    int64_t run = lead ? index->dim[near] : 1, is = lead ? index->stride[near] : 0, us = lead ? u->stride[near] : 0;
    for (int64_t t = 0; t < p->tuples; t += run) {
        for (int64_t done = 0; done < run && !sx_stopped(p->call); done += CHUNK) {
            int64_t n = sx_min64(CHUNK, run - done);
            for (int64_t i = 0; i < n; i++) to[i] = 0;
            for (int64_t k = 0; k < length; k++)
                for (int64_t i = 0; i < n; i++) {
                    int64_t place = checked(p, iat + (done + i) * is + k * index->stride[lead], y->dim[k]);
                    if (place < 0) return;
                    to[i] += place * y->stride[k];
                }
            p->fold(y->data, to, u->data + (uat + done * us) * p->item, us, n);
        }
        for (int d = near - 1; d >= 0; d--) {
            iat += index->stride[d], uat += u->stride[d];
            if (++at[d] < index->dim[d]) break;
            iat -= index->stride[d] * index->dim[d], uat -= u->stride[d] * index->dim[d], at[d] = 0;
        }
    }
}

static void scatter_slices(plan *p) {
    const sx_view *index = p->call->in + 1, *u = p->call->in + 2, *y = p->call->out;
    int lead = index->rank - 1, from = (int)index->dim[lead];
    p->tuples = 1;
    for (int d = 0; d < lead; d++) p->tuples *= index->dim[d];
    for (int d = from; d < y->rank; d++) {
        int64_t n = y->dim[d], ys = y->stride[d], us = u->stride[lead + d - from];
        if (n == 1) continue;
        int last = p->rank - 1;
        if (p->rank && p->ys[last] == ys * n && p->us[last] == us * n) p->dim[last] *= n;
        else last = p->rank++, p->dim[last] = n;
        p->ys[last] = ys, p->us[last] = us;
    }
    if (!p->rank) p->rank = 1, p->dim[0] = p->ys[0] = p->us[0] = 1;
    p->cols = p->dim[p->rank - 1], p->rows = 1;
    for (int d = 0; d < p->rank - 1; d++) p->rows *= p->dim[d];
    if (!p->tuples) return;
    if (p->rows == 1 && p->cols == 1) {
        sx_tiles(p->call, 1, points, p);
        return;
    }
    int64_t cut = p->rows == 1 ? p->cols : p->rows, each = p->rows == 1 ? 1 : p->cols;
    p->per = sx_max64(1, sx_max64(WORK / 8 / sx_max64(each, 1), WORK / sx_max64(1, each * p->tuples))); /* every task reads all indices: not too few places each */
    sx_tiles(p->call, sx_max64(1, sx_ceil_div(cut, p->per)), slices, p);
}

static int same_memory(const sx_view *x, const sx_view *y) {
    for (int d = 0; d < y->rank; d++) if (y->dim[d] > 1 && x->stride[d] != y->stride[d]) return 0;
    return x->data == y->data;
}

int64_t SX_NAME(sx_scratch_scatter)(const sx_call *call) {
    (void)call;
    return 0;
}

int SX_NAME(sx_k_scatter)(const sx_call *call) {
    const sx_view *x = call->in, *y = call->out;
    plan p = {.call = call, .item = sx_element_bytes(y->dtype)};
    p.fold = fold_of(y->dtype, call->param[2], p.item);
    if (!same_memory(x, y)) {
        static const int64_t plain[1 + SX_RANK];
        sx_call copy = *call;
        copy.kind = SX_COPY, copy.n_in = 1, copy.n_param = 1 + SX_RANK, copy.param = plain;
        SX_NAME(sx_k_copy)(&copy);
    }
    if (call->param[1] == 0) scatter_elements(&p);
    else scatter_slices(&p);
    return SX_OK;
}
