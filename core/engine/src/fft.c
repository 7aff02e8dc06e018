/* fft.c: discrete Fourier transforms of any length along an axis, computed in double, real and imaginary parts in arrays of their own.

   How to think
   - Stockham's autosort transform (Van Loan, "Computational Frameworks for the Fast Fourier Transform", 1.7) of radices 4, 2 and the odd primes: a pass reads n / r places apart and writes r side by
     side; no reordering at the end. Up to LANES signals lie interleaved, so that even the first pass, whose stretches are shortest, runs over vectors.
   - A length with a prime factor above LARGEST becomes a convolution of a power of two (Bluestein, 1970).
   - Long signals are transformed one after the other, each pass in parts; short ones side by side.
   - Inverse: real and imaginary parts change places before and after. The roots of unity and Bluestein's filter are computed once for a call and shared. */
#include "sx_expr.h"
#include "sx_math.h"

#define LANES 8
#define NEAR 32768     /* numbers of a part that should stay in the second-level cache */
#define LARGEST 61
#define PIECE 256
#define PASSES 40
#define PART (1 << 15)  /* numbers of a loop between two questions whether the run was stopped */
#ifdef __wasm__
#define ALONE(p) 0      /* no signal is so long there */
#else
#define ALONE(p) ((p)->m >= 1 << 18) /* one signal after the other, each shared by the workers */
#endif

typedef struct { double *re, *im; } part;

typedef struct {
    const sx_call *call;
    int axis, inverse, half, chirped, passes;
    int radix[PASSES];
    int64_t n, m, lanes, rows, tasks; /* n: the length asked for; m: that of the transform */
    part root, chirp, filter;         /* root[k] = e^(-2πi k / m); chirp[k] = e^(-πi k² / n) */
    int64_t shared;                   /* doubles */
} plan;

/* Re and im of e^(-2πi k / n), 0 ≤ k < n: exact on the axes. */
static void unit(int64_t k, int64_t n, double *re, double *im) {
    int64_t quarter = (8 * k + n) / (2 * n); /* the nearest; what is left is at most an eighth of a turn */
    double angle = 0x1.921fb54442d18p+0 * ((double)(4 * k - quarter * n) / (double)n), c = sx_cos_poly(angle), s = sx_sin_poly(angle);
    quarter &= 3;
    *re = quarter == 0 ? c : quarter == 1 ? -s : quarter == 2 ? -c : s;
    *im = -(quarter == 0 ? s : quarter == 1 ? c : quarter == 2 ? -s : -c);
}

/* ---- passes: `count` places left, of which p = 0 … count / r - 1 is taken with its r; s numbers lie side by side at each ---- */

/* Places [from, to) of the first of each r, and of the numbers side by side [low, high). */
typedef struct { const plan *p; const double *xr, *xi; double *yr, *yi; int64_t count, s, from, to, low, high; } pass;

static void radix_2(const pass *a) {
    int64_t m = a->count / 2, s = a->s, step = a->p->m / a->count;
    for (int64_t p = a->from; p < a->to; p++) {
        double wr = a->p->root.re[p * step], wi = a->p->root.im[p * step];
        const double *restrict r0 = a->xr + s * p, *restrict i0 = a->xi + s * p, *restrict r1 = r0 + s * m, *restrict i1 = i0 + s * m;
        double *restrict y0 = a->yr + s * 2 * p, *restrict z0 = a->yi + s * 2 * p, *restrict y1 = y0 + s, *restrict z1 = z0 + s;
        for (int64_t q = a->low; q < a->high; q++) {
            double dr = r0[q] - r1[q], di = i0[q] - i1[q];
            y0[q] = r0[q] + r1[q], z0[q] = i0[q] + i1[q];
            y1[q] = dr * wr - di * wi, z1[q] = dr * wi + di * wr;
        }
    }
}

