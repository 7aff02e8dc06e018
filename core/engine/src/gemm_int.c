/* gemm_int.c: the integer matrix product of gemm_int.h. Micro-tiles of 12 × 32 sums (AVX-512), 6 × 16 (AVX2), K blocks of 256 words.
   Measured on one core of a Zen 4 (peak 440 to 469 GOP/s with VNNI), 1024³, u8 · s8, output in place: 420 GOP/s, 90 %; 128 × 768 × 768: 455 in the kernel; AVX2 (16-bit products): 145. */
#include "gemm_int.h"
#include "sx_amx.h"

#define KW 256 /* words of a K block */
#define AT_ONCE 8 /* rows of A widened at once */
#ifdef __wasm__ /* 4 × 8: 88 GOP/s in V8, 2 × 16 as fast (WASM.md says why not more) */
#define MR 4
#define NV 2
#define SHARING 1
#define A_WORD(i) (a + 4 * (i))
#define TILED 1 /* a tile's rows of A lie word by word, so that tiles follow one another in one stream: nothing can be asked for ahead */
#else /* as the float product */
#define MR SX_MR
#define NV SX_NV
#define SHARING 3 /* rows share a pointer: x86 addresses p, p + rs and p + 2 rs */
#define TILED 0
#define A_WORD(i) (group[(i) / SHARING] + (i) % SHARING * rs)
#endif
#define NR (NV * SX_GW)                   /* columns of a micro-tile */
#define WIDE (NR > SX_PANEL ? NR : SX_PANEL) /* whole panels a micro-tile needs */

/* ---- micro-tile: R rows of words, V registers of columns. Starts at `base` (one row for all; NULL: 0) or adds to C. `last` lanes of the last register are stored;
   of a tile that is always whole, `last` columns of `rows` rows. ---- */
#if TILED
#define OF_ROWS , int64_t rows
#else
#define OF_ROWS
#endif
#if NR <= SX_PANEL
#define B_AT(v) ((v) * SX_GW) /* a plain constant: WebAssembly's loads take it as their offset */
#else
#define B_AT(v) ((v) * SX_GW / SX_PANEL * ps + (v) * SX_GW % SX_PANEL)
#endif
SX_INLINE void micro(const int R, const int V, const int S, const uint8_t *a, int64_t rs, const int32_t *b, int64_t ps, int64_t words, int32_t *c, int64_t ldc, const int32_t *base, int add, int last OF_ROWS) {
    sx_i acc[MR][NV];
    (void)ps;
#if TILED
    (void)rs;
#else
    const uint8_t *group[(MR + SHARING - 1) / SHARING];
    SX_UNROLL for (int g = 0; g < (R + SHARING - 1) / SHARING; g++) {
        group[g] = a + SHARING * g * rs;
        __asm__("" : "+r"(group[g])); /* or the compiler keeps one pointer a row and runs out of registers */
    }
#endif
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] = base ? sx_iload(base + v * SX_GW) : sx_isplat(0);
    const int32_t *end = b + words * SX_PANEL;
    _Pragma("clang loop unroll(disable)") for (; b < end; b += SX_PANEL) {
        sx_i bv[NV];
        SX_UNROLL for (int v = 0; v < V; v++) bv[v] = sx_iload(b + B_AT(v));
        SX_UNROLL for (int v = 0; v < V; v += SX_PANEL / SX_GW) __builtin_prefetch(b + B_AT(v) + 8 * SX_PANEL);
        SX_UNROLL for (int i = 0; i < R; i++) {
            sx_i x = sx_word_splat(A_WORD(i));
            SX_UNROLL for (int v = 0; v < V; v++) acc[i][v] = sx_dot(acc[i][v], x, bv[v], S);
        }
#if TILED
        a += 4 * MR;
#else
        SX_UNROLL for (int g = 0; g < (R + SHARING - 1) / SHARING; g++) {
            group[g] += 4;
            __asm__("" : "+r"(group[g]));
        }
#endif
    }
#if TILED
    if (rows < R || last < V * SX_GW) {
        for (int i = 0; i < (rows < R ? rows : R); i++)
            for (int j = 0; j < last; j++) c[i * ldc + j] = (add ? c[i * ldc + j] : 0) + acc[i][j / SX_GW][j % SX_GW];
        return;
    }
    last = SX_GW;
#endif
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < V; v++) {
            int32_t *to = c + i * ldc + v * SX_GW;
            if (v == V - 1 && last != SX_GW) sx_istore_part(to, add ? sx_iload_part(to, last) + acc[i][v] : acc[i][v], last);
            else sx_istore(to, add ? sx_iload(to) + acc[i][v] : acc[i][v]);
        }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "sx_int_pairs.h"
#define micro micro_pairs
#endif

