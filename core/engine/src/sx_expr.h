/* sx_expr.h: expressions as the engine sees them: the numbers of core/expr.py, and the tile interpreter's interface. */
#ifndef SX_EXPR_H
#define SX_EXPR_H
#include "sx_kernel.h"

#define SX_WORDS 6
#define SX_MAX_REGISTERS 32
#define SX_MAX_OPERANDS 64

enum sx_compute { SX_F32, SX_F64, SX_I32, SX_I64, SX_U64 };

enum sx_op {
    SX_OP_CONST = 0, SX_OP_LEAF, SX_OP_ACC, SX_OP_COORD, SX_OP_LOAD, SX_OP_CAST, SX_OP_SATURATE,
    SX_OP_ADD = 10, SX_OP_SUB, SX_OP_MUL, SX_OP_DIV, SX_OP_MOD, SX_OP_FMOD, SX_OP_MIN, SX_OP_MAX, SX_OP_POW, SX_OP_FMA, SX_OP_NEG, SX_OP_ABS, SX_OP_SIGN, SX_OP_FLOOR, SX_OP_CEIL, SX_OP_ROUND,
    SX_OP_TRUNC, SX_OP_SQRT, SX_OP_RECIPROCAL, SX_OP_EXP, SX_OP_LOG, SX_OP_SIN, SX_OP_COS, SX_OP_TAN, SX_OP_ASIN, SX_OP_ACOS, SX_OP_ATAN, SX_OP_SINH, SX_OP_COSH, SX_OP_TANH, SX_OP_ASINH,
    SX_OP_ACOSH, SX_OP_ATANH, SX_OP_ERF, SX_OP_SIGMOID, SX_OP_LOG1P,
    SX_OP_EQ = 50, SX_OP_NE, SX_OP_LT, SX_OP_LE, SX_OP_GT, SX_OP_GE, SX_OP_AND, SX_OP_OR, SX_OP_XOR, SX_OP_NOT, SX_OP_SHL, SX_OP_SHR, SX_OP_SELECT, SX_OP_ISNAN, SX_OP_ISINF
};

/* How many registers an operation reads; -1: no such operation. */
static inline int sx_op_args(int op) {
    if (op >= SX_OP_CONST && op <= SX_OP_COORD) return 0;
    if (op >= SX_OP_LOAD && op <= SX_OP_SATURATE) return 1;
    if (op >= SX_OP_ADD && op <= SX_OP_POW) return 2;
    if (op == SX_OP_FMA || op == SX_OP_SELECT) return 3;
    if ((op >= SX_OP_NEG && op <= SX_OP_LOG1P) || op == SX_OP_NOT || op == SX_OP_ISNAN || op == SX_OP_ISINF) return 1;
    if (op >= SX_OP_EQ && op <= SX_OP_SHR) return 2;
    return -1;
}

static inline int sx_op_compares(int op) { return (op >= SX_OP_EQ && op <= SX_OP_GE) || op == SX_OP_ISNAN || op == SX_OP_ISINF; }

/* The type a REDUCE hands to its epilogue: positions (op 4, 5) are I64. */
static inline int sx_reduced_type(int type, int64_t op) { return op == 4 || op == 5 ? SX_I64 : type; }

/* The storage type that is a compute type as it lies. */
static inline int sx_native_dtype(int type) { return type == SX_F32 ? SX_FLOAT : type == SX_F64 ? SX_DOUBLE : type == SX_I32 ? SX_INT32 : type == SX_I64 ? SX_INT64 : SX_UINT64; }

static inline int sx_compute_bytes(int type) { return type == SX_F32 || type == SX_I32 ? 4 : 8; }

/* Where an operand's elements lie for one tile: the first element, and the strides (in elements) along the tile's rows and columns. */
typedef struct { const char *data; int64_t row, col; int32_t dtype; } sx_leaf;

