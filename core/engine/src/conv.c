/* conv.c: convolutions of any rank up to 3-D, grouped, strided, dilated, transposed (kind CONV), float types, double; bytes go to conv_int.c.

   X[N, C, spatial…] has channel stride 1 (other strides are free; conv_rows.c takes some channels-first ones). W is packed as CONV or DEPTHWISE, derived as WINOGRAD, or plain, logically [M, C/group, kernel…]; a transposed
   convolution's is plain, [C, M/group, kernel…]. Y: any strides.

   Implicit GEMM: rows are output pixels, columns features of a group, K runs over (kernel…, channel of the group).
   - A pixel's row of A is a few runs of X (a kernel row of all channels), and neighbours' runs lie one step apart: the product reads them where they lie (sx_gemm_lines). Where windows reach
     outside X, the lines a task needs are copied first, with their padding: once, not once a tap; and where several tasks read the same lines of a small image, once for all of them.
   - 1×1 kernels of stride 1 are one matrix product. So is each tap of a transposed convolution whose kernel is its stride: it writes every stride-th pixel.
   - Other transposed convolutions, and kernels of too many runs, gather a row of A tap by tap when its K block is due. */
#include "conv.h"

typedef struct { const sx_conv *v; int64_t group; } side; /* where A and B of one group's product come from */

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

/* Whether a view of the output's dims has all its pixels one stride apart: then lines may be taken together. */
static int evenly(const sx_conv *v, const sx_view *x) {
    int64_t strides[3];
    for (int i = 0; i < 3; i++) strides[i] = i < 3 - v->spatial ? 0 : x->stride[2 + i - (3 - v->spatial)];
    if (v->pixels == 1) return v->n == 1 || x->stride[0] == strides[2];
    return sx_even(v->out, strides, v->n, x->stride[0]);
}

/* Whether a step along the last axis reaches all outputs, of Y and of every operand of the epilogue. */
static int all_even(const sx_conv *v) {
    const sx_call *call = v->call;
    int even = evenly(v, v->yv) && !sx_asks_where(call->epilogue);
    for (int i = 0; call->epilogue && i < call->n_in; i++)
        if (i > 1 && call->in[i].rank == v->yv->rank) even &= evenly(v, call->in + i);
    return even;
}

static int pointwise(const sx_conv *v) {
    for (int i = 0; i < 3; i++)
        if (v->k[i] != 1 || v->s[i] != 1 || v->p[i] != 0 || v->in[i] != v->out[i]) return 0;
    return v->even_in;
}

typedef struct {
    sx_conv v;
    sx_gemm gemm;
    sx_sum sum;
    int flat, gathered, copied, in_place;        /* A as one matrix; rows of A gathered tap by tap; a window of X copied first; results stored where they belong, with the sum applied */
    int shared;                                  /* what is copied is copied before all tasks, for all */
    int spread, narrow;                          /* transposed, kernel and stride are equal: lines and pixels are those of X; few features */
    int even;                                    /* lines of outputs follow one another */
    int64_t planes, lines, width;                /* output planes, each lines × width */
    int64_t tall, wide, down, along, nc, across; /* lines, columns and features of a task; tasks along each */
    int64_t high, broad, pixel, skip[2];         /* the copied window: lines, columns, floats from one pixel to the next; of X every skip-th line and column */
    int64_t runs[SX_GEMM_RUNS], run, a_line, a_row;
} job;

/* A pixel's taps as runs, given the steps from one plane of taps to the next, and the strides of lines and pixels, of what they are read from. */
static int whole_runs(const job *j, int64_t pixel) { return j->v.d[2] == 1 && pixel == j->v.cg; }
static int64_t count_runs(const job *j, int64_t pixel) { return j->v.taps / (whole_runs(j, pixel) ? j->v.k[2] : 1); }