#if TILED
/* All rows of one K block for `cols` ≤ NR columns: whole tiles, and for one row, which may be all there is, that. */
static void column(int b_signed, const uint8_t *a, int64_t rs, int64_t rows, const int32_t *b, int64_t ps, int64_t words, int64_t cols, int32_t *c, int64_t ldc, const int32_t *base, int add) {
    (void)b_signed;
    for (; rows > 1; rows -= MR, a += MR * rs, c += MR * ldc) micro(MR, NV, 0, a, rs, b, ps, words, c, ldc, base, add, (int)cols, rows);
    if (rows == 1) micro(1, NV, 0, a, rs, b, ps, words, c, ldc, base, add, (int)cols, 1);
}
#else
/* `tiles` micro-tiles, one below the other: with few words a call takes as long as a tile. */
typedef void (*micro_fn)(int64_t tiles, const uint8_t *a, int64_t rs, const int32_t *b, int64_t ps, int64_t words, int32_t *c, int64_t ldc, const int32_t *base, int add, int last);
#define MICRO(R, V, S) \
    static void micro_##R##_##V##_##S(int64_t tiles, const uint8_t *a, int64_t rs, const int32_t *b, int64_t ps, int64_t words, int32_t *c, int64_t ldc, const int32_t *base, int add, int last) { \
        for (; tiles > 0; tiles--, a += R * rs, c += R * ldc) micro(R, V, S, a, rs, b, ps, words, c, ldc, base, add, last); }
#if NV == 4
#define MICROS_(R, S) MICRO(R, 1, S) MICRO(R, 2, S) MICRO(R, 3, S) MICRO(R, 4, S)
#define ROW(R, S) {micro_##R##_1_##S, micro_##R##_2_##S, micro_##R##_3_##S, micro_##R##_4_##S}
#else
#define MICROS_(R, S) MICRO(R, 1, S) MICRO(R, 2, S)
#define ROW(R, S) {micro_##R##_1_##S, micro_##R##_2_##S}
#endif
#if SX_DEPTH == 4 /* who is signed matters only there */
#define MICROS(R) MICROS_(R, 0) MICROS_(R, 1)
#define SIGNS 2
#else
#define MICROS(R) MICROS_(R, 0)
#define SIGNS 1
#endif
MICROS(1) MICROS(2)
#if MR >= 4
MICROS(3) MICROS(4)
#endif
#if MR >= 5
MICROS(5)
#endif
#if MR >= 6
MICROS(6)
#endif
#if MR >= 12
MICROS(7) MICROS(8) MICROS(9) MICROS(10) MICROS(11) MICROS(12)
#endif
#if MR >= 12
#define ROWS(S) {ROW(1, S), ROW(2, S), ROW(3, S), ROW(4, S), ROW(5, S), ROW(6, S), ROW(7, S), ROW(8, S), ROW(9, S), ROW(10, S), ROW(11, S), ROW(12, S)}
#elif MR >= 6
#define ROWS(S) {ROW(1, S), ROW(2, S), ROW(3, S), ROW(4, S), ROW(5, S), ROW(6, S)}
#elif MR >= 5
#define ROWS(S) {ROW(1, S), ROW(2, S), ROW(3, S), ROW(4, S), ROW(5, S)}
#elif MR >= 4
#define ROWS(S) {ROW(1, S), ROW(2, S), ROW(3, S), ROW(4, S)}
#else
#define ROWS(S) {ROW(1, S), ROW(2, S)}
#endif
static const micro_fn MICRO_OF[SIGNS][MR][NV] = {
    ROWS(0),
#if SIGNS == 2
    ROWS(1),
#endif
};

/* All rows of one K block for `cols` ≤ NR columns, in micro-tiles of nearly the same height. */
static void column(int b_signed, const uint8_t *a, int64_t rs, int64_t rows, const int32_t *b, int64_t ps, int64_t words, int64_t cols, int32_t *c, int64_t ldc, const int32_t *base, int add) {
    int v = (int)sx_ceil_div(cols, SX_GW), last = (int)cols - (v - 1) * SX_GW;
    int64_t tiles = sx_ceil_div(rows, MR), high = sx_ceil_div(rows, tiles), low = high - 1, n = low ? rows - tiles * low : tiles;
    const micro_fn(*of)[NV] = MICRO_OF[SIGNS == 2 && b_signed];
    if (n) of[high - 1][v - 1](n, a, rs, b, ps, words, c, ldc, base, add, last);
    if (n < tiles) of[low - 1][v - 1](tiles - n, a + n * high * rs, rs, b, ps, words, c + n * high * ldc, ldc, base, add, last);
}
#endif

#if SX_DEPTH == 2
void SX_NAME(sx_iwords)(const uint8_t *a, int64_t rs, int64_t rows, const int32_t *b, int64_t words, int32_t *c, int64_t ldc) {
    for (int x = 0; x < SX_PANEL; x += NR) column(0, a, rs, rows, b + x, 0, words, sx_min64(NR, SX_PANEL - x), c + x, ldc, 0, 0);
}
#endif

/* ---- operands ---- */
static int64_t words_of(const sx_igemm *g) { return sx_ceil_div(g->k, 4); }      /* of a packed panel */
static int64_t panel_bytes(const sx_igemm *g) { return words_of(g) * 4 * SX_PANEL; }
static int64_t row_bytes(const sx_igemm *g) { return (SX_DEPTH == 4 ? sx_round_up(g->k, 64) : sx_round_up(2 * g->k, 64)) + 64; } /* of a copied row; no two rows in the same cache sets */

