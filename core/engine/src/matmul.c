/* matmul.c: out[..., M, N] = A[..., M, K] · B[..., K, N] (kind MATMUL), float types; integers go to matmul_int.c.

   Operands have the same rank ≥ 2 or B is packed (rank 2); batch dims of A and B may have stride 0. A and B: any strides, float, half or bfloat16 in any mix, computed in float; or double.
   Without an epilogue and with columns of Y side by side, results are written in place; otherwise a finished rectangle goes through sx_finish. */
#include "gemm_int.h"

#define ROWS 8 /* of a double rectangle */

typedef struct {
    const sx_call *call;
    sx_gemm gemm;
    sx_gemm_cut cut;
    int64_t batch, bundle; /* problems; problems one tile takes */
    int in_place, back;    /* back: the last columns first */
} job;

static int64_t batches(const sx_call *call) {
    int64_t n = 1;
    for (int i = 0; i < call->out[0].rank - 2; i++) n *= call->out[0].dim[i];
    return n;
}

/* Offset of a batch index in an operand whose leading dims broadcast to those of the output, right-aligned. */
static int64_t batch_offset(const sx_view *view, const sx_view *out, int64_t index) {
    int64_t at = 0;
    for (int i = out->rank - 3; i >= 0; i--) {
        int64_t position = index % out->dim[i];
        int own = i + view->rank - out->rank;
        index /= out->dim[i];
        if (own >= 0 && view->dim[own] != 1) at += position * view->stride[own];
    }
    return at;
}

static void start_of(const sx_view *out, int64_t index, int64_t m, int64_t n, int64_t *start) {
    for (int i = out->rank - 3; i >= 0; i--) start[i] = index % out->dim[i], index /= out->dim[i];
    start[out->rank - 2] = m, start[out->rank - 1] = n;
}

static job job_of(const sx_call *call) {
    const sx_view *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    job j = {.call = call, .batch = batches(call)};
    j.gemm = (sx_gemm){.m = y->dim[y->rank - 2], .n = y->dim[y->rank - 1], .k = a->dim[a->rank - 1], .a_row = a->stride[a->rank - 2], .a_col = a->stride[a->rank - 1], .a_dtype = a->dtype,
                       .b_row = b->stride[b->rank - 2], .b_col = b->stride[b->rank - 1], .b_dtype = b->dtype, .b_packed = b->packing != 0};
#ifdef SX_BF16
    j.gemm.bf16 = sx_bf16_of(call, &j.gemm, b->packing == SX_PACK_WORDS);
#endif
    j.cut = SX_NAME(sx_gemm_cut_for)(&j.gemm, j.batch);
    int64_t work = j.gemm.m * j.gemm.n * sx_max64(1, j.gemm.k);
    j.bundle = j.cut.down * j.cut.across > 1 ? 1 : sx_max64(1, sx_min64((1 << 16) / sx_max64(1, work), j.batch / 16));
    j.back = call->odd && j.cut.down == 1 && b->packing; /* one row of 64 MB of weights: half of them are still in the last cache */
    j.in_place = !call->epilogue && y->dtype == SX_FLOAT && (y->stride[y->rank - 1] == 1 || j.gemm.n == 1);
    return j;
}

int64_t SX_NAME(sx_scratch_matmul)(const sx_call *call) {
    if (call->n_param > 2 && call->param[2]) return SX_NAME(sx_nbits_scratch)(call);
    if (call->in[0].dtype == SX_DOUBLE) return ROWS * 8 * sx_min64(256, call->out[0].dim[call->out[0].rank - 1]) + 64;
    if (!sx_is_float(call->in[0].dtype)) return SX_NAME(sx_matmul_int_scratch)(call);
    job j = job_of(call);
    return SX_NAME(sx_gemm_scratch)(&j.gemm, j.cut.mc, j.cut.nc) + (j.in_place ? 0 : sx_round_up(4 * j.cut.mc * j.cut.nc, 64));
}

#ifdef SX_BF16
int SX_NAME(sx_matmul_bf16)(const sx_call *call, sx_gemm *g) {
    if (!call->bf16 || (call->n_param > 2 && call->param[2]) || !sx_is_float(call->in[0].dtype) || !sx_is_float(call->in[1].dtype)) return 0;
    *g = job_of(call).gemm;
    return !g->bf16 || !g->b_packed ? g->bf16 : SX_BF16_WORDS;
}
#endif