static void find_runs(job *j, int64_t plane, int64_t line, int64_t pixel) {
    const sx_conv *v = &j->v;
    int64_t n = 0, step = whole_runs(j, pixel) ? v->k[2] : 1;
    for (int64_t t = 0; t < v->taps; t += step) j->runs[n++] = t / v->k[2] / v->k[1] * plane + t / v->k[2] % v->k[1] * v->d[1] * line + t % v->k[2] * v->d[2] * pixel;
    j->run = step * v->cg;
    j->a_line = v->s[1] / j->skip[0] * line, j->a_row = v->s[2] / j->skip[1] * pixel;
}

enum { SHARED = 1 << 18 }; /* floats copied for all tasks, at most: they stay in the second-level cache */
static int64_t window_floats(const job *j) { return j->copied ? sx_round_up(j->v.k[0] * j->high * j->broad * j->pixel, 16) : 0; }
static int64_t windows(const job *j) { return j->planes * j->v.group * j->down * j->along; }
static int64_t shared_floats(const job *j) { return !j->shared ? 0 : j->flat ? j->v.rows * j->pixel : windows(j) * window_floats(j); }
static int64_t block_floats(const job *j) { return j->in_place ? 0 : sx_round_up(j->tall * j->wide * j->nc * (j->spread ? j->v.taps : 1), 16); }
static int64_t weight_floats(const job *j) { return j->narrow ? sx_round_up(j->v.mg * j->gemm.k, 16) : 0; }

/* The size of the copied window. */
static void measure(job *j) {
    const sx_conv *v = &j->v;
    j->high = (j->tall - 1) * (v->s[1] / j->skip[0]) + (v->k[1] - 1) * v->d[1] + 1, j->broad = (j->wide - 1) * (v->s[2] / j->skip[1]) + (v->k[2] - 1) * v->d[2] + 1;
}

/* A transposed convolution each of whose outputs has one tap. */
static int spreads(const sx_conv *v) {
    for (int i = 0; i < 3; i++)
        if (v->k[i] != v->s[i] || v->d[i] != 1 || v->p[i] || v->out[i] != v->in[i] * v->s[i]) return 0;
    return v->transposed && v->out[0] == 1 && v->xv->dtype == SX_FLOAT && v->wv->packing == 0;
}

static int reaches_out(const sx_conv *v) {
    for (int i = 0; i < 3; i++)
        if (v->p[i] || (v->out[i] - 1) * v->s[i] + (v->k[i] - 1) * v->d[i] >= v->in[i]) return 1;
    return 0;
}

