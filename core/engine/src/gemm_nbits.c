/* gemm_nbits.c: out[M, N] = A[M, K] times the transpose of weights kept in 4 or 8 bits, in blocks along K with a scale and a zero point each (kind MATMUL with `bits`; matmul.c sends them here).
   Measured on one core of a Zen 4, 4 bits, blocks of 32, level 4: M = 1, 32000 × 768 26 GB/s from memory; M = 1, 4096² 42 GB/s from the last cache; M = 128, 768² 187 GOP/s.
   In V8 (relaxed): M = 1, 32000 × 768 21 GB/s from memory, 768² 118 GOP/s.

   How to think
   - Packed weights are panels of 16 columns × u32: a word holds 8 or 4 neighbours of one column along K. A block is some words; what belongs to a block is a row of 16 scales and one of 16 zeros.
   - Level 4: a block of A becomes bytes with one scale (its largest magnitude is 127); products of bytes are summed exactly, then Σ over blocks of scale · scale · (Σ a q - zero Σ a).
   - Otherwise weights become floats in registers: Σ over blocks of scale · (Σ a q - zero Σ a). With many rows a panel of floats is made and the float product (gemm.h) takes it.
   - A tile of rows keeps its A widened, or quantised, in scratch; panels stream by once for each GROUP of rows. */
#include "gemm_int.h"

enum { BITS = 2, BLOCK, SCALES, ZEROS, LEVEL }; /* parameters */
#define FEW 4        /* rows up to which weights become floats in registers */
#if SX_DEPTH == 4 /* 32 registers */
#define GROUP 12     /* rows that share an unpacked word */
#else
#define GROUP 4
#endif
#define TALL 96      /* rows of a tile */
#if SX_DEPTH == 4 || defined(__SSSE3__)
#define BYTES 1      /* there is a product of unsigned and signed bytes, or of signed ones */
#define PAIRS 0
#elif defined(__wasm_simd128__)
#define BYTES 1
#define PAIRS 1      /* there is one of pairs of 16-bit integers: a block of A becomes such */
#else
#define BYTES 0
#define PAIRS 0
#endif
#if defined(__ARM_FEATURE_DOTPROD)
#define FLIPS 1      /* weights of 8 bits become signed: 128 less */
#else
#define FLIPS 0
#endif
#define A_BYTES (1 + PAIRS) /* of an element of quantised A */
#if defined(__wasm_relaxed_simd__)
#define NIBBLES 1    /* and one of signed bytes and up to 7 bits: with 4 bits, half of a word's room in A is used */
#else
#define NIBBLES 0
#endif
#define LANES (SX_PANEL / SX_GW) /* registers of a panel */

typedef struct {
    const sx_call *call;
    const sx_view *a, *b, *s, *z, *y;
    int bits, level4, in_place;
    int64_t m, n, k, block, blocks, words, mc, nc, down, across; /* words: of a column; per block: words / blocks */
    int64_t *held; /* 1 + the first of the rows that a worker's scratch has A of */
} job;

static const sx_view *operand(const sx_call *call, int param) { return call->param[param] > 0 ? call->in + call->param[param] : 0; }

static job job_of(const sx_call *call) {
    job j = {.call = call, .a = call->in, .b = call->in + 1, .s = operand(call, SCALES), .z = operand(call, ZEROS), .y = call->out, .bits = (int)call->param[BITS], .block = call->param[BLOCK]};
    j.m = j.y->dim[0], j.n = j.y->dim[1], j.k = j.a->dim[1], j.blocks = j.b->dim[1], j.words = j.blocks * j.block * j.bits / 32;
    j.level4 = call->param[LEVEL] == 4 && BYTES && (SX_DEPTH == 4 || PAIRS || j.bits == 4); /* 8-bit weights would saturate in 16 bits */
    j.in_place = !call->epilogue && j.y->dtype == SX_FLOAT && (j.y->stride[1] == 1 || j.n == 1);
    enum { WANTED = 16, LEAST = 1 << 17 };
    int64_t tall = j.level4 || j.m <= FEW ? TALL : 2 * TALL;
    j.mc = sx_max64(1, sx_min64(j.m, tall)), j.nc = sx_round_up(sx_max64(j.n, 1), SX_PANEL);
    while (sx_ceil_div(j.m, j.mc) * sx_ceil_div(j.n, j.nc) < WANTED && j.mc * j.nc * j.k >= 2 * LEAST) {
        if (j.level4 && j.mc > 48) j.mc = sx_round_up(j.mc / 2, GROUP); /* rows are quantised for each tile */
        else if (j.nc >= 2 * SX_PANEL) j.nc = sx_round_up(j.nc / 2, SX_PANEL);
        else break;
    }
    j.down = sx_ceil_div(j.m, j.mc), j.across = sx_ceil_div(j.n, j.nc);
    return j;
}

