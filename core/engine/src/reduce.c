/* reduce.c: sums, products, extremes and their positions over any axes, with prologue and epilogue expressions.

   How to think
   - Reduced axes are merged where every operand allows. Then either a whole run of the last reduced axis is taken at a time (rows), or, where a kept axis lies denser, up to 512 results
     advance together (columns).
   - An extreme, a sum or a mean of everything is taken in parts, by shape alone: of extremes the order changes nothing, sums of parts are added in double.
   - Floats are summed in float by pieces of at most 1024 and the pieces in double; integers in 64 bits, which wraps alike for every narrower type. The order depends on the shape only. */
#include "sx_expr.h"
#include "sx_vec.h"

#define PIECE 1024
#define COLUMNS 512
#define FLUSH 32     /* rows of a column block between two flushes into double */
#define WORK 32768   /* elements a task should read at least */
#define PARTS 1024   /* of everything, at most */

enum { SUM, PRODUCT, LEAST, GREATEST, ARG_LEAST, ARG_GREATEST, MEAN };

typedef struct {
    const sx_call *call;
    int op, last, type, columns;           /* type: what the accumulation is in: F32, F64, I64, U64 */
    int loaded, result;                    /* compute types: of loaded pieces (I32 only with a prologue), of what sx_finish gets */
    int col_axis, n_ops, rank;             /* rank: reduced axes after merging */
    int32_t ops[SX_MAX_OPERANDS];          /* operands read; ops[0] is x */
    int64_t dim[SX_RANK], stride[SX_MAX_OPERANDS][SX_RANK];
    int64_t count, outer, cols, block, across, per, tasks;
    int kept[SX_RANK], n_kept;             /* kept axes besides col_axis, outermost first */
} plan;

typedef union { float f[COLUMNS]; double d[COLUMNS]; int64_t i[COLUMNS]; uint64_t u[COLUMNS]; } column;
typedef union { float f[PIECE]; double d[PIECE]; int64_t i[PIECE]; uint64_t u[PIECE]; int32_t w[PIECE]; } piece;

/* -- planning ---------------------------------------------------------------------------------------------------------------------------------------------- */

static void find_operands(plan *p) {
    const sx_code *code = p->call->prologue;
    p->ops[p->n_ops++] = 0;
    for (int i = 0; code && i < code->count; i++) {
        const int32_t *w = code->words + i * SX_WORDS;
        int known = w[0] != SX_OP_LEAF, operand = code->first_leaf + w[3];
        for (int k = 0; k < p->n_ops && !known; k++) known = p->ops[k] == operand;
        if (!known) p->ops[p->n_ops++] = operand;
    }
}

static void merge_reduced(plan *p) {
    const sx_view *x = p->call->in;
    int order[SX_RANK], n = 0;
    for (int d = 0; d < x->rank; d++) if (p->call->param[1] >> d & 1 && x->dim[d] != 1) {
        int at = n++;
        for (; at > 0 && sx_magnitude(x->stride[order[at - 1]]) < sx_magnitude(x->stride[d]); at--) order[at] = order[at - 1];
        order[at] = d;
    }
    p->count = 1;
    for (int i = 0; i < n; i++) {
        int d = order[i], joins = i > 0;
        p->count *= x->dim[d];
        for (int k = 0; k < p->n_ops && joins; k++) joins = p->stride[k][p->rank - 1] == p->call->in[p->ops[k]].stride[d] * x->dim[d];
        if (joins) p->dim[p->rank - 1] *= x->dim[d];
        else p->dim[p->rank++] = x->dim[d];
        for (int k = 0; k < p->n_ops; k++) p->stride[k][p->rank - 1] = p->call->in[p->ops[k]].stride[d];
    }
    if (!p->rank) p->rank = 1, p->dim[0] = 1;
}