SX_SMALL static job job_of(const sx_conv *v) {
    enum { WINDOW = 65536, BLOCK = 32768 }; /* floats of the copied window and of unfinished results that stay in the second-level cache */
    const int64_t window = v->taps * v->cg * v->mg > 4 * WINDOW ? 2 * WINDOW : WINDOW; /* weights that do not stay there are read once a task: fewer tasks */
    job j = {.v = *v};
    j.gemm = (sx_gemm){.m = v->rows, .n = v->mg, .k = v->taps * v->cg, .a_dtype = v->xv->dtype, .a_row = v->xs[2], .a_col = 1, .b_dtype = v->wv->dtype, .b_packed = v->wv->packing != 0};
    if (!j.gemm.b_packed) j.gemm.panel = weights;
    j.even = all_even(v);
    j.in_place = sx_sum_of(v->call, 1, &j.sum);
    j.pixel = v->cg + (v->s[2] * v->cg % 512 == 0 ? 16 : 0); /* pixels do not lie a power of two apart */
    j.skip[0] = v->k[1] == 1 ? v->s[1] : 1, j.skip[1] = v->k[2] == 1 ? v->s[2] : 1;
    j.copied = !v->transposed && !pointwise(v) && (reaches_out(v) || v->xv->dtype != SX_FLOAT || v->s[2] * v->xs[2] % 512 == 0);
    j.spread = spreads(v);
    j.gathered = (v->transposed && !j.spread) || (!v->transposed && count_runs(&j, j.copied ? j.pixel : v->xs[2]) > SX_GEMM_RUNS);
    if (j.gathered) j.copied = 0;
    if (!j.copied) j.skip[0] = j.skip[1] = 1;
    j.flat = j.gathered || (!j.spread && pointwise(v) && (j.even || !j.in_place));
    if (j.gathered) j.in_place &= j.even;
    if (j.spread) j.gemm.k = v->cg, j.gemm.panel = 0, j.gemm.b_row = v->wv->stride[0], j.gemm.b_col = v->wv->stride[1];
    j.narrow = !j.gathered && v->rows >= 64 && v->xv->dtype == SX_FLOAT && sx_is_float(v->wv->dtype) && SX_NAME(sx_narrow)(v->mg, j.gemm.k);
#ifdef SX_BF16
    j.gemm.bf16 = j.narrow ? 0 : sx_bf16_of(v->call, &j.gemm, v->wv->packing == SX_PACK_WORDS);
#endif
    j.planes = v->n * v->out[0], j.lines = j.spread ? v->in[1] : v->out[1], j.width = j.spread ? v->in[2] : v->out[2];
    if (j.flat) j.planes = j.lines = 1, j.width = v->rows;
    if (j.flat && !j.gathered) j.gemm.a_row = v->rows == 1 ? v->c : v->xs[2];
    else j.gemm.rows = j.gathered ? gather : 0;
    sx_gemm one = j.gemm;
    one.m = j.lines * j.width;
    sx_gemm_cut cut = SX_NAME(sx_gemm_cut_for)(&one, j.planes * v->group);
    j.nc = cut.nc, j.tall = sx_max64(1, sx_min64(j.lines, (cut.mc + j.width / 2) / j.width)), j.wide = sx_min64(j.width, sx_max64(cut.mc, SX_MR));
    if (j.lines > 1 && cut.mc > j.width / 2) j.wide = j.width;
    for (measure(&j); (j.copied && j.v.k[0] * j.high * j.broad * j.pixel > window) || (!j.in_place && j.tall * j.wide * j.nc * (j.spread ? v->taps : 1) > BLOCK); measure(&j)) {
        if (j.tall > 1) j.tall = sx_ceil_div(j.tall, 2);
        else if (j.wide > 4 * SX_MR) j.wide = sx_round_up(sx_ceil_div(j.wide, 2), SX_MR);
        else break;
    }
    j.down = sx_ceil_div(j.lines, j.tall), j.along = sx_ceil_div(j.width, j.wide), j.across = sx_ceil_div(v->mg, j.nc);
    j.shared = j.across > 1 && v->group == 1 && (j.flat ? !j.gathered && !j.narrow && v->xv->dtype == SX_FLOAT && v->rows > 1 && v->xs[2] % 1024 == 0 && v->rows * j.pixel <= SHARED : j.copied && windows(&j) * window_floats(&j) <= SHARED);
    if (j.shared && j.flat) j.gemm.a_row = j.pixel;
    if (!j.flat && !j.spread) find_runs(&j, j.copied ? j.high * j.broad * j.pixel : v->d[0] * v->xs[0], j.copied ? j.broad * j.pixel : v->xs[1], j.copied ? j.pixel : v->xs[2]);
    return j;
}

