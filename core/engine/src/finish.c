/* finish.c: what happens to a block another kernel has just accumulated (sx_finish): its epilogue runs while the block is hot, and the results are stored.

   How to think
   - Most epilogues are sums of float rows between bounds: bias, residual, ReLU, clip. They have loops of their own, and kernels that can apply them to registers do (sx_sum.h).
   - So have such sums that a GELU follows: half of a transformer's products. 393,216 of them in V8: 0.7 ms, 1.3 instruction by instruction.
   - Every other expression goes through the interpreter, in tiles. */
#include "sx_expr.h"
#include "sx_math.h"
#include "sx_sum.h"
#include "sx_vec.h"

#define OPERANDS SX_SUM_OPERANDS

/* -- sums ---------------------------------------------------------------------------------------------------------------------------------------------------- */

/* lo ≤ acc + operands ≤ hi. NaN goes through. */
typedef struct { int n; int32_t operand[OPERANDS]; const float *data[OPERANDS]; int64_t row[OPERANDS]; float lo, hi, half, inner; } sum; /* half: not 0 where a GELU follows */
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

/* -- GELU of a sum: half · v · (1 + erf(inner · v)) ---------------------------------------------------------------------------------------------------------------- */

/* The instruction before `i` that made a register; -1: none. */
static int maker(const sx_code *code, int i, int reg) {
    while (--i >= 0 && code->words[i * SX_WORDS + 2] != reg) {}
    return i;
}

/* Whether instruction `i` is `op` with a constant on one side; what made the other. */
static int by_constant(const sx_code *code, int i, int op, float *constant, int *other) {
    const int32_t *w = code->words + i * SX_WORDS;
    for (int side = 3; i >= 0 && w[0] == op && side < 5; side++) {
        int at = maker(code, i, w[side]);
        if (at < 0 || code->words[at * SX_WORDS] != SX_OP_CONST) continue;
        __builtin_memcpy(constant, code->words + at * SX_WORDS + 3, 4);
        *other = maker(code, i, w[7 - side]);
        return 1;
    }
    return 0;
}

/* Such a sum, or one that a GELU follows. */
static int recognise_all(const sx_code *whole, sum *made) {
    sx_code code = *whole;
    const int last = code.count - 1;
    const int32_t *w = code.words + last * SX_WORDS;
    float half = 0, inner = 0;
    for (int side = 3; last > 0 && w[0] == SX_OP_MUL && w[2] == code.results[0] && side < 5; side++) {
        int at, erf, again;
        float one, factor;
        if (!by_constant(whole, maker(whole, last, w[side]), SX_OP_MUL, &factor, &at) || !by_constant(whole, maker(whole, last, w[7 - side]), SX_OP_ADD, &one, &erf)) continue;
        if (one != 1 || factor == 0 || at < 0 || erf < 0 || code.words[erf * SX_WORDS] != SX_OP_ERF) continue;
        if (!by_constant(whole, maker(whole, erf, code.words[erf * SX_WORDS + 3]), SX_OP_MUL, &inner, &again) || again != at) continue;
        half = factor, code.count = at + 1, code.results[0] = code.words[at * SX_WORDS + 2];
    }
    if (!recognise(&code, made)) return 0;
    made->half = half, made->inner = inner;
    return 1;
}

/* -log2(erfc(a)) / a, a < 3.93 where erf is 1 in float, error of erfc 1.6e-8; (2^f - 1) / f, |f| < ½, error 2e-9; the end, 1.5 · 2²³, 1 */
SX_NUMBERS sx_gelu_k[] = {0x1.7c7edap-15f, -0x1.d3260ep-12f, 0x1.8672bep-10f, 0x1.9620fcp-11f, -0x1.cee886p-6f, 0x1.301720p-3f, 0x1.d63aacp-1f, 0x1.a0be9ep+0f,
                          0x1.41fbbcp-13f, 0x1.5f3e54p-10f, 0x1.3b2d4cp-7f, 0x1.c6aee8p-5f, 0x1.ebfbdcp-3f, 0x1.62e430p-1f, 3.93f, 0x1.8p23f, 1.0f};
#define AT(p, c) (*(const sx_v32_any *)((p) + (c)))
#define PAIR (2 * SX_LANES32) /* two vectors hide each other's latency and share the loads of constants */
#define BOTH _Pragma("clang loop unroll(full)") for (int i = 0; i < 2; i++)