static void cut(plan *p) {
    const sx_view *x = p->call->in, *y = p->call->out;
    p->col_axis = -1;
    for (int d = 0; d < y->rank; d++)
        if (y->dim[d] > 1 && (p->col_axis < 0 || sx_magnitude(x->stride[d]) <= sx_magnitude(x->stride[p->col_axis]))) p->col_axis = d;
    p->cols = p->col_axis < 0 ? 1 : y->dim[p->col_axis];
    p->outer = 1;
    for (int d = 0; d < y->rank; d++) if (d != p->col_axis) p->outer *= y->dim[d], p->kept[p->n_kept++] = d;
    p->columns = p->cols >= 4 && sx_magnitude(x->stride[p->col_axis]) < sx_magnitude(p->stride[0][p->rank - 1]);
    p->block = sx_min64(sx_min64(p->cols, COLUMNS), sx_max64(1, WORK / sx_max64(p->count, 1)));
    if (p->columns) p->block = sx_min64(p->cols, COLUMNS); /* long pieces of rows, however many rows there are */
    p->across = sx_ceil_div(p->cols, p->block);
    p->per = sx_max64(1, WORK / sx_max64(p->block * p->count, 1));
    p->tasks = p->outer * p->across;
}

/* -- loading ------------------------------------------------------------------------------------------------------------------------------------------------- */

/* n elements (prologue applied) from offsets `at` (elements, one for each operand), `step` apart along axis k of the merged ones (k < 0: along col_axis). A pointer to them as p->loaded. */
static const void *fetch(const plan *p, const int64_t *at, int k, int64_t n, piece *room) {
    const sx_call *c = p->call;
    const sx_view *x = c->in;
    int64_t step = k < 0 ? x->stride[p->col_axis] : p->stride[0][k];
    if (!c->prologue) {
        const char *from = x->data + at[0] * sx_element_bytes(x->dtype);
        if (step == 1 && x->dtype == sx_native_dtype(p->loaded)) return from;
        sx_load_row(x->dtype, p->loaded, room, from, step, n);
        return room;
    }
    sx_tile t;
    t.call = c, t.code = c->prologue, t.rows = 1, t.cols = n, t.row_axis = t.col_axis = -1, t.acc.data = NULL;
    for (int i = 0; i < p->n_ops; i++) {
        const sx_view *v = c->in + p->ops[i];
        t.leaf[p->ops[i]] = (sx_leaf){v->data + at[i] * sx_element_bytes(v->dtype), 0, k < 0 ? v->stride[p->col_axis] : p->stride[i][k], v->dtype};
    }
    int64_t length = sx_tile_length(c->prologue), wide = sx_compute_bytes(p->result);
    for (int64_t done = 0; done < n; done += length) {
        t.cols = sx_min64(length, n - done);
        sx_eval_tile(&t, (char *)room + done * wide);
        for (int i = 0; i < p->n_ops; i++) t.leaf[p->ops[i]].data += t.cols * t.leaf[p->ops[i]].col * sx_element_bytes(t.leaf[p->ops[i]].dtype);
    }
    if (p->result == SX_I32 && p->loaded == SX_I64) for (int64_t i = n - 1; i >= 0; i--) room->i[i] = room->w[i]; /* widened in place, from the end */
    return room;
}

/* Step the merged reduced axes below `rank` one position on; `at` follows. 0 at the end. */
static int advance(const plan *p, int rank, int64_t *index, int64_t *at) {
    for (int d = rank - 1; d >= 0; d--) {
        for (int i = 0; i < p->n_ops; i++) at[i] += p->stride[i][d];
        if (++index[d] < p->dim[d]) return 1;
        for (int i = 0; i < p->n_ops; i++) at[i] -= p->stride[i][d] * p->dim[d];
        index[d] = 0;
    }
    return 0;
}

/* -- rows ------------------------------------------------------------------------------------------------------------------------------------------------------- */

#define FOLD(T, S, m, expression) { T m = S; for (int64_t i = 0; i < n; i++) { T v = x[i]; m = (expression); } S = m; }
#define EXTREME(T, NAME, BEATS) static T NAME(const T *x, int64_t n) { T m = x[0]; for (int64_t i = 1; i < n; i++) m = x[i] BEATS m ? x[i] : m; return m; }
EXTREME(int64_t, least_i64, <) EXTREME(int64_t, greatest_i64, >) EXTREME(uint64_t, least_u64, <) EXTREME(uint64_t, greatest_u64, >)