/* Whether A's bytes go in as they lie: whole words and the sign that is wanted; for AMX any signs, and the rest of the last 64 is copied. */
static int uses_amx(const sx_igemm *g, int64_t mc) { return sx_amx() && mc >= 8 && g->k >= 16; }
static int flips(const sx_igemm *g, int amx) { return SX_DEPTH == 4 && !amx && !g->a_signed != !SX_A_SIGNED(g->b_signed); }
static int direct(const sx_igemm *g, int amx) { return SX_DEPTH == 4 && !g->rows && (g->a_col == 1 || g->k == 1) && (amx || (g->k % 4 == 0 && !flips(g, 0))); }

static void copy_bytes(uint8_t *to, const uint8_t *from, int64_t n) {
    int64_t i = 0;
    for (; i + 4 * SX_GW <= n; i += 4 * SX_GW) sx_istore(to + i, sx_iload(from + i));
#if defined(__AVX512BW__)
    if (i < n) _mm512_mask_storeu_epi8(to + i, ((__mmask64)1 << (n - i)) - 1, _mm512_maskz_loadu_epi8(((__mmask64)1 << (n - i)) - 1, from + i));
#else
    for (; i < n; i++) to[i] = from[i];
#endif
}

static void copy_rows(const sx_igemm *g, int64_t row, int64_t rows, uint8_t *to, int64_t ld) {
    if (g->rows) {
        g->rows(g->rows_source, row, rows, to, ld);
        return;
    }
    const uint8_t *a = g->a + row * g->a_row;
    if (g->a_col == 1) for (int64_t i = 0; i < rows; i++) copy_bytes(to + i * ld, a + i * g->a_row, g->k);
    else if (g->a_row == 1) for (int64_t k = 0; k < g->k; k++) for (int64_t i = 0; i < rows; i++) to[i * ld + k] = a[k * g->a_col + i];
    else for (int64_t i = 0; i < rows; i++) for (int64_t k = 0; k < g->k; k++) to[i * ld + k] = a[i * g->a_row + k * g->a_col];
}

#if SX_DEPTH == 2
/* Words of four bytes become two of two numbers: (k, k + 2) and (k + 1, k + 3), which takes shifts only. A and B are both in that order. `flip` makes unsigned bytes signed ones, less 128. */
typedef struct { sx_h even, odd; } halves;
SX_INLINE sx_i flip_of(int is_signed) { return sx_isplat(is_signed ? 0 : (int32_t)0x80808080); }
SX_INLINE halves split(const uint8_t *p, sx_i flip) {
    sx_h v = (sx_h)(sx_iload(p) ^ flip);
    return (halves){v << 8 >> 8, v >> 8};
}

/* Of a row of A: less its zero point. The last word has zeros from K, `left` bytes on; words after it are never read. */
SX_INLINE halves split_row(const uint8_t *p, sx_i flip, sx_h zero, int64_t left) {
    halves x = split(p, flip);
    x.even -= zero, x.odd -= zero;
    if (left < 4 * SX_GW && left % 4) {
        static const int16_t kept[4 * SX_GW] = {[0 ... 2 * SX_GW - 1] = -1};
        x.even &= (sx_h)sx_iload(kept + 2 * SX_GW - (left + 1) / 2), x.odd &= (sx_h)sx_iload(kept + 2 * SX_GW - left / 2);
    }
    return x;
}
SX_INLINE sx_h row_zero(const sx_igemm *g, int64_t row) { return (sx_h){0} + (int16_t)(sx_zero_at(g->za, g->za_step, g->a_signed, row) - (g->a_signed ? 0 : 128)); }

#if TILED
/* Up to MR = 4 rows of bytes, less their zero points, as words that alternate; what missing rows hold does not matter. */
static void widen_tile(const sx_igemm *g, const uint8_t *bytes, int64_t ld, int64_t row, int rows, int16_t *to) {
    sx_h zero[MR], even[MR], odd[MR];
    sx_i flip = flip_of(g->a_signed);
    for (int r = 0; r < MR; r++) zero[r] = row_zero(g, row + (r < rows ? r : 0));
    for (int64_t k = 0; k < g->k; k += 16) {
        SX_UNROLL for (int r = 0; r < MR; r++) {
            halves x = split_row(bytes + (r < rows ? r : 0) * ld + k, flip, zero[r], g->k - k);
            even[r] = x.even, odd[r] = x.odd;
        }
        sx_words_spread(even, to + k * MR, 4 * MR), sx_words_spread(odd, to + k * MR + 2 * MR, 4 * MR);
    }
}
#else
static void widen_row(const sx_igemm *g, const uint8_t *bytes, int64_t row, int16_t *to) {
    sx_i flip = flip_of(g->a_signed);
    for (int64_t k = 0; k < g->k; k += 4 * SX_GW) {
        halves x = split_row(bytes + k, flip, row_zero(g, row), g->k - k);
        sx_i a = (sx_i)x.even, b = (sx_i)x.odd;
#if SX_GW == 8
        sx_istore(to + k, __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)), sx_istore(to + k + 16, __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15));
#else
        sx_istore(to + k, __builtin_shufflevector(a, b, 0, 4, 1, 5)), sx_istore(to + k + 8, __builtin_shufflevector(a, b, 2, 6, 3, 7));
#endif
    }
}
#endif
#endif

