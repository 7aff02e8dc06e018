/* winograd.c: 3×3 convolutions of stride 1 by fewer multiplications (part of kind CONV). F(4×4, 3×3) needs a quarter, F(2×2, 3×3) 4/9 of them.

   How to think (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015; the construction is Toom's and Cook's)
   - An edge² tile of the input (edge = size + 2, neighbours overlap by 2) is transformed, multiplied with transformed weights channel by channel, summed over channels, and transformed back to
     size² outputs. The sums are edge² matrix products [tiles, C] · [C, M].
   - The interpolation points of F(4×4) are 0, ±√½, ±√2, ∞: with products and quotients near 1 the error is several times smaller than with 0, ±1, ±2, ∞.
   - Small images are one block, whose inputs are transformed before all tasks, for all of them; the tasks of larger ones transform their own. In WebAssembly
     an odd few of them (7 of 64 channels, 56²) would leave one of two workers idle for an eighth of the time: the last is cut in two.
   - Weights are transformed when a program is first bound (sx_conv_derive), in double, to [edge²][M/16][C][16] floats: 4 times (F4) or 1.8 times (F2) the stored ones. Hence F4 for large images
     and few weights only, F2 for middling ones, and neither where there are few tiles to share what is read. */
#include "conv_int.h"

#define TILES 32     /* of a block, about */
#define FEATURES 256 /* of a block, at most */
#define LEAST 8      /* blocks wanted */
#ifdef __wasm__
#define SPLIT 1      /* whether the last of an odd few blocks is two */
#else
#define SPLIT 0
#endif
#define SHARED (1 << 18) /* transformed inputs of a small image, floats: they stay in the second-level cache */
#define MOST_FOUR (4 << 20) /* bytes of F(4×4) weights */
enum { FOUR = SX_PACK_WINOGRAD + 4, TWO = SX_PACK_WINOGRAD + 2 };

#define HALF_ROOT 0.70710678118654752440
#define ROOT 1.41421356237309504880

typedef struct {
    const sx_conv *v;
    int64_t size, edge, down, across;               /* outputs and inputs of a tile along an axis; tiles of an image */
    int64_t rows, cols, row_blocks, col_blocks;     /* tiles of a block; blocks of an image */
    int64_t whole;                                  /* row blocks of so many rows; the two after them, if there are any, share what is left */
    int64_t features, feature_blocks;
    int64_t tiles, plane_v, plane_m;                /* tiles of a block; floats of one of the edge² matrices */
    sx_sum sum;
    int shared;                                     /* an image is one block, inputs of all images lie at the beginning of the scratch */
    int in_place;                                   /* results go where they belong, with the sum applied */
} job;

