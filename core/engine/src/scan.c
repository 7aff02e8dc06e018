/* scan.c: running sums and products along an axis; linear attention.

   How to think
   - Sums and products are taken one after the other in the compute type, so they are NumPy's to the bit. Where another axis lies denser, up to COLUMNS results advance together; else a row is
     loaded piece by piece. No order of additions depends on how the work is cut.
   - Linear attention: one state S [Dk, Dv] for each head, in float. Columns of S never meet, so a task is a head and STATE_COLUMNS of them. A step passes over S once, or twice where `beta` needs
     k S of the decayed state first. */
#include "sx_expr.h"
#include "sx_math.h"

#define COLUMNS 256
#define PIECE 512
#define WORK 16384
#define STATE_COLUMNS 64
#define MOST ((int64_t)1 << 46)

/* ---- running sums and products ---- */

typedef struct {
    const sx_call *call;
    int axis, near, type, product, exclusive, reverse, columns; /* near: the densest other axis, -1: none; columns: whether results advance together along it */
    int64_t n, cols, across, tasks, per;
} plan;

typedef union { float f[COLUMNS]; double d[COLUMNS]; int32_t i[COLUMNS]; int64_t l[COLUMNS]; } column;
typedef union { float f[PIECE]; double d[PIECE]; int32_t i[PIECE]; int64_t l[PIECE]; } piece;

/* acc ∘= v, all columns; `out` gets acc before (exclusive) or after. */
#define ADVANCE(T, FIELD) \
    static void advance_##FIELD(T *restrict acc, T *restrict v, int64_t n, int product, int exclusive) { \
        if (exclusive) for (int64_t i = 0; i < n; i++) { T old = acc[i]; acc[i] = product ? old * v[i] : old + v[i]; v[i] = old; } \
        else if (product) for (int64_t i = 0; i < n; i++) v[i] = acc[i] *= v[i]; \
        else for (int64_t i = 0; i < n; i++) v[i] = acc[i] += v[i]; } \
    static T run_##FIELD(T acc, T *v, int64_t n, int product, int exclusive) { \
        if (exclusive) for (int64_t i = 0; i < n; i++) { T x = v[i]; v[i] = acc; acc = product ? acc * x : acc + x; } \
        else if (product) for (int64_t i = 0; i < n; i++) v[i] = acc *= v[i]; \
        else for (int64_t i = 0; i < n; i++) v[i] = acc += v[i]; \
        return acc; } \
    static void start_##FIELD(T *acc, int64_t n, int product) { for (int64_t i = 0; i < n; i++) acc[i] = product ? (T)1 : (T)0; }
ADVANCE(float, f) ADVANCE(double, d) ADVANCE(int32_t, i) ADVANCE(int64_t, l)

static void scan_columns(const plan *p, const char *x, char *y, int64_t n) {
    const sx_view *xv = p->call->in, *yv = p->call->out;
    int64_t xs = xv->stride[p->axis] * sx_element_bytes(xv->dtype), ys = yv->stride[p->axis] * sx_element_bytes(yv->dtype);
    column acc, v;
    if (p->type == SX_F32) start_f(acc.f, n, p->product);
    else if (p->type == SX_F64) start_d(acc.d, n, p->product);
    else if (p->type == SX_I32) start_i(acc.i, n, p->product);
    else start_l(acc.l, n, p->product);
    for (int64_t t = 0; t < p->n; t++) {
        int64_t at = p->reverse ? p->n - 1 - t : t;
        sx_load_row(xv->dtype, p->type, &v, x + at * xs, xv->stride[p->near], n);
        if (p->type == SX_F32) advance_f(acc.f, v.f, n, p->product, p->exclusive);
        else if (p->type == SX_F64) advance_d(acc.d, v.d, n, p->product, p->exclusive);
        else if (p->type == SX_I32) advance_i(acc.i, v.i, n, p->product, p->exclusive);
        else advance_l(acc.l, v.l, n, p->product, p->exclusive);
        sx_store_row(yv->dtype, p->type, y + at * ys, yv->stride[p->near], &v, n);
    }
}

/* The sums of a row that a run left in the middle. */
typedef struct { float f; double d; int32_t i; int64_t l; } sums;

/* `place`: how far the row is and, in scratch, its sums there, where it may be left; NULL: it may not. */
static void scan_row(const plan *p, const char *x, char *y, int64_t *place) {
    const sx_view *xv = p->call->in, *yv = p->call->out;
    int64_t xs = xv->stride[p->axis], ys = yv->stride[p->axis], xi = sx_element_bytes(xv->dtype), yi = sx_element_bytes(yv->dtype), first = p->product;
    if (p->reverse) x += (p->n - 1) * xs * xi, y += (p->n - 1) * ys * yi, xs = -xs, ys = -ys;
    sums *kept = (sums *)(void *)p->call->scratch, own = {(float)first, (double)first, (int32_t)first, first};
    if (place && *place) own = *kept;
    float f = own.f;
    double d = own.d;
    int32_t i = own.i;
    int64_t l = own.l;
    piece v;
    for (int64_t at = place ? *place : 0, from = at; at < p->n && !sx_stopped(p->call); at += PIECE) {
        int64_t n = sx_min64(PIECE, p->n - at);
        if (place && at > from && at % (64 * PIECE) == 0 && sx_due(p->call)) {
            *kept = (sums){f, d, i, l}, *place = at, p->call->pause->left = 1;
            return;
        }
        sx_load_row(xv->dtype, p->type, &v, x + at * xs * xi, xs, n);
        if (p->type == SX_F32) f = run_f(f, v.f, n, p->product, p->exclusive);
        else if (p->type == SX_F64) d = run_d(d, v.d, n, p->product, p->exclusive);
        else if (p->type == SX_I32) i = run_i(i, v.i, n, p->product, p->exclusive);
        else l = run_l(l, v.l, n, p->product, p->exclusive);
        sx_store_row(yv->dtype, p->type, y + at * ys * yi, ys, &v, n);
    }
}

