/* copy.c: strided moves and padding. Bytes are moved, never looked at.

   How to think
   - Mode 0 (dims equal): axes are ordered by the output's strides and merged where both sides allow. If the last axis is dense on both sides, rows are copied; if the input is dense along another
     axis, blocks of 16 × 64 are transposed so that both sides use whole cache lines; else elements one by one.
   - Long rows of large copies are written past the caches (x86: streaming stores).
   - Padding modes walk the output's rows: what lies inside is copied, the ends follow the mode. */
#include "sx_expr.h"
#include "sx_rows.h"
#if defined(__AVX__)
#include <immintrin.h>
#endif

#define WORK 65536 /* bytes a task should move at least */
#define STREAM (1 << 20) /* bytes from which a copy of long rows goes past the caches */

/* A long row past the caches: what is written is not read before it is written, which would be a third of the traffic, and does not push out what is in use. */
static void stream_row(char *y, const char *x, int64_t bytes) {
#if defined(__AVX512F__)
    int64_t head = sx_min64(bytes, (int64_t)(-(uintptr_t)y % 64)), i = head;
    __builtin_memcpy(y, x, (uint64_t)head);
    for (; i + 64 <= bytes; i += 64) _mm512_stream_si512((void *)(y + i), _mm512_loadu_si512(x + i));
    __builtin_memcpy(y + i, x + i, (uint64_t)(bytes - i));
#elif defined(__AVX__)
    int64_t head = sx_min64(bytes, (int64_t)(-(uintptr_t)y % 32)), i = head;
    __builtin_memcpy(y, x, (uint64_t)head);
    for (; i + 32 <= bytes; i += 32) _mm256_stream_si256((__m256i *)(y + i), _mm256_loadu_si256((const __m256i *)(x + i)));
    __builtin_memcpy(y + i, x + i, (uint64_t)(bytes - i));
#else
    __builtin_memcpy(y, x, (uint64_t)bytes);
#endif
}

static void fill_row(char *y, int64_t ys, const char *value, int64_t n, int64_t item) { copy_row(y, ys, value, 0, n, item); }

/* 4 × 4 elements of four bytes. */
typedef uint32_t four __attribute__((vector_size(16)));
typedef uint32_t four_any __attribute__((vector_size(16), aligned(4), may_alias));
static inline void transpose_4(uint32_t *y, ptrdiff_t yr, const uint32_t *x, ptrdiff_t xc) {
    four a = *(const four_any *)x, b = *(const four_any *)(x + xc), c = *(const four_any *)(x + 2 * xc), d = *(const four_any *)(x + 3 * xc);
    four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(four_any *)y = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), *(four_any *)(y + yr) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *(four_any *)(y + 2 * yr) = __builtin_shufflevector(ef, gh, 0, 1, 4, 5), *(four_any *)(y + 3 * yr) = __builtin_shufflevector(ef, gh, 2, 3, 6, 7);
}

