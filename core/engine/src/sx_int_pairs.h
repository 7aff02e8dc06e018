/* sx_int_pairs.h: the micro-tile of gemm_int.c with i8mm, whose instruction adds to a 2 × 2 square of sums the products of two rows and two columns of 8 bytes: twice what dotprod does.

   Two rows of a panel's words, interleaved, are pairs of columns with 8 bytes each. Six rows × 16 columns are 24 squares; a square holds (row, column) 00 01 10 11 and is taken apart at the end.
   Of an odd number of rows the last is its own neighbour, of an odd number of words the last one's neighbour is zero. Included by gemm_int.c. */
#ifndef SX_INT_PAIRS_H
#define SX_INT_PAIRS_H

typedef int32_t sx_i_half __attribute__((vector_size(8), aligned(4), may_alias));

/* Rows a and a2: 8 bytes of each, or 4 and zeros. */
SX_INLINE sx_i row_pair(const uint8_t *a, const uint8_t *a2, const int whole) {
    if (!whole) return (sx_i){*(const sx_word *)a, 0, *(const sx_word *)a2, 0};
    sx_i_half x = *(const sx_i_half *)a, y = *(const sx_i_half *)a2;
    return __builtin_shufflevector(x, y, 0, 1, 2, 3);
}
SX_INLINE sx_i square(sx_i acc, sx_i a, sx_i b, const int b_signed) {
    return b_signed ? (sx_i)vusmmlaq_s32((int32x4_t)acc, (uint8x16_t)a, (int8x16_t)b) : (sx_i)vmmlaq_u32((uint32x4_t)acc, (uint8x16_t)a, (uint8x16_t)b);
}

#define PAIRS ((MR + 1) / 2)
/* As `micro`, whose arguments these are. */
SX_INLINE void micro_pairs(const int R, const int V, const int S, const uint8_t *a, int64_t rs, const int32_t *b, int64_t ps, int64_t words, int32_t *c, int64_t ldc, const int32_t *base, int add, int last) {
    sx_i acc[PAIRS][NV][2];
    const uint8_t *row[MR];
    SX_UNROLL for (int i = 0; i < R; i++) row[i] = a + i * rs;
    SX_UNROLL for (int v = 0; v < V; v++) {
        sx_i start = base ? sx_iload(base + v * SX_GW) : sx_isplat(0);
        SX_UNROLL for (int p = 0; p < (R + 1) / 2; p++) {
            acc[p][v][0] = __builtin_shufflevector(start, start, 0, 1, 0, 1);
            acc[p][v][1] = __builtin_shufflevector(start, start, 2, 3, 2, 3);
        }
    }
    int64_t w = 0;
    for (; w + 2 <= words; w += 2, b += 2 * SX_PANEL) {
        sx_i x[PAIRS];
        SX_UNROLL for (int p = 0; p < (R + 1) / 2; p++) x[p] = row_pair(row[2 * p] + 4 * w, row[2 * p + 1 < R ? 2 * p + 1 : 2 * p] + 4 * w, 1);
        SX_UNROLL for (int v = 0; v < V; v++) {
            sx_i first = sx_iload(b + B_AT(v)), second = sx_iload(b + B_AT(v) + SX_PANEL);
            sx_i low = __builtin_shufflevector(first, second, 0, 4, 1, 5), high = __builtin_shufflevector(first, second, 2, 6, 3, 7);
            SX_UNROLL for (int p = 0; p < (R + 1) / 2; p++) {
                acc[p][v][0] = square(acc[p][v][0], x[p], low, S);
                acc[p][v][1] = square(acc[p][v][1], x[p], high, S);
            }
        }
    }
    if (w < words)
        SX_UNROLL for (int v = 0; v < V; v++) {
            sx_i first = sx_iload(b + B_AT(v)), none = sx_isplat(0), low = __builtin_shufflevector(first, none, 0, 4, 1, 5), high = __builtin_shufflevector(first, none, 2, 6, 3, 7);
            SX_UNROLL for (int p = 0; p < (R + 1) / 2; p++) {
                sx_i x = row_pair(row[2 * p] + 4 * w, row[2 * p + 1 < R ? 2 * p + 1 : 2 * p] + 4 * w, 0);
                acc[p][v][0] = square(acc[p][v][0], x, low, S);
                acc[p][v][1] = square(acc[p][v][1], x, high, S);
            }
        }
    SX_UNROLL for (int i = 0; i < R; i++)
        SX_UNROLL for (int v = 0; v < V; v++) {
            sx_i low = acc[i / 2][v][0], high = acc[i / 2][v][1], made = i % 2 ? __builtin_shufflevector(low, high, 2, 3, 6, 7) : __builtin_shufflevector(low, high, 0, 1, 4, 5);
            int32_t *to = c + i * ldc + v * SX_GW;
            if (v == V - 1 && last != SX_GW) sx_istore_part(to, add ? sx_iload_part(to, last) + made : made, last);
            else sx_istore(to, add ? sx_iload(to) + made : made);
        }
}
#endif
