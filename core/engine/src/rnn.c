/* rnn.c: LSTM, GRU and RNN, one or both directions, in float (halves widened) or double; LSTM with 8-bit R too.

   How to think
   - The input's share of all gates, X · Wᵀ, comes ready in X where there is no W (a MATMUL with packed weights made it) and is read there; else it is a matrix product over as many steps as fit
     into CHUNK bytes. What remains for a step is R times the state, and the cell.
   - A step is cut into blocks of hidden units: a block multiplies its rows of R with the last state, applies the activations and writes its part of the new state. Blocks of one step run side by
     side; the state is double-buffered. A GRU that resets before R needs a second pass.
   - Two directions with little work a step run side by side instead: a worker each, nobody waits.
   - R is read again at every step: one worker goes through its blocks to and fro, several start from either end, so that what each touched last is still in its cache.
   - 8-bit R: the state of all sequences is quantised to uint8 at every step (DynamicQuantizeLinear); Σ q·R is exact, zero points are taken out with the column sums of R.
   - For a few sequences R is read as it lies, SX_ROWS rows at once; for more it is packed once per direction and goes through the matrix product of gemm.h.
   - Sequences end at their own length: states stay, outputs are 0. A reverse direction runs over each sequence from its own end. */
#include "gemm_int.h"
#include "rnn_rows.h"
#include "sx_expr.h"
#include "sx_math.h"
#include "sx_vec.h"

#define CHUNK (1 << 20)
#define FEW 4              /* sequences up to which R is read as it lies */
#define WORK (1 << 17)     /* multiplications a block should do at least */
#define BLOCKS 8
#define APART (1 << 22)    /* multiplications of a step up to which two directions run side by side */
#define MANY_STEPS 8       /* from here on R, if its rows straddle cache lines, is moved */
#define MOST ((int64_t)1 << 46)

enum { LSTM, GRU, RNN };
enum { RELU, TANH, SIGMOID, AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS };

typedef struct { int which; double alpha, beta, clip; } activation;

typedef struct {
    const sx_call *call;
    int kind, gates, type, direction, back, linear, input_forget, copied, packed, in_order;
    int ready;                                          /* X holds the share in the compute type: it is read where it lies */
    int room;                                           /* `r` has room for R. copied: R is there, dense or (packed) in panels. in_order: rows of X lie as steps follow */
    int64_t t, b, i, h, chunk, block, blocks, wide;
    activation act[3];
    /* shared by all workers, in the first one's scratch; elements of the compute type */
    char *share, *bias, *late, *state[2], *cell, *reset, *update, *peep, *r;
    int64_t shared, own, gemm;                          /* bytes: of these, of each worker's own, and of that for matrix products */
    int64_t first, step;                                /* step of the chunk's start; the step being done */
    const char *recurrent;                              /* R dense: gates · h rows of h elements */
    int projected, quantised, alone, sides;             /* no W; 8-bit R; this direction is one worker's, who is `worker`; copies of what is shared */
    int worker, low, high;                              /* blocks of this step claimed from below, and from above */
    int64_t panels, words;                              /* 8-bit R: columns of a gate, padded; bytes of a row of quantised states */
    uint8_t *bytes;
    int32_t *sums, *row_sums, zero;                     /* column sums of R; sums of each sequence's quantised state; its zero point and scale */
    float scale;
    sx_gemm input;
    sx_gemm_cut cut;
    int64_t cut_rows;
} plan;

static int present(const sx_call *c, int operand) { return operand < c->n_in && c->in[operand].dtype != 0; }
static int wanted(const sx_call *c, int output) { return output < c->n_out && c->out[output].dtype != 0; }

/* a · b, at most MOST. */
static int64_t times(int64_t a, int64_t b) {
    int64_t made;
    return __builtin_mul_overflow(a, b, &made) || made > MOST ? MOST : made;
}
static int64_t plus(int64_t a, int64_t b) { return sx_min64(MOST, a + b); }

static int64_t length_of(const plan *p, int64_t sequence) {
    if (!present(p->call, 4)) return p->t;
    const sx_view *lens = p->call->in + 4;
    return ((const int32_t *)lens->data)[sequence * lens->stride[0]];
}

/* Where step `step` of a sequence lies in time. */
static int64_t time_of(const plan *p, int64_t step, int64_t sequence) {
    int64_t length = length_of(p, sequence);
    return p->back && step < length ? length - 1 - step : step;
}

/* ---- sizes and memory: pure functions of the call ---- */

static int64_t place(int64_t *at, int64_t bytes) {
    int64_t here = *at;
    *at = plus(*at, sx_round_up(bytes, 64));
    return here;
}

