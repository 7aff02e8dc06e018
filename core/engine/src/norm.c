/* norm.c: layer, RMS and group/instance normalisation: y = (x - mean) / √(variance + epsilon) · scale + bias over groups of axes. Computed in float (double for double).

   How to think
   - A group is the axes from `axis` on (modes 0, 1), or C/groups channels with all that follows them (mode 2: X is [N, C, …]; then channels are cut in two axes, [groups, C/groups]).
   - Within a group, axes are ordered by stride and merged where every operand allows; a row is the last of them. Mean and variance are each one pass: the variance is of deviations, not of squares.
   - A group that is one dense row and fits the scratch is loaded once. */
#include "sx_expr.h"
#include "sx_vec.h"

#define PIECE 1024
#define WORK 16384
#define ONE_ROW 65536 /* elements of a group kept in scratch */
#define NOWHERE INT64_MIN /* the place of a statistic nobody wants */

enum { X, SCALE, BIAS, SKIP, Y, SUM, VIEWS };

typedef struct {
    const sx_call *call;
    const sx_view *view[VIEWS];            /* NULL where absent */
    int mode, type, rank, outer_rank, dense;
    int64_t dim[SX_RANK + 1], stride[VIEWS][SX_RANK + 1];             /* inside a group */
    int64_t outer[SX_RANK + 1], outer_stride[VIEWS][SX_RANK + 1];     /* of the groups */
    int64_t mean_stride[SX_RANK + 1], inverse_stride[SX_RANK + 1];
    int64_t count, groups, per;
    double epsilon;
} plan;

static void add_axis(plan *p, int inside, int64_t n, const int64_t *strides, int64_t mean, int64_t inverse) {
    int at = inside ? p->rank++ : p->outer_rank++;
    (inside ? p->dim : p->outer)[at] = n;
    for (int v = 0; v < VIEWS; v++) (inside ? p->stride : p->outer_stride)[v][at] = strides[v];
    if (!inside) p->mean_stride[at] = mean, p->inverse_stride[at] = inverse;
}

static void split_axes(plan *p) {
    const sx_call *c = p->call;
    int64_t groups = c->param[2];
    for (int d = 0; d < c->in->rank; d++) {
        int64_t n = c->in->dim[d], s[VIEWS], coarse[VIEWS];
        for (int v = 0; v < VIEWS; v++) s[v] = p->view[v] ? p->view[v]->stride[d] : 0, coarse[v] = p->mode == 2 ? s[v] * (n / groups) : 0;
        int64_t mean = c->n_out > 1 && c->out[1].dtype ? c->out[1].stride[d] : 0, inverse = c->n_out > 2 && c->out[2].dtype ? c->out[2].stride[d] : 0;
        if (p->mode == 2 && d == 1) {
            add_axis(p, 0, groups, coarse, 0, 0);
            add_axis(p, 1, n / groups, s, 0, 0);
        } else add_axis(p, p->mode == 2 ? d > 1 : d >= c->param[1], n, s, mean, inverse);
    }
}

/* Axes inside the group by x's strides, merged. */
static void merge_inside(plan *p) {
    for (int i = 1; i < p->rank; i++)
        for (int k = i; k > 0 && sx_magnitude(p->stride[X][k - 1]) < sx_magnitude(p->stride[X][k]); k--) {
            int64_t t = p->dim[k]; p->dim[k] = p->dim[k - 1], p->dim[k - 1] = t;
            for (int v = 0; v < VIEWS; v++) t = p->stride[v][k], p->stride[v][k] = p->stride[v][k - 1], p->stride[v][k - 1] = t;
        }
    int n = 0;
    for (int d = 0; d < p->rank; d++) {
        if (p->dim[d] == 1) continue;
        int joins = n > 0;
        for (int v = 0; v < VIEWS && joins; v++) joins = p->stride[v][n - 1] == p->stride[v][d] * p->dim[d];
        if (joins) p->dim[n - 1] *= p->dim[d];
        else p->dim[n++] = p->dim[d];
        for (int v = 0; v < VIEWS; v++) p->stride[v][n - 1] = p->stride[v][d];
    }
    if (!n) { n = 1, p->dim[0] = 1; for (int v = 0; v < VIEWS; v++) p->stride[v][0] = 0; }
    p->rank = n;
}

static int64_t element(const plan *p, int v) { return sx_element_bytes(p->view[v]->dtype); }

/* Piece of n at offset `done` of a row whose first elements are at[]: operand v as the compute type. */
static const void *get(const plan *p, int v, const int64_t *at, int64_t done, int64_t n, void *room) {
    int64_t step = p->stride[v][p->rank - 1];
    const char *from = p->view[v]->data + (at[v] + done * step) * element(p, v);
    if (step == 1 && p->view[v]->dtype == sx_native_dtype(p->type)) return from;
    sx_load_row(p->view[v]->dtype, p->type, room, from, step, n);
    return room;
}