/* Rows of words: bytes with one sign or the other, or 16-bit numbers less the zero point. `bytes` has room for AT_ONCE rows of bytes. */
static void copy_words(const sx_igemm *g, int64_t row, int64_t rows, int flip, uint8_t *to, int64_t ld, uint8_t *bytes) {
#if SX_DEPTH == 4
    (void)bytes;
    copy_rows(g, row, rows, to, ld);
    if (flip) for (int64_t i = 0; i < rows; i++) for (int64_t k = 0; k < g->k; k += 4 * SX_GW) sx_istore(to + i * ld + k, sx_iload(to + i * ld + k) ^ sx_isplat((int32_t)0x80808080));
#else
    (void)flip;
    int64_t bytes_ld = sx_round_up(g->k, 64);
    for (int64_t i = 0; i < rows; i += AT_ONCE) {
        int64_t count = sx_min64(AT_ONCE, rows - i);
        copy_rows(g, row + i, count, bytes, bytes_ld);
#if TILED
        for (int64_t x = 0; x < count; x += MR) widen_tile(g, bytes + x * bytes_ld, bytes_ld, row + i + x, (int)sx_min64(MR, count - x), (int16_t *)(void *)(to + (i + x) * ld));
#else
        for (int64_t x = 0; x < count; x++) widen_row(g, bytes + x * bytes_ld, row + i + x, (int16_t *)(to + (i + x) * ld));
#endif
    }
#endif
}

/* 16 rows of K, 4 at a time, as a panel: bytes of four rows alternate. */
typedef uint8_t b16 __attribute__((vector_size(16)));
typedef uint8_t b16_any __attribute__((vector_size(16), aligned(1), may_alias));
SX_INLINE void interleave(const uint8_t *from, int64_t row, uint8_t *to) {
    b16 r0 = *(const b16_any *)from, r1 = *(const b16_any *)(from + row), r2 = *(const b16_any *)(from + 2 * row), r3 = *(const b16_any *)(from + 3 * row);
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(x, y) __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
    b16 a = LOW(r0, r2), b = LOW(r1, r3), c = HIGH(r0, r2), d = HIGH(r1, r3);
    *(b16_any *)to = LOW(a, b), *(b16_any *)(to + 16) = HIGH(a, b), *(b16_any *)(to + 32) = LOW(c, d), *(b16_any *)(to + 48) = HIGH(c, d);
}

/* The panel of columns from n as packed ones lie; bytes beyond K and N are 0. */
static void copy_panel(const sx_igemm *g, int64_t n, uint8_t *to) {
    int64_t cols = sx_min64(SX_PANEL, g->n - n), k = 0;
    const uint8_t *b = g->b + n * g->b_col;
    if (cols < SX_PANEL || g->k % 4 || g->panel) for (int64_t i = 0; i < panel_bytes(g); i++) to[i] = 0;
    if (g->panel) {
        g->panel(g->panel_source, n, cols, to);
        return;
    }
    if (g->b_col == 1 && cols == SX_PANEL) for (; k + 4 <= g->k; k += 4) interleave(b + k * g->b_row, g->b_row, to + k * SX_PANEL);
    if (g->b_row == 1)
        for (; k + 4 <= g->k; k += 4)
            for (int64_t j = 0; j < cols; j++) ((sx_word *)(to + k * SX_PANEL))[j] = *(const sx_word *)(b + k + j * g->b_col);
    for (; k < g->k; k++)
        for (int64_t j = 0; j < cols; j++) to[k / 4 * 64 + j * 4 + k % 4] = b[k * g->b_row + j * g->b_col];
}

#if SX_DEPTH == 2
SX_INLINE void widen_words(const int ZERO, const uint8_t *panel, int64_t words, sx_i flip, const int16_t *zero, int16_t *to) {
    for (int64_t w = 0; w < words; w++, panel += 4 * SX_PANEL, to += 4 * SX_PANEL)
        SX_UNROLL for (int j = 0; j < SX_PANEL; j += SX_GW) {
            halves x = split(panel + 4 * j, flip);
            if (ZERO) x.even -= (sx_h)sx_iload(zero + 2 * j), x.odd -= (sx_h)sx_iload(zero + 2 * j);
            sx_istore(to + 2 * j, (sx_i)x.even), sx_istore(to + 2 * SX_PANEL + 2 * j, (sx_i)x.odd);
        }
}

/* `count` words of two 16-bit numbers, from the one `at` on, of a byte panel, less the zero points of its columns. Both are even. */
static __attribute__((noinline)) void widen_panel(const sx_igemm *g, const uint8_t *panel, int64_t n, int64_t at, int64_t count, int16_t *to) {
    int16_t zero[2 * SX_PANEL];
    int any = 0;
    for (int j = 0; j < 2 * SX_PANEL; j++) any |= zero[j] = (int16_t)((n + j / 2 < g->n ? sx_zero_at(g->zb, g->zb_step, g->b_signed, n + j / 2) : 0) - (g->b_signed ? 0 : 128));
    if (any) widen_words(1, panel + at / 2 * 4 * SX_PANEL, count / 2, flip_of(g->b_signed), zero, to);
    else widen_words(0, panel + at / 2 * 4 * SX_PANEL, count / 2, flip_of(g->b_signed), zero, to);
}
#endif