SX_SMALL static plan plan_of(const sx_call *call) {
    const sx_view *x = call->in, *w = call->in + 1, *r = call->in + 2;
    plan p = {.call = call, .kind = (int)call->param[0], .linear = (int)call->param[2], .input_forget = (int)call->param[3]};
    p.gates = p.kind == LSTM ? 4 : p.kind == GRU ? 3 : 1;
    p.type = x->dtype == SX_DOUBLE ? SX_F64 : SX_F32, p.wide = p.type == SX_F64 ? 8 : 4;
    p.projected = !present(call, 1), p.quantised = present(call, 8), p.sides = call->param[1] == 2 ? 2 : 1;
    p.t = x->dim[0], p.b = x->dim[1], p.i = p.projected ? 0 : x->dim[2], p.h = p.quantised ? r->dim[0] : r->dim[2];
    p.panels = sx_round_up(p.h, SX_PANEL), p.words = sx_round_up(p.h, 64) + 64;
    int64_t gh = times(p.gates, p.h), bh = times(p.b, p.h), row = times(p.b, gh);
    p.ready = p.projected && x->dtype == sx_native_dtype(p.type) && x->stride[2] == 1;
    p.chunk = sx_max64(1, p.ready ? p.t : sx_min64(p.t, CHUNK / sx_max64(1, times(row, p.wide))));
    int64_t tiles = sx_max64(1, sx_min64(BLOCKS, times(row, p.h) / (p.quantised ? 4 * WORK : WORK))); /* bytes are multiplied four times as fast */
    p.block = sx_round_up(sx_max64(1, sx_ceil_div(p.h, tiles)), SX_WIDE);
    p.blocks = sx_ceil_div(p.h, p.block);
    p.packed = p.type == SX_F32 && p.b > FEW;
    p.packed = p.packed && !p.quantised;
    p.copied = p.quantised ? 0 : p.packed || r->dtype != sx_native_dtype(p.type) || r->stride[2] != 1 || r->stride[1] != p.h;
    p.room = !p.quantised && (p.copied || p.t >= MANY_STEPS);
    if (!p.projected) p.input = (sx_gemm){.m = times(p.chunk, p.b), .n = gh, .k = p.i, .b_row = w->stride[2], .b_col = w->stride[1], .b_dtype = w->dtype};
    int64_t at = 0;
    char *base = call->scratch;
    p.share = base + place(&at, times(p.ready ? gh : times(p.chunk, row), p.wide));
    p.bias = base + place(&at, times(gh, p.wide));
    p.late = base + place(&at, times(p.h, p.wide));
    for (int k = 0; k < 2; k++) p.state[k] = base + place(&at, times(bh, p.wide));
    p.cell = base + place(&at, times(bh, p.wide));
    p.reset = base + place(&at, p.kind == GRU ? times(bh, p.wide) : 0);
    p.update = base + place(&at, p.kind == GRU ? times(bh, p.wide) : 0);
    p.peep = base + place(&at, times(3 * p.wide, p.h));
    p.r = base + place(&at, !p.room ? 0 : times(times(p.gates * p.wide, p.packed ? sx_round_up(p.h, SX_PANEL) : p.h), p.h));
    p.bytes = (uint8_t *)base + place(&at, !p.quantised ? 0 : times(p.b, p.words));
    p.sums = (int32_t *)(void *)(base + place(&at, !p.quantised ? 0 : times(4 * p.gates, p.panels)));
    p.row_sums = (int32_t *)(void *)(base + place(&at, !p.quantised ? 0 : times(4, p.b)));
    p.shared = at;
    return p;
}

static sx_gemm recurrent_gemm(const plan *p, int gate, const char *state) {
    return (sx_gemm){.m = p->b, .n = p->h, .k = p->h, .a = state, .a_row = p->h, .a_col = 1, .a_dtype = SX_FLOAT, .b = p->r + gate * sx_round_up(p->h, SX_PANEL) * p->h * 4, .b_dtype = SX_FLOAT,
                     .b_packed = 1};
}

static void input_rows(const void *source, int64_t row, int64_t rows, int64_t at, int64_t count, float *to, int64_t ld) {
    const plan *p = source;
    const sx_view *x = p->call->in;
    for (int64_t k = 0; k < rows; k++) {
        int64_t sequence = (row + k) % p->b, time = time_of(p, p->first + (row + k) / p->b, sequence);
        const char *from = x->data + (time * x->stride[0] + sequence * x->stride[1] + at * x->stride[2]) * sx_size_of(x->dtype);
        sx_widen_row(from, x->dtype, x->stride[2], count, to + k * ld);
    }
}

