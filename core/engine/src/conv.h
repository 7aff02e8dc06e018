/* conv.h: a convolution as plain numbers, always with three spatial axes (missing ones have size 1, kernel 1). Shared by conv.c, depthwise.c and winograd.c. */
#ifndef SX_CONV_H
#define SX_CONV_H
#include "gemm.h"

enum { SX_PACK_CONV = 3, SX_PACK_DEPTHWISE = 4, SX_PACK_WINOGRAD = 64 }; /* core/model/packing.py; WINOGRAD + tile size is derived when a program is opened and never stored */

typedef struct {
    const sx_call *call;
    const sx_view *xv, *wv, *yv;
    int64_t n, c, m, group, cg, mg;        /* images, channels, features; of one group */
    int64_t in[3], out[3], k[3], s[3], d[3], p[3], xs[3], ys[3], ws[3];
    int64_t xn, yn, taps, pixels, rows;    /* output pixels of an image, of all */
    int spatial, transposed;
    int even_in, even_out;                 /* all pixels of all images lie one stride (xs[2], ys[2]) apart */
} sx_conv;

static inline int sx_even(const int64_t *dims, const int64_t *strides, int64_t n, int64_t stride_n) {
    int64_t expected = strides[2];
    for (int i = 2; i >= 0; i--) {
        if (dims[i] != 1 && strides[i] != expected) return 0;
        expected *= dims[i];
    }
    return n == 1 || stride_n == expected;
}

/* The part a pooling has too; kernel, strides, dilations and pads are the parameters from the third on. */
static inline sx_conv sx_window_of(const sx_call *call) {
    enum { SPATIAL, KERNEL = 2, STRIDES = KERNEL + 3, DILATIONS = STRIDES + 3, PADS = DILATIONS + 3 };
    const int64_t *p = call->param;
    const sx_view *x = &call->in[0], *y = &call->out[0];
    sx_conv v = {.call = call, .xv = x, .yv = y, .n = x->dim[0], .c = x->dim[1], .m = y->dim[1], .group = 1, .xn = x->stride[0], .yn = y->stride[0], .spatial = (int)p[SPATIAL], .taps = 1, .pixels = 1};
    for (int i = 0; i < 3; i++) {
        int a = i - (3 - v.spatial); /* the operand's own axis: axes are right-aligned */
        v.in[i] = a < 0 ? 1 : x->dim[2 + a], v.out[i] = a < 0 ? 1 : y->dim[2 + a];
        v.xs[i] = a < 0 ? 0 : x->stride[2 + a], v.ys[i] = a < 0 ? 0 : y->stride[2 + a];
        v.k[i] = a < 0 ? 1 : p[KERNEL + a], v.s[i] = a < 0 ? 1 : p[STRIDES + a], v.d[i] = a < 0 ? 1 : p[DILATIONS + a], v.p[i] = a < 0 ? 0 : p[PADS + a];
        v.taps *= v.k[i], v.pixels *= v.out[i];
    }
    v.rows = v.n * v.pixels;
    v.even_in = sx_even(v.in, v.xs, v.n, v.xn), v.even_out = sx_even(v.out, v.ys, v.n, v.yn);
    return v;
}

static inline sx_conv sx_conv_of(const sx_call *call) {
    enum { GROUP = 1, TRANSPOSED = 14 };
    sx_conv v = sx_window_of(call);
    v.wv = &call->in[1], v.group = call->param[GROUP], v.transposed = (int)call->param[TRANSPOSED];
    for (int i = 0; i < 3; i++) v.ws[i] = i < 3 - v.spatial ? 0 : v.wv->stride[i + v.spatial - 1];
    v.cg = v.c / sx_max64(v.group, 1), v.mg = v.m / sx_max64(v.group, 1);
    return v;
}