/* ---- corrections of byte products ---- */
#if SX_DEPTH == 4
#define LANES (SX_PANEL / SX_GW) /* registers of a panel's row */
static void sum_columns(const uint8_t *panel, int64_t words, int b_signed, int32_t *to) {
    enum { STEPS = 8 / LANES }; /* at once */
    sx_i sum[STEPS][LANES], ones = sx_isplat(0x01010101);
    int64_t w = 0;
    SX_UNROLL for (int u = 0; u < STEPS; u++) SX_UNROLL for (int v = 0; v < LANES; v++) sum[u][v] = sx_isplat(0);
    for (; w + STEPS <= words; w += STEPS)
        SX_UNROLL for (int u = 0; u < STEPS; u++)
            SX_UNROLL for (int v = 0; v < LANES; v++) sum[u][v] = sx_dot(sum[u][v], ones, sx_iload(panel + (w + u) * 64 + v * 4 * SX_GW), b_signed);
    for (; w < words; w++) SX_UNROLL for (int v = 0; v < LANES; v++) sum[0][v] = sx_dot(sum[0][v], ones, sx_iload(panel + w * 64 + v * 4 * SX_GW), b_signed);
    SX_UNROLL for (int v = 0; v < LANES; v++) {
        SX_UNROLL for (int half = STEPS / 2; half; half /= 2) SX_UNROLL for (int u = 0; u < half; u++) sum[u][v] += sum[u + half][v];
        sx_istore(to + v * SX_GW, sum[0][v]);
    }
}

static int32_t sum_row(const uint8_t *a, int64_t k, int is_signed) {
    int32_t sum = 0;
    if (is_signed) for (int64_t i = 0; i < k; i++) sum += (int8_t)a[i];
    else for (int64_t i = 0; i < k; i++) sum += a[i];
    return sum;
}
#endif

int SX_NAME(sx_igemm_summed)(const sx_call *call) {
    int at = call->kind == SX_MATMUL && SX_DEPTH == 4 ? 1 : call->kind == SX_RNN && call->n_in > 8 && call->in[8].dtype ? 2 : -1;
    if (at < 0 || call->in[at].packing != 1 || call->in[at].rank != 2 || (call->in[at].dtype != SX_INT8 && call->in[at].dtype != SX_UINT8)) return -1;
    return at == 2 || call->in[0].dtype == SX_INT8 || call->in[0].dtype == SX_UINT8 ? at : -1;
}

/* With pairs of 16 bits, which every ISA has: signed bytes plus 128 are unsigned ones. */
void SX_NAME(sx_igemm_sums)(const sx_view *b, int32_t *to) {
    int64_t words = sx_ceil_div(b->dim[0], 4);
    int is_signed = b->dtype == SX_INT8;
    sx_i flip = sx_isplat((int32_t)0x80808080), part = sx_isplat(0x00ff00ff), pair = sx_isplat(0x00010001);
    for (int64_t n = 0; n < b->dim[1]; n += SX_PANEL)
        for (int v = 0; v < SX_PANEL; v += SX_GW) {
            sx_i sum = sx_isplat(0);
            for (int64_t k = 0; k < words; k++) {
                sx_i w = sx_iload((const uint8_t *)b->data + ((n * words + k * SX_PANEL) + v) * 4);
                if (is_signed) w ^= flip;
                sum = sx_dot16(sx_dot16(sum, w & part, pair), (w >> 8) & part, pair);
            }
            sx_istore(to + n + v, is_signed ? sum - (int32_t)(512 * words) : sum);
        }
}

/* ---- few rows: B is read once, for products and column sums; U steps of K at once, each with its own accumulators, hide the latency of the additions ---- */
#define FEW 4
#if SX_DEPTH == 4
SX_INLINE void few_panel(const int R, const int U, const int S, const int SUM, const uint8_t *a, int64_t rs, const uint8_t *panel, int64_t words, int32_t *c, int64_t ldc, int cols, int32_t *sums) {
    sx_i acc[FEW][8][LANES], sum[8][LANES], ones = sx_isplat(0x01010101);
    SX_UNROLL for (int u = 0; u < U; u++)
        SX_UNROLL for (int v = 0; v < LANES; v++) {
            sum[u][v] = sx_isplat(0);
            SX_UNROLL for (int i = 0; i < R; i++) acc[i][u][v] = sx_isplat(0);
        }
    int64_t w = 0;
    for (; w + U <= words; w += U)
        SX_UNROLL for (int u = 0; u < U; u++) {
            __builtin_prefetch(panel + (w + u) * 64 + 2048);
            SX_UNROLL for (int v = 0; v < LANES; v++) {
                sx_i b = sx_iload(panel + (w + u) * 64 + v * 4 * SX_GW);
                if (SUM) sum[u][v] = sx_dot(sum[u][v], ones, b, S);
                SX_UNROLL for (int i = 0; i < R; i++) acc[i][u][v] = sx_dot(acc[i][u][v], sx_isplat(((const sx_word *)(a + i * rs))[w + u]), b, S);
            }
        }
    for (; w < words; w++)
        SX_UNROLL for (int v = 0; v < LANES; v++) {
            sx_i b = sx_iload(panel + w * 64 + v * 4 * SX_GW);
            if (SUM) sum[0][v] = sx_dot(sum[0][v], ones, b, S);
            SX_UNROLL for (int i = 0; i < R; i++) acc[i][0][v] = sx_dot(acc[i][0][v], sx_isplat(((const sx_word *)(a + i * rs))[w]), b, S);
        }
    SX_UNROLL for (int v = 0; v < LANES; v++) {
        SX_UNROLL for (int u = 1; u < U; u++) {
            sum[0][v] += sum[u][v];
            SX_UNROLL for (int i = 0; i < R; i++) acc[i][0][v] += acc[i][u][v];
        }
        if (SUM) sx_istore(sums + v * SX_GW, sum[0][v]);
        int left = cols - v * SX_GW;
        SX_UNROLL for (int i = 0; i < R; i++) {
            if (LANES > 1 && left >= SX_GW) sx_istore(c + i * ldc + v * SX_GW, acc[i][0][v]);
            else if (left > 0) sx_istore_part(c + i * ldc + v * SX_GW, acc[i][0][v], left);
        }
    }
}

