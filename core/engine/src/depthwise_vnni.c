/* depthwise_vnni.c: depthwise 3×3 convolutions of bytes to bytes, where words are bytes (part of depthwise_int.c's work).
   Measured on one core of a Zen 4: 144 channels @56 4.8 and 32 @112 3.5 outputs a nanosecond.

   How to think
   - 64 channels at a time. The bytes of four neighbouring pixels of a line are unpacked into words, one for each channel; a word times the word (k0, k1, k2, 0) of a kernel line is what that line gives
     to an output pixel, times (0, k0, k1, k2) what it gives to the next one. Pairs of pixels are unpacked once for the two words they stand in.
   - Unpacking permutes channels within the vectors; packing the finished sums to bytes permutes them back. What requantising needs is put in the permuted order.
   - X is made unsigned (- 128 → 0), pixels outside hold its zero point; sums start at bias - zero · Σ k. */
#include "conv_int.h"

#if defined(__AVX512VNNI__)
typedef struct {
    __m512i even[3][4], odd[3][4]; /* kernel lines, as words */
    __m512i base[4];
    __m512 factor[4];
    __m512i zero[2], low, high;
} group;

typedef struct {
    const sx_conv *v;
    int64_t lines;
    sx_requant q;
    __m512i flip, outside;         /* of X */
    int32_t zero;
} job;

/* Natural order → that of unpacked words: vector q, lane 4 L + i is channel 16 L + 4 q + i. */
static void permute(const void *from, void *to) {
    for (int q = 0; q < 4; q++)
        for (int l = 0; l < 4; l++) _mm_storeu_si128((__m128i *)to + 4 * q + l, _mm_loadu_si128((const __m128i *)from + 4 * l + q));
}

static void words(__m512i a, __m512i b, __m512i c, __m512i d, __m512i *to) {
    __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d), ab_ = _mm512_unpackhi_epi8(a, b), cd_ = _mm512_unpackhi_epi8(c, d);
    to[0] = _mm512_unpacklo_epi16(ab, cd), to[1] = _mm512_unpackhi_epi16(ab, cd), to[2] = _mm512_unpacklo_epi16(ab_, cd_), to[3] = _mm512_unpackhi_epi16(ab_, cd_);
}

static void prepare(const job *j, int64_t c, __mmask64 mask, const int32_t *bias, const float *factor, const float *zero, group *g) {
    const sx_conv *v = j->v;
    __m512i flip = v->wv->dtype == SX_UINT8 ? _mm512_set1_epi8(-128) : _mm512_setzero_si512(), none = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1), sum[4] = {none, none, none, none};
    int16_t small[64];
    for (int r = 0; r < 3; r++) {
        __m512i k[3];
        for (int t = 0; t < 3; t++) k[t] = _mm512_maskz_mov_epi8(mask, _mm512_xor_si512(flip, _mm512_maskz_loadu_epi8(mask, v->wv->data + (3 * r + t) * v->m + c)));
        words(k[0], k[1], k[2], none, g->even[r]);
        words(none, k[0], k[1], k[2], g->odd[r]);
        for (int q = 0; q < 4; q++) sum[q] = _mm512_dpbusd_epi32(sum[q], ones, g->even[r][q]);
    }
    g->low = _mm512_set1_epi8((char)(int)j->q.low), g->high = _mm512_set1_epi8((char)(int)j->q.high);
    permute(bias, g->base);
    permute(factor, g->factor);
    for (int q = 0; q < 4; q++) g->base[q] = _mm512_sub_epi32(g->base[q], _mm512_mullo_epi32(sum[q], _mm512_set1_epi32(j->zero)));
    for (int i = 0; i < 64; i++) small[(i % 16 / 8) * 32 + i / 16 * 8 + i % 8] = (int16_t)zero[i];
    g->zero[0] = _mm512_loadu_si512(small), g->zero[1] = _mm512_loadu_si512(small + 32);
}