/* One tile of positions: rows × cols. `start`: the position of its first element in the iteration space, rows along row_axis, cols along col_axis (for COORD). */
typedef struct {
    const sx_call *call;
    const sx_code *code;
    sx_leaf leaf[SX_MAX_OPERANDS];  /* by operand number of the call */
    sx_leaf acc;                    /* dtype: the storage type that is the compute type (sx_native_dtype) */
    sx_leaf out[4];
    int64_t start[SX_RANK];
    int32_t row_axis, col_axis;
    int64_t rows, cols;
} sx_tile;

/* Bytes of an element a kernel computes with. */
static inline int64_t sx_element_bytes(int dtype) {
    switch (dtype) {
    case SX_FLOAT: case SX_INT32: case SX_UINT32: return 4;
    case SX_DOUBLE: case SX_INT64: case SX_UINT64: case 14: return 8;
    case SX_FLOAT16: case SX_BFLOAT16: case SX_INT16: case SX_UINT16: return 2;
    case 15: return 16;
    default: return 1;
    }
}

#define SX_TILE_BYTES 32768
#define sx_tile_length SX_NAME(sx_tile_length)
#define sx_run_tile SX_NAME(sx_run_tile)
#define sx_eval_tile SX_NAME(sx_eval_tile)
#define sx_curve SX_NAME(sx_curve)
#define sx_load_row SX_NAME(sx_load_row)
#define sx_store_row SX_NAME(sx_store_row)
#define sx_load_tile SX_NAME(sx_load_tile)
#define sx_store_tile SX_NAME(sx_store_tile)

/* Elements a tile of this code may have: a pure function of the code. */
int64_t sx_tile_length(const sx_code *code);
/* Evaluate the expression over a tile of at most sx_tile_length elements and store the results. Faults go to call->fault. */
void sx_run_tile(const sx_tile *tile);
/* The same, but the one result goes to `to`, dense, in its compute type. */
void sx_eval_tile(const sx_tile *tile, void *to);

/* e^x, tanh, erf or the sigmoid of n floats, in place too. */
void sx_curve(int op, float *to, const float *from, int64_t n);

/* Rows of a tile whose rows have `cols` elements: as many as fit, one where a row alone fills most of it. */
static inline int64_t sx_tile_rows(int64_t length, int64_t rows, int64_t cols) {
    int64_t fit = 2 * cols > length ? 1 : length / cols;
    return fit < rows ? fit : rows;
}

/* Numbers of the operands a code reads by LEAF, each once. Returns how many. */
static inline int sx_find_leaves(const sx_code *code, int32_t *found) {
    uint64_t seen = 0;
    int n = 0;
    for (int i = 0; i < code->count; i++) {
        const int32_t *w = code->words + i * SX_WORDS;
        int operand = code->first_leaf + w[3];
        if (w[0] == SX_OP_LEAF && !(seen >> operand & 1)) seen |= (uint64_t)1 << operand, found[n++] = operand;
    }
    return n;
}

/* A view as a tile's operand: its element at `start`, its strides along the tile's axes (-1: none). */
static inline void sx_place_leaf(sx_leaf *leaf, const sx_view *v, const int64_t *start, int rank, int row_axis, int col_axis) {
    int64_t at = 0;
    for (int d = 0; d < rank; d++) at += start[d] * v->stride[d];
    *leaf = (sx_leaf){v->data + at * sx_element_bytes(v->dtype), row_axis < 0 ? 0 : v->stride[row_axis], col_axis < 0 ? 0 : v->stride[col_axis], v->dtype};
}

/* n elements of a storage type, `stride` apart, as the compute type `type`; and back. Integers wrap, floats round to nearest even. */
void sx_load_row(int dtype, int type, void *to, const void *from, int64_t stride, int64_t n);
void sx_store_row(int dtype, int type, void *to, int64_t stride, const void *from, int64_t n);
void sx_load_tile(const sx_leaf *leaf, int type, void *to, int64_t rows, int64_t cols);
void sx_store_tile(const sx_leaf *out, int type, const void *from, int64_t rows, int64_t cols);
#endif
