/* verify.c: everything about a program's bytes that does not depend on sizes, checked once at open. The rules are those of Program.verify in core/program.py, plus what running relies on:
   the operands each kind takes, and that every register of an expression is written before it is read, with the type the reader wants. */
#include "sx_internal.h"
#include "sx_expr.h"

int sx_item_bytes(int64_t dtype) {
    switch (dtype) {
    case SX_UINT8: case SX_INT8: case SX_BOOL: case 17: case 18: case 19: case 20: case 21: case 22: case 23: case 24: case 25: case 26: case 27: case 28: return 1;
    case SX_UINT16: case SX_INT16: case SX_FLOAT16: case SX_BFLOAT16: return 2;
    case SX_FLOAT: case SX_INT32: case SX_UINT32: return 4;
    case SX_DOUBLE: case SX_INT64: case SX_UINT64: case 14: return 8;
    case 15: return 16;
    default: return 0;
    }
}

int sx_compute_of(int64_t dtype) {
    switch (dtype) {
    case SX_FLOAT: case SX_FLOAT16: case SX_BFLOAT16: case 17: case 18: case 19: case 20: case 23: case 24: case 27: case 28: return SX_F32;
    case SX_DOUBLE: return SX_F64;
    case SX_UINT8: case SX_INT8: case SX_UINT16: case SX_INT16: case SX_INT32: case SX_BOOL: case 21: case 22: case 25: case 26: return SX_I32;
    case SX_UINT32: case SX_INT64: return SX_I64;
    case SX_UINT64: return SX_U64;
    default: return -1;
    }
}

static int within(int64_t index, int64_t count) { return index >= 0 && index < count; }

const void *sx_table_of(const char *bytes, int64_t length, int64_t place, int64_t width, int64_t *count) {
    const int64_t *head = (const int64_t *)bytes + place;
    int64_t n = head[0], at = head[1];
    if (n < 0 || n > length || at < 0 || at > length / 8 || n * width > length - at * 8) return NULL;
    *count = n;
    return bytes + at * 8;
}

static int read_tables(sx_program *p, sx_report *report) {
#define TABLE(number, field, type, count, width) \
    if (!(p->field = (const type *)sx_table_of(p->bytes, p->length, 3 + 2 * number, width, &p->count))) return sx_say(report, SX_E_FORMAT, SX_R_TABLE, -1, number, 0, 0);
    TABLE(0, sizes, sx_size, n_sizes, sizeof(sx_size))
    TABLE(1, guards, sx_guard, n_guards, sizeof(sx_guard))
    TABLE(2, buffers, sx_buffer, n_buffers, sizeof(sx_buffer))
    TABLE(3, views, sx_view_row, n_views, sizeof(sx_view_row))
    TABLE(4, codes, sx_code_row, n_codes, sizeof(sx_code_row))
    TABLE(5, words, int32_t, n_words, sizeof(int32_t))
    TABLE(6, steps, sx_step_row, n_steps, sizeof(sx_step_row))
    TABLE(7, lists, int64_t, n_lists, sizeof(int64_t))
    TABLE(8, inputs, sx_port, n_inputs, sizeof(sx_port))
    TABLE(9, outputs, sx_port, n_outputs, sizeof(sx_port))
    TABLE(10, offsets, int64_t, n_offsets, sizeof(int64_t))
    TABLE(11, text, char, n_text, 1)
    return 0;
}

static int check_strings(const sx_program *p, sx_report *report) {
    for (int64_t i = 0; i < p->n_offsets; i++)
        if (p->offsets[i] < (i ? p->offsets[i - 1] : 0) || p->offsets[i] > p->n_text) return sx_say(report, SX_E_FORMAT, SX_R_STRING, -1, i, p->offsets[i], p->n_text);
    return 0;
}