static void scan_task(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    const sx_view *x = p->call->in, *y = p->call->out;
    int64_t end = sx_min64(p->tasks, (number + 1) * p->per);
    for (int64_t t = number * p->per; t < end; t++) {
        int64_t col = t % p->across * COLUMNS, rest = t / p->across, xat = 0, yat = 0;
        if (!p->columns) rest = t;
        for (int d = y->rank - 1; d >= 0; d--) {
            if (d == p->axis || (p->columns && d == p->near)) continue;
            int64_t i = rest % y->dim[d];
            rest /= y->dim[d];
            xat += i * x->stride[d], yat += i * y->stride[d];
        }
        if (p->columns) xat += col * x->stride[p->near], yat += col * y->stride[p->near];
        const char *from = x->data + xat * sx_element_bytes(x->dtype);
        char *to = y->data + yat * sx_element_bytes(y->dtype);
        if (p->columns) scan_columns(p, from, to, sx_min64(COLUMNS, p->cols - col));
        else scan_row(p, from, to, p->tasks == 1 && p->call->pause ? p->call->pause->at : NULL);
    }
}

static int scan(const sx_call *call) {
    const sx_view *x = call->in, *y = call->out;
    plan p = {.call = call, .axis = (int)call->param[0], .near = -1, .exclusive = call->param[1] != 0, .reverse = call->param[2] != 0, .product = call->param[3] == 1, .tasks = 1};
    p.type = x->dtype == SX_DOUBLE ? SX_F64 : x->dtype == SX_FLOAT || x->dtype == SX_FLOAT16 || x->dtype == SX_BFLOAT16 ? SX_F32
             : x->dtype == SX_UINT64 ? SX_U64 : x->dtype == SX_INT64 || x->dtype == SX_UINT32 ? SX_I64 : SX_I32; /* 64-bit integers wrap alike, signed or not */
    p.n = y->dim[p.axis];
    for (int d = 0; d < y->rank; d++) {
        if (!y->dim[d]) return SX_OK;
        if (d == p.axis) continue;
        p.tasks *= y->dim[d];
        if (y->dim[d] > 1 && (p.near < 0 || sx_magnitude(x->stride[d]) <= sx_magnitude(x->stride[p.near]))) p.near = d;
    }
    p.columns = p.near >= 0 && y->dim[p.near] >= 4 && sx_magnitude(x->stride[p.near]) < sx_magnitude(x->stride[p.axis]);
    p.cols = p.columns ? y->dim[p.near] : 1, p.across = sx_ceil_div(p.cols, COLUMNS);
    if (p.columns) p.tasks = p.tasks / p.cols * p.across;
    p.per = sx_max64(1, WORK / (p.n * sx_min64(p.cols, COLUMNS)));
    if (p.tasks == 1 && !p.columns) scan_task(&p, 0, 0);
    else sx_tiles(call, sx_ceil_div(p.tasks, p.per), scan_task, &p);
    return SX_OK;
}

/* ---- linear attention ---- */

typedef struct {
    const sx_call *call;
    int64_t heads, group, steps, dk, dv, blocks;
    float scale;
} attention;

static int present(const sx_call *c, int operand) { return operand < c->n_in && c->in[operand].dtype != 0; }

/* Offset of [b, h, t, j] in operand `v`; an axis of size 1 repeats. */
static int64_t offset(const sx_view *v, int64_t b, int64_t h, int64_t t, int64_t j) {
    return b * v->stride[0] + (v->dim[1] == 1 ? 0 : h) * v->stride[1] + t * v->stride[2] + j * v->stride[3];
}

static void load(const sx_view *v, int64_t at, int64_t stride, int64_t n, float *to) { sx_load_row(v->dtype, SX_F32, to, v->data + at * sx_element_bytes(v->dtype), stride, n); }

static void store(const sx_view *v, int64_t at, int64_t stride, int64_t n, const float *from) { sx_store_row(v->dtype, SX_F32, v->data + at * sx_element_bytes(v->dtype), stride, from, n); }