/* ---- what belongs to blocks, as rows of 16 floats ---- */
static float scalar(const sx_view *v, int64_t at) { return sx_element(v->data, v->dtype, at); }

static const float *scales_of(const job *j, int64_t n, float *room) {
    const sx_view *s = j->s;
    if (s->packing) {
        int64_t at = n / SX_PANEL * j->blocks * SX_PANEL;
        if (s->dtype == SX_FLOAT) return (const float *)(const void *)s->data + at;
        sx_widen_row(s->data + at * 2, s->dtype, 1, j->blocks * SX_PANEL, room);
        return room;
    }
    for (int64_t c = 0; c < SX_PANEL; c++)
        for (int64_t i = 0; i < j->blocks; i++) room[i * SX_PANEL + c] = n + c < j->n ? scalar(s, (n + c) * s->stride[0] + i * s->stride[1]) : 0;
    return room;
}

/* 16 × 16 bytes, rows and columns changed: to[i][j] = from[j][i]. */
typedef uint8_t b16 __attribute__((vector_size(16)));
typedef uint8_t b16_any __attribute__((vector_size(16), aligned(1), may_alias));
static void transpose16(const uint8_t *const *from, b16 *to) {
    b16 x[16], y[16];
    for (int i = 0; i < 16; i++) x[i] = *(const b16_any *)from[i];
    for (int round = 0; round < 4; round++) { /* each interleaves row i with row i + 8: four times is the transposition */
        for (int i = 0; i < 8; i++) {
            y[2 * i] = __builtin_shufflevector(x[i], x[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int i = 0; i < 16; i++) x[i] = y[i];
    }
    for (int i = 0; i < 16; i++) to[i] = x[i];
}

static void zero_row(const uint8_t *from, float *to) {
    for (int c = 0; c < SX_PANEL; c += SX_GW) sx_fstore(to + c, __builtin_convertvector(sx_widen_bytes(from + c, 0), sx_f));
}

/* Zeros of a panel; where there are none, half of the range. `room` has blocks + 1 rows. */
static void zeros_of(const job *j, int64_t n, float *room) {
    const sx_view *z = j->z;
    if (!z || z->dtype != SX_UINT8) {
        for (int64_t c = 0; c < SX_PANEL; c++)
            for (int64_t i = 0; i < j->blocks; i++) room[i * SX_PANEL + c] = !z ? (float)(1 << (j->bits - 1)) : n + c < j->n ? scalar(z, (n + c) * z->stride[0] + i * z->stride[1]) : 0;
        return;
    }
    int64_t bytes = z->dim[1];
    const uint8_t *row[SX_PANEL];
    for (int64_t c = 0; c < SX_PANEL; c++) row[c] = (const uint8_t *)z->data + sx_min64(n + c, j->n - 1) * z->stride[0];
    int64_t i = 0;
    if (z->stride[1] == 1)
        for (; i + 16 <= bytes; i += 16) {
            const uint8_t *at[16];
            b16 turned[16];
            for (int c = 0; c < 16; c++) at[c] = row[c] + i;
            transpose16(at, turned);
            for (int x = 0; x < 16; x++) {
                if (j->bits == 8) { zero_row((const uint8_t *)(turned + x), room + (i + x) * SX_PANEL); continue; }
                b16 low = turned[x] & 15, high = turned[x] >> 4;
                if (2 * (i + x) < j->blocks) zero_row((const uint8_t *)&low, room + 2 * (i + x) * SX_PANEL);
                if (2 * (i + x) + 1 < j->blocks) zero_row((const uint8_t *)&high, room + (2 * (i + x) + 1) * SX_PANEL);
            }
        }
    for (; i < bytes; i++)
        for (int64_t c = 0; c < SX_PANEL; c++) {
            uint8_t x = row[c][i * z->stride[1]];
            if (j->bits == 8) room[i * SX_PANEL + c] = x;
            else {
                if (2 * i < j->blocks) room[2 * i * SX_PANEL + c] = x & 15;
                if (2 * i + 1 < j->blocks) room[(2 * i + 1) * SX_PANEL + c] = x >> 4;
            }
        }
}

/* The words of 16 columns from n: where they lie, or copied. */
static const int32_t *panel_of(const job *j, int64_t n, int32_t *room) {
    const sx_view *b = j->b;
    if (b->packing) return (const int32_t *)(const void *)b->data + n * j->words;
    int64_t in_block = j->block * j->bits / 8;
    for (int64_t c = 0; c < SX_PANEL; c++)
        for (int64_t i = 0; i < j->words * 4; i++)
            ((uint8_t *)room)[(i / 4 * SX_PANEL + c) * 4 + i % 4] = n + c < j->n ? ((const uint8_t *)b->data)[(n + c) * b->stride[0] + i / in_block * b->stride[1] + i % in_block * b->stride[2]] : 0;
    return room;
}

/* ---- A ---- */
/* Rows of floats, zeros from K to the end of the last block; and their sums, block by block. */
static void widen(const job *j, int64_t row, int64_t rows, float *to, float *sums) {
    int64_t ld = j->blocks * j->block, size = sx_size_of(j->a->dtype);
    for (int64_t i = 0; i < rows; i++) {
        sx_widen_row(j->a->data + (row + i) * j->a->stride[0] * size, j->a->dtype, j->a->stride[1], j->k, to + i * ld);
        for (int64_t x = j->k; x < ld; x++) to[i * ld + x] = 0;
        for (int64_t b = 0; sums && b < j->blocks; b++) {
            sx_f sum = sx_fsplat(0);
            for (int64_t x = 0; x < j->block; x += SX_GW) sum += sx_fload(to + i * ld + b * j->block + x);
            sums[i * j->blocks + b] = sx_fsum(sum);
        }
    }
}

SX_INLINE int32_t lanes_sum(sx_i v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = 0;
    for (int l = 0; l < SX_GW; l++) sum += v[l];
    return sum;
#endif
}
SX_INLINE sx_i larger(sx_i a, sx_i b) {
    sx_i mask = a > b;
    return (a & mask) | (b & ~mask);
}
SX_INLINE int32_t lanes_max(sx_i v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t most = v[0];
    for (int l = 1; l < SX_GW; l++) most = v[l] > most ? v[l] : most;
    return most;
#endif
}

/* One block as bytes: returns its scale; *sum becomes `times` the sum of the bytes. 4-bit weights unpack to even and odd neighbours, so those lie so here; where pairs are multiplied, half a
   word's neighbours apart. A block that holds infinity or NaN gets a scale of NaN. Magnitudes compare as the integers their bits are. */
static float quantise(const float *from, int64_t block, int bits, int8_t *to, int32_t *sum, int32_t times) {
    sx_i most = sx_isplat(0), total = sx_isplat(0);
    for (int64_t i = 0; i < block; i += SX_GW) most = larger(most, (sx_i)sx_fload(from + i) & 0x7fffffff);
    union { int32_t i; float f; } top = {lanes_max(most)};
    int good = top.i < 0x7f800000, small = top.f < 1e-36f; /* the inverse would overflow */
    sx_f inverse = sx_fsplat(good && !small ? 127 / top.f : 0);
#if PAIRS
    for (int64_t i = 0; i < block; i += 8) {
        sx_i low = sx_whole(__builtin_elementwise_roundeven(good ? sx_fload(from + i) * inverse : inverse)), high = sx_whole(__builtin_elementwise_roundeven(good ? sx_fload(from + i + 4) * inverse : inverse));
        sx_h x = (sx_h)wasm_i16x8_narrow_i32x4((v128_t)low, (v128_t)high);
        total += low + high;
#if NIBBLES
        if (bits == 4) {
            b16 bytes = (b16)wasm_i8x16_narrow_i16x8((v128_t)x, (v128_t)x);
            *(b16_any *)(to + 2 * i) = __builtin_shufflevector(bytes, bytes, 0, 2, 4, 6, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            continue;
        }
#endif
        sx_istore(to + 2 * i, (sx_i)(bits == 4 ? __builtin_shufflevector(x, x, 0, 4, 1, 5, 2, 6, 3, 7) : __builtin_shufflevector(x, x, 0, 2, 1, 3, 4, 6, 5, 7)));
    }
#else
    for (int64_t i = 0; i < block; i += SX_GW) {
        sx_i whole = __builtin_convertvector(__builtin_elementwise_roundeven(good ? sx_fload(from + i) * inverse : inverse), sx_i);
        total += whole;
        *(sx_b_any *)(to + i) = __builtin_convertvector(whole, sx_b);
    }
#endif
    *sum = lanes_sum(total) * times;
    if (bits == 4 && !PAIRS)
        for (int64_t i = 0; i < block; i += 16) {
            b16 x = *(const b16_any *)(to + i);
            *(b16_any *)(to + i) = __builtin_shufflevector(x, x, 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
        }
    return !good ? __builtin_nanf("") : small ? 0 : top.f / 127;
}

/* ---- level 4 ---- */
#if PAIRS
/* acc + products of a word's B-bit numbers with those of A at `a`, pair by pair; 4-bit ones by the relaxed byte product, which is exact up to 7 bits: four are below 2^13. */
SX_INLINE sx_i dot_word(const int B, sx_i acc, sx_i word, const int8_t *a) {
#if NIBBLES
    if (B == 4) {
        v128_t low = (v128_t)(word & 0x0f0f0f0f), high = (v128_t)((sx_i)((sx_fu)word >> 4) & 0x0f0f0f0f);
        v128_t two = wasm_i16x8_relaxed_dot_i8x16_i7x16((v128_t)sx_word_splat(a), low), more = wasm_i16x8_relaxed_dot_i8x16_i7x16((v128_t)sx_word_splat(a + 4), high);
        return acc + (sx_i)wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(two, more));
    }
#endif
    SX_UNROLL for (int p = 0; p < 16 / B; p++) acc = sx_dot16(acc, (sx_i)((sx_fu)word >> (B * p)) & (B == 4 ? 0x000f000f : 0x00ff00ff), sx_word_splat(a + 4 * p));
    return acc;
}
#elif BYTES
/* acc + products of unsigned bytes of B (FLIPS: signed ones) and signed ones of A, four by four. With 4 bits the sum of two is below 2^12: 16 bits hold it. */
SX_INLINE sx_i dot_bytes(sx_i acc, sx_i b, sx_i a) {
#if defined(__AVX512VNNI__)
    return (sx_i)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)b, (__m512i)a);
#elif defined(__ARM_FEATURE_DOTPROD)
    return (sx_i)vdotq_s32((int32x4_t)acc, (int8x16_t)b, (int8x16_t)a);
#elif defined(__AVX2__)
    return acc + (sx_i)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)b, (__m256i)a), _mm256_set1_epi16(1));