#if SX_GW == 16
#define STEPS_FOR(one, more) more
#else
#define STEPS_FOR(one, more) one
#endif
#define FEW_ROWS(R, U) \
    if (sums && S) few_panel(R, U, 1, 1, a, rs, panel, words, c, ldc, cols, sums); \
    else if (sums) few_panel(R, U, 0, 1, a, rs, panel, words, c, ldc, cols, sums); \
    else if (S) few_panel(R, U, 1, 0, a, rs, panel, words, c, ldc, cols, 0); \
    else few_panel(R, U, 0, 0, a, rs, panel, words, c, ldc, cols, 0);
static void few_rows(int rows, int S, const uint8_t *a, int64_t rs, const uint8_t *panel, int64_t words, int32_t *c, int64_t ldc, int cols, int32_t *sums) {
    if (rows == 1) { FEW_ROWS(1, STEPS_FOR(2, 8)) }
    else if (rows == 2) { FEW_ROWS(2, STEPS_FOR(2, 4)) }
    else if (rows == 3) { FEW_ROWS(3, STEPS_FOR(1, 4)) }
    else { FEW_ROWS(4, STEPS_FOR(1, 4)) }
}
#endif

static int all_zero(const sx_igemm *g) {
    if (g->zb && g->zb_step == 0) return sx_zero_at(g->zb, 0, 0, 0) == 0;
    for (int64_t j = 0; g->zb && j < g->n; j++) if (g->zb[j * g->zb_step]) return 0;
    return 1;
}

/* ---- rectangles ---- */
typedef struct {
    const sx_igemm *g;
    int amx, flip, direct;
    const uint8_t *a;          /* rows of words */
    int64_t rs;
    const uint8_t *edge, *tails; /* AMX: the last rows, whole; the last K of the others */
    uint8_t *panels;           /* byte panels of a strip, where B is not packed */
    int16_t *wide;             /* a K block of one panel, widened */
    int16_t *split;            /* sums of A, and room for those of B */
    int32_t *block;
    char *sink;
    int32_t shift;             /* what flipping added to A */
    int simple;                /* one za, no zb */
} work;

static int64_t aligned64(int64_t bytes) { return sx_round_up(bytes, 64); }
static int64_t wide_words(const sx_igemm *g) { return SX_DEPTH == 4 ? 0 : sx_min64(KW + KW / 4, words_of(g) * 2) * WIDE; }

static int gathers(const sx_igemm *g, int amx) { return g->sink || (amx && sx_amx_blocks(g->k) > 1); } /* a strip's sums lie in scratch first */

static int64_t k_words(const sx_igemm *g) { /* a K block, in words; even, so that it starts with a packed word */
    int64_t words = words_of(g) * 4 / SX_DEPTH, blocks = sx_max64(1, sx_ceil_div(words, KW + KW / 4));
    return sx_max64(2, sx_min64(sx_round_up(words, 2), sx_round_up(sx_ceil_div(words, blocks), 16)));
}

#if TILED
#include "sx_int_strassen.h"
#else
static int64_t split_bytes(const sx_igemm *g, int64_t mc) { return (void)g, (void)mc, 0; }
#endif

int64_t SX_NAME(sx_igemm_scratch)(const sx_igemm *g, int64_t mc, int64_t nc) {
    (void)nc;
    int amx = uses_amx(g, mc);
    int64_t a = direct(g, 0) && !amx ? 0 : sx_round_up(mc, 16) * row_bytes(g);
    if (amx && direct(g, 1)) a = sx_max64(a, mc * 64 + 16 * row_bytes(g)); /* where A lies decides */
    int64_t bytes = SX_DEPTH == 4 ? 0 : AT_ONCE * sx_round_up(g->k, 64);
    int64_t panels = g->b_packed ? 0 : SX_STRIP / SX_PANEL * aligned64(panel_bytes(g));
    return aligned64(a) + aligned64(bytes) + panels + aligned64(4 * wide_words(g)) + (gathers(g, amx) ? sx_round_up(mc, 32) * SX_STRIP * 4 : 0) + aligned64(g->sink_scratch) + split_bytes(g, mc);
}

