/* finish.c: what happens to a block another kernel has just accumulated (sx_finish): its epilogue runs while the block is hot, and the results are stored.

   How to think
   - Most epilogues are sums of float rows between bounds: bias, residual, ReLU, clip. They have loops of their own, and kernels that can apply them to registers do (sx_sum.h).
   - Every other expression goes through the interpreter, in tiles. */
#include "sx_expr.h"
#include "sx_sum.h"
#include "sx_vec.h"

#define OPERANDS SX_SUM_OPERANDS

/* -- sums ---------------------------------------------------------------------------------------------------------------------------------------------------- */

/* lo ≤ acc + operands ≤ hi. NaN goes through. */
typedef struct { int n; int32_t operand[OPERANDS]; const float *data[OPERANDS]; int64_t row[OPERANDS]; float lo, hi; } sum;
typedef struct { int kind, operand; float value; } known;
enum { NOTHING, SUM, LEAF, CONSTANT };

/* The code as such a sum; 0 where it is none. The running value may be read only by the next step, and nothing is added once it is bounded. */
static int recognise(const sx_code *code, sum *made) {
    known regs[SX_MAX_REGISTERS];
    int at = -1, bounded = 0; /* at: the register that holds the running value */
    *made = (sum){.lo = -__builtin_inff(), .hi = __builtin_inff()};
    for (int i = 0; i < code->count; i++) {
        const int32_t *w = code->words + i * SX_WORDS;
        known value = {NOTHING, 0, 0};
        if (w[1] != SX_F32) return 0;
        if (w[0] == SX_OP_CONST) value.kind = CONSTANT, __builtin_memcpy(&value.value, w + 3, 4);
        else if (w[0] == SX_OP_LEAF) value.kind = LEAF, value.operand = code->first_leaf + w[3];
        else if (w[0] == SX_OP_ACC && at < 0) value.kind = SUM;
        else if ((w[0] == SX_OP_ADD || w[0] == SX_OP_MIN || w[0] == SX_OP_MAX) && at >= 0 && (w[3] == at) != (w[4] == at)) {
            known other = regs[w[3] == at ? w[4] : w[3]];
            if (w[0] == SX_OP_ADD) {
                if (other.kind != LEAF || bounded || made->n == OPERANDS) return 0;
                made->operand[made->n++] = other.operand;
            } else {
                if (other.kind != CONSTANT || other.value != other.value) return 0;
                if (w[0] == SX_OP_MIN) made->hi = other.value < made->hi ? other.value : made->hi;
                else made->lo = other.value > made->lo ? other.value : made->lo;
                if (made->lo > made->hi) return 0; /* the order of bounds would matter */
                bounded = 1;
            }
            regs[at].kind = NOTHING;
            value.kind = SUM;
        } else return 0;
        if (w[2] == at && value.kind != SUM) return 0;
        regs[w[2]] = value;
        if (value.kind == SUM) at = w[2];
    }
    return at >= 0 && code->n_results == 1 && code->results[0] == at;
}

/* Put the operands in place; 0 where one is not float or not dense along the columns. */
static int place_operands(const sx_call *call, sum *k, const int64_t *start, int row_axis, int col_axis) {
    for (int i = 0; i < k->n; i++) {
        sx_leaf leaf;
        sx_place_leaf(&leaf, call->in + k->operand[i], start, call->out->rank, row_axis, col_axis);
        if (leaf.dtype != SX_FLOAT || leaf.col != 1) return 0;
        k->data[i] = (const float *)leaf.data, k->row[i] = leaf.row;
    }
    return 1;
}

int sx_sum_of(const sx_call *call, int col_axis, sx_sum *made) {
    const sx_view *y = call->out;
    *made = (sx_sum){.lo = -__builtin_inff(), .hi = __builtin_inff()};
    if (y->dtype != SX_FLOAT || (col_axis >= 0 && y->stride[col_axis] != 1 && y->dim[col_axis] != 1)) return 0;
    if (!call->epilogue) return 1;
    sum k;
    if (!recognise(call->epilogue, &k)) return 0;
    *made = (sx_sum){k.n, {0}, k.lo, k.hi};
    for (int i = 0; i < k.n; i++) {
        const sx_view *v = call->in + k.operand[i];
        if (v->dtype != SX_FLOAT || v->packing || (col_axis >= 0 && v->stride[col_axis] != 1 && v->dim[col_axis] != 1)) return 0;
        made->operand[i] = k.operand[i];
    }
    return 1;
}

#define AT(p, c) (*(const sx_v32_any *)((p) + (c)))

