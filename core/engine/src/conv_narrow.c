/* conv_narrow.c: convolutions with few features (part of kind CONV): a register of columns would be mostly empty, so the lanes run along K.

   Every result is a dot product of a pixel's runs (conv.c) with the weights of one feature. PIXELS × up to FEATURES results at once share their loads; the order of additions depends on K and the
   runs alone. Worth it while features · K / lanes, and folding a register for each result, is less than K steps of a whole register of columns. */
#include "conv.h"

#define PIXELS 4
#define FEATURES 4

/* P pixels, F features: weights of a feature are `k` floats, one after the other. */
SX_INLINE void dots(const int P, const int F, const sx_gemm_rows *r, const float *a, const float *w, int64_t k, float *c) {
    sx_f acc[PIXELS][FEATURES];
    SX_UNROLL for (int i = 0; i < P; i++)
        SX_UNROLL for (int f = 0; f < F; f++) acc[i][f] = sx_fsplat(0);
    int64_t run = r->runs ? r->run : k, tail = run % SX_GW;
    for (int64_t from = 0, t = 0; from < k; from += run, t++) {
        const float *x = a + (r->runs ? r->runs[t] : 0), *y = w + from;
        int64_t at = 0;
        for (; at + SX_GW <= run; at += SX_GW) {
            sx_f weight[FEATURES];
            SX_UNROLL for (int f = 0; f < F; f++) weight[f] = sx_fload(y + f * k + at);
            SX_UNROLL for (int i = 0; i < P; i++) {
                sx_f value = sx_fload(x + i * r->a_row + at);
                SX_UNROLL for (int f = 0; f < F; f++) acc[i][f] += value * weight[f];
            }
        }
        if (!tail) continue;
        sx_f weight[FEATURES];
        SX_UNROLL for (int f = 0; f < F; f++) weight[f] = sx_fload_part(y + f * k + at, (int)tail);
        SX_UNROLL for (int i = 0; i < P; i++) {
            sx_f value = sx_fload_part(x + i * r->a_row + at, (int)tail);
            SX_UNROLL for (int f = 0; f < F; f++) acc[i][f] += value * weight[f];
        }
    }
    SX_UNROLL for (int i = 0; i < P; i++)
        SX_UNROLL for (int f = 0; f < F; f++) c[i * r->c_row + f] = sx_fsum(acc[i][f]);
}

#define DOTS(P, F) static __attribute__((noinline)) void dots_##P##_##F(const sx_gemm_rows *r, const float *a, const float *w, int64_t k, float *c) { dots(P, F, r, a, w, k, c); }
DOTS(4, 1) DOTS(4, 2) DOTS(4, 3) DOTS(4, 4) DOTS(1, 1) DOTS(1, 2) DOTS(1, 3) DOTS(1, 4)
static void (*const DOTS_OF[2][FEATURES])(const sx_gemm_rows *, const float *, const float *, int64_t, float *) = {{dots_1_1, dots_1_2, dots_1_3, dots_1_4}, {dots_4_1, dots_4_2, dots_4_3, dots_4_4}};

int SX_NAME(sx_narrow)(int64_t features, int64_t k) { return k > 0 && features * (k / SX_GW + 8) < k * (features > SX_GW ? 2 : 1) && features <= SX_GW; }

void SX_NAME(sx_narrow_lines)(const sx_gemm_rows *r, const float *w, int64_t k, int64_t features) {
    for (int64_t line = 0; line < r->lines; line++) {
        const float *a = r->a + line * r->a_line;
        float *c = r->c + line * r->c_line;
        for (int64_t i = 0; i < r->width;) {
            int four = i + PIXELS <= r->width;
            for (int64_t f = 0; f < features; f += FEATURES) DOTS_OF[four][sx_min64(FEATURES, features - f) - 1](r, a + i * r->a_row, w + f * k, k, c + i * r->c_row + f);
            i += four ? PIXELS : 1;
        }
        if (r->end) sx_end_rows(r->end, line, c, r->c_row, r->width, features);
    }
}