/* The columns [n, n + cols) of a strip by micro-tiles. `panel`: the first byte panel. */
static void vector_strip(const work *w, int64_t mc, int64_t n, int64_t cols, const uint8_t *panel, int64_t ps, int32_t *c, int64_t ldc, const int32_t *base) {
    const sx_igemm *g = w->g;
    int64_t kw = k_words(g), words = words_of(g) * 4 / SX_DEPTH;
#if TILED
    if (split_strip(w, mc, n, cols, panel, ps, c, ldc)) return;
#endif
    for (int64_t j = 0; j < cols; j += WIDE)
        for (int64_t at = 0; at < words || at == 0; at += kw) {
            int64_t count = sx_min64(kw, words - at), wide = sx_min64(WIDE, cols - j);
            const int32_t *b = (const int32_t *)(const void *)(panel + j / SX_PANEL * ps) + at * SX_PANEL;
            int64_t step = ps / 4;
#if SX_DEPTH == 2
            step = wide_words(g) / (WIDE / SX_PANEL);
            for (int64_t p = 0; p < wide; p += SX_PANEL) widen_panel(g, panel + (j + p) / SX_PANEL * ps, n + j + p, at, count, w->wide + p / SX_PANEL * step * 2);
            b = (const int32_t *)(const void *)w->wide;
#endif
            for (int64_t x = 0; x < wide; x += NR)
                column(g->b_signed, w->a + at * 4 * (TILED ? MR : 1), w->rs, mc, b + x / SX_PANEL * step + x % SX_PANEL, step, count, sx_min64(NR, wide - x), c + j + x, ldc, base && at == 0 ? base + j + x : 0, at > 0);
        }
}

/* C -= za Σ b + zb (Σ a - K za), row by row. */
static void correct(const work *w, int64_t m0, int64_t mc, int64_t n, int64_t cols, const int32_t *sums, int32_t *c, int64_t ldc) {
#if SX_DEPTH == 4
    const sx_igemm *g = w->g;
    int32_t zb[SX_STRIP];
    int a_signed = w->flip ? !g->a_signed : g->a_signed;
    for (int64_t j = 0; j < cols; j++) zb[j] = sx_zero_at(g->zb, g->zb_step, g->b_signed, n + j);
    for (int64_t i = 0; i < mc; i++) {
        int32_t za = sx_zero_at(g->za, g->za_step, g->a_signed, m0 + i) + w->shift;
        const uint8_t *row = w->amx && i >= mc / 16 * 16 ? w->edge + (i - mc / 16 * 16) * row_bytes(g) : w->a + i * w->rs;
        int32_t rest = g->zb ? sum_row(row, g->k, a_signed) - (int32_t)g->k * za : 0;
        for (int64_t j = 0; j < cols; j++) c[i * ldc + j] -= za * sums[j] + zb[j] * rest;
    }
#else
    (void)w, (void)m0, (void)mc, (void)n, (void)cols, (void)sums, (void)c, (void)ldc;
#endif
}

static void strip(const work *w, int64_t m0, int64_t mc, int64_t n, int64_t cols) {
    const sx_igemm *g = w->g;
    int64_t ps = panel_bytes(g), ldc = g->sink ? SX_STRIP : g->ldc;
    const uint8_t *panel = g->b + n / SX_PANEL * ps;
    int32_t made[SX_STRIP] = {0}, base[SX_STRIP], *c = g->sink ? w->block : g->c + m0 * g->ldc + n;
    if (!g->b_packed) {
        ps = aligned64(ps), panel = w->panels;
        for (int64_t j = 0; j < cols; j += SX_PANEL) copy_panel(g, n + j, w->panels + j / SX_PANEL * ps);
    }
    int32_t za = sx_zero_at(g->za, 0, g->a_signed, 0) + w->shift;
    int shifted = SX_DEPTH == 4 && (!w->simple || za);
    const int32_t *sums = g->sums ? g->sums + n : made;
    int based = shifted && w->simple;
#if SX_DEPTH == 4
    if (mc <= FEW) {
        for (int64_t j = 0; j < cols; j += SX_PANEL)
            few_rows((int)mc, g->b_signed, w->a, w->rs, panel + j / SX_PANEL * ps, words_of(g), c + j, ldc, (int)sx_min64(SX_PANEL, cols - j), shifted && !g->sums ? made + j : 0);
        if (shifted) correct(w, m0, mc, n, cols, sums, c, ldc);
        if (g->sink) g->sink(g->sink_arg, c, m0, mc, n, cols, ldc, w->sink);
        return;
    }
    if (shifted && !g->sums) for (int64_t j = 0; j < cols; j += SX_PANEL) sum_columns(panel + j / SX_PANEL * ps, words_of(g), g->b_signed, made + j);
    if (based) for (int64_t j = 0, known = g->sums ? sx_round_up(cols, SX_PANEL) : SX_STRIP; j < SX_STRIP; j++) base[j] = j < known ? -za * sums[j] : 0;
#endif
    if (w->amx) sx_amx_strip(&(sx_amx_job){w->a, w->rs, w->tails, w->edge, row_bytes(g), panel, ps, based ? base : 0, c, ldc, mc, cols, g->k, !g->sink, gathers(g, 1) && !g->sink ? w->block : 0, g->a_signed, g->b_signed});
    else vector_strip(w, mc, n, cols, panel, ps, c, ldc, based ? base : 0);
    if (shifted && !based) correct(w, m0, mc, n, cols, sums, c, ldc);
    if (g->sink) g->sink(g->sink_arg, c, m0, mc, n, cols, ldc, w->sink);
}