static int check_sizes(sx_program *p, sx_report *report) {
    for (int64_t i = 0; i < p->n_sizes; i++) {
        const sx_size *s = p->sizes + i;
        int good = within(s->op, SX_SIZES);
        if (good && s->op == SX_SIZE_DIM) good = within(s->a, p->n_inputs) && within(s->b, p->inputs[s->a].rank);
        if (good && s->op == SX_SIZE_ELEMENT) {
            good = within(s->a, p->n_inputs) && s->b >= 0 && (p->inputs[s->a].dtype == SX_INT64 || p->inputs[s->a].dtype == SX_INT32 || p->inputs[s->a].dtype == SX_BOOL);
            p->n_elements++;
        } else if (good && s->op > SX_SIZE_DIM) good = within(s->a, i) && within(s->b, i);
        if (!good) return sx_say(report, SX_E_FORMAT, SX_R_SIZE, -1, i, s->a, s->b);
    }
    for (int64_t i = 0; i < p->n_guards; i++) {
        const sx_guard *g = p->guards + i;
        if (!within(g->kind, SX_GUARDS) || !within(g->a, p->n_sizes) || !within(g->b, p->n_sizes)) return sx_say(report, SX_E_FORMAT, SX_R_GUARD_ROW, -1, i, g->a, g->b);
    }
    return 0;
}

static int check_buffers(sx_program *p, sx_report *report) {
    for (int64_t i = 0; i < p->n_buffers; i++) {
        const sx_buffer *b = p->buffers + i;
        int good = within(b->home, 4) && within(b->bytes, p->n_sizes) && b->at >= 0;
        if (good && b->home == SX_HOME_ARENA) good = b->at < p->n_sizes;
        if (good && b->home == SX_HOME_INPUT) good = b->at < p->n_inputs;
        if (good && b->home == SX_HOME_OUTPUT) good = b->at < p->n_outputs;
        if (good && b->home == SX_HOME_DATA) {
            good = b->at < p->n_buffers;
            if (good && b->at >= p->n_constants) p->n_constants = b->at + 1;
        }
        if (!good) return sx_say(report, SX_E_FORMAT, SX_R_BUFFER, -1, i, b->home, b->at);
    }
    for (int64_t i = 0; i < p->n_views; i++) {
        const sx_view_row *v = p->views + i;
        int good = within(v->buffer, p->n_buffers) && within(v->rank, SX_RANK + 1) && sx_item_bytes(v->dtype) && within(v->packing, 7) && within(v->start, p->n_sizes) && within(v->extent, p->n_sizes);
        for (int64_t d = 0; good && d < v->rank; d++) good = within(v->dim[d], p->n_sizes) && within(v->stride[d], p->n_sizes);
        if (!good) return sx_say(report, SX_E_FORMAT, SX_R_VIEW, -1, i, v->buffer, v->rank);
    }
    return 0;
}

static int check_ports(sx_program *p, const sx_port *ports, int64_t count, sx_report *report) {
    for (int64_t i = 0; i < count; i++) {
        const sx_port *q = ports + i;
        int good = within(q->name, p->n_offsets - 1) && within(q->rank, SX_RANK + 1) && sx_item_bytes(q->dtype) && within(q->view, p->n_views);
        for (int64_t d = 0; good && d < q->rank; d++) good = within(q->dim[d], p->n_sizes);
        if (!good) return sx_say(report, SX_E_FORMAT, SX_R_PORT, -1, i, q->name, q->view);
    }
    return 0;
}

/* -- expressions -------------------------------------------------------------------------------------------------------------------------------- */

static int takes(int op, int type) {
    int floating = type == SX_F32 || type == SX_F64;
    if (op >= SX_OP_ADD && op <= SX_OP_SIGN) return 1;
    if (op >= SX_OP_FLOOR && op <= SX_OP_LOG1P) return floating;
    if (op >= SX_OP_AND && op <= SX_OP_SHR) return !floating;
    return 1;
}

/* One instruction against the types registers hold (-1: nothing yet). */
static int check_instruction(const int32_t *w, const int8_t *types, int64_t registers) {
    int op = w[0], type = w[1], n = sx_op_args(op);
    if (n < 0 || type < 0 || type > SX_U64 || !within(w[2], registers)) return 0;
    if (op == SX_OP_CONST) return 1;
    if (op == SX_OP_LEAF || op == SX_OP_COORD) return w[3] >= 0 && (op == SX_OP_LEAF || type == SX_I64);
    if (op == SX_OP_ACC) return 1;
    if (op == SX_OP_LOAD) return w[3] >= 0 && within(w[4], registers) && types[w[4]] == SX_I64;
    for (int i = 0; i < n; i++)
        if (!within(w[3 + i], registers) || types[w[3 + i]] < 0) return 0;
    if (op == SX_OP_CAST) return types[w[3]] == w[4];
    if (op == SX_OP_SATURATE) return types[w[3]] == w[5] && sx_compute_of(w[4]) == type && type >= SX_I32;
    if (sx_op_compares(op)) {
        for (int i = 0; i < n; i++) if (types[w[3 + i]] != w[5]) return 0;
        return type == SX_I32;
    }
    if (op == SX_OP_SELECT) return types[w[3]] == SX_I32 && types[w[4]] == type && types[w[5]] == type;
    for (int i = 0; i < n; i++) if (types[w[3 + i]] != type) return 0;
    return takes(op, type);
}