#else
    return acc + (sx_i)_mm_madd_epi16(_mm_maddubs_epi16((__m128i)b, (__m128i)a), _mm_set1_epi16(1));
#endif
}
#endif

#if BYTES
/* R rows × one register of columns, all blocks. */
SX_INLINE void bytes_panel(const int R, const int B, const int Z, const job *j, const int8_t *a, const float *scale, const int32_t *sum, const int32_t *panel, const float *scales, const float *zeros, float *c, int64_t ldc) {
    int64_t ld = j->blocks * j->block * A_BYTES, per = j->words / j->blocks;
    sx_f acc[GROUP];
    SX_UNROLL for (int i = 0; i < R; i++) acc[i] = sx_fsplat(0);
    for (int64_t b = 0; b < j->blocks; b++) {
        sx_i dot[GROUP];
        SX_UNROLL for (int i = 0; i < R; i++) dot[i] = sx_isplat(FLIPS && B == 8 ? (Z ? 128 * sum[i * j->blocks + b] : 0) : Z ? 0 : sum[i * j->blocks + b]); /* without zeros it is - 128 Σ a: what flipping does */
        const int8_t *at = a + b * j->block * A_BYTES;
        for (int64_t w = 0; w < per; w++, panel += SX_PANEL, at += 32 / B * A_BYTES) {
            sx_i word = sx_iload(panel);
#if PAIRS
            SX_UNROLL for (int i = 0; i < R; i++) dot[i] = dot_word(B, dot[i], word, at + i * ld);
#else
            __builtin_prefetch(panel + 1024);
            if (B == 8 && FLIPS) word ^= sx_isplat((int32_t)0x80808080);
            if (B == 8) SX_UNROLL for (int i = 0; i < R; i++) dot[i] = dot_bytes(dot[i], word, sx_isplat(*(const sx_word *)(at + i * ld)));
            else {
                sx_i low = word & 0x0f0f0f0f, high = (sx_i)((sx_fu)word >> 4) & 0x0f0f0f0f;
                SX_UNROLL for (int i = 0; i < R; i++) {
                    dot[i] = dot_bytes(dot[i], low, sx_isplat(*(const sx_word *)(at + i * ld)));
                    dot[i] = dot_bytes(dot[i], high, sx_isplat(*(const sx_word *)(at + i * ld + 4)));
                }
            }
#endif
        }
        sx_f s = sx_fload(scales + b * SX_PANEL), z = Z ? sx_fload(zeros + b * SX_PANEL) : sx_fsplat(0);
        SX_UNROLL for (int i = 0; i < R; i++) {
            sx_f x = __builtin_convertvector(dot[i], sx_f);
            if (Z) x -= z * sx_fsplat((float)sum[i * j->blocks + b]);
            acc[i] += x * (s * sx_fsplat(scale[i * j->blocks + b]));
        }
    }
    SX_UNROLL for (int i = 0; i < R; i++) sx_fstore(c + i * ldc, acc[i]);
}