static void radix_4(const pass *a) {
    int64_t m = a->count / 4, s = a->s, step = a->p->m / a->count;
    for (int64_t p = a->from; p < a->to; p++) {
        double w1r = a->p->root.re[p * step], w1i = a->p->root.im[p * step], w2r = a->p->root.re[2 * p * step], w2i = a->p->root.im[2 * p * step];
        double w3r = a->p->root.re[3 * p * step], w3i = a->p->root.im[3 * p * step];
        const double *restrict r0 = a->xr + s * p, *restrict i0 = a->xi + s * p, *restrict r1 = r0 + s * m, *restrict i1 = i0 + s * m;
        const double *restrict r2 = r1 + s * m, *restrict i2 = i1 + s * m, *restrict r3 = r2 + s * m, *restrict i3 = i2 + s * m;
        double *restrict y = a->yr + s * 4 * p, *restrict z = a->yi + s * 4 * p;
        for (int64_t q = a->low; q < a->high; q++) {
            double ar = r0[q] + r2[q], ai = i0[q] + i2[q], br = r0[q] - r2[q], bi = i0[q] - i2[q];
            double cr = r1[q] + r3[q], ci = i1[q] + i3[q], dr = i1[q] - i3[q], di = r3[q] - r1[q]; /* -i (x1 - x3) */
            y[q] = ar + cr, z[q] = ai + ci;
            double ur = br + dr, ui = bi + di;
            y[q + s] = ur * w1r - ui * w1i, z[q + s] = ur * w1i + ui * w1r;
            ur = ar - cr, ui = ai - ci;
            y[q + 2 * s] = ur * w2r - ui * w2i, z[q + 2 * s] = ur * w2i + ui * w2r;
            ur = br - dr, ui = bi - di;
            y[q + 3 * s] = ur * w3r - ui * w3i, z[q + 3 * s] = ur * w3i + ui * w3r;
        }
    }
}

SX_SMALL static void radix_any(const pass *a, int r) {
    int64_t m = a->count / r, s = a->s, step = a->p->m / a->count, turn = a->p->m / r;
    const part *root = &a->p->root;
    for (int64_t p = a->from; p < a->to; p++)
        for (int64_t k = 0; k < r; k++) {
            double *restrict y = a->yr + s * (r * p + k), *restrict z = a->yi + s * (r * p + k);
            for (int64_t j = 0; j < r; j++) {
                const double *restrict x = a->xr + s * (p + m * j), *restrict w = a->xi + s * (p + m * j);
                /* the root of the small transform and the twiddle at once */
                int64_t at = j * k % r * turn + p * k * step;
                if (at >= a->p->m) at -= a->p->m;
                double cr = root->re[at], ci = root->im[at];
                if (j == 0) for (int64_t q = a->low; q < a->high; q++) y[q] = x[q] * cr - w[q] * ci, z[q] = x[q] * ci + w[q] * cr;
                else for (int64_t q = a->low; q < a->high; q++) y[q] += x[q] * cr - w[q] * ci, z[q] += x[q] * ci + w[q] * cr;
            }
        }
}

static void run_pass(const pass *a, int r) {
    if (r == 4) radix_4(a);
    else if (r == 2) radix_2(a);
    else radix_any(a, r);
}

/* ---- loops in parts: where one signal is long, several workers share it and a run can be left between its parts; else one worker does them one after the other ---- */

/* The numbers [number * PART, ...) of `n`, part by part. 0: left. */
static int over(const plan *p, int64_t n, void (*body)(void *, int64_t, int), void *arg) {
    int64_t parts = sx_ceil_div(n, PART);
    if (ALONE(p)) return sx_tiles(p->call, parts, body, arg);
    for (int64_t i = 0; i < parts; i++) {
        if (sx_stopped(p->call)) return 0;
        body(arg, i, 0);
    }
    return 1;
}

#define EACH_OF(count) for (int64_t k = number * PART, end_ = sx_min64(count, (number + 1) * PART); k < end_; k++)

typedef struct { pass a; int radix; int64_t tiles; } spread;

static void pass_part(void *arg, int64_t number, int worker) {
    const spread *t = arg;
    pass a = t->a;
    (void)worker;
    if (a.to >= t->tiles) a.from = a.to * number / t->tiles, a.to = a.to * (number + 1) / t->tiles;
    else a.low = a.high * number / t->tiles, a.high = a.high * (number + 1) / t->tiles;
    run_pass(&a, t->radix);
}