/* Whether `a` comes before `b` as the wanted extreme; NaN before all. `last`: equals too. */
#define BETTER(a, b) (op == LEAST || op == ARG_LEAST ? (a) < (b) : (a) > (b))

/* What a mean divides by. Of nothing: 0 / 0 for floats, 0 / 1 for integers. */
#define DIVISOR(A) (p->count ? (A)p->count : (A)0.5 > 0 ? (A)0 : (A)1)

#define ROWS(T, A, NAME, SUMMED, SMALLEST, LARGEST, LOWEST, HIGHEST) \
    static void rows_##NAME(const plan *p, const int64_t *start, T *result, int64_t *position) { \
        int op = p->op; \
        A total = op == PRODUCT ? 1 : 0; \
        T best = op == LEAST ? HIGHEST : op == GREATEST ? LOWEST : 0, times = 1; \
        int64_t index[SX_RANK] = {0}, at[SX_MAX_OPERANDS], where = -1, length = p->dim[p->rank - 1]; \
        piece room; \
        for (int i = 0; i < p->n_ops; i++) at[i] = start[i]; \
        if (p->count) do { \
            for (int64_t done = 0; done < length && !sx_stopped(p->call); done += PIECE) { \
                int64_t n = sx_min64(PIECE, length - done), here[SX_MAX_OPERANDS]; \
                for (int i = 0; i < p->n_ops; i++) here[i] = at[i] + done * p->stride[i][p->rank - 1]; \
                const T *x = fetch(p, here, p->rank - 1, n, &room); \
                if (op == SUM || op == MEAN) { SUMMED; } \
                else if (op == PRODUCT) FOLD(T, times, m, m * v) \
                else if (op == LEAST) { T v = SMALLEST; best = v < best || v != v ? v : best; } \
                else if (op == GREATEST) { T v = LARGEST; best = v > best || v != v ? v : best; } \
                else if (where < 0 || best != best || p->last || (op == ARG_LEAST ? !(SMALLEST >= best) : !(LARGEST <= best))) for (int64_t i = 0; i < n; i++) { \
                    T v = x[i]; \
                    if (where < 0 || (best == best && (v != v || BETTER(v, best))) || (p->last && (v == best || (v != v && best != best)))) best = v, where = done + i; } \
            } \
        } while (advance(p, p->rank - 1, index, at)); \
        *position = where; \
        *result = op == SUM ? (T)total : op == MEAN ? (T)(total / DIVISOR(A)) : op == PRODUCT ? times : best; \
    }

SX_SMALL static void rows_f64(const plan *p, const int64_t *start, double *result, int64_t *position);
SX_SMALL static void columns_f64(const plan *p, const int64_t *start, int64_t n, double *result, int64_t *position);
SX_SMALL static void rows_i64(const plan *p, const int64_t *start, int64_t *result, int64_t *position);
SX_SMALL static void columns_i64(const plan *p, const int64_t *start, int64_t n, int64_t *result, int64_t *position);
SX_SMALL static void rows_u64(const plan *p, const int64_t *start, uint64_t *result, int64_t *position);
SX_SMALL static void columns_u64(const plan *p, const int64_t *start, int64_t n, uint64_t *result, int64_t *position);

ROWS(float, double, f32, total += sx_sum_f32(x, n), sx_min_f32(x, n), sx_max_f32(x, n), -__builtin_inff(), __builtin_inff())
ROWS(double, double, f64, total += sx_sum_f64(x, n), sx_min_f64(x, n), sx_max_f64(x, n), -__builtin_inf(), __builtin_inf())
ROWS(int64_t, int64_t, i64, FOLD(int64_t, total, m, m + v), least_i64(x, n), greatest_i64(x, n), INT64_MIN, INT64_MAX)
ROWS(uint64_t, uint64_t, u64, FOLD(uint64_t, total, m, m + v), least_u64(x, n), greatest_u64(x, n), 0, UINT64_MAX)

/* -- columns ------------------------------------------------------------------------------------------------------------------------------------------------------- */

#define EACH(...) for (int64_t i = 0; i < n; i++) { __VA_ARGS__; }