/* Element of plain weights: feature m (of all), channel c of its group, tap offset from ws. A transposed convolution's are [C, M/group, kernel…]. */
static inline int64_t sx_weight_at(const sx_conv *v, int64_t m, int64_t c, int64_t tap) {
    int64_t at = tap % v->k[2] * v->ws[2] + tap / v->k[2] % v->k[1] * v->ws[1] + tap / v->k[2] / v->k[1] * v->ws[0];
    if (v->transposed) return at + (m / v->mg * v->cg + c) * v->wv->stride[0] + m % v->mg * v->wv->stride[1];
    return at + m * v->wv->stride[0] + c * v->wv->stride[1];
}

/* Position along axis i of the input that tap t of output position o reads, or -1. */
SX_INLINE int64_t sx_conv_at(const sx_conv *v, int i, int64_t o, int64_t t) {
    int64_t at = o * v->s[i] - v->p[i] + t * v->d[i];
    if (v->transposed) {
        at = o + v->p[i] - t * v->d[i];
        if (at % v->s[i]) return -1;
        at /= v->s[i];
    }
    return at >= 0 && at < v->in[i] ? at : -1;
}

/* Finished values of output pixels [row, row + rows) (counted through all images) and features [m, m + cols): through sx_finish, one line of the output at a time. */
static inline void sx_conv_finish(const sx_conv *v, const float *block, int64_t row, int64_t rows, int64_t m, int64_t cols, int64_t ld) {
    int64_t start[SX_RANK];
    int last = v->spatial + 1;
    while (rows > 0) {
        int64_t in_image = row % v->pixels, w = in_image % v->out[2], count = sx_min64(rows, v->out[2] - w), rest = in_image / v->out[2];
        start[0] = row / v->pixels, start[1] = m, start[last] = w;
        if (v->spatial > 1) start[last - 1] = rest % v->out[1];
        if (v->spatial > 2) start[last - 2] = rest / v->out[1];
        sx_finish(v->call, block, 0, count, cols, ld, start, last, 1);
        block += count * ld, row += count, rows -= count;
    }
}

/* Results may be written in place: no epilogue, floats, features side by side. */
static inline int sx_conv_in_place(const sx_conv *v) { return !v->call->epilogue && v->yv->dtype == SX_FLOAT && (v->yv->stride[1] == 1 || v->m == 1); }

/* Weights worth transforming when a program is opened: the packing (0: none) that the operand gets once its data are those of sx_conv_derive; bytes; the transformation. dtype becomes FLOAT. */
int SX_NAME(sx_conv_derives)(const sx_call *call);
int64_t SX_NAME(sx_conv_derived_bytes)(const sx_call *call, int packing);
void SX_NAME(sx_conv_derive)(const sx_call *call, int packing, void *derived);

int SX_NAME(sx_depthwise)(const sx_conv *v);
int64_t SX_NAME(sx_depthwise_scratch)(const sx_conv *v);
int SX_NAME(sx_winograd)(const sx_conv *v);

/* conv_rows.c: channels-first images, and whether this is one it takes. */
int SX_NAME(sx_conv_by_rows)(const sx_conv *v);
int64_t SX_NAME(sx_conv_rows_scratch)(const sx_conv *v);
void SX_NAME(sx_conv_rows)(const sx_conv *v);
#ifdef SX_BF16
int SX_NAME(sx_conv_rows_bf16)(const sx_conv *v);
#endif

/* conv_narrow.c: whether so few features are better computed along K, and that, for weights [features][k]. */
int SX_NAME(sx_narrow)(int64_t features, int64_t k);
void SX_NAME(sx_narrow_lines)(const sx_gemm_rows *r, const float *w, int64_t k, int64_t features);
int64_t SX_NAME(sx_winograd_scratch)(const sx_conv *v);

/* conv_int.c: convolutions of bytes. */
int SX_NAME(sx_conv_int)(const sx_conv *v);
int64_t SX_NAME(sx_conv_int_scratch)(const sx_conv *v);

#endif