/* The transform of `x` ([m][lanes]); `y` is room. `made`: where the result is. 0: left. */
SX_SMALL static int transform(const plan *p, part x, part y, int64_t lanes, part *made) {
    int64_t count = p->m, s = lanes, tiles = sx_ceil_div(p->m, PART);
    for (int i = 0; i < p->passes; i++) {
        int r = p->radix[i];
        spread t = {{p, x.re, x.im, y.re, y.im, count, s, 0, count / r, 0, s}, r, tiles};
        if (ALONE(p)) {
            if (!sx_tiles(p->call, tiles, pass_part, &t)) return 0;
        } else {
            if (sx_stopped(p->call)) return 0;
            run_pass(&t.a, r);
        }
        part swap = x;
        x = y, y = swap;
        count /= r, s *= r;
    }
    *made = x;
    return 1;
}

/* ---- one call's plan and tables ---- */

SX_SMALL static plan plan_of(const sx_call *call) {
    const sx_view *x = call->in;
    plan p = {.call = call, .axis = (int)call->param[0], .n = call->param[1], .inverse = call->param[2] != 0, .half = call->param[3] != 0, .rows = 1};
    for (int d = 0; d < x->rank - 1; d++) if (d != p.axis) p.rows *= x->dim[d];
    int64_t rest = p.n;
    p.m = p.n;
    for (int64_t f = 2; f <= LARGEST; f++) while (rest % f == 0) rest /= f;
    p.chirped = rest > 1;
    if (p.chirped) for (p.m = 1; p.m < 2 * p.n - 1;) p.m *= 2;
    rest = p.m;
    while (rest % 4 == 0) p.radix[p.passes++] = 4, rest /= 4;
    for (int f = 2; f <= LARGEST; f++) while (rest % f == 0) p.radix[p.passes++] = f, rest /= f;
    p.lanes = sx_max64(1, sx_min64(sx_min64(LANES, p.rows), NEAR / p.m));
    p.tasks = sx_ceil_div(p.rows, p.lanes);
    double *at = (double *)call->scratch;
    p.root = (part){at, at + p.m};
    p.shared = 2 * p.m;
    if (p.chirped) {
        p.chirp = (part){at + p.shared, at + p.shared + p.n}, p.shared += 2 * p.n;
        p.filter = (part){at + p.shared, at + p.shared + p.m}, p.shared += 2 * p.m;
    }
    return p;
}

static void own(const plan *p, int worker, part *x, part *y) {
    int64_t size = p->m * p->lanes;
    double *at = (double *)(p->call->scratch + worker * p->call->scratch_bytes) + p->shared;
    *x = (part){at, at + size}, *y = (part){at + 2 * size, at + 3 * size};
}

/* x, y: signals and room, `lanes` apart; on, by: what is multiplied, and by what, up to `n`; at[]: where a signal begins in X and Y. */
typedef struct { const plan *p; part x, y, on, by; int64_t lanes, n, at[2]; } signals;

static void root_part(void *arg, int64_t number, int worker) {
    const signals *l = arg;
    const plan *p = l->p;
    (void)worker;
    EACH_OF(p->m) {
        unit(k, p->m, p->root.re + k, p->root.im + k);
        if (p->chirped) l->x.re[k] = l->x.im[k] = 0;
    }
}

static void chirp_part(void *arg, int64_t number, int worker) {
    const signals *l = arg;
    const plan *p = l->p;
    (void)worker;
    EACH_OF(p->n) {
        unit((int64_t)((uint64_t)k * (uint64_t)k % (uint64_t)(2 * p->n)), 2 * p->n, p->chirp.re + k, p->chirp.im + k);
        int64_t mirror = k ? p->m - k : 0;
        l->x.re[k] = l->x.re[mirror] = p->chirp.re[k], l->x.im[k] = l->x.im[mirror] = -p->chirp.im[k];
    }
}

static void filter_part(void *arg, int64_t number, int worker) {
    const signals *l = arg;
    const plan *p = l->p;
    (void)worker;
    EACH_OF(p->m) p->filter.re[k] = l->on.re[k] / (double)p->m, p->filter.im[k] = l->on.im[k] / (double)p->m;
}

