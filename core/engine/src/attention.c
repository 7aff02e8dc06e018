/* attention.c: Y = softmax(scale · Q Kᵀ + mask) V (kind ATTENTION), float types.

   Q[B, H, S, D], K[B, Hk, T, D], V[B, Hk, T, Dv], Y[B, H, S, Dv]: any strides, H a multiple of Hk. The mask's dims are those of [B, H, S, T] or 1.
   Keys and values may lie in two pieces, what a cache held and what is new; where the cache is to be kept (present), it is written while it is read,
   or only the new rows, behind it, where it lies in present's memory.
   Keys are taken in blocks; running maximum and sum of each row are corrected from block to block (Milakov and Gimelshein 2018; Dao et al. 2022), so scores never leave the cache.
   The rows of a tile are queries of all heads that share a key head: a decoding step of grouped heads reads each key once. A row that sees no key gives zeros.
   - Many rows: both products are gemm.c's, a block of keys becomes panels.
   - FEW rows or less (decoding): memory is the limit. Keys and values are read once, in order, as they lie: dot products, four to a sum, then sums of rows by weight. What is read goes on to
     `present` from the registers, past the caches if it is large. 12 heads × 512 keys of 64, one Zen 4 core, from memory in pages of 4 KiB: 16 GB/s where present is written too (a plain
     copy past the caches: 15 to 19); four keys side by side, a line of each in turn, were a tenth slower, and software prefetches a fifth. In WebAssembly (V8), the same cache: 20 GB/s, 10.5 where present is written too. */
#include "gemm.h"
#include "sx_math.h"
#include "sx_vec.h"

#define ROWS 192 /* of a tile */
#define KEYS 256 /* of a block */
#define FEW 8    /* rows that are taken as they come */
#define LONG 1024 /* keys of a block of few rows: reading stops where keys give way to values */
#define STREAM (1 << 20) /* bytes of a present tensor from which it is written past the caches */

/* Keys that lie together: rows [from, from + count) of all keys. */
typedef struct { const sx_view *k, *v; int64_t from, count; } piece;

typedef struct {
    const sx_call *call;
    const sx_view *q, *mask, *y;
    const sx_view *present[2]; /* of keys and values; NULL: not wanted */
    piece piece[2];
    int64_t s, t, d, dv, hk, heads, rows, tile, blocks; /* heads that share a key head, their queries, queries of a tile, tiles of a key head */
    int64_t keys, ld, gemm;                             /* keys of a block, stride of a row of scores, bytes the products need */
    float scale, softcap;
    int64_t offset;
    int causal, pieces, few, past_caches;
} job;

typedef struct { float *q, *scores, *sums, *top, *total; char *gemm; } memory;

static sx_gemm scores_of(const job *j, const piece *p, const float *q) {
    return (sx_gemm){.n = p->count, .k = j->d, .a = (const char *)q, .a_row = j->d, .a_col = 1, .a_dtype = SX_FLOAT, .b_row = p->k->stride[3], .b_col = p->k->stride[2], .b_dtype = p->k->dtype};
}

static sx_gemm values_of(const job *j, const piece *p, const float *scores) {
    return (sx_gemm){.n = j->dv, .a = (const char *)scores, .a_row = j->ld, .a_col = 1, .a_dtype = SX_FLOAT, .b_row = p->v->stride[2], .b_col = p->v->stride[3], .b_dtype = p->v->dtype};
}

static int dense(const sx_view *v) { return v->dtype == SX_FLOAT && v->stride[3] == 1 && v->dim[3] % SX_GW == 0; }