/* The window of X that output lines [line, line + tall) and columns [column, column + wide) of a plane read, zeros outside X: [k[0]][high][broad][pixel]. Every `parts`-th line, from `part` on. */
static void copy_window(const job *j, const char *x, int64_t od, int64_t line, int64_t tall, int64_t column, int64_t wide, int64_t part, int64_t parts, float *to) {
    const sx_conv *v = &j->v;
    int64_t size = sx_size_of(v->xv->dtype), skip = j->skip[1], step = skip * v->xs[2];
    int64_t high = (tall - 1) * (v->s[1] / j->skip[0]) + (v->k[1] - 1) * v->d[1] + 1, broad = (wide - 1) * (v->s[2] / skip) + (v->k[2] - 1) * v->d[2] + 1;
    int64_t first = column * v->s[2] - v->p[2], low = sx_min64(sx_max64(sx_ceil_div(-first, skip), 0), broad), end = sx_max64(low, sx_min64(sx_ceil_div(v->in[2] - first, skip), broad));
    for (int64_t t0 = 0; t0 < v->k[0]; t0++)
        for (int64_t y = part; y < high; y += parts) {
            int64_t id = od * v->s[0] - v->p[0] + t0 * v->d[0], ih = line * v->s[1] - v->p[1] + y * j->skip[0];
            float *out = to + (t0 * j->high + y) * j->broad * j->pixel;
            if (id < 0 || id >= v->in[0] || ih < 0 || ih >= v->in[1]) {
                sx_zero_row(out, broad * j->pixel);
                continue;
            }
            const char *from = x + (id * v->xs[0] + ih * v->xs[1] + first * v->xs[2] + low * step) * size;
            sx_zero_row(out, low * j->pixel);
            if (step == v->cg && j->pixel == v->cg) sx_widen_row(from, v->xv->dtype, 1, (end - low) * v->cg, out + low * j->pixel);
            else
                for (int64_t i = low; i < end; i++, from += step * size) sx_widen_row(from, v->xv->dtype, 1, v->cg, out + i * j->pixel);
            sx_zero_row(out + end * j->pixel, (broad - end) * j->pixel);
        }
}

/* Where outputs of a plane begin: image, feature, line and column as positions of Y. */
static void start_of(const sx_conv *v, int64_t plane, int64_t feature, int64_t line, int64_t column, int64_t *start) {
    int last = v->spatial + 1;
    start[0] = plane / v->out[0], start[1] = feature, start[last] = column;
    if (v->spatial > 1) start[last - 1] = line;
    if (v->spatial > 2) start[last - 2] = plane % v->out[0];
}

static float *place_of(const sx_conv *v, const int64_t *start) {
    int64_t at = 0;
    for (int d = 0; d < v->yv->rank; d++) at += start[d] * v->yv->stride[d];
    return (float *)v->yv->data + at;
}

/* Weights of one group's features as [features][k], tap `only` (-1: all of them). */
static void narrow_weights(const job *j, int64_t group, int64_t only, float *to) {
    const sx_conv *v = &j->v;
    const char *packed = v->wv->data + group * sx_round_up(v->mg, SX_PANEL) * j->gemm.k * sx_size_of(v->wv->dtype);
    for (int64_t m = 0; m < v->mg; m++)
        for (int64_t k = 0; k < j->gemm.k; k++)
            to[m * j->gemm.k + k] = v->wv->packing ? sx_element(packed, v->wv->dtype, (m / SX_PANEL * j->gemm.k + k) * SX_PANEL + m % SX_PANEL)
                                                   : sx_element(v->wv->data, v->wv->dtype, sx_weight_at(v, group * v->mg + m, k % v->cg, only < 0 ? k / v->cg : only));
}

/* The product of some lines: along columns, or along K. */
static void product(const job *j, const sx_gemm *g, const sx_gemm_rows *r, int64_t n, int64_t nc, const float *narrow, char *scratch) {
    if (j->narrow) SX_NAME(sx_narrow_lines)(r, narrow, g->k, nc);
    else SX_NAME(sx_gemm_lines)(g, r, n, nc, scratch);
}