#if NIBBLES
/* One row × a whole panel of 4 bits: its lines are read once, as they lie. Products of four words, 8 of them in a lane, fit 16 bits (8 · 15 · 127). */
static void nibbles_row(const job *j, const int8_t *a, const float *scale, const int32_t *sum, const int32_t *panel, const float *scales, const float *zeros, float *c) {
    enum { MOST = 4 };
    const int per = (int)(j->words / j->blocks), blocks = (int)j->blocks;
    sx_f acc[LANES];
    SX_UNROLL for (int v = 0; v < LANES; v++) acc[v] = sx_fsplat(0);
    for (int b = 0; b < blocks; b++, scales += SX_PANEL) {
        sx_f own = sx_fsplat(scale[b]);
        int32_t first = zeros ? 0 : sum[b];
        for (int left = per; left > 0; left -= MOST, first = 0) {
            sx_h dot[LANES];
            SX_UNROLL for (int v = 0; v < LANES; v++) dot[v] = (sx_h){0};
            for (const int8_t *end = a + (left < MOST ? left : MOST) * 8 * A_BYTES; a < end; a += 8 * A_BYTES, panel += SX_PANEL) {
                v128_t even = (v128_t)sx_word_splat(a), odd = (v128_t)sx_word_splat(a + 4);
                SX_UNROLL for (int v = 0; v < LANES; v++) {
                    sx_i word = sx_iload(panel + v * SX_GW);
                    dot[v] += (sx_h)wasm_i16x8_relaxed_dot_i8x16_i7x16(even, (v128_t)(word & 0x0f0f0f0f)) + (sx_h)wasm_i16x8_relaxed_dot_i8x16_i7x16(odd, (v128_t)((sx_i)((sx_fu)word >> 4) & 0x0f0f0f0f));
                }
            }
            SX_UNROLL for (int v = 0; v < LANES; v++)
                acc[v] += __builtin_convertvector((sx_i)wasm_i32x4_extadd_pairwise_i16x8((v128_t)dot[v]) + sx_isplat(first), sx_f) * (sx_fload(scales + v * SX_GW) * own);
        }
        if (zeros) SX_UNROLL for (int v = 0; v < LANES; v++) acc[v] -= sx_fload(zeros + b * SX_PANEL + v * SX_GW) * sx_fsplat((float)sum[b]) * (sx_fload(scales + v * SX_GW) * own);
    }
    SX_UNROLL for (int v = 0; v < LANES; v++) sx_fstore(c + v * SX_GW, acc[v]);
}
#endif