#define COLUMNS_OF(T, A, NAME, FIELD, LOWEST, HIGHEST) \
    static void columns_##NAME(const plan *p, const int64_t *start, int64_t n, T *result, int64_t *position) { \
        int op = p->op; \
        A total[COLUMNS]; \
        T part[COLUMNS]; \
        int64_t index[SX_RANK] = {0}, at[SX_MAX_OPERANDS], row = 0; \
        piece room; \
        EACH(total[i] = 0; part[i] = op == PRODUCT ? 1 : op == LEAST ? HIGHEST : op == GREATEST ? LOWEST : 0; position[i] = -1) \
        for (int i = 0; i < p->n_ops; i++) at[i] = start[i]; \
        if (p->count) do { \
            const T *restrict x = fetch(p, at, -1, n, &room); \
            switch (op) { \
            case SUM: case MEAN: \
                EACH(part[i] += x[i]) \
                if (++row % FLUSH == 0) EACH(total[i] += part[i]; part[i] = 0) \
                break; \
            case PRODUCT: EACH(part[i] *= x[i]) break; \
            case LEAST: EACH(T v = x[i]; part[i] = v < part[i] || v != v ? v : part[i]) break; \
            case GREATEST: EACH(T v = x[i]; part[i] = v > part[i] || v != v ? v : part[i]) break; \
            default: \
                EACH(T v = x[i]; T b = part[i]; \
                     if (position[i] < 0 || (b == b && (v != v || BETTER(v, b))) || (p->last && (v == b || (v != v && b != b)))) part[i] = v, position[i] = row) \
                row++; \
            } \
        } while (advance(p, p->rank, index, at)); \
        if (op == SUM || op == MEAN) EACH(total[i] += part[i]) \
        A count = DIVISOR(A); \
        EACH(result[i] = op == SUM ? (T)total[i] : op == MEAN ? (T)(total[i] / count) : part[i]) \
    }

COLUMNS_OF(float, double, f32, f, -__builtin_inff(), __builtin_inff())
COLUMNS_OF(double, double, f64, d, -__builtin_inf(), __builtin_inf())
COLUMNS_OF(int64_t, int64_t, i64, i, INT64_MIN, INT64_MAX)
COLUMNS_OF(uint64_t, uint64_t, u64, u, 0, UINT64_MAX)

/* -- tasks ---------------------------------------------------------------------------------------------------------------------------------------------------------- */

static void reduce_block(const plan *p, int64_t outer, int64_t col, int64_t n) {
    const sx_call *c = p->call;
    int64_t start[SX_RANK] = {0}, at[SX_MAX_OPERANDS] = {0}, position[COLUMNS];
    column made;
    for (int k = p->n_kept - 1; k >= 0; k--) {
        int d = p->kept[k];
        start[d] = outer % c->out->dim[d], outer /= c->out->dim[d];
    }
    if (p->col_axis >= 0) start[p->col_axis] = col;
    for (int i = 0; i < p->n_ops; i++) for (int d = 0; d < c->out->rank; d++) at[i] += start[d] * c->in[p->ops[i]].stride[d];
    if (p->columns) switch (p->type) {
        case SX_F32: columns_f32(p, at, n, made.f, position); break;
        case SX_F64: columns_f64(p, at, n, made.d, position); break;
        case SX_I64: columns_i64(p, at, n, made.i, position); break;
        default: columns_u64(p, at, n, made.u, position);
    } else for (int64_t i = 0; i < n; i++) {
        switch (p->type) {
        case SX_F32: rows_f32(p, at, made.f + i, position + i); break;
        case SX_F64: rows_f64(p, at, made.d + i, position + i); break;
        case SX_I64: rows_i64(p, at, made.i + i, position + i); break;
        default: rows_u64(p, at, made.u + i, position + i);
        }
        if (p->col_axis >= 0) for (int k = 0; k < p->n_ops; k++) at[k] += c->in[p->ops[k]].stride[p->col_axis];
    }
    int arg = p->op == ARG_LEAST || p->op == ARG_GREATEST;
    if (!arg && p->result == SX_I32) { /* back to what the epilogue computes in */
        int32_t narrow[COLUMNS];
        for (int64_t i = 0; i < n; i++) narrow[i] = (int32_t)made.i[i];
        sx_finish(c, narrow, SX_I32, 1, n, n, start, -1, p->col_axis);
    } else sx_finish(c, arg ? (const void *)position : &made, arg ? SX_I64 : p->result, 1, n, n, start, -1, p->col_axis);
}