static int tables(const plan *p) {
    signals l = {.p = p};
    own(p, 0, &l.x, &l.y);
    if (!over(p, p->m, root_part, &l)) return 0;
    if (!p->chirped) return 1;
    return over(p, p->n, chirp_part, &l) && transform(p, l.x, l.y, 1, &l.on) && over(p, p->m, filter_part, &l);
}

/* ---- signals in and out ---- */

/* n numbers `stride` apart as doubles, `lanes` apart. */
static void load(const sx_view *v, int64_t at, int64_t stride, int64_t n, double *to, int64_t lanes) {
    float narrow[PIECE];
    double wide[PIECE];
    for (int64_t done = 0; done < n; done += PIECE) {
        int64_t m = sx_min64(PIECE, n - done);
        const char *from = v->data + (at + done * stride) * sx_element_bytes(v->dtype);
        if (v->dtype == SX_DOUBLE) sx_load_row(v->dtype, SX_F64, wide, from, stride, m);
        else {
            sx_load_row(v->dtype, SX_F32, narrow, from, stride, m);
            for (int64_t i = 0; i < m; i++) wide[i] = narrow[i];
        }
        for (int64_t i = 0; i < m; i++) to[(done + i) * lanes] = wide[i];
    }
}

static void store(const sx_view *v, int64_t at, int64_t stride, int64_t n, const double *from, int64_t lanes, double factor) {
    float narrow[PIECE];
    double wide[PIECE];
    for (int64_t done = 0; done < n; done += PIECE) {
        int64_t m = sx_min64(PIECE, n - done);
        char *to = v->data + (at + done * stride) * sx_element_bytes(v->dtype);
        for (int64_t i = 0; i < m; i++) wide[i] = from[(done + i) * lanes] * factor;
        for (int64_t i = 0; i < m; i++) narrow[i] = (float)wide[i];
        if (v->dtype == SX_DOUBLE) sx_store_row(v->dtype, SX_F64, to, stride, wide, m);
        else sx_store_row(v->dtype, SX_F32, to, stride, narrow, m);
    }
}

static void offsets(const plan *p, int64_t row, int64_t *xat, int64_t *yat) {
    const sx_view *x = p->call->in, *y = p->call->out;
    *xat = *yat = 0;
    for (int d = x->rank - 2; d >= 0; d--) {
        if (d == p->axis) continue;
        int64_t i = row % x->dim[d];
        row /= x->dim[d];
        *xat += i * x->stride[d], *yat += i * y->stride[d];
    }
}

/* A signal: cut or filled with zeros to n, with zeros behind it up to m. */
static void bring_part(void *arg, int64_t number, int worker) {
    const signals *l = arg;
    const plan *p = l->p;
    const sx_view *v = p->call->in;
    int64_t from = number * PART, stride = v->stride[p->axis], n = p->inverse && p->half ? p->n / 2 + 1 : p->n, lanes = l->lanes;
    int64_t have = sx_max64(0, sx_min64(sx_min64(v->dim[p->axis], n), from + PART) - from);
    (void)worker;
    load(v, l->at[0] + from * stride, stride, have, l->x.re + from * lanes, lanes);
    if (v->dim[v->rank - 1] == 2) load(v, l->at[0] + v->stride[v->rank - 1] + from * stride, stride, have, l->x.im + from * lanes, lanes);
    EACH_OF(p->m) {
        if (k >= from + have) l->x.re[k * lanes] = 0;
        if (k >= from + have || v->dim[v->rank - 1] != 2) l->x.im[k * lanes] = 0;
    }
}

/* The other half of a half spectrum. */
static void mirror_part(void *arg, int64_t number, int worker) {
    const signals *l = arg;
    const plan *p = l->p;
    int64_t lanes = l->lanes;
    (void)worker;
    EACH_OF(p->n) {
        if (k == 0 || 2 * k == p->n) l->x.im[k * lanes] = 0;
        else if (2 * k > p->n) l->x.re[k * lanes] = l->x.re[(p->n - k) * lanes], l->x.im[k * lanes] = -l->x.im[(p->n - k) * lanes];
    }
}

static int bring(signals *l, int64_t row) {
    const plan *p = l->p;
    offsets(p, row, l->at, l->at + 1);
    return over(p, p->m, bring_part, l) && (!p->inverse || !p->half || over(p, p->n, mirror_part, l));
}