/* R's columns of one gate from unit u on: panels of words. */
static sx_igemm quantised_gemm(const plan *p, int gate, int64_t u) {
    const sx_view *r = p->call->in + 2;
    int64_t column = (p->direction * p->gates + gate) * p->panels + u;
    return (sx_igemm){.m = p->b, .n = sx_min64(p->block, p->h - u), .k = p->h, .a = p->bytes, .a_row = p->words, .a_col = 1, .b_signed = r->dtype == SX_INT8, .b_packed = r->packing != 0,
                      .b = (const uint8_t *)r->data + (r->packing ? column * sx_round_up(p->h, 4) : column * r->stride[1]), .b_row = r->stride[0], .b_col = r->stride[1]};
}

static void plan_products(plan *p) {
    if (p->quantised) {
        sx_igemm g = quantised_gemm(p, 0, 0);
        p->gemm = SX_NAME(sx_igemm_scratch)(&g, g.m, g.n);
    }
    if (p->type == SX_F32 && !p->projected) {
        const sx_view *x = p->call->in;
        p->in_order = p->call->param[1] == 0 && (p->b == 1 || x->stride[0] == p->b * x->stride[1]);
        p->input.a_row = p->b == 1 ? x->stride[0] : x->stride[1], p->input.a_col = x->stride[2], p->input.a_dtype = x->dtype;
        if (!p->in_order) p->input.rows = input_rows, p->input.rows_source = p;
        p->cut = SX_NAME(sx_gemm_cut_for)(&p->input, 1);
        p->gemm = sx_max64(p->gemm, SX_NAME(sx_gemm_scratch)(&p->input, p->cut.mc, p->cut.nc));
    }
    if (p->packed) {
        sx_gemm g = recurrent_gemm(p, 0, p->state[0]);
        p->gemm = sx_max64(p->gemm, SX_NAME(sx_gemm_scratch)(&g, p->b, p->block));
    }
    p->gemm = sx_round_up(sx_min64(p->gemm, MOST), 64);
    p->own = plus(p->gemm, times(times(p->b, p->gates * p->wide), p->block));
}

int64_t SX_NAME(sx_scratch_rnn)(const sx_call *call) {
    plan p = plan_of(call);
    plan_products(&p);
    return plus(times(p.sides, p.shared), p.own);
}

static char *own_of(const plan *p, int worker) { return p->call->scratch + worker * p->call->scratch_bytes + p->sides * p->shared; }

/* sx_for, or a loop where this direction is one worker's. */
static void spread(plan *p, int64_t n, void (*body)(void *, int64_t, int)) {
    p->low = p->high = 0;
    if (!p->alone) {
        sx_for(p->call, n, body, p);
        return;
    }
    for (int64_t i = 0; i < n; i++) body(p, i, p->worker);
}

/* ---- activations and cells, for float and double ---- */

SX_SMALL static void activate_f64(const activation *f, double clip, double *restrict x, int64_t n);
SX_SMALL static void cells_f64(const plan *p, int64_t u, int64_t n, char *rec, int part);

#ifdef __wasm__ /* rare: bytes count more than time */
#define RARELY _Pragma("clang loop vectorize(disable)")
#else
#define RARELY
#endif
#define EACH(expression) for (int64_t i = 0; i < n; i++) { T v = x[i]; x[i] = (T)(expression); } break;
static void tanh_f32(float *x, int64_t n) { sx_curve(SX_OP_TANH, x, x, n); }
static void sigmoid_f32(float *x, int64_t n) { sx_curve(SX_OP_SIGMOID, x, x, n); }
static void tanh_f64(double *x, int64_t n) { for (int64_t i = 0; i < n; i++) x[i] = sx_tanh_f64(x[i]); }
static void sigmoid_f64(double *x, int64_t n) { for (int64_t i = 0; i < n; i++) x[i] = sx_sigmoid_f64(x[i]); }
#define ACTIVATE(S) \
    static void activate_##S(const activation *f, double clip, T *restrict x, int64_t n) { \
        T a = (T)f->alpha, b = (T)f->beta, c = (T)clip; \
        if (c != 0) RARELY for (int64_t i = 0; i < n; i++) x[i] = x[i] < -c ? -c : x[i] > c ? c : x[i]; \
        if (f->which == SCALED_TANH) RARELY for (int64_t i = 0; i < n; i++) x[i] *= b; \
        switch (f->which) { \
        case RELU: RARELY EACH(v < 0 ? (T)0 : v) \
        case TANH: case SCALED_TANH: tanh_##S(x, n); break; \
        case SIGMOID: sigmoid_##S(x, n); break; \
        case AFFINE: RARELY EACH(a * v + b) \
        case LEAKY_RELU: RARELY EACH(v >= 0 ? v : a * v) \
        case THRESHOLDED_RELU: RARELY EACH(v >= a ? v : (T)0) \
        case HARD_SIGMOID: RARELY EACH(a * v + b < 0 ? (T)0 : a * v + b > 1 ? (T)1 : a * v + b) \
        case ELU: EACH(v >= 0 ? v : a * sx_expm1_f64(v > 0 ? (T)0 : v)) \
        case SOFTSIGN: RARELY EACH(v / (1 + (v < 0 ? -v : v))) \
        default: EACH((v < 0 ? (T)0 : v) + sx_log1p_f64(sx_exp_f64(v < 0 ? v : -v))) } \
        if (f->which == SCALED_TANH) RARELY for (int64_t i = 0; i < n; i++) x[i] *= a; }

