/* conv_int.c: convolutions of bytes less their zero points (part of kind CONV; conv.c sends them here). As conv.c: implicit GEMM, rows of A gathered as bytes. Padding stands for the zero point of X,
   so it is written as that and vanishes with it. One input channel a group: depthwise_int.c.
   Measured on one core of a Zen 4 (AVX-512): 3×3 512→512 @7 370 GOP/s, 3×3 64→64 @56 350, 1×1 960→320 @7 350, 3×3/2 3→32 @224 130 (K = 27: requantising and gathering are most of it). */
#include "conv_int.h"

typedef struct { const sx_conv *v; int64_t group; uint8_t zero; } side;

typedef struct {
    sx_conv v;
    sx_igemm gemm;
    sx_igemm_cut cut;
    sx_requant q;
    int64_t held[SX_MAX_WORKERS];
} job;

SX_INLINE void fill(uint8_t *to, uint8_t value, int64_t n) { for (int64_t i = 0; i < n; i++) to[i] = value; }

typedef uint8_t b8_any __attribute__((vector_size(8), aligned(1), may_alias));
typedef uint8_t b16_any __attribute__((vector_size(16), aligned(1), may_alias));
SX_INLINE void copy(uint8_t *to, const uint8_t *from, int64_t n) {
    if (n >= 16) { /* the last 16 overlap */
        for (int64_t i = 0; i < n - 16; i += 16) *(b16_any *)(to + i) = *(const b16_any *)(from + i);
        *(b16_any *)(to + n - 16) = *(const b16_any *)(from + n - 16);
    } else if (n >= 8) {
        *(b8_any *)to = *(const b8_any *)from, *(b8_any *)(to + n - 8) = *(const b8_any *)(from + n - 8);
    } else if (n >= 4) {
        *(sx_word *)to = *(const sx_word *)from, *(sx_word *)(to + n - 4) = *(const sx_word *)(from + n - 4);
    } else for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

/* One line of taps: k[2] · cg bytes. Adjacent taps of an undilated convolution are neighbours in X. */
SX_INLINE void gather_line(const sx_conv *v, const uint8_t *x, int64_t ow, uint8_t zero, uint8_t *out) {
    if (!v->transposed && v->d[2] == 1 && v->xs[2] == v->cg) {
        int64_t first = ow * v->s[2] - v->p[2], n = v->k[2] * v->cg;
        int64_t low = sx_min64(sx_max64(-first * v->cg, 0), n), high = sx_max64(low, sx_min64((v->in[2] - first) * v->cg, n));
        fill(out, zero, low);
        copy(out + low, x + first * v->cg + low, high - low);
        fill(out + high, zero, n - high);
        return;
    }
    for (int64_t tap = 0; tap < v->k[2]; tap++, out += v->cg) {
        int64_t iw = sx_conv_at(v, 2, ow, tap);
        if (iw < 0) fill(out, zero, v->cg);
        else copy(out, x + iw * v->xs[2], v->cg);
    }
}

#define LINES 16

/* `count` output pixels from ow on, all taps of their columns inside X: lines[l], the first byte of each line of taps for pixel ow (0: padding), `line` bytes each. Whole vectors are copied where
   nothing ends: the next line, or the slack of the row, takes what is too much. */
SX_INLINE void gather_inside(const int SHORT, const uint8_t *const *lines, int n, int64_t line, int64_t step, int64_t count, uint8_t zero, uint8_t *to, int64_t ld) {
    for (int64_t r = 0; r < count; r++, to += ld)
        for (int l = 0; l < n; l++) {
            const uint8_t *from = lines[l] ? lines[l] + r * step : 0;
            uint8_t *out = to + l * line;
            if (!lines[l]) fill(out, zero, line);
            else if (SHORT) *(b16_any *)out = *(const b16_any *)from;
            else for (int64_t i = 0; i < line; i += 4 * SX_GW) sx_istore(out + i, sx_iload(from + i));
        }
}

static void gather(const void *source, int64_t row, int64_t rows, uint8_t *to, int64_t ld) {
    const side *s = source;
    const sx_conv *v = s->v;
    int64_t line = v->k[2] * v->cg, image = row / v->pixels, rest = row % v->pixels, ow = rest % v->out[2], oh = rest / v->out[2] % v->out[1], od = rest / v->out[2] / v->out[1];
    int64_t low = sx_ceil_div(v->p[2], v->s[2]), high = (v->in[2] - v->k[2] + v->p[2]) / v->s[2] + 1; /* pixels whose columns are inside */
    int fast = !v->transposed && v->d[2] == 1 && v->xs[2] == v->cg && v->k[0] * v->k[1] <= LINES && v->in[2] + v->p[2] >= v->k[2];
    const uint8_t *end = (const uint8_t *)v->xv->data + v->xv->extent;
    int64_t vector = line <= 16 ? 16 : 4 * SX_GW, over = sx_round_up(line, vector) - line; /* bytes read and written too far */
    fast &= v->taps * v->cg + over <= ld;
    for (int64_t r = 0; r < rows;) {
        const uint8_t *x = (const uint8_t *)v->xv->data + image * v->xn + s->group * v->cg, *lines[LINES], *last = 0;
        int64_t count = 0;
        if (fast && ow >= low && ow < high) {
            int n = 0;
            count = sx_min64(rows - r, high - ow);
            for (int64_t t0 = 0; t0 < v->k[0]; t0++)
                for (int64_t t1 = 0; t1 < v->k[1]; t1++) {
                    int64_t id = sx_conv_at(v, 0, od, t0), ih = sx_conv_at(v, 1, oh, t1);
                    lines[n] = id < 0 || ih < 0 ? 0 : x + id * v->xs[0] + ih * v->xs[1] + (ow * v->s[2] - v->p[2]) * v->cg;
                    last = lines[n] > last ? lines[n] : last;
                    n++;
                }
            int64_t step = v->s[2] * v->cg;
            while (count > 0 && last && end - last < (count - 1) * step + line + over) count--; /* the last pixels of X are copied exactly, below */
            if (count > 0 && line <= 16) gather_inside(1, lines, n, line, step, count, s->zero, to, ld);
            else if (count > 0) gather_inside(0, lines, n, line, step, count, s->zero, to, ld);
        }
        if (count == 0) {
            uint8_t *out = to;
            count = 1;
            for (int64_t t0 = 0; t0 < v->k[0]; t0++)
                for (int64_t t1 = 0; t1 < v->k[1]; t1++, out += line) {
                    int64_t id = sx_conv_at(v, 0, od, t0), ih = sx_conv_at(v, 1, oh, t1);
                    if (id < 0 || ih < 0) fill(out, s->zero, line);
                    else gather_line(v, x + id * v->xs[0] + ih * v->xs[1], ow, s->zero, out);
                }
        }
        r += count, to += count * ld, ow += count;
        if (ow == v->out[2]) ow = 0, oh++;
        if (oh == v->out[1]) oh = 0, od++;
        if (od == v->out[0]) od = 0, image++;
    }
}

static void weights(const void *source, int64_t column, int64_t columns, uint8_t *to) {
    const sx_conv *v = ((const side *)source)->v;
    int64_t first = ((const side *)source)->group * v->mg + column;
    for (int64_t j = 0; j < columns; j++)
        for (int64_t tap = 0, k = 0; tap < v->taps; tap++)
            for (int64_t c = 0; c < v->cg; c++, k++) to[k / 4 * 64 + j * 4 + k % 4] = ((const uint8_t *)v->wv->data)[sx_weight_at(v, first + j, c, tap)];
}

/* Whether what is added lies as the output does. */
static int lies_alike(const sx_conv *v, const sx_requant *q) {
    const sx_view *y = v->call->out, *o = v->call->in + (q->other < 0 ? 0 : q->other);
    if (q->prefix) return 0; /* who knows what the rest reads */
    for (int d = 0; d < y->rank && q->other >= 0; d++) if (y->dim[d] > 1 && y->stride[d] != o->stride[d]) return 0;
    return 1;
}

void SX_NAME(sx_conv_int_finish)(const sx_conv *v, const sx_requant *q, int prepared, const int32_t *block, int64_t row, int64_t rows, int64_t m, int64_t cols, int64_t ld, const char *room) {
    int64_t start[SX_RANK];
    int last = v->spatial + 1;
    if (v->even_out && prepared && lies_alike(v, q)) { /* all pixels are one line */
        for (int d = 0; d <= last; d++) start[d] = 0;
        start[1] = m, start[last] = row;
        SX_NAME(sx_requant_finish)(v->call, q, prepared, block, rows, cols, ld, start, last, 1, room);
        return;
    }
    while (rows > 0) {
        int64_t in_image = row % v->pixels, w = in_image % v->out[2], count = sx_min64(rows, v->out[2] - w), rest = in_image / v->out[2];
        start[0] = row / v->pixels, start[1] = m, start[last] = w;
        if (v->spatial > 1) start[last - 1] = rest % v->out[1];
        if (v->spatial > 2) start[last - 2] = rest / v->out[1];
        SX_NAME(sx_requant_finish)(v->call, q, prepared, block, count, cols, ld, start, last, 1, room);
        block += count * ld, row += count, rows -= count;
    }
}

sx_requant SX_NAME(sx_conv_int_requant)(const sx_conv *v) {
    int axes[4] = {0, 2, 3, 4};
    return SX_NAME(sx_requant_of)(v->call, axes, v->spatial + 1);
}

static void sink(const void *arg, const int32_t *block, int64_t row, int64_t rows, int64_t column, int64_t columns, int64_t ld, char *scratch) {
    const side *s = arg;
    const job *j = (const job *)(const void *)s->v; /* v is the first of a job */
    int64_t m = s->group * s->v->mg + column, start[SX_RANK] = {0, m};
    int prepared = SX_NAME(sx_requant_prepare)(s->v->call, &j->q, block, columns, start, s->v->spatial + 1, 1, scratch);
    SX_NAME(sx_conv_int_finish)(s->v, &j->q, prepared, block, row, rows, m, columns, ld, scratch);
}

static int pointwise(const sx_conv *v) {
    for (int i = 0; i < 3; i++)
        if (v->k[i] != 1 || v->s[i] != 1 || v->p[i] != 0 || v->in[i] != v->out[i]) return 0;
    return v->even_in;
}

static job job_of(const sx_conv *v) {
    const sx_call *call = v->call;
    const sx_view *zx = sx_conv_zero(v, 0), *zw = sx_conv_zero(v, 1);
    job j = {.v = *v};
    j.gemm = (sx_igemm){.m = v->rows, .n = v->mg, .k = v->taps * v->cg, .a_row = v->rows == 1 ? v->c : v->xs[2], .a_col = 1, .a_signed = v->xv->dtype == SX_INT8, .b_signed = v->wv->dtype == SX_INT8,
                        .b_packed = v->wv->packing != 0, .za = zx ? (const uint8_t *)zx->data : 0, .zb = zw ? (const uint8_t *)zw->data : 0, .zb_step = sx_conv_zero_step(zw)};
    if (!pointwise(v)) j.gemm.rows = gather;
    if (!j.gemm.b_packed) j.gemm.panel = weights;
    if (call->epilogue || v->yv->dtype != SX_INT32 || !v->even_out || (v->yv->stride[1] != 1 && v->m > 1)) j.gemm.sink = sink, j.gemm.sink_scratch = sx_requant_scratch(SX_STRIP);
    j.cut = SX_NAME(sx_igemm_cut_for)(&j.gemm, v->group);
    return j;
}

static void tile_of(void *arg, int64_t i, int worker) {
    job *j = arg;
    const sx_conv *v = &j->v;
    int64_t across = j->cut.across, n = i % across * j->cut.nc, m = i / across % j->cut.down * j->cut.mc, group = i / across / j->cut.down;
    side sides = {v, group, j->gemm.za ? *j->gemm.za : 0};
    sx_igemm g = j->gemm;
    g.rows_source = g.panel_source = g.sink_arg = &sides;
    g.a = (const uint8_t *)v->xv->data + group * v->cg;
    g.held = j->held + worker, g.key = i / across + 1;
    g.b = (const uint8_t *)v->wv->data + (g.b_packed ? group * sx_ceil_div(g.n, SX_PANEL) * sx_ceil_div(g.k, 4) * 64 : 0);
    if (g.zb) g.zb += group * v->mg * g.zb_step;
    g.c = (int32_t *)v->yv->data + group * v->mg, g.ldc = v->ys[2];
    SX_NAME(sx_igemm_run)(&g, m, sx_min64(j->cut.mc, g.m - m), n, sx_min64(j->cut.nc, g.n - n), v->call->scratch + worker * v->call->scratch_bytes);
}

static int is_depthwise(const sx_conv *v) { return v->wv->packing == SX_PACK_DEPTHWISE || (!v->wv->packing && v->cg == 1 && v->group > 1); }

int64_t SX_NAME(sx_conv_int_scratch)(const sx_conv *v) {
    if (SX_DEPTH == 2 && v->wv->packing > SX_PACK_WINOGRAD) return SX_NAME(sx_winograd_int_scratch)(v);
    if (is_depthwise(v)) return SX_NAME(sx_depthwise_int_scratch)(v);
    job j = job_of(v);
    return SX_NAME(sx_igemm_scratch)(&j.gemm, j.cut.mc, j.cut.nc);
}

int SX_NAME(sx_conv_int)(const sx_conv *v) {
    if (SX_DEPTH == 2 && v->wv->packing > SX_PACK_WINOGRAD) return SX_NAME(sx_winograd_int)(v);
    if (is_depthwise(v)) return SX_NAME(sx_depthwise_int)(v);
    job j = job_of(v);
    j.q = SX_NAME(sx_conv_int_requant)(v); /* it reads operands: not while binding */
    sx_tiles(v->call, v->group * j.cut.down * j.cut.across, tile_of, &j);
    return SX_OK;
}