SX_SMALL static job job_of(const sx_call *call) {
    enum { SCALE, SOFTCAP, CAUSAL, OFFSET };
    job j = {.call = call, .q = &call->in[0], .y = &call->out[0], .mask = call->n_in > 3 && call->in[3].dtype ? &call->in[3] : 0,
             .scale = (float)sx_param_float(call->param[SCALE]), .softcap = (float)sx_param_float(call->param[SOFTCAP]), .causal = call->param[CAUSAL] != 0, .offset = call->param[OFFSET]};
    if (call->n_in > 5 && call->in[4].dtype) {
        j.t = call->in[4].dim[2];
        if (j.t) j.piece[j.pieces++] = (piece){&call->in[4], &call->in[5], 0, j.t};
    }
    j.piece[j.pieces++] = (piece){&call->in[1], &call->in[2], j.t, call->in[1].dim[2]};
    j.t += call->in[1].dim[2];
    for (int i = 0; i < 2; i++) j.present[i] = call->n_out > 1 + i && call->out[1 + i].dtype ? &call->out[1 + i] : 0;
    j.s = j.q->dim[2], j.d = j.q->dim[3], j.hk = call->in[1].dim[1], j.dv = call->in[2].dim[3];
    j.heads = j.q->dim[1] / sx_max64(1, j.hk);
    j.rows = j.heads * j.s;
    j.blocks = sx_max64(1, sx_ceil_div(j.rows, ROWS));
    j.tile = j.blocks == 1 ? j.rows : sx_min64(ROWS, sx_round_up(sx_ceil_div(j.rows, j.blocks), SX_MR));
    j.blocks = sx_max64(1, sx_ceil_div(j.rows, sx_max64(1, j.tile)));
    j.few = j.rows <= FEW, j.past_caches = j.q->dim[0] * j.hk * j.t * j.d >= STREAM / 4;
    for (int i = 0; i < j.pieces; i++) j.few &= dense(j.piece[i].k) && dense(j.piece[i].v);
    for (int i = 0; i < 2; i++) j.few &= !j.present[i] || dense(j.present[i]);
    j.keys = sx_min64(j.few ? LONG : KEYS, j.t), j.ld = sx_round_up(j.keys, 16) + 16;
    for (int i = 0; i < j.pieces && !j.few; i++) {
        sx_gemm scores = scores_of(&j, j.piece + i, 0), values = values_of(&j, j.piece + i, 0);
        values.k = j.keys;
        j.gemm = sx_max64(j.gemm, sx_max64(SX_NAME(sx_gemm_scratch)(&scores, j.tile, j.keys), SX_NAME(sx_gemm_scratch)(&values, j.tile, j.dv)));
    }
    j.gemm = sx_round_up(j.gemm, 64);
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

/* Where row s of head h of a mask begins, in elements. */
static int64_t mask_at(const sx_view *m, int64_t b, int64_t h, int64_t s) {
    return (m->dim[0] == 1 ? 0 : b * m->stride[0]) + (m->dim[1] == 1 ? 0 : h * m->stride[1]) + (m->dim[2] == 1 ? 0 : s * m->stride[2]);
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
    int64_t from = mask_at(m, b, h, s) + at * step;
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

/* ---- few rows ---- */
#ifdef __wasm__
/* Lanes of q · k; with COPY k goes on to `copy`. Pointers walk: V8 adds a base and an index anew for each access. */
SX_INLINE sx_f lanes_of(const int COPY, const float *q, const float *k, ptrdiff_t d, float *copy) {
    sx_f acc[4];
    SX_UNROLL for (int u = 0; u < 4; u++) acc[u] = sx_fsplat(0);
    for (; d >= 4 * SX_GW; d -= 4 * SX_GW) {
        SX_UNROLL for (int u = 0; u < 4; u++) {
            sx_f x = sx_fload(k + u * SX_GW);
            if (COPY) sx_fstore(copy + u * SX_GW, x);
            acc[u] += sx_fload(q + u * SX_GW) * x;
        }
        k += 4 * SX_GW, q += 4 * SX_GW;
        if (COPY) copy += 4 * SX_GW;
    }
    for (; d > 0; d -= SX_GW, k += SX_GW, q += SX_GW, copy += COPY * SX_GW) {
        sx_f x = sx_fload(k);
        if (COPY) sx_fstore(copy, x);
        acc[0] += sx_fload(q) * x;
    }
    return (acc[0] + acc[1]) + (acc[2] + acc[3]);
}

/* Scores of n keys for all rows: key after key, in the order of memory, which is what its prefetchers follow (26 to 29 GB/s; four keys side by side: 18 to 20). */
static void score_few(int64_t rows, const float *q, ptrdiff_t d, const float *k, ptrdiff_t k_row, ptrdiff_t n, float *scores, ptrdiff_t ld, float *copy, ptrdiff_t copy_row, int past_caches) {
    (void)past_caches;
    for (ptrdiff_t t = 0; t < n; t += 4)
        for (ptrdiff_t r = 0; r < rows; r++) {
            sx_f sum[4];
            const ptrdiff_t count = n - t < 4 ? n - t : 4;
            for (ptrdiff_t j = 0; j < 4; j++) {
                if (j >= count) sum[j] = sx_fsplat(0);
                else if (copy && r == 0) sum[j] = lanes_of(1, q, k + (t + j) * k_row, d, copy + (t + j) * copy_row);
                else sum[j] = lanes_of(0, q + r * d, k + (t + j) * k_row, d, 0);
            }
            const sx_f made = sx_fsum4(sum[0], sum[1], sum[2], sum[3]);
            if (count == 4) sx_fstore(scores + r * ld + t, made);
            else sx_fstore_part(scores + r * ld + t, made, (int)count);
        }
}

/* sums += Σ weight[t] · v[t], t < K: two rows of values at once come at 26 GB/s, four at 20, and half a row of sixteen after the other half slower still where a copy is written. */
SX_INLINE void weigh(const int K, const int COPY, const float *weight, const float *v, ptrdiff_t v_row, float *sums, ptrdiff_t dv, float *copy, ptrdiff_t copy_row) {
    const sx_f first = sx_fsplat(weight[0]), second = sx_fsplat(weight[K - 1]);
    const float *next = v + v_row;
    float *kept = copy + copy_row;
    for (; dv > 0; dv -= SX_GW, v += SX_GW, sums += SX_GW) {
        sx_f x = sx_fload(v), sum = sx_fload(sums) + first * x;
        if (COPY) sx_fstore(copy, x), copy += SX_GW;
        if (K == 2) {
            x = sx_fload(next), sum += second * x, next += SX_GW;
            if (COPY) sx_fstore(kept, x), kept += SX_GW;
        }
        sx_fstore(sums, sum);
    }
}

/* The values of n keys, by weight, are added to the sums of all rows. */
static void weigh_few(int64_t rows, const float *weights, ptrdiff_t ld, const float *v, ptrdiff_t v_row, ptrdiff_t n, float *sums, ptrdiff_t dv, float *copy, ptrdiff_t copy_row, int past_caches) {
    (void)past_caches;
    for (ptrdiff_t t = 0; t < n; t += 2)
        for (ptrdiff_t r = 0; r < rows; r++) {
            const float *by = weights + r * ld + t, *from = v + t * v_row;
            float *to = copy ? copy + t * copy_row : 0, *sum = sums + r * dv;
            const int two = n - t >= 2, kept = copy && r == 0;
            if (two && kept) weigh(2, 1, by, from, v_row, sum, dv, to, copy_row);
            else if (two) weigh(2, 0, by, from, v_row, sum, dv, 0, 0);
            else if (kept) weigh(1, 1, by, from, v_row, sum, dv, to, copy_row);
            else weigh(1, 0, by, from, v_row, sum, dv, 0, 0);
        }
}
#else
#if SX_GW == 16 || defined(__aarch64__)
#define GROUP 4 /* rows whose sums stay in registers */
#else
#define GROUP 2
#endif
#define ACROSS 4 /* registers of a value */
#define SUB 16   /* keys whose values are added at once */

/* What is read goes on to `to` (NULL: not). past_caches: `to` is aligned. */
SX_INLINE void pass_on(float *to, sx_f x, int past_caches) {
    if (past_caches) __builtin_nontemporal_store(x, (sx_f *)to);
    else sx_fstore(to, x);
}

/* to[r * ld + j] = q[r] · k[j], r < R, j < J. */
SX_INLINE void dots(const int R, const int J, const float *q, int64_t d, const float *k, int64_t k_row, float *to, int64_t ld, float *copy, int64_t copy_row, int past_caches) {
    sx_f acc[GROUP][4];
    SX_UNROLL for (int r = 0; r < R; r++)
        SX_UNROLL for (int j = 0; j < J; j++) acc[r][j] = sx_fsplat(0);
    SX_UNROLL for (int j = 0; j < J; j++) /* a key after the other: in the order of memory, which is what its prefetchers follow while copies are written */
        for (int64_t i = 0; i < d; i += SX_GW) {
            sx_f x = sx_fload(k + j * k_row + i);
            if (copy) pass_on(copy + j * copy_row + i, x, past_caches);
            SX_UNROLL for (int r = 0; r < R; r++) acc[r][j] += sx_fload(q + r * d + i) * x;
        }
    SX_UNROLL for (int r = 0; r < R; r++) {
        if (J == 4) *(sx_f4_any *)(to + r * ld) = sx_fsum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
        else to[r * ld] = sx_fsum(acc[r][0]);
    }
}

/* sums[r] += Σ weight[r][t] · v[t] of V registers, r < R, t < n. */
SX_INLINE void weigh(const int R, const int V, const float *weight, int64_t ld, const float *v, int64_t v_row, int64_t n, float *sums, int64_t dv, float *copy, int64_t copy_row, int past_caches) {
    sx_f acc[GROUP][ACROSS];
    SX_UNROLL for (int r = 0; r < R; r++)
        SX_UNROLL for (int i = 0; i < V; i++) acc[r][i] = sx_fload(sums + r * dv + i * SX_GW);
    for (int64_t t = 0; t < n; t++) {
        sx_f x[ACROSS];
        SX_UNROLL for (int i = 0; i < V; i++) x[i] = sx_fload(v + t * v_row + i * SX_GW);
        if (copy) {
            SX_UNROLL for (int i = 0; i < V; i++) pass_on(copy + t * copy_row + i * SX_GW, x[i], past_caches);
        }
        SX_UNROLL for (int r = 0; r < R; r++) {
            sx_f w = sx_fsplat(weight[r * ld + t]);
            SX_UNROLL for (int i = 0; i < V; i++) acc[r][i] += w * x[i];
        }
    }
    SX_UNROLL for (int r = 0; r < R; r++)
        SX_UNROLL for (int i = 0; i < V; i++) sx_fstore(sums + r * dv + i * SX_GW, acc[r][i]);
}

#if GROUP == 4
#define BY_ROWS(R, CALL) if (R == 4) CALL(4); else if (R == 3) CALL(3); else if (R == 2) CALL(2); else CALL(1)
#elif GROUP == 2
#define BY_ROWS(R, CALL) if (R == 2) CALL(2); else CALL(1)
#else
#define BY_ROWS(R, CALL) CALL(1)
#endif

/* Scores of n keys for all rows. */
static void score_few(int64_t rows, const float *q, int64_t d, const float *k, int64_t k_row, int64_t n, float *scores, int64_t ld, float *copy, int64_t copy_row, int past_caches) {
    for (int64_t t = 0; t < n; t += 4)
        for (int64_t r = 0; r < rows; r += GROUP) {
            int64_t left = sx_min64(GROUP, rows - r), last = sx_min64(n, t + 4);
            float *to = copy && r == 0 ? copy + t * copy_row : 0;
#define FOUR(R) dots(R, 4, q + r * d, d, k + t * k_row, k_row, scores + r * ld + t, ld, to, copy_row, past_caches)
#define ONE(R) dots(R, 1, q + r * d, d, k + i * k_row, k_row, scores + r * ld + i, ld, to ? copy + i * copy_row : 0, copy_row, past_caches)
            if (t + 4 <= n) { BY_ROWS(left, FOUR); }
            else for (int64_t i = t; i < last; i++) { BY_ROWS(left, ONE); }
        }
}

/* The values of n keys, by weight, are added to the sums of all rows. */
static void weigh_few(int64_t rows, const float *weights, int64_t ld, const float *v, int64_t v_row, int64_t n, float *sums, int64_t dv, float *copy, int64_t copy_row, int past_caches) {
    for (int64_t t = 0; t < n; t += SUB)
        for (int64_t i = 0; i < dv; i += dv - i >= ACROSS * SX_GW ? ACROSS * SX_GW : SX_GW)
            for (int64_t r = 0; r < rows; r += GROUP) {
                int64_t left = sx_min64(GROUP, rows - r), count = sx_min64(SUB, n - t);
                float *to = copy && r == 0 ? copy + t * copy_row + i : 0;
#define WIDE(R) weigh(R, ACROSS, weights + r * ld + t, ld, v + t * v_row + i, v_row, count, sums + r * dv + i, dv, to, copy_row, past_caches)
#define NARROW(R) weigh(R, 1, weights + r * ld + t, ld, v + t * v_row + i, v_row, count, sums + r * dv + i, dv, to, copy_row, past_caches)
                if (dv - i >= ACROSS * SX_GW) { BY_ROWS(left, WIDE); }
                else { BY_ROWS(left, NARROW); }
            }
}
#endif

/* ---- present ---- */

/* Rows [begin, end) of all keys (or values, `which` 1) of one head go to `present`. */
SX_SMALL static void keep(const job *j, int which, int64_t b, int64_t head, int64_t begin, int64_t end) {
    const sx_view *to = j->present[which];
    if (!to) return;
    int64_t item = sx_size_of(to->dtype), d = to->dim[3];
    for (int i = 0; i < j->pieces; i++) {
        const piece *p = j->piece + i;
        const sx_view *from = which ? p->v : p->k;
        if (from->data == to->data) continue;
        for (int64_t t = sx_max64(begin, p->from); t < sx_min64(end, p->from + p->count); t++) {
            const char *x = from->data + (b * from->stride[0] + head * from->stride[1] + (t - p->from) * from->stride[2]) * item;
            char *y = to->data + (b * to->stride[0] + head * to->stride[1] + t * to->stride[2]) * item;
            if (from->stride[3] == 1 && to->stride[3] == 1) __builtin_memcpy(y, x, (uint64_t)(d * item));
            else if (item == 4) for (int64_t c = 0; c < d; c++) ((uint32_t *)y)[c * to->stride[3]] = ((const uint32_t *)x)[c * from->stride[3]];
            else for (int64_t c = 0; c < d; c++) ((uint16_t *)y)[c * to->stride[3]] = ((const uint16_t *)x)[c * from->stride[3]];
        }
    }
}

/* Where row t of one head lies in `present` for the kernels of few rows; NULL where none is wanted, or the rows are there. Clears *past_caches where it is not aligned. */
static float *kept_at(const sx_view *from, const sx_view *to, int64_t b, int64_t head, int64_t t, int *past_caches) {
    if (!to || to->data == from->data) return 0;
    float *at = (float *)to->data + b * to->stride[0] + head * to->stride[1] + t * to->stride[2];
    if (((uintptr_t)at | (uintptr_t)(4 * to->stride[2])) % (4 * SX_GW)) *past_caches = 0;
    return at;
}

/* ---- tiles ---- */

static const char *of_head(const sx_view *v, int64_t b, int64_t head, int64_t at) { return v->data + (b * v->stride[0] + head * v->stride[1] + at * v->stride[2]) * sx_size_of(v->dtype); }

/* One block: keys [at, at + n) of a piece. */
static void block_of(const job *j, const memory *m, const piece *p, int64_t b, int64_t head, int64_t row, int64_t rows, int64_t at, int64_t n) {
    int first = p->from + at == 0, beyond_k = j->past_caches, beyond_v = j->past_caches;
    const char *key = of_head(p->k, b, head, j->few ? at : 0), *value = of_head(p->v, b, head, at);
    if (j->few) {
        float *to = kept_at(p->k, j->present[0], b, head, p->from + at, &beyond_k);
        score_few(rows, m->q, j->d, (const float *)key, p->k->stride[2], n, m->scores, j->ld, to, to ? j->present[0]->stride[2] : 0, beyond_k);
    } else {
        sx_gemm scores = scores_of(j, p, m->q);
        scores.m = rows, scores.b = key;
        SX_NAME(sx_gemm_block)(&scores, 0, rows, at, n, m->scores, j->ld, m->gemm);
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t h = head * j->heads + (row + r) / j->s, s = (row + r) % j->s;
        int64_t seen = j->causal ? sx_max64(0, sx_min64(n, s + j->offset + 1 - p->from - at)) : n;
        prepare(j, b, h, s, p->from + at, seen, m->scores + r * j->ld);
        soften(m->scores + r * j->ld, seen, n, m->top + r, m->total + r, m->sums + r * j->dv, j->dv, first);
    }
    if (j->few) {
        float *to = kept_at(p->v, j->present[1], b, head, p->from + at, &beyond_v);
        for (int64_t i = 0; first && i < rows * j->dv; i++) m->sums[i] = 0;
        weigh_few(rows, m->scores, j->ld, (const float *)value, p->v->stride[2], n, m->sums, j->dv, to, to ? j->present[1]->stride[2] : 0, beyond_v);
    } else {
        sx_gemm values = values_of(j, p, m->scores);
        values.m = rows, values.k = n, values.add = !first, values.b = value;
        SX_NAME(sx_gemm_block)(&values, 0, rows, 0, j->dv, m->sums, j->dv, m->gemm);
    }
}

/* The larger of `least` and the keys [0, n) of a query without those at the end that a bool mask hides: of a cache with room the kernel reads what is used. */
static int64_t seen_by(const job *j, int64_t b, int64_t h, int64_t s, int64_t n, int64_t least) {
    const sx_view *m = j->mask;
    if (m && m->dtype == SX_BOOL) {
        const uint8_t *keep = (const uint8_t *)m->data + mask_at(m, b, h, s);
        int64_t step = m->dim[3] == 1 ? 0 : m->stride[3];
        while (n > least && !keep[(n - 1) * step]) n--;
    }
    return sx_max64(n, least);
}

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    int64_t b = index / j->blocks / j->hk, head = index / j->blocks % j->hk, number = index % j->blocks, row = number * j->tile, rows = sx_min64(j->tile, j->rows - row);
    memory m = memory_of(j, j->call->scratch + worker * j->call->scratch_bytes);
    int64_t visible = 0; /* keys any query of the tile sees */
    for (int64_t r = 0; r < rows; r++) {
        int64_t h = head * j->heads + (row + r) / j->s, s = (row + r) % j->s, at = b * j->q->stride[0] + h * j->q->stride[1] + s * j->q->stride[2];
        sx_widen_row(j->q->data + at * sx_size_of(j->q->dtype), j->q->dtype, j->q->stride[3], j->d, m.q + r * j->d);
        for (int64_t i = 0; i < j->d; i++) m.q[r * j->d + i] *= j->scale; /* cheaper than scaling the scores */
        visible = seen_by(j, b, h, s, j->causal ? sx_min64(j->t, s + j->offset + 1) : j->t, visible);
        m.total[r] = 0;
    }
    for (int64_t i = 0; !visible && i < rows * j->dv; i++) m.sums[i] = 0;
    for (int i = 0; i < j->pieces; i++) {
        const piece *p = j->piece + i;
        int64_t end = sx_min64(p->count, visible - p->from);
        for (int64_t at = 0; at < end; at += j->keys) block_of(j, &m, p, b, head, row, rows, at, sx_min64(j->keys, end - at));
    }
    for (int i = 0; i < 2; i++) /* each tile its share; of few rows, what no query saw */
        keep(j, i, b, head, j->few ? visible : number * j->t / j->blocks, j->few ? j->t : (number + 1) * j->t / j->blocks);
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
    if (j.mask && !sx_is_float(j.mask->dtype) && j.mask->dtype != SX_BOOL) return sx_fail(call, SX_E_DTYPE, 3, j.mask->dtype, 0);
    if ((j.rows == 0 || j.dv == 0) && !j.present[0]) return SX_OK;
    sx_tiles(call, j.q->dim[0] * j.hk * j.blocks, tile_of, &j);
    return SX_OK;
}