/* The input's share of a sequence's gates in this step. */
static const char *share_of(const plan *p, int64_t b) {
    const sx_view *x = p->call->in;
    int64_t gh = p->gates * p->h;
    return p->ready ? x->data + (time_of(p, p->step, b) * x->stride[0] + b * x->stride[1] + p->direction * gh) * p->wide : p->share + ((p->step - p->first) * p->b + b) * gh * p->wide;
}

/* The gates of one sequence: `g[k]`, R's share, gets X's and the bias. `n` units from `u` on. */
#define CELLS(S) \
    static void add_share_##S(const plan *p, int gate, int64_t b, int64_t u, T *restrict to, int64_t n) { \
        const T *share = (const T *)share_of(p, b) + gate * p->h + u, *bias = (const T *)p->bias + gate * p->h + u; \
        for (int64_t i = 0; i < n; i++) to[i] += share[i] + bias[i]; } \
    static void lstm_##S(const plan *p, int64_t b, int64_t u, T **g, T *restrict made, int64_t n) { \
        T *restrict in = g[0], *restrict out = g[1], *restrict forget = g[2], *restrict fresh = g[3], *restrict c = (T *)p->cell + b * p->h + u; \
        const T *pi = (const T *)p->peep + u, *po = pi + p->h, *pf = po + p->h; \
        double clip = p->act[0].clip; \
        for (int k = 0; k < 4; k++) add_share_##S(p, k, b, u, g[k], n); \
        if (present(p->call, 7)) for (int64_t i = 0; i < n; i++) in[i] += pi[i] * c[i], forget[i] += pf[i] * c[i]; \
        activate_##S(p->act, clip, in, n); \
        if (p->input_forget) for (int64_t i = 0; i < n; i++) forget[i] = 1 - in[i]; \
        else activate_##S(p->act, clip, forget, n); \
        activate_##S(p->act + 1, clip, fresh, n); \
        for (int64_t i = 0; i < n; i++) fresh[i] = c[i] = forget[i] * c[i] + in[i] * fresh[i]; \
        if (present(p->call, 7)) for (int64_t i = 0; i < n; i++) out[i] += po[i] * c[i]; \
        activate_##S(p->act, clip, out, n); \
        activate_##S(p->act + 2, 0, fresh, n); /* the cell state enters as it is, as in onnxruntime */ \
        for (int64_t i = 0; i < n; i++) made[i] = out[i] * fresh[i]; } \
    /* update and reset gates; the state times reset goes to p->reset, or where R comes first, reset stays in g[1] */ \
    static void gru_gates_##S(const plan *p, int64_t b, int64_t u, T **g, int64_t n) { \
        const T *h = (const T *)p->state[p->step & 1] + b * p->h + u; \
        T *reset = (T *)p->reset + b * p->h + u, *update = (T *)p->update + b * p->h + u; \
        for (int k = 0; k < 2; k++) { \
            add_share_##S(p, k, b, u, g[k], n); \
            activate_##S(p->act, p->act[0].clip, g[k], n); } \
        for (int64_t i = 0; i < n; i++) reset[i] = g[1][i] * h[i], update[i] = g[0][i]; } \
    static void gru_##S(const plan *p, int64_t b, int64_t u, T **g, T *restrict made, int64_t n) { \
        const T *h = (const T *)p->state[p->step & 1] + b * p->h + u, *late = (const T *)p->late + u, *update = (const T *)p->update + b * p->h + u; \
        T *restrict fresh = g[2]; \
        if (p->linear) for (int64_t i = 0; i < n; i++) fresh[i] = g[1][i] * (fresh[i] + late[i]); \
        add_share_##S(p, 2, b, u, fresh, n); \
        activate_##S(p->act + 1, p->act[0].clip, fresh, n); \
        for (int64_t i = 0; i < n; i++) made[i] = (1 - update[i]) * fresh[i] + update[i] * h[i]; } \
    static void rnn_##S(const plan *p, int64_t b, int64_t u, T **g, T *restrict made, int64_t n) { \
        add_share_##S(p, 0, b, u, g[0], n); \
        activate_##S(p->act, p->act[0].clip, g[0], n); \
        for (int64_t i = 0; i < n; i++) made[i] = g[0][i]; } \
    /* One block of one step, all sequences. `rec`: R's share, [gate][sequence][block]. `part`: 0 all; of a GRU in two passes, 1 the gates and 2 the rest. */ \
    static void cells_##S(const plan *p, int64_t u, int64_t n, char *rec, int part) { \
        for (int64_t b = 0; b < p->b; b++) { \
            T *g[4], *made = (T *)p->state[1 - (p->step & 1)] + b * p->h + u; \
            for (int k = 0; k < p->gates; k++) g[k] = (T *)rec + (k * p->b + b) * p->block; \
            if (p->kind == GRU && part < 2) gru_gates_##S(p, b, u, g, n); \
            if (part == 1) continue; \
            if (p->step >= length_of(p, b)) { \
                const T *h = (const T *)p->state[p->step & 1] + b * p->h + u; \
                for (int64_t i = 0; i < n; i++) made[i] = h[i]; } \
            else if (p->kind == LSTM) lstm_##S(p, b, u, g, made, n); \
            else if (p->kind == GRU) gru_##S(p, b, u, g, made, n); \
            else rnn_##S(p, b, u, g, made, n); } }

#define T float
ACTIVATE(f32)
CELLS(f32)
#undef T
#define T double
ACTIVATE(f64)
CELLS(f64)
#undef T

/* ---- R times the state ---- */

/* rec[b][0 … n) of one gate: rows u … of its part of R times each sequence's `state`. */
static void recurrent(const plan *p, int gate, const char *state, int64_t u, int64_t n, char *rec, char *scratch) {
    if (p->quantised) {
        sx_igemm g = quantised_gemm(p, gate, u);
        int64_t column = (p->direction * p->gates + gate) * p->panels + u;
        const sx_view *zero = p->call->in + 9;
        const float *scale = (const float *)p->call->in[8].data + column;
        const uint8_t *zeros = (const uint8_t *)zero->data + column;
        g.c = (int32_t *)(void *)rec, g.ldc = p->block;
        SX_NAME(sx_igemm_run)(&g, 0, p->b, 0, n, scratch);
        for (int64_t b = 0; b < p->b; b++) {
            int32_t *c = g.c + b * p->block, rows = p->row_sums[b] - (int32_t)p->h * p->zero;
            const int32_t *sums = p->sums + gate * p->panels + u;
            float *to = (float *)(void *)c;
            if (g.b_signed) for (int64_t j = 0; j < n; j++) to[j] = (float)(c[j] - p->zero * sums[j] - rows * (int8_t)zeros[j]) * (p->scale * scale[j]);
            else for (int64_t j = 0; j < n; j++) to[j] = (float)(c[j] - p->zero * sums[j] - rows * zeros[j]) * (p->scale * scale[j]);
        }
        return;
    }
    if (p->packed) {
        sx_gemm g = recurrent_gemm(p, gate, state);
        SX_NAME(sx_gemm_block)(&g, 0, p->b, u, n, (float *)rec, p->block, scratch);
        return;
    }
    const char *rows = p->recurrent + (gate * p->h + u) * p->h * p->wide;
    if (p->type == SX_F64) {
        for (int64_t b = 0; b < p->b; b++)
            for (int64_t j = 0; j < n; j++) ((double *)rec)[b * p->block + j] = dot_double((const double *)rows + j * p->h, (const double *)state + b * p->h, p->h);
        return;
    }
    int64_t j = 0;
    for (; j + SX_ROWS <= n; j += SX_ROWS)
        for (int64_t b = 0; b < p->b; b++) dot_rows((const float *)rows + j * p->h, (const float *)state + b * p->h, p->h, (float *)rec + b * p->block + j);
    for (; j < n; j++)
        for (int64_t b = 0; b < p->b; b++) ((float *)rec)[b * p->block + j] = dot_one((const float *)rows + j * p->h, (const float *)state + b * p->h, p->h);
}

/* ---- steps ---- */

static void write_output(const plan *p, int64_t u, int64_t n) {
    const sx_view *y = p->call->out;
    if (!wanted(p->call, 0)) return;
    static const double zero[64];
    for (int64_t b = 0; b < p->b; b++) {
        int past = p->step >= length_of(p, b);
        int64_t at = time_of(p, p->step, b) * y->stride[0] + p->direction * y->stride[1] + b * y->stride[2] + u * y->stride[3], item = sx_element_bytes(y->dtype);
        if (!past) sx_store_row(y->dtype, p->type, y->data + at * item, y->stride[3], p->state[1 - (p->step & 1)] + (b * p->h + u) * p->wide, n);
        else for (int64_t i = 0; i < n; i += 64) sx_store_row(y->dtype, p->type, y->data + (at + i * y->stride[3]) * item, y->stride[3], zero, sx_min64(64, n - i));
    }
}

/* The block this worker does next: the first ones from below, there and back where it is alone; others from above. */
static int64_t claim_block(plan *p, int64_t number, int worker) {
    if (p->alone || !p->call->team) return p->step & 1 ? p->blocks - 1 - number : number;
    return worker % 2 ? p->blocks - 1 - __atomic_fetch_add(&p->high, 1, __ATOMIC_RELAXED) : __atomic_fetch_add(&p->low, 1, __ATOMIC_RELAXED);
}

/* The last state as bytes, as DynamicQuantizeLinear makes them: one scale and zero point for all sequences. */
static void quantise_state(plan *p) {
    const float *h = (const float *)p->state[p->step & 1];
    int64_t n = p->b * p->h;
    float low = n ? sx_min_f32(h, n) : 0, high = n ? sx_max_f32(h, n) : 0;
    low = low > 0 ? 0 : low, high = high < 0 ? 0 : high;
    p->scale = high > low ? (high - low) / 255.0f : 1;
    float zero = __builtin_rintf(-low / p->scale);
    p->zero = zero > 255 ? 255 : zero > 0 ? (int32_t)zero : 0;
    for (int64_t b = 0; b < p->b; b++) {
        uint8_t *to = p->bytes + b * p->words;
        const float *from = h + b * p->h;
        int32_t sum = 0;
        for (int64_t i = 0; i < p->h; i++) {
            float q = __builtin_rintf(from[i] / p->scale) + (float)p->zero;
            int32_t made = q >= 255 ? 255 : q > 0 ? (int32_t)q : 0; /* NaN: 0 */
            to[i] = (uint8_t)made, sum += made;
        }
        p->row_sums[b] = sum;
    }
}

static void step_block(plan *p, int64_t number, int worker, int part) {
    number = claim_block(p, number, worker);
    char *scratch = own_of(p, worker), *rec = scratch + p->gemm;
    const char *state = p->state[p->step & 1];
    int64_t u = number * p->block, n = sx_min64(p->block, p->h - u), gate = p->b * p->block * p->wide;
    int from = part == 2 ? 2 : 0, to = part == 1 ? 2 : p->gates;
    int back = p->step & 1 && (p->alone || !p->call->team); /* to and fro */
    for (int i = from; i < to; i++) {
        int k = back ? from + to - 1 - i : i;
        recurrent(p, k, part == 2 ? p->reset : state, u, n, rec + k * gate, scratch);
    }
    if (p->type == SX_F64) cells_f64(p, u, n, rec, part);
    else cells_f32(p, u, n, rec, part);
    if (part != 1) write_output(p, u, n);
}

static void whole_step(void *arg, int64_t number, int worker) { step_block(arg, number, worker, 0); }
static void first_part(void *arg, int64_t number, int worker) { step_block(arg, number, worker, 1); }
static void second_part(void *arg, int64_t number, int worker) { step_block(arg, number, worker, 2); }

/* ---- X · Wᵀ of a chunk ---- */

static void project_rectangle(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    sx_gemm g = p->input;
    int64_t m = number / p->cut.across * p->cut.mc, n = number % p->cut.across * p->cut.nc;
    SX_NAME(sx_gemm_block)(&g, m, sx_min64(p->cut.mc, g.m - m), n, sx_min64(p->cut.nc, g.n - n), (float *)p->share + m * g.n + n, g.n, own_of(p, worker));
}

SX_SMALL static void project_double(void *arg, int64_t row, int worker) {
    (void)worker;
    const plan *p = arg;
    const sx_view *x = p->call->in, *w = p->call->in + 1;
    int64_t sequence = row % p->b, time = time_of(p, p->first + row / p->b, sequence);
    const double *from = (const double *)x->data + time * x->stride[0] + sequence * x->stride[1];
    for (int64_t j = 0; j < p->gates * p->h; j++) {
        const double *weights = (const double *)w->data + p->direction * w->stride[0] + j * w->stride[1];
        double sum = 0;
        for (int64_t k = 0; k < p->i; k++) sum += from[k * x->stride[2]] * weights[k * w->stride[2]];
        ((double *)p->share)[row * p->gates * p->h + j] = sum;
    }
}

/* A step of X that holds its share already. */
static void take_share(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    const sx_view *x = p->call->in;
    int64_t gh = p->gates * p->h;
    for (int64_t b = 0; b < p->b; b++) {
        int64_t at = time_of(p, p->first + number, b) * x->stride[0] + b * x->stride[1] + p->direction * gh * x->stride[2];
        sx_load_row(x->dtype, p->type, p->share + (number * p->b + b) * gh * p->wide, x->data + at * sx_element_bytes(x->dtype), x->stride[2], gh);
    }
}

SX_SMALL static void project(plan *p, int64_t steps) {
    if (p->projected) {
        for (int64_t k = 0; k < steps && !p->ready; k++) take_share(p, k, 0); /* a copy: not worth a team */
        return;
    }
    p->input.m = steps * p->b;
    if (p->type == SX_F64) {
        spread(p, p->input.m, project_double);
        return;
    }
    p->cut.down = sx_ceil_div(p->input.m, p->cut.mc);
    p->input.a = p->call->in[0].data + p->first * p->call->in[0].stride[0] * sx_size_of(p->call->in[0].dtype);
    spread(p, p->cut.down * p->cut.across, project_rectangle);
}

/* ---- one direction ---- */

static void load(const plan *p, const sx_view *v, int64_t at, int64_t stride, int64_t n, char *to) {
    if (n) sx_load_row(v->dtype, p->type, to, v->data + at * sx_element_bytes(v->dtype), stride, n);
}

static void zero(char *to, int64_t bytes) {
    for (int64_t i = 0; i < bytes / 4; i++) ((uint32_t *)to)[i] = 0;
}

/* Panels of 16 units, each [k][16], the units past the last zero; or dense rows. */
static void copy_recurrent(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    const sx_view *r = p->call->in + 2;
    int64_t panels = sx_ceil_div(p->h, SX_PANEL), gate = number / panels, u = number % panels * SX_PANEL;
    float *to = (float *)p->r + number * p->h * SX_PANEL;
    for (int64_t j = 0; j < SX_PANEL; j++) {
        int64_t row = gate * p->h + u + j, at = p->direction * r->stride[0] + row * r->stride[1];
        if (!p->packed) {
            if (u + j < p->h) load(p, r, at, r->stride[2], p->h, p->r + row * p->h * p->wide);
            continue;
        }
        const char *from = r->data + at * sx_size_of(r->dtype);
        for (int64_t k = 0; k < p->h; k++) to[k * SX_PANEL + j] = u + j < p->h ? sx_element(from, r->dtype, k * r->stride[2]) : 0;
    }
}

/* Sums of R's columns in each gate: known, where R is a constant. */
static void sum_columns(plan *p) {
    sx_view r = p->call->in[2];
    int64_t first = p->direction * p->gates * p->panels, columns = p->gates * p->panels;
    if (p->call->sums) {
        __builtin_memcpy(p->sums, p->call->sums + first, (uint64_t)(4 * columns));
        return;
    }
    r.data += r.packing ? first * sx_round_up(p->h, 4) : first * r.stride[1];
    r.dim[1] = columns;
    if (r.packing) SX_NAME(sx_igemm_sums)(&r, p->sums);
    else for (int64_t j = 0; j < columns; j++) {
        p->sums[j] = 0;
        for (int64_t k = 0; k < p->h; k++) p->sums[j] += sx_byte_at((const uint8_t *)r.data, r.dtype == SX_INT8, k * r.stride[0] + j * r.stride[1]);
    }
}

/* `resumed`: scratch is as it was left. */
SX_SMALL static void prepare(plan *p, int resumed) {
    const sx_call *c = p->call;
    int64_t gh = p->gates * p->h, d = p->direction;
    const char *r = c->in[2].data + d * c->in[2].stride[0] * sx_element_bytes(c->in[2].dtype);
    p->copied |= p->room && (uintptr_t)r % 64;
    p->recurrent = p->copied ? p->r : r;
    if (!p->projected && !p->quantised) p->input.b = c->in[1].data + d * c->in[1].stride[0] * sx_element_bytes(c->in[1].dtype);
    if (resumed) return;
    if (present(c, 3)) { /* Wb, then Rb; together, but for a GRU that resets after R */
        const sx_view *b = c->in + 3;
        int64_t joined = p->kind == GRU && p->linear ? 2 * p->h : gh;
        load(p, b, d * b->stride[0] + gh * b->stride[1], b->stride[1], gh, p->share);
        load(p, b, d * b->stride[0], b->stride[1], gh, p->bias);
        if (p->type == SX_F64) for (int64_t i = 0; i < joined; i++) ((double *)p->bias)[i] += ((double *)p->share)[i];
        else for (int64_t i = 0; i < joined; i++) ((float *)p->bias)[i] += ((float *)p->share)[i];
        if (joined < gh) __builtin_memcpy(p->late, p->share + joined * p->wide, (uint64_t)(p->h * p->wide));
    } else zero(p->bias, gh * p->wide), zero(p->late, p->h * p->wide);
    for (int k = 0; k < 2; k++) {
        char *to = k ? p->cell : p->state[0];
        const sx_view *v = c->in + 5 + k;
        if (present(c, 5 + k)) for (int64_t b = 0; b < p->b; b++) load(p, v, d * v->stride[0] + b * v->stride[1], v->stride[2], p->h, to + b * p->h * p->wide);
        else zero(to, p->b * p->h * p->wide);
    }
    if (present(c, 7)) load(p, c->in + 7, d * c->in[7].stride[0], c->in[7].stride[1], 3 * p->h, p->peep);
    if (p->quantised) sum_columns(p);
    else if (p->copied) spread(p, p->gates * sx_ceil_div(p->h, SX_PANEL), copy_recurrent);
}

SX_SMALL static void run_direction(plan *p, int number) {
    const sx_call *c = p->call;
    int each = p->kind == LSTM ? 3 : p->kind == GRU ? 2 : 1;
    p->direction = number, p->back = c->param[1] == 1 || number == 1;
    for (int k = 0; k < each; k++) {
        int at = number * each + k;
        p->act[k] = (activation){(int)c->param[5 + at], sx_param_float(c->param[11 + at]), sx_param_float(c->param[17 + at]), sx_param_float(c->param[4])};
    }
    int64_t *place = c->pause ? c->pause->at + number : 0, from = place ? *place : 0;
    if (from == p->t && p->t) return; /* done before the run was left */
    if (place && !p->alone && c->pause->left) return; /* the other direction was left */
    prepare(p, from > 0);
    int twice = p->kind == GRU && !p->linear;
    for (p->first = from / p->chunk * p->chunk; p->first < p->t; p->first += p->chunk) {
        int64_t end = sx_min64(p->t, p->first + p->chunk);
        if (from <= p->first) project(p, end - p->first);
        for (p->step = sx_max64(p->first, from); p->step < end; p->step++) {
            if (p->step > from && sx_due(c)) {
                if (place) *place = p->step, __atomic_store_n(&c->pause->left, 1, __ATOMIC_RELAXED);
                return;
            }
            if (p->quantised) quantise_state(p);
            spread(p, p->blocks, twice ? first_part : whole_step);
            if (twice) spread(p, p->blocks, second_part);
        }
    }
    for (int k = 0; k < 2; k++) {
        if (!wanted(c, 1 + k)) continue;
        const sx_view *y = c->out + 1 + k;
        const char *last = k ? p->cell : p->state[p->t & 1];
        for (int64_t b = 0; b < p->b; b++)
            sx_store_row(y->dtype, p->type, y->data + (number * y->stride[0] + b * y->stride[1]) * sx_element_bytes(y->dtype), y->stride[2], last + b * p->h * p->wide, p->h);
    }
    if (place) *place = p->t;
}

/* One direction of two, by one worker, with the shared memory of its own. */
static void side(void *arg, int64_t number, int worker) {
    plan p = *(const plan *)arg;
    int64_t shift = number * p.shared;
    p.share += shift, p.bias += shift, p.late += shift, p.state[0] += shift, p.state[1] += shift, p.cell += shift, p.reset += shift, p.update += shift, p.peep += shift, p.r += shift;
    p.bytes += shift, p.sums += shift / 4, p.row_sums += shift / 4;
    if (p.input.rows) p.input.rows_source = &p;
    p.alone = 1, p.worker = worker;
    run_direction(&p, (int)number);
}

int SX_NAME(sx_k_rnn)(const sx_call *call) {
    plan p = plan_of(call);
    plan_products(&p);
    if (!p.b || !p.h) return SX_OK;
    for (int64_t b = 0; b < p.b; b++) {
        int64_t length = length_of(&p, b);
        if (length < 0 || length > p.t) return sx_fail(call, SX_E_INDEX, 4, length, p.t);
    }
    if (p.sides == 2 && call->team && times(times(p.gates, p.b), times(p.h, p.h)) <= APART) sx_for(call, 2, side, &p);
    else for (int d = 0; d < p.sides; d++) run_direction(&p, d);
    return SX_OK;
}
