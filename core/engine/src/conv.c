/* conv.c: convolutions of any rank up to 3-D, grouped, strided, dilated, transposed (kind CONV), float types, double; bytes go to conv_int.c.

   X[N, C, spatial…] has channel stride 1 (other strides are free). W is packed as CONV or DEPTHWISE, derived as WINOGRAD, or plain, logically [M, C/group, kernel…]; a transposed
   convolution's is plain, [C, M/group, kernel…]. Y: any strides.

   Implicit GEMM: rows are output pixels of all images, columns features of a group, K runs over (kernel…, channel of the group). A row of A is gathered from X when its K block is due;
   1×1 kernels of stride 1 use X where it lies. */
#include "conv.h"

typedef struct { const sx_conv *v; int64_t group; } side; /* where A and B of one group's product come from */

typedef struct {
    sx_conv v;
    sx_gemm gemm;
    sx_gemm_cut cut;
    int in_place;
} job;

/* One line of taps (a kernel row): floats [from, to) of its k[2] · cg. Adjacent taps of an undilated convolution are neighbours in X, so the line is one run with zeros left and right. */
SX_INLINE void gather_line(const sx_conv *v, const char *x, int64_t ow, int64_t from, int64_t to, float *out) {
    int dtype = v->xv->dtype;
    int64_t size = sx_size_of(dtype);
    if (!v->transposed && v->d[2] == 1 && v->xs[2] == v->cg) {
        int64_t first = ow * v->s[2] - v->p[2];
        int64_t low = sx_min64(sx_max64(-first * v->cg, from), to), high = sx_max64(low, sx_min64((v->in[2] - first) * v->cg, to));
        sx_zero_row(out, low - from);
        if (high > low) sx_widen_row(x + (first * v->cg + low) * size, dtype, 1, high - low, out + low - from);
        sx_zero_row(out + high - from, to - high);
        return;
    }
    for (int64_t tap = from / v->cg, channel = from % v->cg; from < to; tap++, channel = 0) {
        int64_t count = sx_min64(v->cg - channel, to - from), iw = sx_conv_at(v, 2, ow, tap);
        if (iw < 0) sx_zero_row(out, count);
        else sx_widen_row(x + (iw * v->xs[2] + channel) * size, dtype, 1, count, out);
        out += count, from += count;
    }
}

/* Whether all taps of an output pixel lie in the input. */
SX_INLINE int inside(const sx_conv *v, int64_t od, int64_t oh, int64_t ow) {
    int64_t at[3] = {od, oh, ow};
    for (int i = 0; i < 3; i++) {
        int64_t first = at[i] * v->s[i] - v->p[i];
        if (first < 0 || first + (v->k[i] - 1) * v->d[i] >= v->in[i]) return 0;
    }
    return 1;
}

SX_INLINE void next_pixel(const sx_conv *v, int64_t *image, int64_t *od, int64_t *oh, int64_t *ow) {
    if (++*ow == v->out[2]) *ow = 0, ++*oh;
    if (*oh == v->out[1]) *oh = 0, ++*od;
    if (*od == v->out[0]) *od = 0, ++*image;
}

static void gather(const void *source, int64_t row, int64_t rows, int64_t at, int64_t count, float *to, int64_t ld) {
    const sx_conv *v = ((const side *)source)->v;
    int64_t line = v->k[2] * v->cg, size = sx_size_of(v->xv->dtype), first0 = at / line / v->k[1], first1 = at / line % v->k[1], first = at % line;
    int64_t image = row / v->pixels, rest = row % v->pixels, ow = rest % v->out[2], oh = rest / v->out[2] % v->out[1], od = rest / v->out[2] / v->out[1];
    int whole = at == 0 && count == v->taps * v->cg && !v->transposed && v->d[2] == 1 && v->xs[2] == v->cg;
    for (int64_t r = 0; r < rows; r++, to += ld) {
        const char *x = v->xv->data + (image * v->xn + ((const side *)source)->group * v->cg) * size;
        float *out = to;
        if (whole && inside(v, od, oh, ow)) {
            const char *corner = x + ((od * v->s[0] - v->p[0]) * v->xs[0] + (oh * v->s[1] - v->p[1]) * v->xs[1] + (ow * v->s[2] - v->p[2]) * v->xs[2]) * size;
            for (int64_t t0 = 0; t0 < v->k[0]; t0++)
                for (int64_t t1 = 0; t1 < v->k[1]; t1++, out += line)
                    sx_widen_row(corner + (t0 * v->d[0] * v->xs[0] + t1 * v->d[1] * v->xs[1]) * size, v->xv->dtype, 1, line, out);
            next_pixel(v, &image, &od, &oh, &ow);
            continue;
        }
        int64_t t0 = first0, t1 = first1, from = first;
        for (int64_t left = count; left > 0;) {
            int64_t end = sx_min64(line, from + left), id = sx_conv_at(v, 0, od, t0), ih = sx_conv_at(v, 1, oh, t1);
            if (id < 0 || ih < 0) sx_zero_row(out, end - from);
            else gather_line(v, x + (id * v->xs[0] + ih * v->xs[1]) * size, ow, from, end, out);
            out += end - from, left -= end - from, from = 0;
            if (++t1 == v->k[1]) t1 = 0, t0++;
        }
        next_pixel(v, &image, &od, &oh, &ow);
    }
}

