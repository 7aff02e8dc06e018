/* rnn_rows.h: dot products of rows with one vector, several rows at once: R times the state of a few sequences (rnn.c). The order of additions depends on the length alone. */
#ifndef SX_RNN_ROWS_H
#define SX_RNN_ROWS_H
#include "gemm.h"

/* Vectors a and b, each of groups of G elements, with the halves of every group added: the groups of a, then those of b. */
#if SX_GW == 16
#define FOLD16(a, b) (__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) + __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define FOLD8(a, b) (__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
#define FOLD4(a, b) (__builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) + __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31))
#define FOLD2(a, b) (__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) + __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))
#elif SX_GW == 8
#define FOLD8(a, b) (__builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15))
#define FOLD4(a, b) (__builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13) + __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15))
#define FOLD2(a, b) (__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15))
#else
#define FOLD4(a, b) (__builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7))
#define FOLD2(a, b) (__builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7))
#endif

/* Lane i: the sum of v[i]. */
SX_INLINE sx_f sums_of(sx_f *v) {
    int n = SX_GW;
#if SX_GW == 16
    SX_UNROLL for (int i = 0; i < 8; i++) v[i] = FOLD16(v[2 * i], v[2 * i + 1]);
    n = 8;
#endif
#if SX_GW >= 8
    SX_UNROLL for (int i = 0; i < 4; i++) v[i] = FOLD8(v[2 * i], v[2 * i + 1]);
    n = 4;
#endif
    (void)n;
    v[0] = FOLD4(v[0], v[1]), v[1] = FOLD4(v[2], v[3]);
    return FOLD2(v[0], v[1]);
}

#ifdef __wasm__
#define SX_ROWS 8

/* to[j] = row j · x for SX_ROWS rows of k elements side by side; a pointer each, one sum each, added up as dot_one does (R of 1 MB: 15 µs; four rows of two sums: 16). */
static void dot_rows(const float *r, const float *x, ptrdiff_t k, float *to) {
    sx_f acc[SX_ROWS];
    const float *row[SX_ROWS];
    ptrdiff_t left = k;
    SX_UNROLL for (int j = 0; j < SX_ROWS; j++) {
        row[j] = r + j * k, acc[j] = sx_fsplat(0);
        __asm__("" : "+r"(row[j])); /* or the compiler keeps one pointer and adds */
    }
    for (; left >= SX_GW; left -= SX_GW, x += SX_GW) {
        const sx_f v = sx_fload(x);
        SX_UNROLL for (int j = 0; j < SX_ROWS; j++) acc[j] += v * sx_fload(row[j]), row[j] += SX_GW;
    }
    if (left) {
        const sx_f v = sx_fload_part(x, (int)left);
        SX_UNROLL for (int j = 0; j < SX_ROWS; j++) acc[j] += v * sx_fload_part(row[j], (int)left);
    }
    SX_UNROLL for (int j = 0; j < SX_ROWS; j += 4) sx_fstore(to + j, sx_fsum4(acc[j], acc[j + 1], acc[j + 2], acc[j + 3]));
}
#else
#define TOGETHER (SX_GW < 8 ? SX_GW : 8) /* rows read at once, four vectors of each: lines come in runs, and the sums hide each other's latency */

#define SX_ROWS SX_GW

/* to[j] = row j · x for SX_ROWS rows of k elements side by side. */
static void dot_rows(const float *restrict r, const float *restrict x, int64_t k, float *restrict to) {
    sx_f acc[SX_GW];
    SX_UNROLL for (int part = 0; part < SX_GW; part += TOGETHER) {
        const float *rows = r + part * k;
        int64_t at = 0;
        SX_UNROLL for (int j = 0; j < TOGETHER; j++) acc[part + j] = sx_fsplat(0);
#if SX_GW == 4 /* four sums alone would wait for one another: twice as many */
        sx_f more[4];
        SX_UNROLL for (int j = 0; j < 4; j++) more[j] = sx_fsplat(0);
        for (; at + 8 <= k; at += 8)
            SX_UNROLL for (int j = 0; j < 4; j++) {
                acc[j] += sx_fload(x + at) * sx_fload(rows + j * k + at);
                more[j] += sx_fload(x + at + 4) * sx_fload(rows + j * k + at + 4);
            }
        SX_UNROLL for (int j = 0; j < 4; j++) acc[j] += more[j];
#else
        for (; at + 4 * SX_GW <= k; at += 4 * SX_GW)
            SX_UNROLL for (int j = 0; j < TOGETHER; j++)
                SX_UNROLL for (int u = 0; u < 4; u++) acc[part + j] += sx_fload(x + at + u * SX_GW) * sx_fload(rows + j * k + at + u * SX_GW);
#endif
        for (; at + SX_GW <= k; at += SX_GW)
            SX_UNROLL for (int j = 0; j < TOGETHER; j++) acc[part + j] += sx_fload(x + at) * sx_fload(rows + j * k + at);
        if (at < k) {
            sx_f v = sx_fload_part(x + at, (int)(k - at));
            SX_UNROLL for (int j = 0; j < TOGETHER; j++) acc[part + j] += v * sx_fload_part(rows + j * k + at, (int)(k - at));
        }
    }
    sx_fstore(to, sums_of(acc));
}
#endif

static float dot_one(const float *r, const float *x, int64_t k) {
    sx_f acc = sx_fsplat(0);
    int64_t at = 0;
    for (; at + SX_GW <= k; at += SX_GW) acc += sx_fload(x + at) * sx_fload(r + at);
    if (at < k) acc += sx_fload_part(x + at, (int)(k - at)) * sx_fload_part(r + at, (int)(k - at));
    return sx_fsum(acc);
}

SX_SMALL static double dot_double(const double *r, const double *x, int64_t k) {
    double s[4] = {0};
    int64_t at = 0;
    for (; at + 4 <= k; at += 4) for (int j = 0; j < 4; j++) s[j] += r[at + j] * x[at + j];
    for (; at < k; at++) s[0] += r[at] * x[at];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

#endif
