/* sx_sum.h: epilogues that are bounded sums, lo ≤ accumulated + operands ≤ hi: bias, residual, ReLU, clip. Kernels apply them to registers, before a result is stored for the first time.

   A kernel asks sx_sum_of once a call, then places the sum for each of its blocks (sx_place_sum) and uses sx_end_row, or its own loop. */
#ifndef SX_SUM_H
#define SX_SUM_H
#include "sx_kernel.h"

#define SX_SUM_OPERANDS 2

typedef struct { int n; int32_t operand[SX_SUM_OPERANDS]; float lo, hi; } sx_sum;

/* A sum in place: operand i of row r, line l and column c is data[i][l * line[i] + r * row[i] + c * col[i]]. Absent operands are zeros (-0: x + -0 is x) with strides of 0, 32 floats long; bounds may be infinite. NaN goes through. */
typedef struct { const float *data[SX_SUM_OPERANDS]; int64_t row[SX_SUM_OPERANDS], line[SX_SUM_OPERANDS]; int32_t col[SX_SUM_OPERANDS]; float lo, hi; } sx_end;

/* Whether the call's epilogue is such a sum (none at all is one without operands), with a float result and float operands that are dense along axis `col_axis` (-1: lying anyhow). */
#define sx_sum_of SX_NAME(sx_sum_of)
int sx_sum_of(const sx_call *call, int col_axis, sx_sum *made);

/* The same as a block of the output whose first element is at `start`, with rows along row_axis and lines along line_axis (-1: there is one). */
static inline sx_end sx_place_sum(const sx_call *call, const sx_sum *sum, const int64_t *start, int row_axis, int line_axis) {
    static const float zeros[32] = {-0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f,
                                    -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f};
    sx_end e = {.lo = sum->lo, .hi = sum->hi};
    for (int i = 0; i < SX_SUM_OPERANDS; i++) {
        e.data[i] = zeros;
        if (i >= sum->n) continue;
        const sx_view *v = call->in + sum->operand[i];
        int64_t at = 0;
        for (int d = 0; d < call->out->rank; d++) at += start[d] * v->stride[d];
        e.data[i] = (const float *)v->data + at;
        e.row[i] = row_axis < 0 ? 0 : v->stride[row_axis], e.line[i] = line_axis < 0 ? 0 : v->stride[line_axis], e.col[i] = 1;
    }
    if (e.row[0] && !e.row[1]) { /* a residual comes second; additions may be swapped: acc + a + b is (acc + a) + b, so only where one is absent */
        if (sum->n < 2) e.data[1] = e.data[0], e.row[1] = e.row[0], e.line[1] = e.line[0], e.col[1] = e.col[0], e.data[0] = zeros, e.row[0] = e.line[0] = 0, e.col[0] = 0;
    }
    return e;
}

/* Whether an expression asks where it is (SX_OP_COORD): then rows must not be counted past the end of their axis. */
static inline int sx_asks_where(const sx_code *code) {
    enum { WORDS = 6, COORD = 3 };
    for (int i = 0; code && i < code->count; i++)
        if (code->words[i * WORDS] == COORD) return 1;
    return 0;
}

/* Whether a sum does nothing. */
static inline int sx_sum_is_nothing(const sx_sum *sum) { return !sum->n && sum->lo == -__builtin_inff() && sum->hi == __builtin_inff(); }

#endif