/* Rows of a sum with n operands, a vector at a time; what is left of a row is done by a last vector that overlaps the one before. */
static inline __attribute__((always_inline)) void sum_rows(const sum *k, int n, const float *x, int64_t ld, float *y, int64_t row, int64_t rows, int64_t cols) {
    const sx_v32 lo = (sx_v32){0} + k->lo, hi = (sx_v32){0} + k->hi;
    const float *a = k->data[0], *b = k->data[1];
    for (int64_t r = 0; r < rows; r++, x += ld, y += row, a += n > 0 ? k->row[0] : 0, b += n > 1 ? k->row[1] : 0) {
        if (cols < SX_LANES32) {
            for (int64_t c = 0; c < cols; c++) {
                float v = x[c] + (n > 0 ? a[c] : 0.0f);
                if (n > 1) v += b[c];
                v = k->lo > v ? k->lo : v;
                y[c] = k->hi < v ? k->hi : v;
            }
            continue;
        }
        for (int64_t c = 0; c < cols; c += SX_LANES32) {
            if (c + SX_LANES32 > cols) c = cols - SX_LANES32;
            sx_v32 v = AT(x, c);
            if (n > 0) v = v + AT(a, c);
            if (n > 1) v = v + AT(b, c);
            *(sx_v32_any *)(y + c) = sx_vat_most(sx_vat_least(v, lo), hi);
        }
    }
}

static void run_sum(const sum *k, const float *x, int64_t ld, float *y, int64_t row, int64_t rows, int64_t cols) {
    switch (k->n) {
    case 0: sum_rows(k, 0, x, ld, y, row, rows, cols); break;
    case 1: sum_rows(k, 1, x, ld, y, row, rows, cols); break;
    default: sum_rows(k, 2, x, ld, y, row, rows, cols);
    }
}

/* -- any epilogue ------------------------------------------------------------------------------------------------------------------------------------------------ */

static void run_tiles(const sx_call *call, sx_leaf from, sx_leaf out, int64_t rows, int64_t cols, const int64_t *start, int row_axis, int col_axis) {
    const sx_code *code = call->epilogue;
    int64_t wide = sx_element_bytes(from.dtype), item = sx_element_bytes(out.dtype);
    int32_t number[SX_MAX_OPERANDS];
    int n = sx_find_leaves(code, number);
    sx_leaf leaf[SX_MAX_OPERANDS];
    sx_tile t;
    t.call = call, t.code = code, t.row_axis = row_axis, t.col_axis = col_axis;
    for (int d = 0; d < call->out->rank; d++) t.start[d] = start[d];
    for (int i = 0; i < n; i++) sx_place_leaf(leaf + i, call->in + number[i], start, call->out->rank, row_axis, col_axis);
    int64_t length = sx_tile_length(code), tall = sx_tile_rows(length, rows, cols);
    for (int64_t r = 0; r < rows; r += tall)
        for (int64_t c = 0; c < cols; c += length) {
            t.rows = sx_min64(tall, rows - r), t.cols = sx_min64(length, cols - c);
            if (row_axis >= 0) t.start[row_axis] = start[row_axis] + r;
            if (col_axis >= 0) t.start[col_axis] = start[col_axis] + c;
            t.acc = (sx_leaf){from.data + (r * from.row + c) * wide, from.row, 1, from.dtype};
            t.out[0] = (sx_leaf){out.data + (r * out.row + c * out.col) * item, out.row, out.col, out.dtype};
            for (int i = 0; i < n; i++)
                t.leaf[number[i]] = (sx_leaf){leaf[i].data + (r * leaf[i].row + c * leaf[i].col) * sx_element_bytes(leaf[i].dtype), leaf[i].row, leaf[i].col, leaf[i].dtype};
            sx_run_tile(&t);
        }
}

void sx_finish(const sx_call *call, const void *block, int acc_type, int64_t rows, int64_t cols, int64_t ld, const int64_t *start, int row_axis, int col_axis) {
    if (rows <= 0 || cols <= 0) return;
    const sx_view *y = call->out;
    sx_leaf out, from = {block, ld, 1, sx_native_dtype(acc_type)};
    sx_place_leaf(&out, y, start, y->rank, row_axis, col_axis);
    if (!call->epilogue) {
        int64_t wide = sx_compute_bytes(acc_type), item = sx_element_bytes(y->dtype);
        for (int64_t r = 0; r < rows; r++)
            sx_store_row(y->dtype, acc_type, (char *)(uintptr_t)out.data + r * out.row * item, out.col, from.data + r * ld * wide, cols);
        return;
    }
    sum k;
    if (acc_type == SX_F32 && y->dtype == SX_FLOAT && out.col == 1 && recognise(call->epilogue, &k) && place_operands(call, &k, start, row_axis, col_axis))
        run_sum(&k, block, ld, (float *)(uintptr_t)out.data, out.row, rows, cols);
    else run_tiles(call, from, out, rows, cols, start, row_axis, col_axis);
}