static int advance(const plan *p, int64_t *index, int64_t *at) {
    for (int d = p->rank - 2; d >= 0; d--) {
        for (int v = 0; v < VIEWS; v++) at[v] += p->stride[v][d];
        if (++index[d] < p->dim[d]) return 1;
        for (int v = 0; v < VIEWS; v++) at[v] -= p->stride[v][d] * p->dim[d];
        index[d] = 0;
    }
    return 0;
}

/* The statistics somebody wants. */
static void say(const plan *p, const void *mean, const void *inverse, int64_t mean_at, int64_t inverse_at) {
    const sx_call *c = p->call;
    if (mean_at != NOWHERE) sx_store_row(c->out[1].dtype, p->type, c->out[1].data + mean_at * sx_element_bytes(c->out[1].dtype), 1, mean, 1);
    if (inverse_at != NOWHERE) sx_store_row(c->out[2].dtype, p->type, c->out[2].data + inverse_at * sx_element_bytes(c->out[2].dtype), 1, inverse, 1);
}

/* For every piece of the group: `x` (with the skip added), its offset and place. BODY sees x, n, done, at, piece (number of elements before it). */
#define WALK(T, BODY) { \
    int64_t index[SX_RANK + 1] = {0}, at[VIEWS], length = p->dim[p->rank - 1], before = 0; \
    for (int v = 0; v < VIEWS; v++) at[v] = start[v]; \
    do for (int64_t done = 0; done < length; done += PIECE) { \
        int64_t n = sx_min64(PIECE, length - done); \
        const T *x; \
        if (kept) x = kept + before; \
        else { \
            x = get(p, X, at, done, n, room); \
            if (p->view[SKIP]) { const T *s = get(p, SKIP, at, done, n, more); for (int64_t i = 0; i < n; i++) room[i] = x[i] + s[i]; x = room; } } \
        BODY \
        before += n; \
    } while (advance(p, index, at)); }