void SX_NAME(sx_igemm_run)(const sx_igemm *g, int64_t m0, int64_t mc, int64_t n0, int64_t nc, char *scratch) {
    work w = {.g = g, .amx = uses_amx(g, mc), .rs = g->a_row};
    w.flip = flips(g, w.amx);
    /* Rows of tiles that lie across cache lines cost more than a copy for many columns. */
    w.direct = direct(g, w.amx) && !(w.amx && nc >= 2 * SX_STRIP && ((uintptr_t)g->a | (uintptr_t)g->a_row) % 64);
    w.shift = !w.flip ? 0 : g->a_signed ? 128 : -128;
    w.simple = SX_DEPTH == 2 || ((!g->za || g->za_step == 0) && all_zero(g));
    if (gathers(g, w.amx)) w.block = (int32_t *)scratch, scratch += sx_round_up(mc, 32) * SX_STRIP * 4;
    w.sink = scratch, scratch += aligned64(g->sink_scratch);
    if (!g->b_packed) w.panels = (uint8_t *)scratch, scratch += SX_STRIP / SX_PANEL * aligned64(panel_bytes(g));
    w.wide = (int16_t *)scratch, scratch += aligned64(4 * wide_words(g));
    w.split = (int16_t *)scratch, scratch += split_bytes(g, mc);
    uint8_t *bytes = (uint8_t *)scratch;
    if (SX_DEPTH == 2) scratch += AT_ONCE * sx_round_up(g->k, 64);
    uint8_t *copied = (uint8_t *)scratch;
    int64_t ld = row_bytes(g);
    if (w.direct) w.a = g->a + m0 * g->a_row;
    else w.a = copied, w.rs = ld, w.edge = copied + mc / 16 * 16 * ld;
    if (!w.direct && !(g->held && *g->held == g->key)) {
        copy_words(g, m0, mc, w.flip, copied, ld, bytes);
#if TILED
        if (split_k(g, mc)) split_a(g, copied, mc, w.split);
#endif
    }
    if (g->held) *g->held = w.direct ? 0 : g->key;
    if (w.amx && w.direct) {
        if (g->k % 64) {
            w.tails = copied;
            for (int64_t i = 0; i < mc / 16 * 16; i++) {
                for (int x = 0; x < 64; x += 4 * SX_GW) sx_istore(copied + i * 64 + x, sx_isplat(0));
                copy_bytes(copied + i * 64, w.a + i * w.rs + g->k / 64 * 64, g->k % 64);
            }
            copied += mc * 64;
        }
        w.edge = copied;
        for (int64_t i = 0; i < mc % 16; i++) copy_bytes(copied + i * ld, w.a + (mc / 16 * 16 + i) * w.rs, g->k);
    }
    if (w.amx) sx_amx_begin();
    for (int64_t j = 0; j < nc; j += SX_STRIP) strip(&w, m0, mc, n0 + j, sx_min64(SX_STRIP, nc - j));
    if (w.amx) sx_amx_end();
}

sx_igemm_cut SX_NAME(sx_igemm_cut_for)(const sx_igemm *g, int64_t batch) {
    enum { WANTED = 12, LEAST = SX_DEPTH == 4 ? 1 << 21 : 1 << 19, MOST = SX_DEPTH == 4 ? 1 << 29 : 1 << 28, A_BYTES = 1 << 18 }; /* rectangles for a large product, the least and the most multiplications of one, bytes of rows */
    int64_t tall = sx_max64(64, sx_min64(384, (g->rows ? A_BYTES : 2 * A_BYTES) / sx_max64(g->k, 1)) / 32 * 32);
    sx_igemm_cut cut = {sx_min64(g->m, tall), sx_min64(g->n, 2048), 1, 1};
    if (g->m == 0 || g->n == 0) return cut;
    for (;;) { /* rows first where A is gathered: then that is done once. Else columns: then panels of B serve many rows */
        cut.mc = sx_min64(cut.mc, sx_round_up(sx_ceil_div(g->m, sx_ceil_div(g->m, cut.mc)), 32));
        cut.nc = sx_min64(cut.nc, sx_round_up(sx_ceil_div(g->n, sx_ceil_div(g->n, cut.nc)), SX_STRIP));
        int64_t rectangles = batch * sx_ceil_div(g->m, cut.mc) * sx_ceil_div(g->n, cut.nc);
        if ((rectangles >= WANTED && cut.mc * cut.nc * g->k <= MOST) || cut.mc * cut.nc * sx_max64(g->k, 1) < 2 * LEAST) break;
        int rows_can = cut.mc >= 96, columns_can = cut.nc >= 2 * SX_STRIP;
        if (rows_can && (!columns_can || (g->rows ? cut.mc > cut.nc / 8 : cut.mc > 4 * cut.nc))) cut.mc /= 2;
        else if (columns_can) cut.nc = sx_round_up(cut.nc / 2, SX_STRIP);
        else break;
    }
#if TILED
    if (!g->rows && split_k(g, cut.mc)) cut.nc = sx_min64(cut.nc, SX_STRIP); /* a worker makes A's sums once all the same, and who is late at the end is so by less */
#endif
    cut.down = sx_ceil_div(g->m, cut.mc);
    cut.across = sx_ceil_div(g->n, cut.nc);
    return cut;
}