/* ---- weights ---- */
/* One panel of 16 features, one channel: 9 taps to edge² numbers, in double, one side after the other. */
static void transform_weights(int size, double g[9][SX_PANEL], double u[36][SX_PANEL]) {
    static const double four[6][3] = {{1, 0, 0}, {-2.0 / 3, -HALF_ROOT * 2 / 3, -1.0 / 3}, {-2.0 / 3, HALF_ROOT * 2 / 3, -1.0 / 3}, {1.0 / 6, ROOT / 6, 1.0 / 3}, {1.0 / 6, -ROOT / 6, 1.0 / 3}, {0, 0, 1}};
    static const double two[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
    const double(*side)[3] = size == 4 ? four : two;
    double half[6][3][SX_PANEL];
    int edge = size + 2;
    for (int i = 0; i < edge; i++)
        for (int b = 0; b < 3; b++)
            for (int l = 0; l < SX_PANEL; l++) half[i][b][l] = side[i][0] * g[b][l] + side[i][1] * g[3 + b][l] + side[i][2] * g[6 + b][l];
    for (int i = 0; i < edge; i++)
        for (int j = 0; j < edge; j++)
            for (int l = 0; l < SX_PANEL; l++) u[i * edge + j][l] = half[i][0][l] * side[j][0] + half[i][1][l] * side[j][1] + half[i][2][l] * side[j][2];
}

static int is_bytes(const sx_call *call) { return call->in[1].dtype == SX_INT8 || call->in[1].dtype == SX_UINT8; }

int SX_NAME(sx_conv_derives)(const sx_call *call) {
    sx_conv v = sx_conv_of(call);
    if (is_bytes(call)) return SX_DEPTH == 2 ? SX_NAME(sx_conv_int_derives)(call) : 0;
    if (v.spatial != 2 || v.transposed || v.group != 1 || v.wv->packing != SX_PACK_CONV || !sx_is_float(v.wv->dtype) || v.c < 16 || v.m < 16) return 0;
    for (int i = 1; i < 3; i++)
        if (v.k[i] != 3 || v.s[i] != 1 || v.d[i] != 1) return 0;
    int64_t fours = v.n * sx_ceil_div(v.out[1], 4) * sx_ceil_div(v.out[2], 4), twos = v.n * sx_ceil_div(v.out[1], 2) * sx_ceil_div(v.out[2], 2);
    if (fours >= 36 && SX_NAME(sx_conv_derived_bytes)(call, FOUR) <= MOST_FOUR) return FOUR;
    return twos >= 36 ? TWO : 0;
}

int64_t SX_NAME(sx_conv_derived_bytes)(const sx_call *call, int packing) {
    int64_t edge = packing - SX_PACK_WINOGRAD + 2;
    if (SX_DEPTH == 2 && is_bytes(call)) return SX_NAME(sx_conv_int_derived_bytes)(call);
    return 4 * edge * edge * sx_round_up(call->in[1].dim[0], SX_PANEL) * call->in[1].dim[1];
}

void SX_NAME(sx_conv_derive)(const sx_call *call, int packing, void *derived) {
    const sx_view *w = &call->in[1];
    if (SX_DEPTH == 2 && is_bytes(call)) {
        SX_NAME(sx_conv_int_derive)(call, derived);
        return;
    }
    int64_t m = sx_round_up(w->dim[0], SX_PANEL), c = w->dim[1];
    int size = packing - SX_PACK_WINOGRAD, edge = size + 2;
    double g[9][SX_PANEL], u[36][SX_PANEL];
    for (int64_t panel = 0; panel < m; panel += SX_PANEL)
        for (int64_t k = 0; k < c; k++) {
            for (int tap = 0; tap < 9; tap++)
                for (int j = 0; j < SX_PANEL; j++) g[tap][j] = sx_element(w->data, w->dtype, panel * 9 * c + (tap * c + k) * SX_PANEL + j);
            transform_weights(size, g, u);
            for (int at = 0; at < edge * edge; at++)
                for (int j = 0; j < SX_PANEL; j++) ((float *)derived)[at * m * c + panel * c + k * SX_PANEL + j] = (float)u[at][j];
        }
}

/* ---- activations: one side of each transform; the other is the same over columns ---- */
SX_INLINE void forward(const int size, const sx_f *d, sx_f *t) {
    if (size == 4) {
        const sx_f h = sx_fsplat((float)HALF_ROOT), r = sx_fsplat((float)ROOT), two = sx_fsplat(2), half = sx_fsplat(0.5f), more = sx_fsplat(2.5f);
        sx_f even = d[4] - two * d[2], odd = h * d[3] - r * d[1], even2 = d[4] - half * d[2], odd2 = r * d[3] - h * d[1];
        t[0] = d[0] - more * d[2] + d[4];
        t[1] = even + odd, t[2] = even - odd;
        t[3] = even2 + odd2, t[4] = even2 - odd2;
        t[5] = d[1] - more * d[3] + d[5];
    } else {
        t[0] = d[0] - d[2], t[1] = d[1] + d[2], t[2] = d[2] - d[1], t[3] = d[3] - d[1];
    }
}

SX_INLINE void backward(const int size, const sx_f *t, sx_f *y) {
    if (size == 4) {
        const sx_f h = sx_fsplat((float)HALF_ROOT), r = sx_fsplat((float)ROOT), two = sx_fsplat(2), half = sx_fsplat(0.5f);
        sx_f plus = t[1] + t[2], minus = t[1] - t[2], plus2 = t[3] + t[4], minus2 = t[3] - t[4];
        y[0] = t[0] + plus + plus2;
        y[1] = h * minus + r * minus2;
        y[2] = half * plus + two * plus2;
        y[3] = sx_fsplat((float)(HALF_ROOT * 0.5)) * minus + sx_fsplat((float)(ROOT * 2)) * minus2 + t[5];
    } else {
        y[0] = t[0] + t[1] + t[2], y[1] = t[1] - t[2] + t[3];
    }
}

/* A column of an input tile, some of it outside X (rows: what is inside, bit by bit), or not of floats. */
static __attribute__((noinline)) void edge_column(const sx_conv *v, const char *x, ptrdiff_t at, int rows, int edge, sx_f *column) {
    for (int i = 0; i < edge; i++, at += (ptrdiff_t)v->xs[1]) {
        sx_f value = sx_fsplat(0);
        if (rows >> i & 1 && v->xv->dtype == SX_FLOAT) value = sx_fload((const float *)x + at);
        else if (rows >> i & 1)
            for (int l = 0; l < SX_GW; l++) value[l] = sx_element(x, v->xv->dtype, at + l);
        column[i] = value;
    }
}

/* The input tile whose corner is (h, w), all channels, to `to`: [edge²][…] with `plane` floats between matrices. The last register of channels overlaps the one before. */
SX_INLINE void input_tile(const int size, const sx_conv *v, const char *x, int64_t h, int64_t w, float *to, ptrdiff_t plane) {
    enum { MOST = 6 };
    const int edge = size + 2, whole = v->xv->dtype == SX_FLOAT ? (1 << edge) - 1 : -1;
    const ptrdiff_t down = (ptrdiff_t)v->xs[1], right = (ptrdiff_t)v->xs[2], corner = (ptrdiff_t)(h * v->xs[1] + w * v->xs[2]), last = (ptrdiff_t)v->c - SX_GW;
    int rows = 0, cols = 0; /* those inside X, bit by bit */
    for (int i = 0; i < edge; i++) rows |= (h + i >= 0 && h + i < v->in[1]) << i, cols |= (w + i >= 0 && w + i < v->in[2]) << i;
    for (ptrdiff_t next = 0; next < last + SX_GW; next += SX_GW) {
        const ptrdiff_t c = next < last ? next : last;
        sx_f t[MOST][MOST], column[MOST], made[MOST];
        SX_SQUARE for (int j = 0; j < edge; j++) {
            const ptrdiff_t at = corner + j * right + c;
            const float *from = (const float *)x + at;
            const int inside = cols >> j & 1 ? rows : 0;
            if (inside == whole) {
                SX_UNROLL for (int i = 0; i < edge; i++) {
                    column[i] = sx_fload(from);
                    SX_WALK(from, down);
                }
            } else {
                sx_f found[MOST];
                edge_column(v, x, at, inside, edge, found);
                SX_UNROLL for (int i = 0; i < edge; i++) column[i] = found[i];
            }
            forward(size, column, made);
            SX_UNROLL for (int i = 0; i < edge; i++) t[i][j] = made[i];
        }
        float *out = to + c;
        SX_SQUARE for (int i = 0; i < edge; i++) {
            forward(size, t[i], made);
            SX_UNROLL for (int j = 0; j < edge; j++) {
                sx_fstore(out, made[j]);
                SX_WALK(out, plane);
            }
        }
    }
}

SX_EDGE void edge_store(int ends, const sx_end *e, sx_f value, const float *p, const float *q, float *to, int count) { sx_fstore_part(to, ends ? sx_ended(e, value, p, q, count) : value, count); }

/* `features` sums of one tile to its outputs, of which rows × cols exist. e: their end, where it `ends` them. */
SX_INLINE void output_tile(const int size, const float *from, ptrdiff_t plane, int64_t features, int ends, const sx_end *e, float *y, ptrdiff_t row, ptrdiff_t column, int rows, int cols) {
    enum { MOST = 6 };
    const int edge = size + 2, high = rows < size ? rows : size;
    for (ptrdiff_t m = 0; m < features; m += SX_GW) {
        const int count = (int)sx_min64(SX_GW, features - m);
        sx_f t[4][MOST], made[4], side[MOST];
        SX_SQUARE for (int j = 0; j < edge; j++) {
            const float *sums = from + j * plane + m;
            SX_UNROLL for (int i = 0; i < edge; i++) {
                side[i] = sx_fload(sums);
                SX_WALK(sums, edge * plane);
            }
            backward(size, side, made);
            SX_UNROLL for (int i = 0; i < size; i++) t[i][j] = made[i];
        }
        SX_SQUARE for (int i = 0; i < size; i++) {
            if (i >= high) break;
            float *to = y + i * row + m;
            const float *p = e->data[0] + i * (ptrdiff_t)e->line[0] + m * e->col[0], *q = e->data[1] + i * (ptrdiff_t)e->line[1] + m * e->col[1];
            backward(size, t[i], made);
            SX_UNROLL for (int j = 0; j < size; j++) {
                if (j >= cols) break;
                if (count == SX_GW) sx_fstore(to, ends ? sx_ended(e, made[j], p, q, SX_GW) : made[j]);
                else edge_store(ends, e, made[j], p, q, to, count);
                SX_WALK(to, column);
                SX_WALK(p, (ptrdiff_t)e->row[0]);
                SX_WALK(q, (ptrdiff_t)e->row[1]);
            }
        }
    }
}

#define TRANSFORMS(size) \
    static __attribute__((noinline)) void input_##size(const sx_conv *v, const char *x, int64_t h, int64_t w, float *to, ptrdiff_t plane) { input_tile(size, v, x, h, w, to, plane); } \
    static __attribute__((noinline)) void output_##size(const float *from, ptrdiff_t plane, int64_t features, int ends, const sx_end *e, float *y, ptrdiff_t row, ptrdiff_t column, int rows, int cols) { \
        output_tile(size, from, plane, features, ends, e, y, row, column, rows, cols); \
    }