/* Sum; sum of squared deviations; and what comes of them, of all or a part of a group. `kept`: its elements, where they were loaded before. */
#define GROUP(T, S) \
    static double sum_##S(const plan *p, const int64_t *start, const T *kept) { \
        T room[PIECE], more[PIECE]; \
        double sum = 0; \
        WALK(T, { sum += sx_sum_##S(x, n); }) \
        return sum; } \
    static double squares_##S(const plan *p, const int64_t *start, const T *kept, T mean) { \
        T room[PIECE], more[PIECE]; \
        double squares = 0; \
        WALK(T, { squares += sx_squares_##S(x, mean, n); }) \
        return squares; } \
    static void write_##S(const plan *p, const int64_t *start, const T *kept, T mean, T inverse) { \
        T room[PIECE], more[PIECE]; \
        WALK(T, { \
            T y[PIECE]; \
            if (p->view[SUM]) sx_store_row(p->view[SUM]->dtype, p->type, p->view[SUM]->data + (at[SUM] + done * p->stride[SUM][p->rank - 1]) * element(p, SUM), p->stride[SUM][p->rank - 1], x, n); \
            for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse; \
            if (p->view[SCALE]) { \
                if (!p->stride[SCALE][p->rank - 1]) { T g = *(const T *)get(p, SCALE, at, 0, 1, more); for (int64_t i = 0; i < n; i++) y[i] *= g; } \
                else { const T *g = get(p, SCALE, at, done, n, more); for (int64_t i = 0; i < n; i++) y[i] *= g[i]; } } \
            if (p->view[BIAS]) { \
                if (!p->stride[BIAS][p->rank - 1]) { T b = *(const T *)get(p, BIAS, at, 0, 1, more); for (int64_t i = 0; i < n; i++) y[i] += b; } \
                else { const T *b = get(p, BIAS, at, done, n, more); for (int64_t i = 0; i < n; i++) y[i] += b[i]; } } \
            sx_store_row(p->view[Y]->dtype, p->type, p->view[Y]->data + (at[Y] + done * p->stride[Y][p->rank - 1]) * element(p, Y), p->stride[Y][p->rank - 1], y, n); }) } \
    static void group_##S(const plan *p, const int64_t *start, T *keep, int64_t mean_at, int64_t inverse_at) { \
        const T *kept = NULL; \
        T room[PIECE], more[PIECE], mean = 0; \
        if (keep) { \
            WALK(T, { T *restrict to = keep + before; for (int64_t i = 0; i < n; i++) to[i] = x[i]; }) \
            kept = keep; } \
        if (p->mode != 1) mean = (T)(sum_##S(p, start, kept) / (double)p->count); \
        T inverse = (T)(1.0 / __builtin_sqrt(squares_##S(p, start, kept, mean) / (double)p->count + p->epsilon)); \
        write_##S(p, start, kept, mean, inverse); \
        say(p, &mean, &inverse, mean_at, inverse_at); \
    }
SX_SMALL static double sum_f64(const plan *p, const int64_t *start, const double *kept);
SX_SMALL static double squares_f64(const plan *p, const int64_t *start, const double *kept, double mean);
SX_SMALL static void write_f64(const plan *p, const int64_t *start, const double *kept, double mean, double inverse);
SX_SMALL static void group_f64(const plan *p, const int64_t *start, double *keep, int64_t mean_at, int64_t inverse_at);
GROUP(float, f32)
GROUP(double, f64)

/* A group that is a dense row of floats everywhere: no pieces, no copies. scale, bias NULL: none. */
static void dense_row(const plan *p, const float *x, const float *scale, const float *bias, float *restrict y, int64_t mean_at, int64_t inverse_at) {
    int64_t n = p->count;
    double sum = 0, squares = 0;
    float mean = 0;
    if (p->mode != 1) {
        for (int64_t i = 0; i < n; i += PIECE) sum += sx_sum_f32(x + i, sx_min64(PIECE, n - i));
        mean = (float)(sum / (double)n);
    }
    for (int64_t i = 0; i < n; i += PIECE) squares += sx_squares_f32(x + i, mean, sx_min64(PIECE, n - i));
    float inverse = (float)(1.0 / __builtin_sqrt(squares / (double)n + p->epsilon));
    if (scale && bias) for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse * scale[i] + bias[i];
    else if (scale) for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse * scale[i];
    else for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse;
    say(p, &mean, &inverse, mean_at, inverse_at);
}

static int all_dense(const plan *p) {
    const int needs[] = {X, Y, SCALE, BIAS};
    if (p->rank != 1 || p->type != SX_F32 || p->view[SKIP] || p->view[SUM] || (p->view[BIAS] && !p->view[SCALE])) return 0;
    for (int i = 0; i < 4; i++)
        if (p->view[needs[i]] && (p->view[needs[i]]->dtype != SX_FLOAT || (p->stride[needs[i]][0] != 1 && p->dim[0] > 1))) return 0;
    return 1;
}

/* Where a group begins in every operand, and where its statistics go. */
static void places(const plan *p, int64_t group, int64_t *at, int64_t *mean, int64_t *inverse) {
    const sx_call *c = p->call;
    *mean = *inverse = 0;
    for (int v = 0; v < VIEWS; v++) at[v] = 0;
    for (int d = p->outer_rank - 1; d >= 0; d--) {
        int64_t i = group % p->outer[d];
        group /= p->outer[d];
        for (int v = 0; v < VIEWS; v++) at[v] += i * p->outer_stride[v][d];
        *mean += i * p->mean_stride[d], *inverse += i * p->inverse_stride[d];
    }
    *mean = c->n_out > 1 && c->out[1].dtype ? *mean : NOWHERE, *inverse = c->n_out > 2 && c->out[2].dtype ? *inverse : NOWHERE;
}

static void task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    const sx_call *c = p->call;
    int64_t end = sx_min64(p->groups, (number + 1) * p->per);
    for (int64_t g = number * p->per; g < end; g++) {
        int64_t at[VIEWS], mean, inverse;
        places(p, g, at, &mean, &inverse);
        if (p->dense) {
            const float *operand[VIEWS] = {0};
            for (int v = 0; v < VIEWS; v++) if (p->view[v]) operand[v] = (const float *)(const void *)p->view[v]->data + at[v];
            dense_row(p, operand[X], operand[SCALE], operand[BIAS], (float *)(uintptr_t)operand[Y], mean, inverse);
            continue;
        }
        /* A dense row of the compute type needs no copy. */
        int lies = p->rank == 1 && p->stride[X][0] == 1 && p->view[X]->dtype == sx_native_dtype(p->type) && !p->view[SKIP];
        void *keep = !lies && p->count <= ONE_ROW ? c->scratch + worker * c->scratch_bytes : NULL;
        if (p->type == SX_F64) group_f64(p, at, keep, mean, inverse);
        else group_f32(p, at, keep, mean, inverse);
    }
}

#ifndef __wasm__ /* where no group is so large */
/* -- large groups, one after the other, in parts of their first axis: a run can be left between them, and several workers share a group -------------------------------- */

#define LARGE (1 << 20)
#define PART (1 << 16)
#define MOST_PARTS 4096

/* found: of each part, the sum or the squares. */
typedef struct { const plan *p; int64_t start[VIEWS], per, mean_at, inverse_at; double mean, inverse, *found; } large;

/* The plan and the begin of a part. */
static plan part_of(const large *l, int64_t number, int64_t *start) {
    plan q = *l->p;
    q.dim[0] = sx_min64(l->per, q.dim[0] - number * l->per);
    for (int v = 0; v < VIEWS; v++) start[v] = l->start[v] + number * l->per * q.stride[v][0];
    return q;
}

static void part_sum(void *arg, int64_t number, int worker) {
    const large *l = arg;
    int64_t start[VIEWS];
    plan q = part_of(l, number, start);
    (void)worker;
    l->found[number] = q.type == SX_F64 ? sum_f64(&q, start, NULL) : sum_f32(&q, start, NULL);
}

static void part_squares(void *arg, int64_t number, int worker) {
    const large *l = arg;
    int64_t start[VIEWS];
    plan q = part_of(l, number, start);
    (void)worker;
    l->found[number] = q.type == SX_F64 ? squares_f64(&q, start, NULL, l->mean) : squares_f32(&q, start, NULL, (float)l->mean);
}

static void part_write(void *arg, int64_t number, int worker) {
    const large *l = arg;
    int64_t start[VIEWS];
    plan q = part_of(l, number, start);
    (void)worker;
    const float mean = (float)l->mean, inverse = (float)l->inverse;
    if (q.type == SX_F64) write_f64(&q, start, NULL, l->mean, l->inverse);
    else write_f32(&q, start, NULL, mean, inverse);
    if (number) return;
    if (q.type == SX_F64) say(&q, &l->mean, &l->inverse, l->mean_at, l->inverse_at);
    else say(&q, &mean, &inverse, l->mean_at, l->inverse_at);
}

static double total(const double *found, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += found[i];
    return sum;
}

static void large_groups(const plan *p) {
    const sx_call *c = p->call;
    int64_t parts = sx_min64(p->dim[0], sx_min64(sx_ceil_div(p->count, PART), MOST_PARTS));
    large l = {.p = p, .per = sx_ceil_div(p->dim[0], parts)};
    parts = sx_ceil_div(p->dim[0], l.per);
    for (int64_t g = 0; g < p->groups; g++) {
        places(p, g, l.start, &l.mean_at, &l.inverse_at);
        l.mean = 0, l.found = (double *)(void *)c->scratch;
        if (p->mode != 1) {
            if (!sx_tiles(c, parts, part_sum, &l)) return;
            l.mean = total(l.found, parts) / (double)p->count;
            l.found += parts; /* the sums stay: a run that was left comes by again */
        }
        if (!sx_tiles(c, parts, part_squares, &l)) return;
        l.inverse = 1.0 / __builtin_sqrt(total(l.found, parts) / (double)p->count + p->epsilon);
        if (!sx_tiles(c, parts, part_write, &l)) return;
    }
}
#endif

static int64_t group_count(const sx_call *call) {
    int64_t n = 1;
    for (int d = 0; d < call->in->rank; d++) n *= call->param[0] == 2 ? (d == 0 ? 1 : d == 1 ? call->in->dim[1] / call->param[2] : call->in->dim[d]) : d >= call->param[1] ? call->in->dim[d] : 1;
    return n;
}

int64_t SX_NAME(sx_scratch_norm)(const sx_call *call) {
    return sx_min64(group_count(call), ONE_ROW) * (call->in->dtype == SX_DOUBLE ? 8 : 4);
}

int SX_NAME(sx_k_norm)(const sx_call *call) {
    for (int d = 0; d < call->in->rank; d++) if (!call->in->dim[d]) return 0;
    plan p = {.call = call, .mode = (int)call->param[0], .type = call->in->dtype == SX_DOUBLE ? SX_F64 : SX_F32, .epsilon = sx_param_float(call->param[3]), .count = group_count(call), .groups = 1};
    for (int v = 0; v < 4; v++) p.view[v] = v < call->n_in && call->in[v].dtype ? call->in + v : NULL;
    p.view[Y] = call->out, p.view[SUM] = call->n_out > 3 && call->out[3].dtype ? call->out + 3 : NULL;
    split_axes(&p);
    merge_inside(&p);
    for (int d = 0; d < p.outer_rank; d++) p.groups *= p.outer[d];
    p.dense = all_dense(&p);
#ifndef __wasm__
    if (p.count >= LARGE) {
        large_groups(&p);
        return 0;
    }
#endif
    p.per = sx_max64(1, WORK / p.count);
    sx_tiles(call, sx_ceil_div(p.groups, p.per), task, &p);
    return 0;
}
