/* attention.c: Y = softmax(scale · Q Kᵀ + mask) V (kind ATTENTION), float types.

   Q[B, H, S, D], K[B, Hk, T, D], V[B, Hk, T, Dv], Y[B, H, S, Dv]: any strides, H a multiple of Hk. The mask's dims are those of [B, H, S, T] or 1.
   Keys are taken in blocks; running maximum and sum of each row are corrected from block to block (Milakov and Gimelshein 2018; Dao et al. 2022), so scores never leave the cache.
   The rows of a tile are queries of all heads that share a key head: a decoding step of grouped heads reads each key once. A row that sees no key gives zeros. */
#include "gemm.h"
#include "sx_math.h"
#include "sx_vec.h"

#define ROWS 192 /* of a tile */
#define KEYS 256 /* of a block */

typedef struct {
    const sx_call *call;
    const sx_view *q, *k, *v, *mask, *y;
    int64_t s, t, d, dv, heads, rows, tile, blocks; /* heads that share a key head, their queries, queries of a tile, tiles of a key head */
    int64_t keys, ld, gemm;                         /* keys of a block, stride of a row of scores, bytes the products need */
    float scale, softcap;
    int64_t offset;
    int causal;
} job;

typedef struct { float *q, *scores, *sums, *top, *total; char *gemm; } memory;

static sx_gemm scores_of(const job *j, const float *q) {
    return (sx_gemm){.n = j->t, .k = j->d, .a = (const char *)q, .a_row = j->d, .a_col = 1, .a_dtype = SX_FLOAT, .b_row = j->k->stride[3], .b_col = j->k->stride[2], .b_dtype = j->k->dtype};
}

static sx_gemm values_of(const job *j, const float *scores) {
    return (sx_gemm){.n = j->dv, .a = (const char *)scores, .a_row = j->ld, .a_col = 1, .a_dtype = SX_FLOAT, .b_row = j->v->stride[2], .b_col = j->v->stride[3], .b_dtype = j->v->dtype};
}

static job job_of(const sx_call *call) {
    enum { SCALE, SOFTCAP, CAUSAL, OFFSET };
    job j = {.call = call, .q = &call->in[0], .k = &call->in[1], .v = &call->in[2], .y = &call->out[0], .mask = call->n_in > 3 && call->in[3].data ? &call->in[3] : 0,
             .scale = (float)sx_param_float(call->param[SCALE]), .softcap = (float)sx_param_float(call->param[SOFTCAP]), .causal = call->param[CAUSAL] != 0, .offset = call->param[OFFSET]};
    j.s = j.q->dim[2], j.d = j.q->dim[3], j.t = j.k->dim[2], j.dv = j.v->dim[3];
    j.heads = j.q->dim[1] / sx_max64(1, j.k->dim[1]);
    j.rows = j.heads * j.s;
    j.blocks = sx_max64(1, sx_ceil_div(j.rows, ROWS));
    j.tile = j.blocks == 1 ? j.rows : sx_min64(ROWS, sx_round_up(sx_ceil_div(j.rows, j.blocks), SX_MR));
    j.blocks = sx_max64(1, sx_ceil_div(j.rows, sx_max64(1, j.tile)));
    j.keys = sx_min64(KEYS, j.t), j.ld = sx_round_up(j.keys, 16) + 16;
    sx_gemm scores = scores_of(&j, 0), values = values_of(&j, 0);
    values.k = j.keys;
    j.gemm = sx_round_up(sx_max64(SX_NAME(sx_gemm_scratch)(&scores, j.tile, j.keys), SX_NAME(sx_gemm_scratch)(&values, j.tile, j.dv)), 64);
    return j;
}

static int64_t floats(int64_t n) { return sx_round_up(4 * n, 64); }

static memory memory_of(const job *j, char *scratch) {
    memory m;
    m.gemm = scratch;
    scratch += j->gemm;
    m.q = (float *)scratch, scratch += floats(j->tile * j->d);
    m.scores = (float *)scratch, scratch += floats(j->tile * j->ld);
    m.sums = (float *)scratch, scratch += floats(j->tile * j->dv);
    m.top = (float *)scratch, scratch += floats(j->tile);
    m.total = (float *)scratch;
    return m;
}

int64_t SX_NAME(sx_scratch_attention)(const sx_call *call) {
    job j = job_of(call);
    return j.gemm + floats(j.tile * j.d) + floats(j.tile * j.ld) + floats(j.tile * j.dv) + 2 * floats(j.tile);
}

/* Capped and masked scores of one query for keys [at, at + n). */
static void prepare(const job *j, int64_t b, int64_t h, int64_t s, int64_t at, int64_t n, float *x) {
    if (j->softcap != 0) {
        float inverse = 1 / j->softcap;
        for (int64_t i = 0; i < n; i++) x[i] = sx_tanh_f32(x[i] * inverse) * j->softcap;
    }
    const sx_view *m = j->mask;
    if (!m) return;
    int64_t step = m->dim[3] == 1 ? 0 : m->stride[3];
    int64_t from = (m->dim[0] == 1 ? 0 : b * m->stride[0]) + (m->dim[1] == 1 ? 0 : h * m->stride[1]) + (m->dim[2] == 1 ? 0 : s * m->stride[2]) + at * step;
    if (m->dtype == SX_BOOL) {
        const uint8_t *keep = (const uint8_t *)m->data + from;
        for (int64_t i = 0; i < n; i++) x[i] = keep[i * step] ? x[i] : -SX_INF32;
    } else if (m->dtype == SX_FLOAT && step == 1) {
        const float *add = (const float *)m->data + from;
        for (int64_t i = 0; i < n; i++) x[i] += add[i];
    } else {
        for (int64_t i = 0; i < n; i++) x[i] += sx_element(m->data, m->dtype, from + i * step);
    }
}