TRANSFORMS(4)
TRANSFORMS(2)

/* ---- blocks ---- */
static sx_gemm gemm_of(const job *j) {
    return (sx_gemm){.m = j->tiles, .n = j->v->m, .k = j->v->c, .a_row = j->v->c, .a_col = 1, .a_dtype = SX_FLOAT, .b_dtype = SX_FLOAT, .b_packed = 1};
}

/* The row of tiles a block begins at; of the one after the last, the image's last or beyond. */
static int64_t first_row(const job *j, int64_t block) { return block <= j->whole ? block * j->rows : j->whole * j->rows + (block - j->whole) * ((j->down - j->whole * j->rows + 1) / 2); }

SX_SMALL static job job_of(const sx_conv *v) {
    job j = {.v = v, .size = v->wv->packing - SX_PACK_WINOGRAD};
    j.edge = j.size + 2, j.down = sx_ceil_div(v->out[1], j.size), j.across = sx_ceil_div(v->out[2], j.size);
    j.shared = v->n * j.edge * j.edge * j.down * j.across * v->c <= SHARED && v->m > 64;
    int64_t wanted = j.shared ? j.down * j.across : sx_max64(12, sx_min64(TILES, (640 << 10) / (4 * j.edge * j.edge * v->c)));
    j.col_blocks = sx_ceil_div(j.across, wanted), j.cols = sx_ceil_div(j.across, j.col_blocks), j.col_blocks = sx_ceil_div(j.across, j.cols);
    j.rows = sx_max64(1, wanted / j.cols);
    j.row_blocks = sx_ceil_div(j.down, j.rows), j.rows = sx_ceil_div(j.down, j.row_blocks), j.row_blocks = sx_ceil_div(j.down, j.rows);
    int64_t blocks = v->n * j.row_blocks * j.col_blocks;
    j.feature_blocks = sx_max64(sx_ceil_div(v->m, FEATURES), sx_min64(sx_ceil_div(v->m, 64), sx_ceil_div(LEAST, blocks)));
    j.features = sx_round_up(sx_ceil_div(v->m, j.feature_blocks), 32);
    j.feature_blocks = sx_ceil_div(v->m, j.features);
    j.whole = j.row_blocks;
    if (SPLIT && !j.shared && blocks * j.feature_blocks % 2 && blocks * j.feature_blocks < 2 * LEAST && first_row(&j, j.row_blocks - 1) + 2 <= j.down) j.whole--, j.row_blocks++; /* of an odd few one of two workers would do one more */
    j.tiles = j.rows * j.cols;
    j.plane_v = sx_round_up(j.tiles * v->c, 32) + 16, j.plane_m = sx_round_up(j.tiles * j.features, 32) + 16; /* an odd number of lines: planes fall into different cache sets */
    j.in_place = sx_sum_of(v->call, 1, &j.sum);
    return j;
}