/* Lines of X of a transposed convolution whose kernel is its stride. */
static void spread_task(const job *j, sx_gemm *g, int64_t group, int64_t plane, int64_t line, int64_t tall, int64_t column, int64_t wide, int64_t n, int64_t nc, float *block, float *narrow, char *scratch) {
    const sx_conv *v = &j->v;
    int64_t start[SX_RANK] = {0}, s1 = v->s[1], s2 = v->s[2], feature = group * v->mg + n, last = v->spatial + 1, line_axis = v->spatial > 1 ? last - 1 : -1;
    const char *weights = v->wv->data;
    for (int64_t tap = 0; tap < v->taps; tap++) {
        int64_t t1 = tap / v->k[2], t2 = tap % v->k[2];
        start_of(v, plane, feature, line * s1 + t1, column * s2 + t2, start);
        sx_end end = sx_place_sum(v->call, &j->sum, start, (int)last, (int)line_axis);
        for (int o = 0; o < SX_SUM_OPERANDS; o++) end.row[o] *= s2, end.line[o] *= s1;
        sx_gemm_rows r = {.lines = tall, .width = wide, .a = (const float *)g->a + plane * v->xn + line * v->xs[1] + column * v->xs[2], .a_line = v->xs[1], .a_row = v->xs[2]};
        r.end = j->in_place && !sx_sum_is_nothing(&j->sum) ? &end : 0;
        r.c = j->in_place ? place_of(v, start) : block + (t1 * wide * s2 + t2) * nc, r.c_line = s1 * (j->in_place ? v->ys[1] : wide * s2 * nc), r.c_row = s2 * (j->in_place ? v->ys[2] : nc);
        if (j->narrow) narrow_weights(j, group, tap, narrow);
        g->b = weights + sx_weight_at(v, group * v->mg, 0, tap) * sx_size_of(g->b_dtype);
        product(j, g, &r, n, nc, narrow, scratch);
    }
    for (int64_t l = 0; l < tall * s1 && !j->in_place; l++) {
        start_of(v, plane, feature, line * s1 + l, column * s2, start);
        int64_t lines = j->even && wide * s2 == v->out[2] ? tall * s1 : 1;
        sx_finish(v->call, block + l * wide * s2 * nc, 0, lines * wide * s2, nc, nc, start, (int)last, 1);
        l += lines - 1;
    }
}

/* Rows [row, row + rows) of a convolution whose A is one matrix. */
static void flat_task(const job *j, sx_gemm *g, int64_t group, int64_t row, int64_t rows, int64_t n, int64_t nc, char *scratch) {
    const sx_conv *v = &j->v;
    int64_t start[SX_RANK] = {0}, feature = group * v->mg + n;
    float *block = (float *)scratch;
    start_of(v, row / v->pixels * v->out[0] + row % v->pixels / (v->out[1] * v->out[2]), feature, row % v->pixels / v->out[2] % v->out[1], row % v->out[2], start);
    if (j->in_place) {
        sx_end end = sx_place_sum(v->call, &j->sum, start, v->spatial + 1, -1);
        g->end = sx_sum_is_nothing(&j->sum) ? 0 : &end;
        if (j->narrow) {
            sx_gemm_rows r = {.lines = 1, .width = rows, .a = (const float *)g->a + row * g->a_row, .a_row = g->a_row, .c = place_of(v, start), .c_row = v->ys[2], .end = g->end};
            narrow_weights(j, group, -1, (float *)scratch);
            SX_NAME(sx_narrow_lines)(&r, (float *)scratch, g->k, nc);
        } else SX_NAME(sx_gemm_block)(g, row, rows, n, nc, place_of(v, start), v->ys[2], scratch);
        return;
    }
    if (j->narrow) {
        float *narrow = block + block_floats(j);
        sx_gemm_rows r = {.lines = 1, .width = rows, .a = (const float *)g->a + row * g->a_row, .a_row = g->a_row, .c = block, .c_row = nc};
        narrow_weights(j, group, -1, narrow);
        SX_NAME(sx_narrow_lines)(&r, narrow, g->k, nc);
    } else SX_NAME(sx_gemm_block)(g, row, rows, n, nc, block, nc, scratch + 4 * block_floats(j));
    if (j->even) sx_finish(v->call, block, 0, rows, nc, nc, start, v->spatial + 1, 1);
    else sx_conv_finish(v, block, row, rows, feature, nc, nc);
}