static void bytes_rows(const job *j, int64_t rows, const int8_t *a, const float *scale, const int32_t *sum, const int32_t *panel, const float *scales, const float *zeros, float *c, int64_t ldc) {
    int64_t ld = j->blocks * j->block * A_BYTES;
    for (int64_t i = 0; i < rows;) {
        int r = rows - i >= GROUP ? GROUP : rows - i >= 4 ? 4 : rows - i >= 2 && !PAIRS ? 2 : 1;
#if NIBBLES
        if (r == 1 && j->bits == 4) {
            nibbles_row(j, a + i * ld, scale + i * j->blocks, sum + i * j->blocks, panel, scales, j->z ? zeros : 0, c + i * ldc);
            i++;
            continue;
        }
#endif
        for (int v = 0; v < SX_PANEL; v += SX_GW) {
#define ROWS_OF(R, B, Z) bytes_panel(R, B, Z, j, a + i * ld, scale + i * j->blocks, sum + i * j->blocks, panel + v, scales + v, Z ? zeros + v : 0, c + i * ldc + v, ldc)
#if PAIRS /* fewer variants: in a module for the web bytes count */
#define ROWS(B, Z) (r == 1 && !(NIBBLES && B == 4) ? ROWS_OF(1, B, Z) : ROWS_OF(4, B, Z))
#else
#define ROWS(B, Z) (r == 1 ? ROWS_OF(1, B, Z) : r == 2 ? ROWS_OF(2, B, Z) : r == 4 ? ROWS_OF(4, B, Z) : ROWS_OF(GROUP, B, Z))
#endif
            if (j->bits == 4 && (zeros || PAIRS)) ROWS(4, 1);
            else if (j->bits == 4) ROWS(4, 0);
            else if (zeros || PAIRS) ROWS(8, 1);
            else ROWS(8, 0);
        }
        i += r;
    }
}
#endif