SX_INLINE __m512i pixel(const job *j, const uint8_t *line, int64_t w, __mmask64 mask) {
    if (!line || w < 0 || w >= j->v->in[2]) return j->outside;
    return _mm512_xor_si512(j->flip, _mm512_maskz_loadu_epi8(mask, line + w * j->v->xs[2]));
}

/* 64 bytes: round(sum · factor) + zero, saturated. */
SX_INLINE __m512i finished(const __m512i *acc, const group *g, int is_signed) {
    __m512i made[4];
    SX_UNROLL for (int q = 0; q < 4; q++) made[q] = sx_round_to_int(_mm512_mul_ps(_mm512_cvtepi32_ps(acc[q]), g->factor[q]));
    __m512i packed = sx_pack_bytes(made, g->zero, is_signed);
    return is_signed ? _mm512_min_epi8(_mm512_max_epi8(packed, g->low), g->high) : _mm512_min_epu8(_mm512_max_epu8(packed, g->low), g->high);
}

/* One line of output, 64 channels. S: stride; two pixels of X, and one pair more, a step. */
SX_INLINE void line(const int S, const job *j, const uint8_t *const *rows, const group *g, __mmask64 mask, uint8_t *to) {
    const sx_conv *v = j->v;
    int is_signed = v->yv->dtype == SX_INT8;
    __m512i low[3], high[3];
    SX_UNROLL for (int r = 0; r < 3; r++) {
        __m512i a = pixel(j, rows[r], -v->p[2], mask), b = pixel(j, rows[r], 1 - v->p[2], mask);
        low[r] = _mm512_unpacklo_epi8(a, b), high[r] = _mm512_unpackhi_epi8(a, b);
    }
    for (int64_t ow = 0, w = 2 - v->p[2]; ow < v->out[2]; ow += 3 - S, w += 2) {
        __m512i first[4], second[4];
        SX_UNROLL for (int q = 0; q < 4; q++) first[q] = second[q] = g->base[q];
        SX_UNROLL for (int r = 0; r < 3; r++) {
            __m512i c, d;
            if (rows[r] && w >= 0 && w + 1 < v->in[2]) {
                c = _mm512_xor_si512(j->flip, _mm512_maskz_loadu_epi8(mask, rows[r] + w * v->xs[2]));
                d = _mm512_xor_si512(j->flip, _mm512_maskz_loadu_epi8(mask, rows[r] + (w + 1) * v->xs[2]));
            } else c = pixel(j, rows[r], w, mask), d = pixel(j, rows[r], w + 1, mask);
            __m512i lower = _mm512_unpacklo_epi8(c, d), higher = _mm512_unpackhi_epi8(c, d), x[4];
            x[0] = _mm512_unpacklo_epi16(low[r], lower), x[1] = _mm512_unpackhi_epi16(low[r], lower), x[2] = _mm512_unpacklo_epi16(high[r], higher), x[3] = _mm512_unpackhi_epi16(high[r], higher);
            low[r] = lower, high[r] = higher;
            SX_UNROLL for (int q = 0; q < 4; q++) {
                first[q] = _mm512_dpbusd_epi32(first[q], x[q], g->even[r][q]);
                if (S == 1) second[q] = _mm512_dpbusd_epi32(second[q], x[q], g->odd[r][q]);
            }
        }
        _mm512_mask_storeu_epi8(to + ow * v->ys[2], mask, finished(first, g, is_signed));
        if (S == 1 && ow + 1 < v->out[2]) _mm512_mask_storeu_epi8(to + (ow + 1) * v->ys[2], mask, finished(second, g, is_signed));
    }
}

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    char *scratch = v->call->scratch + worker * v->call->scratch_bytes;
    int64_t width = sx_round_up(v->m, 16), total = v->n * v->out[1], from = index * j->lines, to = sx_min64(from + j->lines, total);
    const int32_t *bias = (const int32_t *)(const void *)scratch;
    const float *factor = (const float *)(bias + width), *zero = factor + width;
    int64_t start[SX_RANK] = {0};
    SX_NAME(sx_requant_prepare)(v->call, &j->q, bias, v->m, start, v->spatial + 1, 1, scratch);
    for (int64_t c = 0; c < v->m; c += 64) {
        int64_t count = sx_min64(64, v->m - c);
        __mmask64 mask = count == 64 ? ~(__mmask64)0 : ((__mmask64)1 << count) - 1;
        int32_t b[64] = {0};
        float f[64] = {0}, z[64] = {0};
        for (int64_t i = 0; i < count; i++) b[i] = bias[c + i], f[i] = factor[c + i], z[i] = zero[c + i];
        group g;
        prepare(j, c, mask, b, f, z, &g);
        for (int64_t at = from; at < to; at++) {
            int64_t image = at / v->out[1], oh = at % v->out[1];
            const uint8_t *rows[3];
            for (int r = 0; r < 3; r++) {
                int64_t ih = oh * v->s[1] - v->p[1] + r;
                rows[r] = ih < 0 || ih >= v->in[1] ? 0 : (const uint8_t *)v->xv->data + image * v->xn + ih * v->xs[1] + c;
            }
            uint8_t *y = (uint8_t *)v->yv->data + image * v->yn + oh * v->ys[1] + c;
            if (v->s[2] == 1) line(1, j, rows, &g, mask, y);
            else line(2, j, rows, &g, mask, y);
        }
    }
}