static int check_codes(const sx_program *p, sx_report *report) {
    for (int64_t i = 0; i < p->n_codes; i++) {
        const sx_code_row *c = p->codes + i;
        int8_t types[SX_MAX_REGISTERS];
        for (int r = 0; r < SX_MAX_REGISTERS; r++) types[r] = -1;
        int good = c->count > 0 && c->count <= p->n_words / SX_WORDS && c->offset >= 0 && c->offset <= p->n_words - c->count * SX_WORDS && within(c->registers, SX_MAX_REGISTERS + 1)
                   && c->results >= 1 && c->results <= 4 && c->first >= 0 && c->first <= SX_MAX_OPERANDS;
        for (int64_t j = 0; good && j < c->count; j++) {
            const int32_t *w = p->words + c->offset + j * SX_WORDS;
            good = check_instruction(w, types, c->registers);
            if (good) types[w[2]] = (int8_t)w[1];
        }
        for (int64_t r = 0; good && r < c->results; r++) good = within(c->result[r], c->registers) && types[c->result[r]] >= 0;
        if (!good) return sx_say(report, SX_E_FORMAT, SX_R_CODE, -1, i, c->offset, c->count);
    }
    return 0;
}

/* -- steps ---------------------------------------------------------------------------------------------------------------------------------------- */

/* How many operands and parameters each kind takes (core/kernels.py, RECORDS), how many of the inputs must be there, and what an epilogue may be: 0 none, 1 of the result's type, 2 the kind is one. */
typedef struct { int8_t least_in, most_in, least_out, most_out, params, epilogue; } sx_shape_rule;
static const sx_shape_rule RULES[SX_KINDS] = {
    [SX_MAP] = {0, SX_MAX_OPERANDS, 1, 4, 0, 2}, [SX_REDUCE] = {1, SX_MAX_OPERANDS, 1, 1, 3, 1}, [SX_MATMUL] = {2, SX_MAX_OPERANDS, 1, 1, 7, 1}, [SX_CONV] = {2, SX_MAX_OPERANDS, 1, 1, 17, 1},
    [SX_POOL] = {1, 1, 1, 2, 20, 0}, [SX_SOFTMAX] = {1, 2, 1, 1, 3, 0}, [SX_NORM] = {1, 4, 1, 4, 4, 0}, [SX_ATTENTION] = {3, 6, 1, 3, 4, 0}, [SX_GATHER] = {2, 2, 1, 1, 2, 0},
    [SX_COPY] = {1, 2, 1, 1, 9, 0}, [SX_SCAN] = {1, 6, 1, 2, 5, 0}, [SX_SCATTER] = {3, 3, 1, 1, 3, 0}, [SX_RESIZE] = {1, 1, 1, 1, 31, 0}, [SX_SAMPLE] = {2, 3, 1, 1, 7, 0},
    [SX_SORT] = {1, 1, 1, 2, 2, 0}, [SX_RNN] = {3, 10, 0, 3, 23, 0}, [SX_FFT] = {1, 1, 1, 1, 4, 0}, [SX_LINALG] = {1, 1, 1, 1, 1, 0},
    [SX_TREES] = {5, 7, 1, 2, 3, 0}, [SX_COMPACT] = {1, 5, 2, 4, 3, 0}, [SX_RANDOM] = {1, 1, 1, 1, 3, 0},
};

/* The version of each kind's record (core/kernels.py, VERSIONS). */
static int version_of(int64_t kind) { return kind == SX_ATTENTION ? 2 : 1; }

static int check_leaves(const sx_program *p, const sx_step_row *s, int64_t code) {
    const sx_code_row *c = p->codes + code;
    const int64_t *in = p->lists + s->inputs;
    for (int64_t j = 0; j < c->count; j++) {
        const int32_t *w = p->words + c->offset + j * SX_WORDS;
        if (w[0] == SX_OP_LEAF || w[0] == SX_OP_LOAD) {
            int64_t operand = c->first + w[3];
            if (operand >= s->n_in || in[operand] < 0) return 0;
            const sx_view_row *v = p->views + in[operand];
            if (v->packing || sx_compute_of(v->dtype) != w[1]) return 0;
        }
        if (w[0] == SX_OP_COORD && w[3] >= p->views[p->lists[s->outputs]].rank) return 0;
    }
    return 1;
}