#ifdef __wasm__ /* few registers, and a shuffle is 18 bytes: blocks of 4 × 4 only */
/* Three columns, dense rows: the colours of an image. */
static int64_t interleave_3(uint32_t *y, const uint32_t *x, int64_t xc, int64_t rows) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4, y += 12) {
        four a = *(const four_any *)(x + r), b = *(const four_any *)(x + xc + r), c = *(const four_any *)(x + 2 * xc + r);
        four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ba = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        *(four_any *)y = __builtin_shufflevector(ab, c, 0, 1, 4, 2), *(four_any *)(y + 4) = __builtin_shufflevector(__builtin_shufflevector(ab, ba, 3, 3, 4, 5), c, 0, 5, 2, 3);
        *(four_any *)(y + 8) = __builtin_shufflevector(ba, c, 6, 2, 3, 7);
    }
    return r;
}
#else
typedef uint32_t lanes __attribute__((vector_size(64)));
typedef uint32_t lanes_any __attribute__((vector_size(64), aligned(4), may_alias));
#define MIX(...) __builtin_shufflevector(a, b, __VA_ARGS__)
/* 16 × 16 elements of four bytes: each cache line of either side is touched once. Four rounds exchange blocks of 8, 4, 2 and 1 lanes between rows that far apart. */
#define SWAP(k, low, high) for (int i = 0; i < 16; i++) if (!(i & k)) { lanes a = v[i], b = v[i + k]; v[i] = MIX low, v[i + k] = MIX high; }
static void transpose_16(uint32_t *y, int64_t yr, const uint32_t *x, int64_t xc) {
    lanes v[16];
    for (int i = 0; i < 16; i++) v[i] = *(const lanes_any *)(x + i * xc);
    SWAP(8, (0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23), (8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    SWAP(4, (0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27), (4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    SWAP(2, (0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29), (2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    SWAP(1, (0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30), (1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
    for (int i = 0; i < 16; i++) *(lanes_any *)(y + i * yr) = v[i];
}

/* Three columns, dense rows: the colours of an image. 16 rows at a time: first two colours meet, then the third. */
static int64_t interleave_3(uint32_t *y, const uint32_t *x, int64_t xc, int64_t rows) {
    int64_t r = 0;
    for (; r + 16 <= rows; r += 16, y += 48) {
        lanes a = *(const lanes_any *)(x + r), b = *(const lanes_any *)(x + xc + r), third = *(const lanes_any *)(x + 2 * xc + r);
        lanes low = MIX(0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5), mid = MIX(21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26), high = MIX(0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0);
        b = third;
        a = low, *(lanes_any *)y = MIX(0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15);
        a = mid, *(lanes_any *)(y + 16) = MIX(0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15);
        a = high, *(lanes_any *)(y + 32) = MIX(26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31);
    }
    return r;
}
#endif

static void transpose_words(char *y, int64_t yr, const char *x, int64_t xc, int64_t rows, int64_t cols) {
    uint32_t *y_ = (uint32_t *)y;
    const uint32_t *x_ = (const uint32_t *)x;
    int64_t r = 0, c = 0;
    if (cols == 3 && yr == 3) {
        int64_t done = interleave_3(y_, x_, xc, rows);
        y_ += 3 * done, x_ += done, rows -= done;
    }
#ifndef __wasm__
    for (; c + 16 <= cols; c += 16) {
        for (r = 0; r + 16 <= rows; r += 16) transpose_16(y_ + r * yr + c, yr, x_ + c * xc + r, xc);
        for (; r < rows; r++) for (int k = 0; k < 16; k++) y_[r * yr + c + k] = x_[(c + k) * xc + r];
    }
#endif
    for (; c + 4 <= cols; c += 4) {
        uint32_t *to = y_ + c;
        const uint32_t *from = x_ + c * xc;
        for (r = 0; r + 4 <= rows; r += 4, to += 4 * (ptrdiff_t)yr, from += 4) transpose_4(to, (ptrdiff_t)yr, from, (ptrdiff_t)xc);
        for (; r < rows; r++) for (int k = 0; k < 4; k++) y_[r * yr + c + k] = x_[(c + k) * xc + r];
    }
    for (; c < cols; c++) for (r = 0; r < rows; r++) y_[r * yr + c] = x_[c * xc + r];
}

/* y[r][c] = x[c][r]: rows × cols of y, dense along its columns; x dense along its columns, which are y's rows. Eight columns at a time stay in registers. */
#define TRANSPOSE(T) { \
    const T *restrict x_ = (const T *)x; T *restrict y_ = (T *)y; \
    int64_t c = 0; \
    for (; c + 8 <= cols; c += 8) \
        for (int64_t r = 0; r < rows; r++) \
            for (int k = 0; k < 8; k++) y_[r * yr + c + k] = x_[(c + k) * xc + r]; \
    for (; c < cols; c++) for (int64_t r = 0; r < rows; r++) y_[r * yr + c] = x_[c * xc + r]; \
    return; }

static void transpose_block(char *y, int64_t yr, const char *x, int64_t xc, int64_t rows, int64_t cols, int64_t item) {
    switch (item) {
    case 1: TRANSPOSE(uint8_t)
    case 2: TRANSPOSE(uint16_t)
    case 4: transpose_words(y, yr, x, xc, rows, cols); return;
    case 8: TRANSPOSE(uint64_t)
    default: TRANSPOSE(wide)
    }
}

/* -- mode 0 ---------------------------------------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *x;
    char *y;
    int stream;                        /* rows go past the caches */
    int rank, flip;                    /* flip: the axis along which x is dense, where it is not the last; -1: none */
    int64_t item, dim[SX_RANK], xs[SX_RANK], ys[SX_RANK];
    int64_t rows, cols, down, across, per, tiles;
} walk;

static void merge_axes(walk *w, const sx_view *x, const sx_view *y) {
    int order[SX_RANK], n = axes_by_stride(y, order);
    for (int i = 0; i < n; i++) {
        int d = order[i], last = w->rank - 1;
        if (i && w->xs[last] == x->stride[d] * y->dim[d] && w->ys[last] == y->stride[d] * y->dim[d]) w->dim[last] *= y->dim[d];
        else last = w->rank++, w->dim[last] = y->dim[d];
        w->xs[last] = x->stride[d], w->ys[last] = y->stride[d];
    }
    if (!w->rank) w->rank = 1, w->dim[0] = w->xs[0] = w->ys[0] = 1;
}

static void cut(walk *w) {
    int last = w->rank - 1;
    w->flip = -1;
    if (w->ys[last] == 1 && w->xs[last] != 1) for (int d = 0; d < last; d++) if (w->xs[d] == 1) w->flip = d;
    int other = w->flip >= 0 ? w->flip : last - 1;
    int64_t cols = w->dim[last], rows = other >= 0 ? w->dim[other] : 1, outer = 1;
    for (int d = 0; d < last; d++) if (d != other) outer *= w->dim[d];
    w->cols = w->flip >= 0 ? sx_min64(cols, 64) : sx_min64(cols, sx_ceil_div(WORK, w->item));
    w->rows = w->flip >= 0 ? sx_min64(rows, sx_max64(64, 4096 / w->cols)) : sx_min64(rows, sx_max64(1, WORK / (w->item * w->cols)));
    w->across = sx_ceil_div(cols, w->cols), w->down = sx_ceil_div(rows, w->rows);
    w->tiles = outer * w->down * w->across;
    w->per = sx_ceil_div(WORK, w->rows * w->cols * w->item);
}

static void copy_tile(const walk *w, int64_t tile) {
    int last = w->rank - 1, other = w->flip >= 0 ? w->flip : last - 1;
    int64_t col, row, xat, yat;
    /* Transposed blocks go down first: their input rows are read on. */
    col = tile % w->across * w->cols, tile /= w->across, row = tile % w->down * w->rows, tile /= w->down;
    xat = col * w->xs[last], yat = col * w->ys[last];
    if (other >= 0) xat += row * w->xs[other], yat += row * w->ys[other];
    for (int d = last - 1; d >= 0; d--) {
        if (d == other) continue;
        int64_t at = tile % w->dim[d];
        tile /= w->dim[d];
        xat += at * w->xs[d], yat += at * w->ys[d];
    }
    int64_t cols = sx_min64(w->cols, w->dim[last] - col), rows = other >= 0 ? sx_min64(w->rows, w->dim[other] - row) : 1;
    const char *x = w->x + xat * w->item;
    char *y = w->y + yat * w->item;
    if (w->stream && w->ys[last] == 1 && w->xs[last] == 1) for (int64_t r = 0; r < rows; r++) stream_row(y + (other < 0 ? 0 : r * w->ys[other] * w->item), x + (other < 0 ? 0 : r * w->xs[other] * w->item), cols * w->item);
    else if (w->flip >= 0) transpose_block(y, w->ys[other], x, w->xs[last], rows, cols, w->item);
    else for (int64_t r = 0; r < rows; r++) copy_row(y + (other < 0 ? 0 : r * w->ys[other] * w->item), w->ys[last], x + (other < 0 ? 0 : r * w->xs[other] * w->item), w->xs[last], cols, w->item);
}

/* Small blocks of one outer axis, one after the other (a channel shuffle): finding each would cost more than moving it. */
static void copy_blocks(const walk *w, int64_t first, int64_t end) {
    int last = w->rank - 1, outer = w->flip == 0 ? 1 : 0;
    const char *x = w->x + first * w->xs[outer] * w->item;
    char *y = w->y + first * w->ys[outer] * w->item;
    for (int64_t i = first; i < end; i++, x += w->xs[outer] * w->item, y += w->ys[outer] * w->item) transpose_block(y, w->ys[w->flip], x, w->xs[last], w->rows, w->cols, w->item);
}

static void copy_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const walk *w = arg;
    int64_t end = sx_min64(w->tiles, (task + 1) * w->per);
    if (w->rank == 3 && w->flip >= 0 && w->down == 1 && w->across == 1) {
        copy_blocks(w, task * w->per, end);
        return;
    }
    for (int64_t tile = task * w->per; tile < end; tile++) copy_tile(w, tile);
#if defined(__AVX__)
    if (w->stream) _mm_sfence();
#endif
}

/* -- padding ------------------------------------------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const sx_call *call;
    const char *fill;
    int inner;                         /* the axis rows run along: where the output is densest */
    int64_t item, rows, per;
} pad;

/* Where position i - begin of an axis of n lies; -1: outside (mode 1). */
static int64_t source(int64_t i, int64_t n, int mode) {
    if (i >= 0 && i < n) return i;
    if (mode == 1) return -1;
    if (mode == 3) return i < 0 ? 0 : n - 1;
    if (mode == 4) return (i % n + n) % n;
    int64_t period = n > 1 ? 2 * (n - 1) : 1, at = (i % period + period) % period;
    return at >= n ? period - at : at;
}

static void pad_row(const pad *p, int64_t row) {
    const sx_view *x = p->call->in, *y = p->call->out;
    int mode = (int)p->call->param[0], inside = 1;
    const int64_t *begin = p->call->param + 1;
    int64_t xat = 0, yat = 0, item = p->item;
    for (int d = y->rank - 1; d >= 0; d--) {
        if (d == p->inner) continue;
        int64_t at = row % y->dim[d], from = source(at - begin[d], x->dim[d], mode);
        row /= y->dim[d];
        inside &= from >= 0;
        xat += from * x->stride[d], yat += at * y->stride[d];
    }
    int64_t n = y->rank ? y->dim[p->inner] : 1, have = y->rank ? x->dim[p->inner] : 1, b = y->rank ? begin[p->inner] : 0, xs = y->rank ? x->stride[p->inner] : 0, ys = y->rank ? y->stride[p->inner] : 1;
    char *to = y->data + yat * item;
    if (!inside) {
        fill_row(to, ys, p->fill, n, item);
        return;
    }
    const char *from = x->data + xat * item;
    int64_t first = sx_min64(sx_max64(b, 0), n), last = sx_max64(first, sx_min64(n, b + have)); /* [first, last) lies inside */
    if (last > first) copy_row(to + first * ys * item, ys, from + (first - b) * xs * item, xs, last - first, item);
    if (mode == 1) {
        fill_row(to, ys, p->fill, first, item);
        fill_row(to + last * ys * item, ys, p->fill, n - last, item);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        if (i == first) i = last;
        if (i < n) copy_row(to + i * ys * item, 1, from + source(i - b, have, mode) * xs * item, 1, 1, item);
    }
}

static void pad_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const pad *p = arg;
    int64_t end = sx_min64(p->rows, (task + 1) * p->per);
    for (int64_t row = task * p->per; row < end; row++) pad_row(p, row);
}

static int run_pad(const sx_call *call) {
    static const wide zero;
    const sx_view *y = call->out;
    pad p = {.call = call, .fill = call->n_in > 1 && call->in[1].dtype ? call->in[1].data : (const char *)&zero, .item = sx_element_bytes(y->dtype), .rows = 1};
    for (int d = 0; d < y->rank; d++) if (y->dim[d] > 1 && (y->dim[p.inner] == 1 || sx_magnitude(y->stride[d]) <= sx_magnitude(y->stride[p.inner]))) p.inner = d;
    for (int d = 0; d < y->rank; d++) if (d != p.inner) p.rows *= y->dim[d];
    p.per = sx_max64(1, WORK / (p.item * (y->rank ? y->dim[p.inner] : 1)));
    sx_tiles(call, sx_ceil_div(p.rows, p.per), pad_task, &p);
    return 0;
}

int64_t SX_NAME(sx_scratch_copy)(const sx_call *call) {
    (void)call;
    return 0;
}

/* Whether the elements are where they are to be: a cache that is bound as input and output. */
static int is_there(const sx_call *call) {
    const sx_view *x = call->in, *y = call->out;
    int same = x->data == y->data && x->rank == y->rank && x->dtype == y->dtype;
    for (int d = 0; same && d < y->rank; d++) same = x->dim[d] == y->dim[d] && (x->stride[d] == y->stride[d] || y->dim[d] == 1) && (!call->param[0] || !call->param[1 + d]);
    return same;
}

int SX_NAME(sx_k_copy)(const sx_call *call) {
    const sx_view *x = call->in, *y = call->out;
    for (int d = 0; d < y->rank; d++) if (!y->dim[d]) return 0;
    if (is_there(call)) return 0;
    if (call->param[0]) return run_pad(call);
    walk w = {.x = x->data, .y = y->data, .item = sx_element_bytes(y->dtype)};
    merge_axes(&w, x, y);
    cut(&w);
    int64_t bytes = w.item;
    for (int d = 0; d < w.rank; d++) bytes *= w.dim[d];
    w.stream = bytes >= STREAM && w.item * w.dim[w.rank - 1] >= 4096;
    sx_tiles(call, sx_ceil_div(w.tiles, w.per), copy_task, &w);
    return 0;
}