/* One step of one head for n columns of S. `k`, `decay` (factors): Dk each; `u`: v, then what is added; `q`: the group's queries, `y`: their results, STATE_COLUMNS each. */
static void attention_step(const attention *a, float *restrict s, const float *k, const float *decay, float beta, int has_beta, float *restrict u, const float *q, float *restrict y, int64_t n) {
    if (has_beta) {
        float seen[STATE_COLUMNS] = {0};
        for (int64_t r = 0; r < a->dk; r++) {
            float *row = s + r * STATE_COLUMNS;
            for (int64_t j = 0; j < n; j++) row[j] *= decay[r], seen[j] += k[r] * row[j];
        }
        for (int64_t j = 0; j < n; j++) u[j] = beta * (u[j] - seen[j]);
    }
    for (int64_t j = 0; j < a->group * STATE_COLUMNS; j++) y[j] = 0;
    for (int64_t r = 0; r < a->dk; r++) {
        float *restrict row = s + r * STATE_COLUMNS, keep = has_beta ? 1 : decay[r];
        for (int64_t j = 0; j < n; j++) row[j] = row[j] * keep + k[r] * u[j];
        for (int64_t g = 0; g < a->group; g++) {
            float x = q[g * a->dk + r], *restrict to = y + g * STATE_COLUMNS;
            for (int64_t j = 0; j < n; j++) to[j] += x * row[j];
        }
    }
}

static void attention_task(void *arg, int64_t number, int worker) {
    const attention *a = arg;
    const sx_call *c = a->call;
    const sx_view *q = c->in, *k = c->in + 1, *v = c->in + 2, *decay = present(c, 4) ? c->in + 4 : NULL, *beta = present(c, 5) ? c->in + 5 : NULL, *y = c->out;
    const sx_view *last = c->n_out > 1 && c->out[1].dtype ? c->out + 1 : NULL;
    int64_t col = number % a->blocks * STATE_COLUMNS, head = number / a->blocks % a->heads, b = number / a->blocks / a->heads, n = sx_min64(STATE_COLUMNS, a->dv - col);
    float *s = (float *)(c->scratch + worker * c->scratch_bytes), *key = s + a->dk * STATE_COLUMNS, *factor = key + a->dk, *queries = factor + a->dk, *made = queries + a->group * a->dk;
    float u[STATE_COLUMNS], strength = 1;
    for (int64_t r = 0; r < a->dk; r++) {
        if (present(c, 3)) load(c->in + 3, offset(c->in + 3, b, head, r, col), c->in[3].stride[3], n, s + r * STATE_COLUMNS);
        else for (int64_t j = 0; j < n; j++) s[r * STATE_COLUMNS + j] = 0;
        factor[r] = 1;
    }
    for (int64_t t = 0; t < a->steps; t++) {
        load(k, offset(k, b, head, t, 0), k->stride[3], a->dk, key);
        load(v, offset(v, b, head, t, col), v->stride[3], n, u);
        for (int64_t g = 0; g < a->group; g++) load(q, offset(q, b, head * a->group + g, t, 0), q->stride[3], a->dk, queries + g * a->dk);
        if (decay) {
            load(decay, offset(decay, b, head, t, 0), decay->dim[3] == 1 ? 0 : decay->stride[3], a->dk, factor);
            for (int64_t r = 0; r < a->dk; r++) factor[r] = sx_exp_f32(factor[r]);
        }
        if (beta) load(beta, offset(beta, b, head, t, 0), 1, 1, &strength);
        attention_step(a, s, key, factor, strength, beta != NULL, u, queries, made, n);
        for (int64_t g = 0; g < a->group; g++) {
            for (int64_t j = 0; j < n; j++) made[g * STATE_COLUMNS + j] *= a->scale;
            store(y, offset(y, b, head * a->group + g, t, col), y->stride[3], n, made + g * STATE_COLUMNS);
        }
    }
    if (last) for (int64_t r = 0; r < a->dk; r++) store(last, offset(last, b, head, r, col), last->stride[3], n, s + r * STATE_COLUMNS);
}

static attention attention_of(const sx_call *call) {
    const sx_view *q = call->in, *k = call->in + 1, *v = call->in + 2;
    return (attention){.call = call, .heads = k->dim[1], .group = k->dim[1] ? q->dim[1] / k->dim[1] : 0, .steps = k->dim[2], .dk = k->dim[3], .dv = v->dim[3],
                       .blocks = sx_ceil_div(v->dim[3], STATE_COLUMNS), .scale = (float)sx_param_float(call->param[4])};
}

int64_t SX_NAME(sx_scratch_scan)(const sx_call *call) {
    if (call->param[3] != 2) return sizeof(sums);
    attention a = attention_of(call);
    int64_t state = sx_min64(a.dk, MOST / 1024) * (STATE_COLUMNS + 2) * 4, queries;
    if (__builtin_mul_overflow(a.group, a.dk + STATE_COLUMNS, &queries) || queries > MOST / 4) return MOST;
    return state + queries * 4;
}

int SX_NAME(sx_k_scan)(const sx_call *call) {
    if (call->param[3] != 2) return scan(call);
    attention a = attention_of(call);
    int64_t batch = call->in[1].dim[0];
    sx_tiles(call, batch * a.heads * a.blocks, attention_task, &a);
    return SX_OK;
}