/* One panel of plain weights. */
static void weights(const void *source, int64_t column, int64_t columns, int64_t at, int64_t count, float *to) {
    const sx_conv *v = ((const side *)source)->v;
    int64_t first = ((const side *)source)->group * v->mg + column;
    for (int64_t k = 0; k < count; k++)
        for (int64_t j = 0; j < columns; j++) to[k * SX_PANEL + j] = sx_element(v->wv->data, v->wv->dtype, sx_weight_at(v, first + j, (at + k) % v->cg, (at + k) / v->cg));
}

static int pointwise(const sx_conv *v) {
    for (int i = 0; i < 3; i++)
        if (v->k[i] != 1 || v->s[i] != 1 || v->p[i] != 0 || v->in[i] != v->out[i]) return 0;
    return v->even_in;
}

static job job_of(const sx_conv *v) {
    job j = {.v = *v};
    j.gemm = (sx_gemm){.m = v->rows, .n = v->mg, .k = v->taps * v->cg, .a_dtype = v->xv->dtype, .a_row = v->xs[2], .a_col = 1, .b_dtype = v->wv->dtype, .b_packed = v->wv->packing != 0};
    if (pointwise(v)) j.gemm.a_row = v->rows == 1 ? v->c : v->xs[2];
    else j.gemm.rows = gather;
    if (!j.gemm.b_packed) j.gemm.panel = weights;
    j.cut = SX_NAME(sx_gemm_cut_for)(&j.gemm, v->group);
    j.in_place = sx_conv_in_place(v) && v->even_out;
    return j;
}

static void tile_of(void *arg, int64_t i, int worker) {
    const job *j = arg;
    const sx_conv *v = &j->v;
    char *scratch = v->call->scratch + worker * v->call->scratch_bytes;
    int64_t across = j->cut.across, n = i % across * j->cut.nc, m = i / across % j->cut.down * j->cut.mc, group = i / across / j->cut.down;
    int64_t mc = sx_min64(j->cut.mc, j->gemm.m - m), nc = sx_min64(j->cut.nc, j->gemm.n - n);
    side sides = {v, group};
    sx_gemm g = j->gemm;
    g.rows_source = g.panel_source = &sides;
    g.a = v->xv->data + group * v->cg * sx_size_of(v->xv->dtype);
    g.b = v->wv->data + (g.b_packed ? group * sx_round_up(g.n, SX_PANEL) * g.k * sx_size_of(g.b_dtype) : 0);
    if (j->in_place) {
        SX_NAME(sx_gemm_block)(&g, m, mc, n, nc, (float *)v->yv->data + m * v->ys[2] + group * v->mg + n, v->ys[2], scratch);
        return;
    }
    float *block = (float *)scratch;
    SX_NAME(sx_gemm_block)(&g, m, mc, n, nc, block, nc, scratch + sx_round_up(4 * j->cut.mc * j->cut.nc, 64));
    sx_conv_finish(v, block, m, mc, group * v->mg + n, nc, nc);
}

/* ---- double: a line of 16 pixels and up to 64 features at a time, every product in order ---- */
enum { PIXELS = 16, FEATURES = 64 };