/* The types of an epilogue: ACC must have `acc`, each result the compute type of its output. */
static int check_results(const sx_program *p, const sx_step_row *s, int64_t code, int acc) {
    const sx_code_row *c = p->codes + code;
    int types[SX_MAX_REGISTERS];
    for (int64_t j = 0; j < c->count; j++) {
        const int32_t *w = p->words + c->offset + j * SX_WORDS;
        if (w[0] == SX_OP_ACC && w[1] != acc) return 0;
        types[w[2]] = w[1];
    }
    if (c->results != s->n_out) return 0;
    for (int64_t r = 0; r < c->results; r++)
        if (types[c->result[r]] != sx_compute_of(p->views[p->lists[s->outputs + r]].dtype)) return 0;
    return 1;
}

/* The type a kind's own result has before its epilogue. */
static int accumulated(const sx_program *p, const sx_step_row *s) {
    const sx_view_row *x = p->views + p->lists[s->inputs];
    return sx_compute_of(x->dtype);
}

static int is_narrow(int64_t dtype) { return (dtype >= 17 && dtype <= 20) || dtype == 23 || dtype == 24 || dtype == 27 || dtype == 28; }

static int check_step(const sx_program *p, int64_t i, sx_report *report) {
    const sx_step_row *s = p->steps + i;
    if (!within(s->kind, SX_KINDS) || s->kind == 0 || s->version != version_of(s->kind)) return sx_say(report, SX_E_FORMAT, SX_R_KIND, i, -1, s->kind, s->version);
    if (!RULES[s->kind].most_out || !p->table->kernels[s->kind].run) return sx_say(report, SX_E_UNSUPPORTED, SX_R_KERNEL, i, -1, s->kind, 0);
    const sx_shape_rule *r = RULES + s->kind;
    if (!within(s->origin, p->n_offsets - 1) || s->n_in < r->least_in || s->n_in > r->most_in || s->n_out < r->least_out || s->n_out > r->most_out || s->n_param != r->params)
        return sx_say(report, SX_E_FORMAT, SX_R_OPERANDS, i, -1, s->n_in, s->n_out);
    const int64_t spans[3][2] = {{s->inputs, s->n_in}, {s->outputs, s->n_out}, {s->params, s->n_param}};
    for (int k = 0; k < 3; k++) {
        if (spans[k][0] < 0 || spans[k][0] > p->n_lists - spans[k][1]) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, k, spans[k][0], spans[k][1]);
        for (int64_t j = 0; j < spans[k][1]; j++) {
            int64_t index = p->lists[spans[k][0] + j];
            int required = k == 2 || (k == 0 ? j < r->least_in && !(s->kind == SX_RNN && j == 1) : j < r->least_out);
            if (!within(index, k == 2 ? p->n_sizes : p->n_views) && (required || index != -1)) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, j, index, p->n_views);
        }
    }
    for (int64_t j = 0; j < s->n_out; j++) { /* nothing writes into an input or a constant */
        int64_t index = p->lists[s->outputs + j];
        if (index < 0) continue;
        int64_t home = p->buffers[p->views[index].buffer].home;
        if (home == SX_HOME_INPUT || home == SX_HOME_DATA || p->views[index].packing) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, j, home, 0);
    }
    for (int64_t j = 0; j < s->n_in; j++) {
        int64_t index = p->lists[s->inputs + j];
        if (index >= 0 && p->views[index].packing && ((j != (s->kind == SX_RNN ? 2 : 1) && !(s->kind == SX_MATMUL && p->views[index].packing == 6)) || p->buffers[p->views[index].buffer].home != SX_HOME_DATA || (s->kind != SX_MATMUL && s->kind != SX_CONV && s->kind != SX_RNN)))
            return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, j, p->views[index].packing, 0);
    }
    for (int64_t j = 1; s->kind == SX_TREES && j < s->n_in; j++) { /* its tables are checked at bind, so they must be there by then */
        int64_t index = p->lists[s->inputs + j];
        if (index >= 0 && p->buffers[p->views[index].buffer].home != SX_HOME_DATA) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, j, p->buffers[p->views[index].buffer].home, 0);
    }
    if (s->kind != SX_MAP && s->kind != SX_COPY && s->kind != SX_GATHER && s->kind != SX_SCATTER && s->kind != SX_RESIZE)
        for (int64_t j = 0; j < s->n_in + s->n_out; j++) { /* floats of 8 bits and fewer are converted by Maps, moved by these */
            int64_t index = p->lists[j < s->n_in ? s->inputs + j : s->outputs + j - s->n_in];
            if (index >= 0 && is_narrow(p->views[index].dtype)) return sx_say(report, SX_E_DTYPE, SX_R_TYPE, i, j, p->views[index].dtype, 0);
        }
    int has = s->epilogue >= 0, wants = r->epilogue;
    if (!within(s->epilogue, p->n_codes) && s->epilogue != -1) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, -1, s->epilogue, p->n_codes);
    if (!within(s->prologue, p->n_codes) && s->prologue != -1) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, -1, s->prologue, p->n_codes);
    if ((wants == 2 && !has) || (wants == 0 && has) || (s->prologue >= 0 && s->kind != SX_REDUCE)) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, -1, s->prologue, s->epilogue);
    int acc = accumulated(p, s);
    if (s->prologue >= 0) {
        const sx_code_row *c = p->codes + s->prologue;
        if (c->results != 1 || !check_leaves(p, s, s->prologue)) return sx_say(report, SX_E_DTYPE, SX_R_TYPE, i, -1, s->prologue, 0);
        for (int64_t j = 0; j < c->count; j++) {
            const int32_t *w = p->words + c->offset + j * SX_WORDS;
            if (w[0] == SX_OP_ACC || w[0] == SX_OP_LOAD || w[0] == SX_OP_COORD) return sx_say(report, SX_E_FORMAT, SX_R_CODE, i, s->prologue, j, 0);
            if (w[2] == c->result[0]) acc = w[1];
        }
    }
    if (s->kind == SX_REDUCE) {
        const sx_size *op = p->sizes + p->lists[s->params];
        if (op->op != SX_SIZE_CONST) return sx_say(report, SX_E_FORMAT, SX_R_STEP, i, 0, op->op, 0);
        acc = sx_reduced_type(acc, op->a);
    }
    if (has && (!check_leaves(p, s, s->epilogue) || !check_results(p, s, s->epilogue, s->kind == SX_MAP ? -1 : acc))) return sx_say(report, SX_E_DTYPE, SX_R_TYPE, i, -1, s->epilogue, acc);
    return 0;
}

