/* matmul_int.c: MATMUL of integers less their zero points; matmul.c sends them here. Bytes by gemm_int.c; any other integer types element by element, exact and unhurried. */
#include "gemm_int.h"
#include "sx_expr.h"

#define ROWS 8
#define COLUMNS 256

typedef struct {
    const sx_call *call;
    sx_igemm gemm;
    sx_igemm_cut cut;
    int64_t batch;
    sx_requant q;
    int64_t held[SX_MAX_WORKERS];
} job;

typedef struct { const job *j; int64_t start[SX_RANK]; } place;

static int is_byte(int dtype) { return dtype == SX_UINT8 || dtype == SX_INT8; }
static int bytes_only(const sx_call *call) { return is_byte(call->in[0].dtype) && is_byte(call->in[1].dtype); }

static int64_t batches(const sx_call *call) {
    int64_t n = 1;
    for (int i = 0; i < call->out[0].rank - 2; i++) n *= call->out[0].dim[i];
    return n;
}

static int64_t batch_offset(const sx_view *view, const sx_view *out, int64_t index) {
    if (view->rank != out->rank) return 0; /* one right-hand side for all */
    int64_t at = 0;
    for (int i = out->rank - 3; i >= 0; i--) at += index % out->dim[i] * view->stride[i], index /= out->dim[i];
    return at;
}

static void start_of(const sx_view *out, int64_t index, int64_t m, int64_t n, int64_t *start) {
    for (int i = out->rank - 3; i >= 0; i--) start[i] = index % out->dim[i], index /= out->dim[i];
    start[out->rank - 2] = m, start[out->rank - 1] = n;
}

static const sx_view *zero_of(const sx_call *call, int which) { return call->param[which] < 0 ? 0 : call->in + call->param[which]; }
static int64_t zero_step(const sx_view *zero) { return zero && zero->rank == 1 && zero->dim[0] > 1 ? zero->stride[0] : 0; }

static void sink(const void *arg, const int32_t *block, int64_t row, int64_t rows, int64_t column, int64_t columns, int64_t ld, char *scratch) {
    const place *p = arg;
    const sx_call *call = p->j->call;
    int r = call->out->rank;
    int64_t start[SX_RANK];
    for (int d = 0; d < r - 2; d++) start[d] = p->start[d];
    start[r - 2] = row, start[r - 1] = column;
    int prepared = SX_NAME(sx_requant_prepare)(call, &p->j->q, block, columns, start, r - 2, r - 1, scratch);
    SX_NAME(sx_requant_finish)(call, &p->j->q, prepared, block, rows, columns, ld, start, r - 2, r - 1, scratch);
}

static job job_of(const sx_call *call) {
    const sx_view *a = &call->in[0], *b = &call->in[1], *y = &call->out[0], *za = zero_of(call, 0), *zb = zero_of(call, 1);
    int r = y->rank;
    job j = {.call = call, .batch = batches(call)};
    j.gemm = (sx_igemm){.m = y->dim[r - 2], .n = y->dim[r - 1], .k = a->dim[a->rank - 1], .a_row = a->stride[a->rank - 2], .a_col = a->stride[a->rank - 1], .b_row = b->stride[b->rank - 2],
                        .b_col = b->stride[b->rank - 1], .a_signed = a->dtype == SX_INT8, .b_signed = b->dtype == SX_INT8, .b_packed = b->packing != 0,
                        .za = za ? (const uint8_t *)za->data : 0, .zb = zb ? (const uint8_t *)zb->data : 0, .za_step = zero_step(za), .zb_step = zero_step(zb), .sums = call->sums};
    if (call->epilogue || y->dtype != SX_INT32 || (y->stride[r - 1] != 1 && j.gemm.n > 1)) j.gemm.sink = sink, j.gemm.sink_scratch = sx_requant_scratch(SX_STRIP);
    j.cut = SX_NAME(sx_igemm_cut_for)(&j.gemm, j.batch);
    return j;
}

static void tile_of(void *arg, int64_t i, int worker) {
    job *j = arg;
    const sx_view *a = &j->call->in[0], *b = &j->call->in[1], *y = &j->call->out[0];
    int64_t tiles = j->cut.down * j->cut.across, index = i / tiles, tile = i % tiles, m = tile / j->cut.across * j->cut.mc, n = tile % j->cut.across * j->cut.nc;
    place p = {.j = j};
    sx_igemm g = j->gemm;
    start_of(y, index, 0, 0, p.start);
    g.a = (const uint8_t *)a->data + batch_offset(a, y, index);
    g.b = (const uint8_t *)b->data + (g.b_packed ? 0 : batch_offset(b, y, index));
    g.sink_arg = &p;
    g.held = j->held + worker, g.key = i / j->cut.across + 1;
    g.c = (int32_t *)y->data + batch_offset(y, y, index), g.ldc = y->stride[y->rank - 2];
    SX_NAME(sx_igemm_run)(&g, m, sx_min64(j->cut.mc, g.m - m), n, sx_min64(j->cut.nc, g.n - n), j->call->scratch + worker * j->call->scratch_bytes);
}

