/* expr.c: the expression interpreter. One instruction at a time over a tile of some hundred elements, so that dispatch costs little and everything stays in the first-level cache.

   How to think
   - A register is a pointer to a row of elements, or to one element that stands for all (`one`): constants and operands broadcast over the tile are never spread out, except for the rare
     three-operand instructions.
   - Each register owns a slot; an instruction writes into the spare slot, which then becomes the register's. So sources and target never overlap, and a LEAF whose storage is the compute type
     and dense is no copy at all: its register points into the operand.
   - The last instruction of a one-result code writes straight into a dense output of the compute type. */
#include "sx_expr.h"
#include "sx_math.h"

typedef struct { char *data; char *slot; int one; int type; } reg;

#define EXTRA 4 /* slots besides the registers': the spare one, and three for spreading */
#define MEMORY (SX_TILE_BYTES + 64 * (SX_MAX_REGISTERS + EXTRA))

/* Bytes of the widest type the code computes in. */
static int64_t widest(const sx_code *code) {
    for (int i = 0; i < code->count; i++) if (sx_compute_bytes(code->words[i * SX_WORDS + 1]) == 8) return 8;
    return 4;
}

int64_t sx_tile_length(const sx_code *code) {
    int64_t element = (code->registers + EXTRA) * widest(code), n = 1024;
    while (n > 64 && n * element > SX_TILE_BYTES) n /= 2;
    return n;
}

/* -- loops --------------------------------------------------------------------------------------------------------------------------------------------- */

#define UNARY(T, R, expression) { \
    const T *restrict x_ = (const T *)a->data; R *restrict y_ = (R *)to; \
    for (int64_t i = 0; i < n; i++) { T x = x_[i]; y_[i] = (R)(expression); } return 0; }

#define BINARY(T, R, expression) { \
    const T *restrict x_ = (const T *)a->data; const T *restrict z_ = (const T *)b->data; R *restrict y_ = (R *)to; \
    if (a->one == b->one) for (int64_t i = 0; i < n; i++) { T x = x_[i], y = z_[i]; y_[i] = (R)(expression); } \
    else if (b->one) { T y = z_[0]; for (int64_t i = 0; i < n; i++) { T x = x_[i]; y_[i] = (R)(expression); } } \
    else { T x = x_[0]; for (int64_t i = 0; i < n; i++) { T y = z_[i]; y_[i] = (R)(expression); } } \
    return 0; }

#ifdef __wasm__ /* one loop where bytes count more than time */
#define BINARY_SMALL(T, R, expression) { \
    const T *x_ = (const T *)a->data, *z_ = (const T *)b->data; R *y_ = (R *)to; \
    for (int64_t i = 0, p = 0, q = 0; i < n; i++, p += !a->one, q += !b->one) { T x = x_[p], y = z_[q]; y_[i] = (R)(expression); } \
    return 0; }
#else
#define BINARY_SMALL BINARY
#endif