static void double_tile(void *arg, int64_t i, int worker) {
    const sx_conv *v = arg;
    double *sums = (double *)(v->call->scratch + worker * v->call->scratch_bytes);
    int64_t od = i / v->out[1] % v->out[0], oh = i % v->out[1], image = i / v->out[1] / v->out[0], start[SX_RANK] = {0};
    int last = v->spatial + 1;
    for (int64_t ow = 0; ow < v->out[2]; ow += PIXELS)
        for (int64_t m = 0; m < v->m; m += FEATURES) {
            int64_t pixels = sx_min64(PIXELS, v->out[2] - ow), features = sx_min64(FEATURES, v->m - m);
            for (int64_t at = 0; at < pixels * features; at++) {
                int64_t o = m + at % features, group = o / v->mg;
                double sum = 0;
                for (int64_t tap = 0; tap < v->taps; tap++) {
                    int64_t t0 = tap / v->k[2] / v->k[1], t1 = tap / v->k[2] % v->k[1], t2 = tap % v->k[2];
                    int64_t id = sx_conv_at(v, 0, od, t0), ih = sx_conv_at(v, 1, oh, t1), iw = sx_conv_at(v, 2, ow + at / features, t2);
                    if (id < 0 || ih < 0 || iw < 0) continue;
                    const double *x = (const double *)v->xv->data + image * v->xn + id * v->xs[0] + ih * v->xs[1] + iw * v->xs[2] + group * v->cg;
                    for (int64_t c = 0; c < v->cg; c++) sum += x[c] * ((const double *)v->wv->data)[sx_weight_at(v, o, c, tap)];
                }
                sums[at] = sum;
            }
            start[0] = image, start[1] = m, start[last] = ow;
            if (v->spatial > 1) start[last - 1] = oh;
            if (v->spatial > 2) start[last - 2] = od;
            sx_finish(v->call, sums, 1, pixels, features, features, start, last, 1);
        }
}

static int is_double(const sx_conv *v) { return v->xv->dtype == SX_DOUBLE && v->wv->dtype == SX_DOUBLE && !v->wv->packing; }
static int is_depthwise(const sx_conv *v) { return v->wv->packing == SX_PACK_DEPTHWISE || (!v->wv->packing && v->cg == 1 && v->group > 1); }

int64_t SX_NAME(sx_scratch_conv)(const sx_call *call) {
    sx_conv v = sx_conv_of(call);
    if (v.rows == 0 || v.m == 0) return 0;
    if (is_double(&v)) return 8 * PIXELS * FEATURES;
    if (!sx_is_float(v.xv->dtype)) return SX_NAME(sx_conv_int_scratch)(&v);
    if (is_depthwise(&v)) return SX_NAME(sx_depthwise_scratch)(&v);
    if (v.wv->packing > SX_PACK_WINOGRAD) return SX_NAME(sx_winograd_scratch)(&v);
    job j = job_of(&v);
    return SX_NAME(sx_gemm_scratch)(&j.gemm, j.cut.mc, j.cut.nc) + (j.in_place ? 0 : sx_round_up(4 * j.cut.mc * j.cut.nc, 64));
}

int SX_NAME(sx_k_conv)(const sx_call *call) {
    sx_conv v = sx_conv_of(call);
    if (v.group < 1 || v.c % v.group || v.m % v.group) return sx_fail(call, SX_E_SHAPE, 1, v.c, v.m);
    if (v.rows == 0 || v.m == 0) return SX_OK;
    if (v.c > 1 && v.xv->stride[1] != 1) return sx_fail(call, SX_E_UNSUPPORTED, 0, v.xv->stride[1], 1);
    if (is_double(&v)) {
        sx_for(call, v.n * v.out[0] * v.out[1], double_tile, &v);
        return SX_OK;
    }
    if (!sx_is_float(v.xv->dtype) && v.xv->dtype != SX_DOUBLE) return SX_NAME(sx_conv_int)(&v); /* bytes, sx_check says */
    if (!sx_is_float(v.xv->dtype) || !sx_is_float(v.wv->dtype)) return sx_fail(call, SX_E_DTYPE, 0, v.xv->dtype, v.wv->dtype);
    if (is_depthwise(&v)) return SX_NAME(sx_depthwise)(&v);
    if (v.wv->packing > SX_PACK_WINOGRAD) return SX_NAME(sx_winograd)(&v);
    job j = job_of(&v);
    sx_for(call, v.group * j.cut.down * j.cut.across, tile_of, &j);
    return SX_OK;
}