static void tile_of(void *arg, int64_t i, int worker) {
    const job *j = arg;
    const sx_conv *v = &j->v;
    char *scratch = v->call->scratch + worker * v->call->scratch_bytes;
    int64_t across = i % j->across, along = i / j->across % j->along, down = i / j->across / j->along % j->down, rest = i / j->across / j->along / j->down, group = rest % v->group, plane = rest / v->group;
    int64_t n = across * j->nc, nc = sx_min64(j->nc, v->mg - n), line = down * j->tall, tall = sx_min64(j->tall, j->lines - line), column = along * j->wide, wide = sx_min64(j->wide, j->width - column);
    int64_t size = sx_size_of(v->xv->dtype), start[SX_RANK] = {0};
    side sides = {v, group};
    sx_gemm g = j->gemm;
    sx_coming coming = sx_coming_of(v->call, i, j->planes * v->group * j->down * j->along * j->across);
    g.rows_source = g.panel_source = &sides, g.coming = &coming;
    g.a = v->xv->data + group * v->cg * size;
    g.b = v->wv->data + (g.b_packed ? group * sx_packed_group(&g) : 0);
    float *shared = (float *)v->call->scratch;
    scratch += 4 * shared_floats(j);
    if (j->flat) {
        if (j->shared) g.a = (const char *)shared;
        flat_task(j, &g, group, column, wide, n, nc, scratch);
        return;
    }
    float *window = j->shared ? shared + i / j->across * window_floats(j) : (float *)scratch, *block = (float *)scratch + (j->shared ? 0 : window_floats(j));
    float *narrow = block + block_floats(j);
    char *own = (char *)(narrow + weight_floats(j));
    if (j->spread) {
        spread_task(j, &g, group, plane, line, tall, column, wide, n, nc, block, narrow, own);
        return;
    }
    if (j->narrow) narrow_weights(j, group, -1, narrow);
    int64_t od = plane % v->out[0], rank_last = v->spatial + 1;
    const char *x = g.a + plane / v->out[0] * v->xn * size;
    start_of(v, plane, group * v->mg + n, line, column, start);
    sx_end end = sx_place_sum(v->call, &j->sum, start, (int)rank_last, v->spatial > 1 ? (int)rank_last - 1 : -1);
    sx_gemm_rows r = {.lines = tall, .width = wide, .a_line = j->a_line, .a_row = j->a_row, .runs = j->run < g.k ? j->runs : 0, .run = j->run, .end = j->in_place && !sx_sum_is_nothing(&j->sum) ? &end : 0};
    r.a = window;
    if (j->copied && !j->shared) copy_window(j, x, od, line, tall, column, wide, 0, 1, window);
    if (!j->copied) r.a = (const float *)x + od * v->s[0] * v->xs[0] + line * v->s[1] * v->xs[1] + column * v->s[2] * v->xs[2];
    r.c = j->in_place ? place_of(v, start) : block, r.c_line = j->in_place ? v->ys[1] : wide * nc, r.c_row = j->in_place ? v->ys[2] : nc;
    if (r.a_line == wide * r.a_row && r.c_line == wide * r.c_row && end.line[0] == wide * end.row[0] && end.line[1] == wide * end.row[1] && !j->narrow) r.lines = 1, r.width = tall * wide; /* one long line has fuller tiles */
    else if (wide == 1) { /* images of one column: lines take its place, so that tiles have several rows */
        r.width = tall, r.lines = 1, r.a_row = r.a_line, r.c_row = r.c_line;
        for (int o = 0; o < SX_SUM_OPERANDS; o++) end.row[o] = end.line[o];
    }
    product(j, &g, &r, n, nc, narrow, own);
    if (j->in_place) return;
    if (j->even && wide == v->out[2]) {
        sx_finish(v->call, block, 0, tall * wide, nc, nc, start, (int)rank_last, 1);
        return;
    }
    for (int64_t l = 0; l < tall; l++) {
        start_of(v, plane, group * v->mg + n, line + l, column, start);
        sx_finish(v->call, block + l * wide * nc, 0, wide, nc, nc, start, (int)rank_last, 1);
    }
}