/* ---- other integers ---- */
static int64_t element(const sx_view *v, int64_t at) {
    int64_t wide = 0;
    int32_t narrow = 0;
    const char *p = v->data + at * sx_element_bytes(v->dtype);
    if (sx_element_bytes(v->dtype) == 8 || v->dtype == SX_UINT32) sx_load_row(v->dtype, v->dtype == SX_UINT64 ? SX_U64 : SX_I64, &wide, p, 1, 1);
    else sx_load_row(v->dtype, SX_I32, &narrow, p, 1, 1), wide = narrow;
    return wide;
}

static int is_wide(const sx_view *v) { return v->dtype == SX_INT64 || v->dtype == SX_UINT64 || v->dtype == SX_UINT32; }
static int64_t wide_columns(const sx_call *call) { return sx_max64(1, sx_min64(COLUMNS, call->out[0].dim[call->out[0].rank - 1])); }

static void exact_tile(void *arg, int64_t i, int worker) {
    const sx_call *call = arg;
    const sx_view *a = &call->in[0], *b = &call->in[1], *y = &call->out[0], *za = zero_of(call, 0), *zb = zero_of(call, 1);
    int64_t m = y->dim[y->rank - 2], n = y->dim[y->rank - 1], k = a->dim[a->rank - 1], wide = wide_columns(call);
    int64_t down = sx_ceil_div(m, ROWS), across = sx_ceil_div(n, wide), index = i / (down * across);
    int64_t m0 = i / across % down * ROWS, n0 = i % across * wide, rows = sx_min64(ROWS, m - m0), cols = sx_min64(wide, n - n0);
    int64_t pa = batch_offset(a, y, index), pb = batch_offset(b, y, index), start[SX_RANK];
    char *sums = call->scratch + worker * call->scratch_bytes;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            uint64_t sum = 0;
            int64_t x = za ? element(za, (m0 + r) * zero_step(za)) : 0, z = zb ? element(zb, (n0 + c) * zero_step(zb)) : 0;
            for (int64_t at = 0; at < k; at++)
                sum += (uint64_t)(element(a, pa + (m0 + r) * a->stride[a->rank - 2] + at * a->stride[a->rank - 1]) - x) * (uint64_t)(element(b, pb + at * b->stride[b->rank - 2] + (n0 + c) * b->stride[b->rank - 1]) - z);
            if (is_wide(a)) ((uint64_t *)(void *)sums)[r * cols + c] = sum;
            else ((uint32_t *)(void *)sums)[r * cols + c] = (uint32_t)sum;
        }
    start_of(y, index, m0, n0, start);
    sx_finish(call, sums, a->dtype == SX_UINT64 ? SX_U64 : is_wide(a) ? SX_I64 : SX_I32, rows, cols, cols, start, y->rank - 2, y->rank - 1);
}

int64_t SX_NAME(sx_matmul_int_scratch)(const sx_call *call) {
    if (!bytes_only(call)) return ROWS * 8 * wide_columns(call);
    job j = job_of(call);
    return j.gemm.m == 0 || j.gemm.n == 0 ? 0 : SX_NAME(sx_igemm_scratch)(&j.gemm, j.cut.mc, j.cut.nc);
}

int SX_NAME(sx_matmul_int)(const sx_call *call) {
    const sx_view *y = &call->out[0];
    if (!bytes_only(call)) {
        if (call->in[1].packing) return sx_fail(call, SX_E_DTYPE, 1, call->in[1].dtype, call->in[1].packing);
        sx_tiles(call, batches(call) * sx_ceil_div(y->dim[y->rank - 2], ROWS) * sx_ceil_div(y->dim[y->rank - 1], wide_columns(call)), exact_tile, (void *)call);
        return SX_OK;
    }
    job j = job_of(call);
    int row_axis = y->rank - 2;
    j.q = SX_NAME(sx_requant_of)(call, &row_axis, 1); /* it reads operands: not while binding */
    sx_tiles(call, j.batch * j.cut.down * j.cut.across, tile_of, &j);
    return SX_OK;
}