/* ---- floats ---- */
/* Neighbour i of each column's word. */
SX_INLINE sx_f unpacked(sx_i word, int i, const int B) { return __builtin_convertvector((sx_i)((sx_fu)word >> (i * B)) & ((1 << B) - 1), sx_f); }

SX_INLINE void floats_panel(const int R, const int B, const job *j, const float *a, const float *sum, const int32_t *panel, const float *scales, const float *zeros, float *c, int64_t ldc) {
    int64_t ld = j->blocks * j->block, per = j->words / j->blocks;
    sx_f acc[FEW];
    SX_UNROLL for (int i = 0; i < R; i++) acc[i] = sx_fsplat(0);
    for (int64_t b = 0; b < j->blocks; b++) {
        sx_f dot[FEW][2];
        SX_UNROLL for (int i = 0; i < R; i++) dot[i][0] = dot[i][1] = sx_fsplat(0);
        const float *at = a + b * j->block;
        for (int64_t w = 0; w < per; w++, panel += SX_PANEL, at += 32 / B) {
            sx_i word = sx_iload(panel);
            SX_UNROLL for (int k = 0; k < 32 / B; k++) {
                sx_f q = unpacked(word, k, B);
                SX_UNROLL for (int i = 0; i < R; i++) dot[i][k % 2] += q * sx_fsplat(at[i * ld + k]);
            }
        }
        sx_f s = sx_fload(scales + b * SX_PANEL), z = sx_fload(zeros + b * SX_PANEL);
        SX_UNROLL for (int i = 0; i < R; i++) acc[i] += s * (dot[i][0] + dot[i][1] - z * sx_fsplat(sum[i * j->blocks + b]));
    }
    SX_UNROLL for (int i = 0; i < R; i++) sx_fstore(c + i * ldc, acc[i]);
}