/* Unsigned arithmetic wraps; the compiler is told that signed does too (-fwrapv). */
#define FLOATING(T, F) \
    case SX_OP_DIV: BINARY(T, T, x / y) \
    case SX_OP_MIN: BINARY(T, T, x < y || x != x ? x : y) \
    case SX_OP_MAX: BINARY(T, T, x > y || x != x ? x : y) \
    case SX_OP_MOD: BINARY_SMALL(T, T, sx_mod_f64(x, y)) \
    case SX_OP_FMOD: BINARY_SMALL(T, T, sx_fmod_f64(x, y)) \
    case SX_OP_POW: BINARY_SMALL(T, T, sx_pow_##F(x, y)) \
    case SX_OP_ABS: UNARY(T, T, __builtin_fabs(x)) \
    case SX_OP_SIGN: UNARY(T, T, x > 0 ? (T)1 : x < 0 ? (T)-1 : x) \
    case SX_OP_RECIPROCAL: UNARY(T, T, (T)1 / x) \
    case SX_OP_LOG: UNARY(T, T, sx_log_##F(x)) \
    case SX_OP_ASIN: UNARY(T, T, sx_asin_f64(x)) \
    case SX_OP_ACOS: UNARY(T, T, sx_acos_f64(x)) \
    case SX_OP_ATAN: UNARY(T, T, sx_atan_f64(x)) \
    case SX_OP_SINH: UNARY(T, T, sx_sinh_f64(x)) \
    case SX_OP_COSH: UNARY(T, T, sx_cosh_f64(x)) \
    case SX_OP_ASINH: UNARY(T, T, sx_asinh_f64(x)) \
    case SX_OP_ACOSH: UNARY(T, T, sx_acosh_f64(x)) \
    case SX_OP_ATANH: UNARY(T, T, sx_atanh_f64(x)) \
    case SX_OP_LOG1P: UNARY(T, T, sx_log1p_f64(x)) \
    case SX_OP_SIN: ANGLE(T, 0) \
    case SX_OP_COS: ANGLE(T, 1) \
    case SX_OP_TAN: ANGLE(T, 2)

/* All by the fast way; then the few that are too large for it again. */
#define ANGLE(T, which) { \
    const T *restrict x_ = (const T *)a->data; T *restrict y_ = (T *)to; \
    int far = 0; \
    for (int64_t i = 0; i < n; i++) { T x = x_[i]; far |= !(__builtin_fabs(x) <= SX_REDUCED); y_[i] = (T)sx_angle_near_f64(which, x); } \
    if (far) for (int64_t i = 0; i < n; i++) if (!(__builtin_fabs(x_[i]) <= SX_REDUCED)) y_[i] = (T)sx_angle_far_f64(which, x_[i]); \
    return 0; }

#define IN_PLACE _Pragma("clang loop vectorize(assume_safety)") for (int64_t i = 0; i < n; i++)
void sx_curve(int op, float *to, const float *from, int64_t n) {
    if (op == SX_OP_EXP) IN_PLACE to[i] = sx_exp_f32(from[i]);
    else if (op == SX_OP_TANH) IN_PLACE to[i] = sx_tanh_f32(from[i]);
    else if (op == SX_OP_ERF) IN_PLACE to[i] = sx_erf_f32(from[i]);
    else IN_PLACE to[i] = sx_sigmoid_f32(from[i]);
}

static int float_op(int op, void *to, const reg *a, const reg *b, int64_t n) {
    switch (op) {
    case SX_OP_EXP: case SX_OP_TANH: case SX_OP_ERF: case SX_OP_SIGMOID: return sx_curve(op, to, (const float *)(const void *)a->data, n), 0;
    case SX_OP_SQRT: UNARY(float, float, __builtin_sqrtf(x))
    case SX_OP_FLOOR: UNARY(float, float, __builtin_floorf(x))
    case SX_OP_CEIL: UNARY(float, float, __builtin_ceilf(x))
    case SX_OP_ROUND: UNARY(float, float, __builtin_rintf(x))
    case SX_OP_TRUNC: UNARY(float, float, __builtin_truncf(x))
    case SX_OP_ADD: BINARY(float, float, x + y)
    case SX_OP_SUB: BINARY(float, float, x - y)
    case SX_OP_MUL: BINARY(float, float, x * y)
    case SX_OP_NEG: UNARY(float, float, -x)
    FLOATING(float, f32)
    default: return SX_E_UNSUPPORTED;
    }
}

SX_SMALL static int double_op(int op, void *to, const reg *a, const reg *b, int64_t n) {
    switch (op) {
    case SX_OP_SQRT: UNARY(double, double, __builtin_sqrt(x))
    case SX_OP_FLOOR: UNARY(double, double, __builtin_floor(x))
    case SX_OP_CEIL: UNARY(double, double, __builtin_ceil(x))
    case SX_OP_ROUND: UNARY(double, double, __builtin_rint(x))
    case SX_OP_TRUNC: UNARY(double, double, __builtin_trunc(x))
    case SX_OP_ADD: BINARY_SMALL(double, double, x + y)
    case SX_OP_SUB: BINARY_SMALL(double, double, x - y)
    case SX_OP_MUL: BINARY_SMALL(double, double, x * y)
    case SX_OP_NEG: UNARY(double, double, -x)
    case SX_OP_EXP: UNARY(double, double, sx_exp_f64(x))
    case SX_OP_TANH: UNARY(double, double, sx_tanh_f64(x))
    case SX_OP_ERF: UNARY(double, double, sx_erf_f64(x))
    case SX_OP_SIGMOID: UNARY(double, double, sx_sigmoid_f64(x))
    FLOATING(double, f64)
    default: return SX_E_UNSUPPORTED;
    }
}

/* Integer division: zero is a fault; the least value by -1 wraps. */
#define DIVIDED(T, quotient) { \
    const T *z_ = (const T *)b->data; \
    int zero = 0; \
    for (int64_t i = 0; i < (b->one ? 1 : n); i++) zero |= z_[i] == 0; \
    if (zero) return SX_E_DIVISION; \
    BINARY_SMALL(T, T, quotient) }