static void rectangle(const job *j, int64_t index, int64_t tile, char *scratch) {
    const sx_view *a = &j->call->in[0], *b = &j->call->in[1], *y = &j->call->out[0];
    sx_gemm g = j->gemm;
    sx_coming coming = sx_coming_of(j->call, index * j->cut.down * j->cut.across + tile, j->batch * j->cut.down * j->cut.across);
    g.coming = &coming;
    int64_t m = tile / j->cut.across * j->cut.mc, n = tile % j->cut.across * j->cut.nc;
    int64_t mc = sx_min64(j->cut.mc, g.m - m), nc = sx_min64(j->cut.nc, g.n - n);
    g.a = a->data + batch_offset(a, y, index) * sx_size_of(a->dtype);
    g.b = b->data + (g.b_packed ? 0 : batch_offset(b, y, index) * sx_size_of(b->dtype));
    if (j->in_place) {
        int64_t row = y->stride[y->rank - 2];
        SX_NAME(sx_gemm_block)(&g, m, mc, n, nc, (float *)y->data + batch_offset(y, y, index) + m * row + n, row, scratch);
        return;
    }
    int64_t start[SX_RANK];
    float *block = (float *)scratch;
    start_of(y, index, m, n, start);
    SX_NAME(sx_gemm_block)(&g, m, mc, n, nc, block, nc, scratch + sx_round_up(4 * j->cut.mc * j->cut.nc, 64));
    sx_finish(j->call, block, 0, mc, nc, nc, start, y->rank - 2, y->rank - 1);
}

static void tile_of(void *arg, int64_t i, int worker) {
    const job *j = arg;
    char *scratch = j->call->scratch + worker * j->call->scratch_bytes;
    int64_t tiles = j->cut.down * j->cut.across;
    if (tiles > 1) rectangle(j, i / tiles, j->back ? tiles - 1 - i % tiles : i % tiles, scratch);
    else
        for (int64_t index = i * j->bundle; index < sx_min64((i + 1) * j->bundle, j->batch); index++) rectangle(j, index, 0, scratch);
}

/* ---- double: ROWS rows of at most 256 columns, K in order ---- */
static void double_tile(void *arg, int64_t i, int worker) {
    const sx_call *call = arg;
    const sx_view *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    int64_t m = y->dim[y->rank - 2], n = y->dim[y->rank - 1], k = a->dim[a->rank - 1], wide = sx_min64(256, n);
    int64_t down = sx_ceil_div(m, ROWS), across = sx_ceil_div(n, wide), index = i / (down * across);
    int64_t m0 = i / across % down * ROWS, n0 = i % across * wide, rows = sx_min64(ROWS, m - m0), cols = sx_min64(wide, n - n0);
    int64_t ars = a->stride[a->rank - 2], acs = a->stride[a->rank - 1], brs = b->stride[b->rank - 2], bcs = b->stride[b->rank - 1], start[SX_RANK];
    const double *pa = (const double *)a->data + batch_offset(a, y, index) + m0 * ars, *pb = (const double *)b->data + batch_offset(b, y, index) + n0 * bcs;
    double *sums = (double *)(call->scratch + worker * call->scratch_bytes);
    for (int64_t at = 0; at < rows * cols; at++) sums[at] = 0;
    for (int64_t at = 0; at < k; at++)
        for (int64_t r = 0; r < rows; r++) {
            double x = pa[r * ars + at * acs], *to = sums + r * cols;
            const double *row = pb + at * brs;
            if (bcs == 1) for (int64_t c = 0; c < cols; c++) to[c] += x * row[c];
            else for (int64_t c = 0; c < cols; c++) to[c] += x * row[c * bcs];
        }
    start_of(y, index, m0, n0, start);
    sx_finish(call, sums, 1, rows, cols, cols, start, y->rank - 2, y->rank - 1);
}

int SX_NAME(sx_k_matmul)(const sx_call *call) {
    if (call->n_param > 2 && call->param[2]) return SX_NAME(sx_matmul_nbits)(call);
    const sx_view *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    int64_t m = y->dim[y->rank - 2], n = y->dim[y->rank - 1];
    if (a->rank < 2 || b->rank < 2 || y->rank < 2) return sx_fail(call, SX_E_SHAPE, 0, a->rank, b->rank);
    if (a->dim[a->rank - 1] != b->dim[b->rank - 2]) return sx_fail(call, SX_E_SHAPE, 1, a->dim[a->rank - 1], b->dim[b->rank - 2]);
    if (m == 0 || n == 0 || batches(call) == 0) return SX_OK; /* nothing to write */
    if (a->dtype == SX_DOUBLE && b->dtype == SX_DOUBLE && !b->packing) {
        sx_tiles(call, batches(call) * sx_ceil_div(m, ROWS) * sx_ceil_div(n, sx_min64(256, n)), double_tile, (void *)call);
        return SX_OK;
    }
    if (!sx_is_float(a->dtype) && a->dtype != SX_DOUBLE) return SX_NAME(sx_matmul_int)(call); /* sx_check: B's type is of its kind */
    if (!sx_is_float(a->dtype) || !sx_is_float(b->dtype)) return sx_fail(call, SX_E_DTYPE, 0, a->dtype, b->dtype);
    job j = job_of(call);
    int64_t tiles = j.cut.down * j.cut.across;
    sx_tiles(call, tiles > 1 ? j.batch * tiles : sx_ceil_div(j.batch, j.bundle), tile_of, &j);
    return SX_OK;
}