/* Zero points of the weights that let them be signed bytes: 0 for signed, 128 for unsigned ones. */
static int signed_weights(const sx_conv *v) {
    const sx_view *zw = sx_conv_zero(v, 1);
    int is_signed = v->wv->dtype == SX_INT8, wanted = is_signed ? 0 : 128;
    if (!zw) return is_signed;
    for (int64_t i = 0; i < (sx_conv_zero_step(zw) ? v->m : 1); i++) if (((const uint8_t *)zw->data)[i * sx_conv_zero_step(zw)] != wanted) return 0;
    return 1;
}

int64_t SX_NAME(sx_depthwise_vnni_scratch)(const sx_conv *v) { return sx_requant_scratch(v->m); } /* the columns of all channels */

int SX_NAME(sx_depthwise_vnni)(const sx_conv *v, const sx_requant *q) {
    const sx_view *zx = sx_conv_zero(v, 0);
    int is_signed = v->xv->dtype == SX_INT8;
    if (q->plain || !q->simple || q->divides || v->wv->packing != SX_PACK_DEPTHWISE || v->m != v->c || v->transposed || v->spatial != 2 || v->k[1] != 3 || v->k[2] != 3 || v->d[1] != 1 || v->d[2] != 1 || v->s[2] > 2
        || v->yv->stride[1] != 1 || !signed_weights(v)) return 0;
    /* what does not depend on rows must be of the common sort: asked once, in the first worker's scratch */
    int64_t start[SX_RANK] = {0};
    char *scratch = v->call->scratch;
    if (SX_NAME(sx_requant_prepare)(v->call, q, (const int32_t *)(const void *)scratch, v->m, start, v->spatial + 1, 1, scratch) != SX_REQUANT_SMALL) return 0;
    job j = {.v = v, .q = *q, .flip = is_signed ? _mm512_set1_epi8(-128) : _mm512_setzero_si512(), .zero = (zx ? sx_byte_at((const uint8_t *)zx->data, is_signed, 0) : 0) + (is_signed ? 128 : 0)};
    j.outside = _mm512_set1_epi8((char)j.zero);
    int64_t lines = v->n * v->out[1], work = v->out[2] * v->m * 9;
    j.lines = sx_max64(1, sx_min64((1 << 20) / sx_max64(1, work), sx_ceil_div(lines, 2)));
    sx_tiles(v->call, sx_ceil_div(lines, j.lines), tile_of, &j);
    return 1;
}
#else
int64_t SX_NAME(sx_depthwise_vnni_scratch)(const sx_conv *v) { return (void)v, 0; }
int SX_NAME(sx_depthwise_vnni)(const sx_conv *v, const sx_requant *q) { return (void)v, (void)q, 0; }
#endif