static void task(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    int64_t end = sx_min64(p->tasks, (number + 1) * p->per);
    for (int64_t i = number * p->per; i < end; i++) {
        int64_t outer = i / p->across, col = (i - outer * p->across) * p->block;
        reduce_block(p, outer, col, sx_min64(p->block, p->cols - col));
    }
}

/* The compute type of a prologue's result, or of x. */
static int value_type(const sx_call *call) {
    const sx_code *code = call->prologue;
    for (int i = code ? code->count - 1 : -1; i >= 0; i--) if (code->words[i * SX_WORDS + 2] == code->results[0]) return code->words[i * SX_WORDS + 1];
    switch (call->in->dtype) {
    case SX_FLOAT: case SX_FLOAT16: case SX_BFLOAT16: return SX_F32;
    case SX_DOUBLE: return SX_F64;
    case SX_UINT64: return SX_U64;
    case SX_INT64: case SX_UINT32: return SX_I64;
    default: return SX_I32;
    }
}

static plan plan_of(const sx_call *call) {
    plan p = {.call = call, .op = (int)call->param[0], .last = (int)call->param[2], .result = value_type(call)};
    p.type = p.loaded = p.result == SX_I32 ? SX_I64 : p.result;
    find_operands(&p);
    merge_reduced(&p);
    cut(&p);
    return p;
}

/* -- everything to one number, in parts ------------------------------------------------------------------------------------------------------------------------------ */

static int in_parts(const plan *p) { return (p->op == LEAST || p->op == GREATEST || p->op == SUM || p->op == MEAN) && p->type == SX_F32 && p->tasks == 1 && p->cols == 1 && p->rank == 1 && p->count >= 2 * WORK; }
static int64_t part_length(const plan *p) { return sx_max64(WORK, sx_ceil_div(sx_ceil_div(p->count, PARTS), PIECE) * PIECE); }

static void part(void *arg, int64_t number, int worker) {
    (void)worker;
    plan p = *(const plan *)arg;
    int64_t length = part_length(&p), at[SX_MAX_OPERANDS] = {0}, position;
    for (int i = 0; i < p.n_ops; i++) at[i] = number * length * p.stride[i][0];
    p.op = p.op == MEAN ? SUM : p.op;
    p.dim[0] = p.count = sx_min64(length, p.count - number * length);
    rows_f32(&p, at, (float *)(void *)p.call->scratch + number, &position);
}

static void reduce_parts(plan *p) {
    const float *made = (const float *)(const void *)p->call->scratch;
    int64_t n = sx_ceil_div(p->count, part_length(p)), start[SX_RANK] = {0};
    if (!sx_tiles(p->call, n, part, p)) return;
    float best = made[0];
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += made[i];
    if (p->op == SUM || p->op == MEAN) best = (float)(p->op == SUM ? sum : sum / (double)p->count);
    else for (int64_t i = 1; i < n; i++) best = (p->op == LEAST ? made[i] < best : made[i] > best) || made[i] != made[i] ? made[i] : best;
    sx_finish(p->call, &best, p->result, 1, 1, 1, start, -1, p->col_axis);
}

int64_t SX_NAME(sx_scratch_reduce)(const sx_call *call) {
    for (int d = 0; d < call->out->rank; d++) if (!call->out->dim[d]) return 0;
    plan p = plan_of(call);
    return in_parts(&p) ? 4 * PARTS : 0;
}

int SX_NAME(sx_k_reduce)(const sx_call *call) {
    for (int d = 0; d < call->out->rank; d++) if (!call->out->dim[d]) return 0;
    plan p = plan_of(call);
    if (in_parts(&p)) reduce_parts(&p);
    else sx_tiles(call, sx_ceil_div(p.tasks, p.per), task, &p);
    return 0;
}