static void floats_rows(const job *j, int64_t rows, const float *a, const float *sum, const int32_t *panel, const float *scales, const float *zeros, float *c, int64_t ldc) {
    if (PAIRS && rows > 1 && rows < 4) {
        for (int64_t i = 0; i < rows; i++) floats_rows(j, 1, a + i * j->blocks * j->block, sum + i * j->blocks, panel, scales, zeros, c + i * ldc, ldc);
        return;
    }
    for (int v = 0; v < LANES; v++) {
#define FLOATS(R, B) floats_panel(R, B, j, a, sum, panel + v * SX_GW, scales + v * SX_GW, zeros + v * SX_GW, c + v * SX_GW, ldc)
#if PAIRS
#define FLOATS_OF(B) (rows == 1 ? FLOATS(1, B) : FLOATS(4, B))
#else
#define FLOATS_OF(B) (rows == 1 ? FLOATS(1, B) : rows == 2 ? FLOATS(2, B) : rows == 3 ? FLOATS(3, B) : FLOATS(4, B))
#endif
        if (j->bits == 4) FLOATS_OF(4);
        else FLOATS_OF(8);
    }
}

/* A panel of the float product: weights as numbers. */
typedef struct { const job *j; float *scales, *zeros; int32_t *words; } source;
static void float_panel(const void *given, int64_t column, int64_t columns, int64_t at, int64_t count, float *to) {
    const source *p = given;
    const job *j = p->j;
    (void)columns;
    const float *scales = scales_of(j, column, p->scales);
    const int32_t *panel = panel_of(j, column, p->words);
    int64_t per = 32 / j->bits;
    zeros_of(j, column, p->zeros);
    for (int64_t k = 0; k < count; k++) {
        int64_t b = (at + k) / j->block;
        for (int v = 0; v < SX_PANEL; v += SX_GW) {
            sx_i word = sx_iload(panel + (at + k) / per * SX_PANEL + v);
            sx_f q = j->bits == 4 ? unpacked(word, (int)((at + k) % per), 4) : unpacked(word, (int)((at + k) % per), 8);
            sx_fstore(to + k * SX_PANEL + v, (q - sx_fload(p->zeros + b * SX_PANEL + v)) * sx_fload(scales + b * SX_PANEL + v));
        }
    }
}

/* ---- tiles ---- */
static int64_t up(int64_t bytes) { return sx_round_up(bytes, 64); }
static sx_gemm gemm_of(const job *j) {
    return (sx_gemm){.m = j->m, .n = j->n, .k = j->k, .a = j->a->data, .a_row = j->a->stride[0], .a_col = j->a->stride[1], .a_dtype = j->a->dtype, .panel = float_panel, .b_dtype = SX_FLOAT};
}
static int by_panels(const job *j) { return !j->level4 && j->m > FEW; }

int64_t SX_NAME(sx_nbits_scratch)(const sx_call *call) {
    job j = job_of(call);
    if (j.m == 0 || j.n == 0) return 0;
    int64_t rows = j.blocks * SX_PANEL * 4, size = 2 * up(rows + 64) + up(j.words * 64) + up(4 * sx_round_up(j.mc, 16) * SX_PANEL);
    sx_gemm g = gemm_of(&j);
    if (by_panels(&j)) return size + up(SX_NAME(sx_gemm_scratch)(&g, j.mc, SX_STRIP)) + up(4 * j.mc * SX_STRIP);
    int64_t floats = (j.level4 ? 1 : j.mc) * j.blocks * j.block;
    return size + up(4 * floats) + up(8 * j.mc * j.blocks) + (j.level4 ? up(j.mc * j.blocks * j.block * A_BYTES) : 0);
}