#define POWER(T) \
    static T power_##T(T x, T y, int is_signed) { \
        if (is_signed && y < 0) return x == 1 ? 1 : x == (T)-1 ? (y & 1 ? (T)-1 : 1) : 0; \
        T made = 1; \
        for (uint64_t e = (uint64_t)y; e; e >>= 1, x *= x) if (e & 1) made *= x; \
        return made; }
POWER(int32_t) POWER(int64_t) POWER(uint64_t)

#define INTEGER(T, U, BITS, is_signed) \
    switch (op) { \
    case SX_OP_ADD: BINARY_SMALL(U, U, x + y) \
    case SX_OP_SUB: BINARY_SMALL(U, U, x - y) \
    case SX_OP_MUL: BINARY_SMALL(U, U, x * y) \
    case SX_OP_NEG: UNARY(U, U, 0 - x) \
    case SX_OP_DIV: DIVIDED(T, is_signed && y == (T)-1 ? (T)(0 - (U)x) : x / y) \
    case SX_OP_FMOD: DIVIDED(T, is_signed && y == (T)-1 ? 0 : x % y) \
    case SX_OP_MOD: DIVIDED(T, is_signed && y == (T)-1 ? 0 : x % y + (x % y != 0 && (x % y < 0) != (y < 0) ? y : 0)) \
    case SX_OP_MIN: BINARY_SMALL(T, T, x < y ? x : y) \
    case SX_OP_MAX: BINARY_SMALL(T, T, x > y ? x : y) \
    case SX_OP_POW: BINARY_SMALL(T, T, power_##T(x, y, is_signed)) \
    case SX_OP_ABS: UNARY(T, T, x < 0 ? (T)(0 - (U)x) : x) \
    case SX_OP_SIGN: UNARY(T, T, (x > 0) - (x < 0)) \
    case SX_OP_AND: BINARY_SMALL(U, U, x & y) \
    case SX_OP_OR: BINARY_SMALL(U, U, x | y) \
    case SX_OP_XOR: BINARY_SMALL(U, U, x ^ y) \
    case SX_OP_NOT: UNARY(U, U, ~x) \
    case SX_OP_SHL: BINARY_SMALL(U, U, y < BITS ? x << (y & (BITS - 1)) : 0) \
    case SX_OP_SHR: BINARY_SMALL(T, T, (U)y < BITS ? x >> (y & (BITS - 1)) : (is_signed && x < 0 ? (T)-1 : 0)) \
    default: return SX_E_UNSUPPORTED; }

SX_SMALL static int i32_op(int op, void *to, const reg *a, const reg *b, int64_t n) { INTEGER(int32_t, uint32_t, 32, 1) }
SX_SMALL static int i64_op(int op, void *to, const reg *a, const reg *b, int64_t n) { INTEGER(int64_t, uint64_t, 64, 1) }
SX_SMALL static int u64_op(int op, void *to, const reg *a, const reg *b, int64_t n) { INTEGER(uint64_t, uint64_t, 64, 0) }

#define COMPARE(T) \
    switch (op) { \
    case SX_OP_EQ: BINARY_SMALL(T, int32_t, x == y) \
    case SX_OP_NE: BINARY_SMALL(T, int32_t, x != y) \
    case SX_OP_LT: BINARY_SMALL(T, int32_t, x < y) \
    case SX_OP_LE: BINARY_SMALL(T, int32_t, x <= y) \
    case SX_OP_GT: BINARY_SMALL(T, int32_t, x > y) \
    case SX_OP_GE: BINARY_SMALL(T, int32_t, x >= y) \
    case SX_OP_ISNAN: UNARY(T, int32_t, x != x) \
    default: UNARY(T, int32_t, x == x && x - x != x - x) }

SX_SMALL static int compare(int op, int type, void *to, const reg *a, const reg *b, int64_t n) {
    switch (type) {
    case SX_F32: COMPARE(float)
    case SX_F64: COMPARE(double)
    case SX_I32: COMPARE(int32_t)
    case SX_I64: COMPARE(int64_t)
    default: COMPARE(uint64_t)
    }
}

/* -- conversions ---------------------------------------------------------------------------------------------------------------------------------------- */

/* Float → integer: towards zero, clamped, NaN is 0. `LEAST`, `END`: the lowest value and one past the highest, both exact in double. */
#define TRUNCATED(T, x, LEAST, END, HIGHEST) ((x) >= (END) ? (HIGHEST) : (x) > (LEAST) ? (T)(x) : (x) != (x) ? (T)0 : (T)(LEAST))

SX_SMALL static int cast(int type, int source, void *to, const reg *a, int64_t n) {
#define FROM(T) \
    switch (type) { \
    case SX_F32: UNARY(T, float, x) \
    case SX_F64: UNARY(T, double, x) \
    case SX_I32: UNARY(T, int32_t, x) \
    case SX_I64: UNARY(T, int64_t, x) \
    default: UNARY(T, uint64_t, x) }
#define FROM_FLOAT(T) \
    switch (type) { \
    case SX_F32: UNARY(T, float, x) \
    case SX_F64: UNARY(T, double, x) \
    case SX_I32: UNARY(T, int32_t, TRUNCATED(int32_t, x, (T)-0x1p31, (T)0x1p31, INT32_MAX)) \
    case SX_I64: UNARY(T, int64_t, TRUNCATED(int64_t, x, (T)-0x1p63, (T)0x1p63, INT64_MAX)) \
    default: UNARY(T, uint64_t, TRUNCATED(uint64_t, x, (T)0, (T)0x1p64, UINT64_MAX)) }
    switch (source) {
    case SX_F32: FROM_FLOAT(float)
    case SX_F64: FROM_FLOAT(double)
    case SX_I32: FROM(int32_t)
    case SX_I64: FROM(int64_t)
    default: FROM(uint64_t)
    }
}

/* The range of an integer storage type. */
static void range_of(int dtype, int64_t *low, uint64_t *high) {
    switch (dtype) {
    case SX_BOOL: *low = 0, *high = 1; break;
    case SX_UINT8: *low = 0, *high = 255; break;
    case SX_INT8: *low = -128, *high = 127; break;
    case SX_UINT16: *low = 0, *high = 65535; break;
    case SX_INT16: *low = -32768, *high = 32767; break;
    case SX_INT32: *low = INT32_MIN, *high = INT32_MAX; break;
    case SX_UINT32: *low = 0, *high = UINT32_MAX; break;
    case SX_INT64: *low = INT64_MIN, *high = INT64_MAX; break;
    case 21: *low = 0, *high = 15; break;
    case 22: *low = -8, *high = 7; break;
    case 25: *low = 0, *high = 3; break;
    case 26: *low = -2, *high = 1; break;
    default: *low = 0, *high = UINT64_MAX;
    }
}

SX_SMALL static int saturate(int type, int dtype, int source, void *to, const reg *a, int64_t n) {
    int64_t low;
    uint64_t high;
    range_of(dtype, &low, &high);
    if (source == SX_F32 || source == SX_F64) { /* the ends, clamped in the float type, then as above */
        double first = (double)low, last = (double)high;
        int whole = high > (uint64_t)1 << 53;   /* the highest value is not exact: one past it is */
#define ROUNDED(T, R, S) UNARY(S, R, x != x ? (R)0 : (double)RINT(x) <= first ? (R)low : (whole ? (double)RINT(x) >= last : (double)RINT(x) > last) ? (R)high : (R)RINT(x))
#define RINT __builtin_rintf
        if (source == SX_F32) {
            if (type == SX_I32) ROUNDED(float, int32_t, float)
            if (type == SX_I64) ROUNDED(float, int64_t, float)
            ROUNDED(float, uint64_t, float)
        }
#undef RINT
#define RINT __builtin_rint
        if (type == SX_I32) ROUNDED(double, int32_t, double)
        if (type == SX_I64) ROUNDED(double, int64_t, double)
        ROUNDED(double, uint64_t, double)
    }
#define CLAMPED(T, R) UNARY(T, R, (int64_t)x < low ? low : (int64_t)x > limit ? limit : (int64_t)x)
    int64_t limit = high > INT64_MAX ? INT64_MAX : (int64_t)high;
    if (source == SX_U64) {
        if (type == SX_I32) UNARY(uint64_t, int32_t, x > high ? high : x)
        if (type == SX_I64) UNARY(uint64_t, int64_t, x > high ? high : x)
        UNARY(uint64_t, uint64_t, x)
    }
    if (source == SX_I32) {
        if (type == SX_I32) CLAMPED(int32_t, int32_t)
        if (type == SX_I64) CLAMPED(int32_t, int64_t)
        CLAMPED(int32_t, uint64_t)
    }
    if (type == SX_I32) CLAMPED(int64_t, int32_t)
    if (type == SX_I64) CLAMPED(int64_t, int64_t)
    CLAMPED(int64_t, uint64_t)
}

/* -- three operands, leaves ---------------------------------------------------------------------------------------------------------------------------------- */

/* A register with all its elements written out. */
static const char *spread(const reg *r, char *room, int64_t n) {
    if (!r->one) return r->data;
    if (sx_compute_bytes(r->type) == 4) { uint32_t v; __builtin_memcpy(&v, r->data, 4); for (int64_t i = 0; i < n; i++) ((uint32_t *)room)[i] = v; }
    else { uint64_t v; __builtin_memcpy(&v, r->data, 8); for (int64_t i = 0; i < n; i++) ((uint64_t *)room)[i] = v; }
    return room;
}

static int three(int op, int type, void *to, const char *a, const char *b, const char *c, int64_t n) {
#define SELECTED(T) { const int32_t *k = (const int32_t *)a; const T *restrict x = (const T *)b; const T *restrict y = (const T *)c; T *restrict z = to; for (int64_t i = 0; i < n; i++) z[i] = k[i] ? x[i] : y[i]; return 0; }
#define ADDED(T, E) { const T *restrict p = (const T *)a; const T *restrict q = (const T *)b; const T *restrict r = (const T *)c; T *restrict z = to; for (int64_t i = 0; i < n; i++) z[i] = E; return 0; }
    if (op == SX_OP_SELECT) {
        if (sx_compute_bytes(type) == 4) SELECTED(uint32_t)
        SELECTED(uint64_t)
    }
    switch (type) {
    case SX_F32: ADDED(float, p[i] * q[i] + r[i])
    case SX_F64: ADDED(double, p[i] * q[i] + r[i])
    case SX_I32: ADDED(uint32_t, p[i] * q[i] + r[i])
    default: ADDED(uint64_t, p[i] * q[i] + r[i])
    }
}

static void load_leaf(reg *r, const sx_leaf *leaf, int native, int type, char *to, int64_t rows, int64_t cols) {
    int64_t dense = leaf->col == 1 && (rows == 1 || leaf->row == cols);
    r->type = type;
    r->one = (leaf->col == 0 || cols == 1) && (leaf->row == 0 || rows == 1);
    r->data = to;
    if (native && (dense || r->one)) r->data = (char *)(uintptr_t)leaf->data;
    else if (r->one) sx_load_tile(leaf, type, to, 1, 1);
    else sx_load_tile(leaf, type, to, rows, cols);
}

static void coordinate(reg *r, const sx_tile *t, int axis, int64_t *to) {
    int64_t at = t->start[axis], i = 0;
    r->one = axis != t->row_axis && axis != t->col_axis;
    if (r->one) to[0] = at;
    else for (int64_t row = 0; row < t->rows; row++)
        for (int64_t col = 0; col < t->cols; col++) to[i++] = at + (axis == t->row_axis ? row : 0) + (axis == t->col_axis ? col : 0);
    r->type = SX_I64;
}

/* Element `index` of a view in row-major order of its dims. */
static int64_t place(const sx_view *v, int64_t index) {
    int64_t at = 0;
    for (int d = v->rank - 1; d >= 0; d--) {
        at += index % v->dim[d] * v->stride[d];
        index /= v->dim[d];
    }
    return at;
}

static int64_t count(const sx_view *v) {
    int64_t n = 1;
    for (int d = 0; d < v->rank; d++) n *= v->dim[d];
    return n;
}

static int load_indexed(const sx_call *call, int operand, int type, char *to, const int64_t *index, int64_t n) {
    const sx_view *v = call->in + operand;
    int64_t size = count(v), wide = sx_compute_bytes(type), item = sx_element_bytes(v->dtype), step = 1;
    int dense = 1;
    for (int d = v->rank - 1; d >= 0; d--) {
        if (v->dim[d] != 1 && v->stride[d] != step) dense = 0;
        step *= v->dim[d];
    }
    for (int64_t i = 0; i < n; i++) {
        if (index[i] < 0 || index[i] >= size) return sx_fail(call, SX_E_INDEX, operand, index[i], size);
        sx_load_row(v->dtype, type, to + i * wide, v->data + (dense ? index[i] : place(v, index[i])) * item, 1, 1);
    }
    return 0;
}

/* -- the interpreter ------------------------------------------------------------------------------------------------------------------------------------------- */

/* One arithmetic instruction; the result's register is `one` where all its sources are. */
static int operate(const int32_t *w, const reg *regs, reg *made, char *to, char *room, int64_t slot, int64_t n) {
    int op = w[0], type = w[1], args = sx_op_args(op);
    const reg *a = regs + w[3], *b = regs + (args > 1 ? w[4] : w[3]), *c = regs + (args > 2 ? w[5] : w[3]);
    int one = a->one && b->one && c->one;
    int64_t m = one ? 1 : n;
    *made = (reg){to, made->slot, one, type};
    if (op == SX_OP_CAST) return cast(type, w[4], to, a, m);
    if (op == SX_OP_SATURATE) return saturate(type, w[4], w[5], to, a, m);
    if (sx_op_compares(op)) return compare(op, w[5], to, a, b, m);
    if (args == 3) {
        return three(op, type, to, spread(a, room, m), spread(b, room + slot, m), spread(c, room + 2 * slot, m), m);
    }
    switch (type) {
    case SX_F32: return float_op(op, to, a, b, m);
    case SX_F64: return double_op(op, to, a, b, m);
    case SX_I32: return i32_op(op, to, a, b, m);
    case SX_I64: return i64_op(op, to, a, b, m);
    default: return u64_op(op, to, a, b, m);
    }
}

/* Where the last instruction may write its result: a dense output of the compute type. */
static char *direct(const sx_tile *t) {
    const sx_code *code = t->code;
    const int32_t *w = code->words + (code->count - 1) * SX_WORDS;
    const sx_leaf *out = t->out;
    if (code->n_results != 1 || w[2] != code->results[0] || w[0] < SX_OP_CAST || out->dtype != sx_native_dtype(w[1])) return NULL;
    return out->col == 1 && (t->rows == 1 || out->row == t->cols) ? (char *)(uintptr_t)out->data : NULL;
}

static int interpret(const sx_tile *t, reg *regs, char *memory, int64_t slot, char *last) {
    const sx_code *code = t->code;
    int64_t n = t->rows * t->cols;
    char *spare = memory + code->registers * slot, *room = spare + slot;
    for (int r = 0; r < code->registers; r++) regs[r] = (reg){NULL, memory + r * slot, 0, 0};
    for (int i = 0; i < code->count; i++) {
        const int32_t *w = code->words + i * SX_WORDS;
        reg made = {spare, NULL, 1, w[1]};
        int fault = 0;
        switch (w[0]) {
        case SX_OP_CONST: __builtin_memcpy(spare, w + 3, 8); break;
        case SX_OP_LEAF: {
            const sx_leaf *leaf = t->leaf + code->first_leaf + w[3];
            load_leaf(&made, leaf, leaf->dtype == sx_native_dtype(w[1]), w[1], spare, t->rows, t->cols);
            break;
        }
        case SX_OP_ACC: load_leaf(&made, &t->acc, 1, w[1], spare, t->rows, t->cols); break;
        case SX_OP_COORD: coordinate(&made, t, w[3], (int64_t *)spare); break;
        default: {
            char *to = last && i == code->count - 1 ? last : spare;
            if (w[0] == SX_OP_LOAD) { /* its one register source is in word 4 */
                const reg *index = regs + w[4];
                made.one = index->one;
                fault = load_indexed(t->call, code->first_leaf + w[3], w[1], to, (const int64_t *)index->data, made.one ? 1 : n);
                made.data = to;
            } else fault = operate(w, regs, &made, to, room, slot, n);
        }
        }
        if (fault) return fault == SX_E_INDEX ? fault : sx_fail(t->call, fault, -1, w[0], w[1]);
        made.slot = spare;
        spare = regs[w[2]].slot;
        regs[w[2]] = made;
    }
    return 0;
}

static int64_t slot_bytes(const sx_tile *t) { return (t->rows * t->cols * widest(t->code) + 63) & ~(int64_t)63; }

void sx_run_tile(const sx_tile *t) {
    char memory[MEMORY] __attribute__((aligned(64)));
    reg regs[SX_MAX_REGISTERS];
    int64_t n = t->rows * t->cols, slot = slot_bytes(t);
    char *last = direct(t), *room = memory + (t->code->registers + 1) * slot;
    if (interpret(t, regs, memory, slot, last)) return;
    for (int r = 0; r < t->code->n_results; r++) {
        const reg *result = regs + t->code->results[r];
        if (last && !result->one) return;
        sx_store_tile(t->out + r, result->type, spread(result, room, n), t->rows, t->cols);
    }
}

void sx_eval_tile(const sx_tile *t, void *to) {
    char memory[MEMORY] __attribute__((aligned(64)));
    reg regs[SX_MAX_REGISTERS];
    int64_t n = t->rows * t->cols, slot = slot_bytes(t);
    if (interpret(t, regs, memory, slot, NULL)) return;
    const reg *result = regs + t->code->results[0];
    __builtin_memcpy(to, spread(result, memory + (t->code->registers + 1) * slot, n), (uint64_t)(n * sx_compute_bytes(result->type)));
}