int sx_verify(sx_program *p, sx_report *report) {
    const int64_t *head = (const int64_t *)p->bytes;
    const int64_t magic = 0x31474f5250584453; /* "SDXPROG1" */
    if (p->length < (3 + 24) * 8) return sx_say(report, SX_E_FORMAT, SX_R_SHORT, -1, -1, p->length, 0);
    if (head[0] != magic) return sx_say(report, SX_E_FORMAT, SX_R_MAGIC, -1, -1, head[0], 0);
    if (head[1] >> 32 != SX_ABI_MAJOR) return sx_say(report, SX_E_FORMAT, SX_R_ABI, -1, -1, head[1] >> 32, SX_ABI_MAJOR);
    p->arena = head[2];
    int code = read_tables(p, report);
    if (!code && !within(p->arena, p->n_sizes) && p->arena != -1) code = sx_say(report, SX_E_FORMAT, SX_R_ARENA, -1, p->arena, p->arena, 0);
    if (!code) code = check_strings(p, report);
    for (int64_t i = 0; !code && i < p->n_inputs; i++) /* ranks first: sizes refer to them */
        if (!within(p->inputs[i].rank, SX_RANK + 1)) code = sx_say(report, SX_E_FORMAT, SX_R_PORT, -1, i, p->inputs[i].rank, 0);
    if (!code) code = check_sizes(p, report);
    if (!code) code = check_buffers(p, report);
    if (!code) code = check_ports(p, p->inputs, p->n_inputs, report);
    if (!code) code = check_ports(p, p->outputs, p->n_outputs, report);
    if (!code) code = check_codes(p, report);
    for (int64_t i = 0; !code && i < p->n_steps; i++) code = check_step(p, i, report);
    return code;
}