/* erf(a) is 1 - 2^-q of a polynomial q everywhere: what that loses near 0, adding 1 would. NaN goes through. */
static inline __attribute__((always_inline)) void gelu(sx_v32 *v, sx_v32 half, sx_v32 inner) {
    const float *k = sx_gelu_k;
    const sx_v32 none = {0};
    sx_v32 x[2], a[2], q[2], u[2], p[2];
    BOTH x[i] = v[i] * inner, a[i] = sx_vat_most((sx_v32)((sx_m32)x[i] & 0x7fffffff), none + k[14]), q[i] = none + k[0];
    _Pragma("clang loop unroll(full)") for (int c = 1; c < 8; c++) BOTH q[i] = q[i] * a[i] + k[c];
    BOTH q[i] = q[i] * a[i], u[i] = q[i] + k[15], q[i] = (u[i] - k[15]) - q[i], p[i] = none + k[8];
    _Pragma("clang loop unroll(full)") for (int c = 9; c < 14; c++) BOTH p[i] = p[i] * q[i] + k[c];
    BOTH {
        const sx_v32 scale = (sx_v32)(0x3f800000 - ((sx_m32)u[i] << 23));
        const sx_v32 erf = k[16] - (p[i] * q[i] + k[16]) * scale;
        v[i] = v[i] * half * (k[16] + (sx_v32)((sx_m32)erf | ((sx_m32)x[i] & (int32_t)0x80000000)));
    }
}

/* Rows of at least PAIR columns, those that are left as in sum_rows. */
static void gelu_rows(const sum *k, const float *x, int64_t ld, float *y, int64_t row, int64_t rows, int64_t cols) {
    const sx_v32 lo = (sx_v32){0} + k->lo, hi = (sx_v32){0} + k->hi, half = (sx_v32){0} + k->half, inner = (sx_v32){0} + k->inner;
    for (int64_t r = 0; r < rows; r++, x += ld, y += row)
        for (int64_t c = 0; c < cols; c += PAIR) {
            if (c + PAIR > cols) c = cols - PAIR;
            sx_v32 v[2];
            BOTH v[i] = AT(x, c + i * SX_LANES32);
            for (int j = 0; j < k->n; j++) BOTH v[i] += AT(k->data[j] + r * k->row[j], c + i * SX_LANES32);
            BOTH v[i] = sx_vat_most(sx_vat_least(v[i], lo), hi);
            gelu(v, half, inner);
            BOTH *(sx_v32_any *)(y + c + i * SX_LANES32) = v[i];
        }
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

/* Rows of a sum with n operands, a vector at a time; what is left of a row is done by a last vector that overlaps the one before. */
static inline __attribute__((always_inline)) void sum_rows(const sum *k, int n, const float *x, int64_t ld, float *y, int64_t row, int64_t rows, int64_t cols) {
    const sx_v32 lo = (sx_v32){0} + k->lo, hi = (sx_v32){0} + k->hi;
    const float *a = k->data[0], *b = k->data[1];
    for (int64_t r = 0; r < rows; r++, x += ld, y += row, a += n > 0 ? k->row[0] : 0, b += n > 1 ? k->row[1] : 0)
        for (int64_t c = 0; c < cols; c += SX_LANES32) {
            if (c + SX_LANES32 > cols) c = cols - SX_LANES32;
            sx_v32 v = AT(x, c);
            if (n > 0) v = v + AT(a, c);
            if (n > 1) v = v + AT(b, c);
            *(sx_v32_any *)(y + c) = sx_vat_most(sx_vat_least(v, lo), hi);
        }
}

/* Rows that are shorter than a vector. */
static void short_rows(const sum *k, const float *x, int64_t ld, float *y, int64_t row, int64_t rows, int64_t cols) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float v = x[r * ld + c];
            for (int i = 0; i < k->n; i++) v += k->data[i][r * k->row[i] + c];
            v = k->lo > v ? k->lo : v;
            y[r * row + c] = k->hi < v ? k->hi : v;
        }
}

static void run_sum(const sum *k, const float *x, int64_t ld, float *y, int64_t row, int64_t rows, int64_t cols) {
    if (cols < SX_LANES32) short_rows(k, x, ld, y, row, rows, cols);
    else switch (k->n) {
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
    if (acc_type == SX_F32 && y->dtype == SX_FLOAT && out.col == 1 && recognise_all(call->epilogue, &k) && (!k.half || cols >= PAIR) && place_operands(call, &k, start, row_axis, col_axis))
        (k.half ? gelu_rows : run_sum)(&k, block, ld, (float *)(uintptr_t)out.data, out.row, rows, cols);
    else run_tiles(call, from, out, rows, cols, start, row_axis, col_axis);
}