static void deliver(const job *j, const float *block, int64_t row, int64_t rows, int64_t n, int64_t cols, int64_t ld) {
    int64_t start[SX_RANK] = {row, n};
    if (!j->in_place) sx_finish(j->call, block, 0, rows, cols, ld, start, 0, 1);
    else
        for (int64_t i = 0; i < rows; i++)
            for (int64_t c = 0; c < cols; c++) ((float *)(void *)j->y->data)[(row + i) * j->y->stride[0] + n + c] = block[i * ld + c];
}

static void tile_of(void *arg, int64_t index, int worker) {
    const job *j = arg;
    char *p = j->call->scratch + worker * j->call->scratch_bytes;
    int64_t m = index / j->across * j->mc, mc = sx_min64(j->mc, j->m - m), n0 = index % j->across * j->nc, end = sx_min64(n0 + j->nc, j->n), rows = j->blocks * SX_PANEL * 4;
    float *scale_room = (float *)p, *zeros = (float *)(p += up(rows + 64));
    int32_t *words = (int32_t *)(p += up(rows + 64));
    float *block = (float *)(p += up(j->words * 64));
    p += up(4 * sx_round_up(j->mc, 16) * SX_PANEL);
    if (by_panels(j)) {
        sx_gemm g = gemm_of(j);
        source s = {j, scale_room, zeros, words};
        g.panel_source = &s;
        float *made = (float *)(void *)p;
        for (int64_t n = n0; n < end; n += SX_STRIP) {
            int64_t cols = sx_min64(SX_STRIP, end - n);
            SX_NAME(sx_gemm_block)(&g, m, mc, n, cols, made, cols, p + up(4 * j->mc * SX_STRIP));
            deliver(j, made, m, mc, n, cols, cols);
        }
        return;
    }
    int64_t ld = j->blocks * j->block;
    float *a = (float *)(void *)p, *sums = (float *)(void *)(p += up(4 * (j->level4 ? 1 : j->mc) * ld)), *scale = sums + j->mc * j->blocks;
    int8_t *bytes = (int8_t *)(p += up(8 * j->mc * j->blocks));
    int known = j->held[worker] == m + 1;
    j->held[worker] = m + 1;
    if (!known) {
        if (!j->level4) widen(j, m, mc, a, sums);
        else
            for (int64_t i = 0; i < mc; i++) {
                widen(j, m + i, 1, a, 0);
                for (int64_t b = 0; b < j->blocks; b++)
                    scale[i * j->blocks + b] = quantise(a + b * j->block, j->block, j->bits, bytes + (i * ld + b * j->block) * A_BYTES, (int32_t *)sums + i * j->blocks + b,
                                                        j->z ? 1 : -(1 << (j->bits - 1)));
            }
    }
    if (!j->z) zeros_of(j, 0, zeros);
    if (!j->z && PAIRS && j->level4) for (int64_t i = 0; i < j->blocks * SX_PANEL; i++) zeros[i] = -1; /* sums are times - the zero: they are added */
    for (int64_t n = n0; n < end; n += SX_PANEL) {
        const float *scales = scales_of(j, n, scale_room);
        const int32_t *panel = panel_of(j, n, words);
        if (j->z) zeros_of(j, n, zeros);
#if BYTES
        if (j->level4) bytes_rows(j, mc, bytes, scale, (const int32_t *)sums, panel, scales, j->z || PAIRS ? zeros : 0, block, SX_PANEL);
        else
#endif
            floats_rows(j, mc, a, sums, panel, scales, zeros, block, SX_PANEL);
        deliver(j, block, m, mc, n, sx_min64(SX_PANEL, end - n), SX_PANEL);
    }
}

int SX_NAME(sx_matmul_nbits)(const sx_call *call) {
    job j = job_of(call);
    int64_t held[SX_MAX_WORKERS] = {0};
    j.held = held;
    if (j.m && j.n) sx_tiles(call, j.down * j.across, tile_of, &j);
    return SX_OK;
}