/* on[k] · by[k], lane by lane. */
static void times_part(void *arg, int64_t number, int worker) {
    const signals *l = arg;
    int64_t lanes = l->lanes;
    part x = l->on, w = l->by;
    (void)worker;
    EACH_OF(l->n)
        for (int64_t i = k * lanes; i < (k + 1) * lanes; i++) {
            double re = x.re[i], im = x.im[i];
            x.re[i] = re * w.re[k] - im * w.im[k], x.im[i] = re * w.im[k] + im * w.re[k];
        }
}

static int times(signals *l, part on, part by, int64_t n) {
    l->on = on, l->by = by, l->n = n;
    return over(l->p, n, times_part, l);
}

static part turned(part x) { return (part){x.im, x.re}; }

/* What was brought in, transformed: in `on`. 0: left. */
static int transformed(signals *l) {
    const plan *p = l->p;
    part x = p->inverse ? turned(l->x) : l->x, room = p->inverse ? turned(l->y) : l->y, made;
    if (p->chirped) {
        if (!times(l, x, p->chirp, p->n) || !transform(p, x, room, l->lanes, &made) || !times(l, made, p->filter, p->m)) return 0;
        part vacant = made.re == x.re ? room : x;
        if (!transform(p, turned(made), turned(vacant), l->lanes, &made)) return 0;
        made = turned(made);
        if (!times(l, made, p->chirp, p->n)) return 0;
    } else if (!transform(p, x, room, l->lanes, &made)) return 0;
    l->on = p->inverse ? turned(made) : made;
    return 1;
}

static void store_part(void *arg, int64_t number, int worker) {
    const signals *l = arg;
    const plan *p = l->p;
    const sx_view *y = p->call->out;
    int64_t from = number * PART, n = sx_min64(PART, y->dim[p->axis] - from), stride = y->stride[p->axis], lanes = l->lanes;
    double factor = p->inverse ? 1.0 / (double)p->n : 1.0;
    (void)worker;
    store(y, l->at[1] + from * stride, stride, n, l->on.re + from * lanes, lanes, factor);
    if (y->dim[y->rank - 1] == 2) store(y, l->at[1] + y->stride[y->rank - 1] + from * stride, stride, n, l->on.im + from * lanes, lanes, factor);
}

static int put(signals *l) { return over(l->p, l->p->call->out->dim[l->p->axis], store_part, l); }

/* Short signals, one a lane. */
static void task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    int64_t first = number * p->lanes, count = sx_min64(p->lanes, p->rows - first);
    signals all = {.p = p, .lanes = p->lanes};
    own(p, worker, &all.x, &all.y);
    for (int64_t l = 0; l < p->lanes; l++) {
        signals one = {.p = p, .lanes = p->lanes, .x = {all.x.re + l, all.x.im + l}};
        if (l >= count) for (int64_t k = 0; k < p->m; k++) one.x.re[k * p->lanes] = one.x.im[k * p->lanes] = 0;
        else if (!bring(&one, first + l)) return;
    }
    if (!transformed(&all)) return;
    for (int64_t l = 0; l < count; l++) {
        signals one = {.p = p, .lanes = p->lanes, .on = {all.on.re + l, all.on.im + l}};
        offsets(p, first + l, one.at, one.at + 1);
        if (!put(&one)) return;
    }
}

static void short_tables(void *arg, int64_t number, int worker) {
    (void)number, (void)worker;
    tables(arg);
}

int64_t SX_NAME(sx_scratch_fft)(const sx_call *call) {
    plan p = plan_of(call);
    return (p.shared + 4 * p.m * p.lanes) * 8;
}

int SX_NAME(sx_k_fft)(const sx_call *call) {
    plan p = plan_of(call);
    if (!p.rows) return SX_OK;
    if (!ALONE(&p)) {
        if (sx_tiles(call, 1, short_tables, &p)) sx_tiles(call, p.tasks, task, &p);
    } else if (tables(&p)) {
        signals l = {.p = &p, .lanes = 1};
        own(&p, 0, &l.x, &l.y);
        for (int64_t row = 0; row < p.rows; row++)
            if (!bring(&l, row) || !transformed(&l) || !put(&l)) break;
    }
    return SX_OK;
}