/* What all tasks share, in parts: lines of every window, or rows. */
enum { PARTS = 8 };
static void share(void *arg, int64_t i, int worker) {
    const job *j = arg;
    const sx_conv *v = &j->v;
    float *to = (float *)v->call->scratch;
    int64_t part = i % PARTS, index = i / PARTS, along = index % j->along, down = index / j->along % j->down, plane = index / j->along / j->down;
    (void)worker;
    if (j->flat) {
        for (int64_t row = v->rows * part / PARTS; row < v->rows * (part + 1) / PARTS; row++) sx_widen_row(v->xv->data + row * v->xs[2] * 4, SX_FLOAT, 1, v->cg, to + row * j->pixel);
        return;
    }
    int64_t line = down * j->tall, column = along * j->wide;
    copy_window(j, v->xv->data + plane / v->out[0] * v->xn * sx_size_of(v->xv->dtype), plane % v->out[0], line, sx_min64(j->tall, j->lines - line), column, sx_min64(j->wide, j->width - column), part, PARTS,
                to + index * window_floats(j));
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
    if (SX_NAME(sx_conv_by_rows)(&v)) return SX_NAME(sx_conv_rows_scratch)(&v);
    if (is_depthwise(&v)) return SX_NAME(sx_depthwise_scratch)(&v);
    if (v.wv->packing > SX_PACK_WINOGRAD) return SX_NAME(sx_winograd_scratch)(&v);
    job j = job_of(&v);
    sx_gemm lines = {.k = 0, .a_dtype = SX_FLOAT}; /* none of its rows are copied */
#ifdef SX_BF16
    if (j.gemm.bf16) lines = j.gemm;
#endif
    return SX_NAME(sx_gemm_scratch)(j.flat ? &j.gemm : &lines, j.wide, j.nc) + 4 * ((j.shared ? shared_floats(&j) : window_floats(&j)) + block_floats(&j) + weight_floats(&j));
}

#ifdef SX_BF16
int SX_NAME(sx_conv_bf16)(const sx_call *call, sx_gemm *g) {
    sx_conv v = sx_conv_of(call);
    if (!call->bf16 || v.rows == 0 || v.m == 0 || v.group < 1 || !sx_is_float(v.xv->dtype) || !sx_is_float(v.wv->dtype) || v.wv->packing > SX_PACK_WINOGRAD) return 0;
    if (SX_NAME(sx_conv_by_rows)(&v)) return SX_NAME(sx_conv_rows_bf16)(&v);
    if (is_depthwise(&v)) return 0;
    *g = job_of(&v).gemm;
    return !g->bf16 || !g->b_packed ? g->bf16 : SX_BF16_WORDS;
}
#endif

int SX_NAME(sx_k_conv)(const sx_call *call) {
    sx_conv v = sx_conv_of(call);
    if (v.group < 1 || v.c % v.group || v.m % v.group) return sx_fail(call, SX_E_SHAPE, 1, v.c, v.m);
    if (v.rows == 0 || v.m == 0) return SX_OK;
    if (SX_NAME(sx_conv_by_rows)(&v)) {
        SX_NAME(sx_conv_rows)(&v);
        return SX_OK;
    }
    if (v.c > 1 && v.xv->stride[1] != 1) return sx_fail(call, SX_E_UNSUPPORTED, 0, v.xv->stride[1], 1);
    if (is_double(&v)) {
        sx_tiles(call, v.n * v.out[0] * v.out[1], double_tile, &v);
        return SX_OK;
    }
    if (!sx_is_float(v.xv->dtype) && v.xv->dtype != SX_DOUBLE) return SX_NAME(sx_conv_int)(&v); /* bytes, sx_check says */
    if (!sx_is_float(v.xv->dtype) || !sx_is_float(v.wv->dtype)) return sx_fail(call, SX_E_DTYPE, 0, v.xv->dtype, v.wv->dtype);
    if (is_depthwise(&v)) return SX_NAME(sx_depthwise)(&v);
    if (v.wv->packing > SX_PACK_WINOGRAD) return SX_NAME(sx_winograd)(&v);
    job j = job_of(&v);
    if (j.shared && !sx_tiles(call, (j.flat ? 1 : windows(&j)) * PARTS, share, &j)) return SX_OK;
    sx_tiles(call, j.planes * v.group * j.down * j.along * j.across, tile_of, &j);
    return SX_OK;
}