/* Scores become e^(score - maximum); the row's maximum and sum go on, and what was summed before is put under the new maximum. */
static void soften(float *x, int64_t n, int64_t whole, float *top, float *total, float *sums, int64_t dv, int first) {
    float largest = n ? sx_fmax_of(x, n) : -SX_INF32, before = first ? -SX_INF32 : *top;
    largest = largest > before || largest != largest ? largest : before;
    float base = largest == -SX_INF32 ? 0 : largest;
    for (int64_t i = 0; i < n; i++) x[i] = sx_exp_f32(x[i] - base);
    for (int64_t i = n; i < whole; i++) x[i] = 0; /* keys after the query */
    float sum = sx_sum_f32(x, n);
    if (!first) {
        float correction = sx_exp_f32(before - base);
        sum += *total * correction;
        if (correction != 1) for (int64_t i = 0; i < dv; i++) sums[i] *= correction;
    }
    *top = largest, *total = sum;
}

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    int64_t hk = j->k->dim[1], b = index / j->blocks / hk, head = index / j->blocks % hk, row = index % j->blocks * j->tile, rows = sx_min64(j->tile, j->rows - row);
    memory m = memory_of(j, j->call->scratch + worker * j->call->scratch_bytes);
    const char *key = j->k->data + (b * j->k->stride[0] + head * j->k->stride[1]) * sx_size_of(j->k->dtype), *value = j->v->data + (b * j->v->stride[0] + head * j->v->stride[1]) * sx_size_of(j->v->dtype);
    int64_t visible = 0; /* keys any query of the tile sees */
    for (int64_t r = 0; r < rows; r++) {
        int64_t h = head * j->heads + (row + r) / j->s, s = (row + r) % j->s, at = b * j->q->stride[0] + h * j->q->stride[1] + s * j->q->stride[2];
        sx_widen_row(j->q->data + at * sx_size_of(j->q->dtype), j->q->dtype, j->q->stride[3], j->d, m.q + r * j->d);
        for (int64_t i = 0; i < j->d; i++) m.q[r * j->d + i] *= j->scale; /* cheaper than scaling the scores */
        visible = sx_max64(visible, j->causal ? sx_min64(j->t, s + j->offset + 1) : j->t);
        m.total[r] = 0;
    }
    for (int64_t i = 0; visible <= 0 && i < rows * j->dv; i++) m.sums[i] = 0;
    for (int64_t at = 0; at < visible; at += j->keys) {
        int64_t n = sx_min64(j->keys, visible - at);
        sx_gemm scores = scores_of(j, m.q), values = values_of(j, m.scores);
        scores.m = values.m = rows, scores.b = key, values.k = n, values.add = at > 0;
        values.b = value + at * j->v->stride[2] * sx_size_of(j->v->dtype);
        SX_NAME(sx_gemm_block)(&scores, 0, rows, at, n, m.scores, j->ld, m.gemm);
        for (int64_t r = 0; r < rows; r++) {
            int64_t h = head * j->heads + (row + r) / j->s, s = (row + r) % j->s;
            int64_t seen = j->causal ? sx_max64(0, sx_min64(n, s + j->offset + 1 - at)) : n;
            prepare(j, b, h, s, at, seen, m.scores + r * j->ld);
            soften(m.scores + r * j->ld, seen, n, m.top + r, m.total + r, m.sums + r * j->dv, j->dv, at == 0);
        }
        SX_NAME(sx_gemm_block)(&values, 0, rows, 0, j->dv, m.sums, j->dv, m.gemm);
    }
    int in_place = !j->call->epilogue && j->y->dtype == SX_FLOAT && j->y->stride[3] == 1;
    for (int64_t r = 0; r < rows; r++) {
        float total = m.total[r], *sum = m.sums + r * j->dv, *to = sum;
        if (in_place) to = (float *)j->y->data + b * j->y->stride[0] + (head * j->heads + (row + r) / j->s) * j->y->stride[1] + (row + r) % j->s * j->y->stride[2];
        total = total > 1e-38f || total != total ? total : 1e-38f;
        for (int64_t i = 0; i < j->dv; i++) to[i] = sum[i] / total;
    }
    for (int64_t r = 0; r < rows && !in_place;) {
        int64_t s = (row + r) % j->s, count = sx_min64(rows - r, j->s - s), start[4] = {b, head * j->heads + (row + r) / j->s, s, 0};
        sx_finish(j->call, m.sums + r * j->dv, 0, count, j->dv, j->dv, start, 2, 3);
        r += count;
    }
}

int SX_NAME(sx_k_attention)(const sx_call *call) {
    job j = job_of(call);
    int64_t hk = j.k->dim[1];
    if (hk == 0 || j.q->dim[1] % hk || j.k->dim[3] != j.d || j.v->dim[2] != j.t || j.v->dim[1] != hk) return sx_fail(call, SX_E_SHAPE, 1, j.q->dim[1], hk);
    if (!sx_is_float(j.q->dtype) || !sx_is_float(j.k->dtype) || !sx_is_float(j.v->dtype)) return sx_fail(call, SX_E_DTYPE, 0, j.q->dtype, j.k->dtype);
    if (j.mask && !sx_is_float(j.mask->dtype) && j.mask->dtype != SX_BOOL) return sx_fail(call, SX_E_DTYPE, 3, j.mask->dtype, 0);
    if (j.rows == 0 || j.dv == 0) return SX_OK;
    sx_for(call, j.q->dim[0] * hk * j.blocks, tile_of, &j);
    return SX_OK;
}