static int64_t shared_floats(const job *j) { return j->shared ? j->v->n * j->edge * j->edge * j->plane_v : 0; }
static int64_t block_floats(const job *j) { return j->in_place ? 0 : sx_round_up(j->rows * j->size * j->cols * j->size * j->features, 16); }

/* Tiles [from, to) of a block that begins at tile (row, col). */
static void transform(const job *j, int64_t image, int64_t row, int64_t col, int64_t cols, int64_t from, int64_t to, float *inputs) {
    const sx_conv *v = j->v;
    const char *x = v->xv->data + image * v->xn * sx_size_of(v->xv->dtype);
    for (int64_t i = from; i < to; i++) (j->size == 4 ? input_4 : input_2)(v, x, (row + i / cols) * j->size - v->p[1], (col + i % cols) * j->size - v->p[2], inputs + i * v->c, (ptrdiff_t)j->plane_v);
}

/* A line of tiles of an image that is one block. */
static void share(void *arg, int64_t index, int worker) {
    const job *j = arg;
    int64_t image = index / j->rows, line = index % j->rows;
    (void)worker;
    transform(j, image, 0, 0, j->cols, line * j->cols, (line + 1) * j->cols, (float *)j->v->call->scratch + image * j->edge * j->edge * j->plane_v);
}

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    const sx_conv *v = j->v;
    int64_t feature = index % j->feature_blocks * j->features, features = sx_min64(j->features, v->m - feature), place = index / j->feature_blocks;
    int64_t col = place % j->col_blocks * j->cols, row_block = place / j->col_blocks % j->row_blocks, row = first_row(j, row_block), image = place / j->col_blocks / j->row_blocks;
    int64_t cols = sx_min64(j->cols, j->across - col), rows = sx_min64(first_row(j, row_block + 1), j->down) - row, edge2 = j->edge * j->edge;
    float *own = (float *)(v->call->scratch + worker * v->call->scratch_bytes), *inputs = j->shared ? (float *)v->call->scratch + image * edge2 * j->plane_v : own;
    float *sums = own + (j->shared ? shared_floats(j) : edge2 * j->plane_v), *block = sums + edge2 * j->plane_m;
    char *scratch = (char *)(block + block_floats(j));
    if (!j->shared) transform(j, image, row, col, cols, 0, rows * cols, inputs);
    sx_gemm g = gemm_of(j);
    sx_coming coming = sx_coming_of(v->call, index, v->n * j->row_blocks * j->col_blocks * j->feature_blocks);
    g.coming = &coming;
    for (int64_t at = 0; at < edge2; at++) {
        g.a = (const char *)(inputs + at * j->plane_v);
        g.b = v->wv->data + 4 * at * sx_round_up(v->m, SX_PANEL) * v->c;
        SX_NAME(sx_gemm_block)(&g, 0, rows * cols, feature, features, sums + at * j->plane_m, j->features, scratch);
    }
    int64_t h = row * j->size, w = col * j->size, lines = sx_min64(rows * j->size, v->out[1] - h), pixels = sx_min64(cols * j->size, v->out[2] - w);
    int64_t down = j->in_place ? v->ys[1] : pixels * features, across = j->in_place ? v->ys[2] : features;
    float *y = j->in_place ? (float *)v->yv->data + image * v->yn + h * v->ys[1] + w * v->ys[2] + feature : block;
    int64_t start[SX_RANK] = {image, feature, h, w};
    sx_end whole = sx_place_sum(v->call, &j->sum, start, 3, 2);
    int ends = j->in_place && !sx_sum_is_nothing(&j->sum);
    for (int64_t i = 0; i < rows * cols; i++) {
        int64_t a = i / cols * j->size, b = i % cols * j->size;
        sx_end end = whole;
        for (int o = 0; o < SX_SUM_OPERANDS; o++) end.data[o] += a * end.line[o] + b * end.row[o];
        (j->size == 4 ? output_4 : output_2)(sums + i * j->features, (ptrdiff_t)j->plane_m, features, ends, &end, y + a * down + b * across, (ptrdiff_t)down, (ptrdiff_t)across, (int)(lines - a), (int)(pixels - b));
    }
    for (int64_t line = 0; line < lines && !j->in_place; line++)
        sx_conv_finish(v, block + line * pixels * features, (image * v->out[1] + h + line) * v->out[2] + w, pixels, feature, features, features);
}

int64_t SX_NAME(sx_winograd_scratch)(const sx_conv *v) {
    job j = job_of(v);
    sx_gemm g = gemm_of(&j);
    return 4 * (j.edge * j.edge * ((j.shared ? v->n : 1) * j.plane_v + j.plane_m) + block_floats(&j)) + SX_NAME(sx_gemm_scratch)(&g, j.tiles, j.features);
}

int SX_NAME(sx_winograd)(const sx_conv *v) {
    job j = job_of(v);
    for (int i = 1; i < 3; i++)
        if (v->k[i] != 3 || v->s[i] != 1 || v->d[i] != 1 || v->group != 1 || v->spatial != 2 || v->transposed) return sx_fail(v->call, SX_E_UNSUPPORTED, 1, v->k[i], v->s[i]);
    if (j.shared && !sx_tiles(v->call, v->n * j.rows, share, &j)) return SX_OK;
    sx_tiles(v->call, v->n * j.row_blocks * j.col_blocks * j.feature_blocks, tile_of, &j);
    return SX_OK;
}
