/* loader.c: open, bind, run. See sardonyx.h for what each does and verify.c, check.c for what is checked when. */
#include "sx_internal.h"
#include "sx_expr.h"
#include "sx_tables.h"

#define ALIGN 64

/* -- open ---------------------------------------------------------------------------------------------------------------------------------------- */

static int choose_isa(int wanted) {
    if (wanted) return wanted - 1 < SX_ISAS && wanted > 0 && sx_isa_available(wanted - 1) ? wanted - 1 : -1;
    for (int i = 0; i < SX_ISAS; i++) if (sx_isa_available(i)) return i;
    return -1;
}

static void make_codes(sx_program *p) {
    for (int64_t i = 0; i < p->n_codes; i++) {
        const sx_code_row *c = p->codes + i;
        sx_code *made = p->made + i;
        *made = (sx_code){p->words + c->offset, (int32_t)c->count, (int32_t)c->registers, {0}, (int32_t)c->results, (int32_t)c->first};
        for (int64_t r = 0; r < c->results; r++) made->results[r] = (int32_t)c->result[r];
    }
}

int sx_open(const void *program, uint64_t bytes, const sx_options *options, sx_program **out, sx_report *report) {
    sx_report unused;
    report = report ? report : &unused;
    *out = NULL;
    if (bytes > (uint64_t)SX_LARGEST) return sx_say(report, SX_E_FORMAT, SX_R_SHORT, -1, -1, (int64_t)bytes, 0);
    int64_t length = (int64_t)bytes & ~(int64_t)7, total = length + ALIGN;
    char *own = sx_host_alloc(total);
    if (!own) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, length, 0);
    sx_copy(own, program, length);
    return sx_open_in(own, length, total, options, out, report);
}

int sx_open_in(char *bytes, int64_t length, int64_t total, const sx_options *options, sx_program **out, sx_report *report) {
    sx_say(report, 0, 0, -1, -1, 0, 0);
    *out = NULL;
    sx_program *p = sx_host_alloc(sizeof *p);
    if (!p) {
        if (total) sx_host_free(bytes, total);
        return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, sizeof *p, 0);
    }
    sx_clear(p, sizeof *p);
    p->bytes = bytes, p->length = length, p->total = total;
    int isa = choose_isa(options ? options->isa : 0);
    int code = isa < 0 ? sx_say(report, SX_E_UNSUPPORTED, SX_R_ISA, -1, -1, options ? options->isa : 0, 0) : 0;
    if (!code) {
        p->table = sx_tables[isa];
        p->threads = options && options->threads > 0 ? options->threads : sx_host_cores();
        if (p->threads > SX_MAX_WORKERS) p->threads = SX_MAX_WORKERS;
        p->memory_limit = options ? options->memory_limit : 0;
        code = sx_verify(p, report);
    }
    if (!code) {
        p->made = sx_host_alloc((p->n_codes + 1) * (int64_t)sizeof *p->made);
        p->constants = sx_host_alloc((p->n_constants + 1) * (int64_t)sizeof *p->constants);
        p->derived = sx_cleared((SX_DERIVED * p->n_constants + 1) * (int64_t)sizeof *p->derived);
        if (!p->made || !p->constants || !p->derived) code = sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, p->n_codes, p->n_constants);
    }
    if (!code) {
        make_codes(p);
        sx_clear(p->constants, p->n_constants * (int64_t)sizeof *p->constants);
        for (int64_t i = 0; i < p->n_inputs; i++) p->n_dims += p->inputs[i].rank;
        *out = p;
        return 0;
    }
    sx_close(p);
    return code;
}

void sx_close(sx_program *p) {
    if (!p) return;
    for (int i = 0; i < SX_SPARES; i++) if (p->spare[i].memory) sx_host_free(p->spare[i].memory, p->spare[i].bytes);
    for (int64_t i = 0; p->derived && i < SX_DERIVED * p->n_constants; i++) if (p->derived[i].data) sx_host_free(p->derived[i].data, p->derived[i].bytes);
    if (p->derived) sx_host_free(p->derived, (SX_DERIVED * p->n_constants + 1) * (int64_t)sizeof *p->derived);
    if (p->constants) sx_host_free(p->constants, (p->n_constants + 1) * (int64_t)sizeof *p->constants);
    if (p->made) sx_host_free(p->made, (p->n_codes + 1) * (int64_t)sizeof *p->made);
    if (p->total) sx_host_free(p->bytes, p->total);
    sx_host_free(p, sizeof *p);
}

int sx_set_constant(sx_program *p, int64_t number, const void *data, uint64_t bytes, sx_report *report) {
    if (number < 0 || number >= p->n_constants || bytes > (uint64_t)SX_LARGEST || (!data && bytes)) return sx_say(report, SX_E_ARGUMENT, SX_R_CONSTANT, -1, number, (int64_t)bytes, p->n_constants);
    p->constants[number] = (sx_constant){data, (int64_t)bytes};
    return 0;
}

int64_t sx_counts(const sx_program *p, int what) { return what == 0 ? p->n_inputs : what == 1 ? p->n_outputs : what == 2 ? p->n_steps : what == 3 ? p->n_constants : p->n_elements; }
const char *sx_isa_name(int number) { return number >= 0 && number < SX_ISAS ? sx_tables[number]->name : NULL; }

#ifndef __wasm__
int sx_bfloat16_available(void) { return sx_host_bf16(); }
int sx_use_bfloat16(sx_program *p) { return p->bf16 = p->table->rounds && sx_host_bf16(); }
int sx_in_bfloat16(const sx_state *s, int64_t step) { return s->program->bf16 && step >= 0 && step < s->program->n_steps && s->program->table->rounds(s->calls + step); }
#endif

int sx_kernel_available(int kind) { return kind > 0 && kind < SX_KINDS && sx_tables[0]->kernels[kind].run != NULL; }

/* -- bind ----------------------------------------------------------------------------------------------------------------------------------------- */

static int64_t floor_div(int64_t a, int64_t b) { int64_t q = a / b; return a % b < 0 ? q - 1 : q; }

const int64_t *sx_dims_of(const sx_program *p, const int64_t *dims, int64_t input) {
    for (int64_t i = 0; i < input; i++) dims += p->inputs[i].rank;
    return dims;
}

/* The value of an element of an input that decides sizes; `dims` are the input's. */
int sx_element(const sx_program *p, const sx_size *s, const int64_t *dims, const void *const *inputs, int64_t *made, sx_report *report) {
    const sx_port *port = p->inputs + s->a;
    int64_t count = sx_count_of(dims, port->rank);
    if (!inputs) return sx_say(report, SX_E_ARGUMENT, SX_R_UNREADABLE, -1, s->a, 0, 0);
    if (s->b >= count) return sx_say(report, SX_E_SHAPE, SX_R_ELEMENT, -1, s->a, s->b, count);
    int item = sx_item_bytes(port->dtype);
    if (!inputs[s->a] || (uintptr_t)inputs[s->a] % item) return sx_say(report, SX_E_ARGUMENT, SX_R_POINTER, -1, s->a, item, 0);
    *made = port->dtype == SX_INT64 ? ((const int64_t *)inputs[s->a])[s->b] : port->dtype == SX_INT32 ? ((const int32_t *)inputs[s->a])[s->b] : ((const uint8_t *)inputs[s->a])[s->b] != 0;
    return 0;
}

/* The size table. Divisors must be positive: sizes are. */
static int evaluate_sizes(const sx_program *p, const int64_t *dims, const void *const *inputs, int64_t *size, sx_report *report) {
    for (int64_t i = 0; i < p->n_sizes; i++) {
        const sx_size *s = p->sizes + i;
        int64_t a = 0, b = 0, made = 0;
        int bad = 0;
        if (s->op > SX_SIZE_DIM && s->op < SX_SIZE_ELEMENT) a = size[s->a], b = size[s->b];
        switch (s->op) {
        case SX_SIZE_CONST: made = s->a; break;
        case SX_SIZE_DIM: case SX_SIZE_ELEMENT: {
            const int64_t *at = sx_dims_of(p, dims, s->a);
            if (s->op == SX_SIZE_DIM) made = at[s->b];
            else if ((bad = sx_element(p, s, at, inputs, &made, report))) return bad;
            break;
        }
        case SX_SIZE_ADD: bad = __builtin_add_overflow(a, b, &made); break;
        case SX_SIZE_SUB: bad = __builtin_sub_overflow(a, b, &made); break;
        case SX_SIZE_MUL: bad = __builtin_mul_overflow(a, b, &made); break;
        case SX_SIZE_MIN: made = a < b ? a : b; break;
        case SX_SIZE_MAX: made = a > b ? a : b; break;
        default: /* divisions; a negated minimum is the one quotient that overflows, and only by -1 */
            bad = b <= 0;
            if (!bad) made = s->op == SX_SIZE_FLOORDIV ? floor_div(a, b) : s->op == SX_SIZE_MOD ? a - b * floor_div(a, b) : floor_div(a, b) + (a % b != 0);
        }
        if (bad) return sx_say(report, SX_E_SHAPE, SX_R_OVERFLOW, -1, i, a, b);
        size[i] = made;
    }
    return 0;
}

static int check_inputs(const sx_program *p, const int64_t *dims, const int64_t *size, sx_report *report) {
    for (int64_t i = 0; i < p->n_inputs; i++)
        for (int64_t d = 0; d < p->inputs[i].rank; d++, dims++)
            if (*dims < 0 || *dims > SX_LARGEST || size[p->inputs[i].dim[d]] != *dims) return sx_say(report, SX_E_ARGUMENT, SX_R_INPUT_SIZE, d, i, *dims, size[p->inputs[i].dim[d]]);
    for (int64_t i = 0; i < p->n_guards; i++) {
        const sx_guard *g = p->guards + i;
        int64_t a = size[g->a], b = size[g->b];
        int holds = g->kind == SX_GUARD_EQUAL ? a == b : g->kind == SX_GUARD_AT_LEAST ? a >= b : a <= b;
        if (!holds && g->kind == SX_GUARD_EQUAL) return sx_say(report, SX_E_ARGUMENT, SX_R_UNEQUAL, -1, i, a, b);
        if (!holds) return sx_say(report, SX_E_GUARD, SX_R_GUARD, -1, i, a, b);
    }
    return 0;
}

/* Every buffer of the arena inside it and aligned. */
static int check_arena(const sx_program *p, const int64_t *size, sx_report *report) {
    int64_t arena = p->arena < 0 ? 0 : size[p->arena];
    if (arena < 0 || arena > SX_LARGEST) return sx_say(report, arena < 0 ? SX_E_SHAPE : SX_E_MEMORY, SX_R_ARENA, -1, p->arena, arena, 0);
    for (int64_t i = 0; i < p->n_buffers; i++) {
        const sx_buffer *b = p->buffers + i;
        if (b->home != SX_HOME_ARENA) continue;
        int64_t at = size[b->at], bytes = size[b->bytes];
        if (at < 0 || at % ALIGN || bytes < 0 || at > arena || bytes > arena - at) return sx_say(report, SX_E_FORMAT, SX_R_PLACE, -1, i, at, arena);
    }
    return 0;
}

/* Elements of these sizes, or -1 where a size is negative or the product too large. */
int64_t sx_count_of(const int64_t *dim, int64_t rank) {
    int64_t n = 1;
    for (int64_t d = 0; d < rank; d++) {
        if (dim[d] < 0 || dim[d] > SX_LARGEST) return -1;
        if (dim[d] && n > SX_LARGEST / dim[d]) return -1;
        n *= dim[d];
    }
    return n;
}

static int64_t port_bytes(const sx_port *port, const int64_t *size) {
    int64_t dim[SX_RANK];
    for (int64_t d = 0; d < port->rank; d++) dim[d] = size[port->dim[d]];
    int64_t n = sx_count_of(dim, port->rank);
    return n < 0 ? -1 : n * sx_item_bytes(port->dtype);
}

/* Bytes a view's buffer really has. What the table claims may be less, never more. */
static int64_t buffer_bytes(const sx_program *p, const sx_buffer *b, const int64_t *size) {
    int64_t claimed = size[b->bytes], real;
    switch (b->home) {
    case SX_HOME_INPUT: real = port_bytes(p->inputs + b->at, size); break;
    case SX_HOME_OUTPUT: real = port_bytes(p->outputs + b->at, size); break;
    case SX_HOME_DATA: return p->constants[b->at].bytes;
    default: real = size[p->arena] - size[b->at]; /* check_arena has been here */
    }
    return claimed < 0 || claimed > real ? -1 : claimed;
}

/* One row of the views as an operand: sizes put in, and every element it can reach inside its buffer. `group` is for packed weights. */
static int bind_view(const sx_program *p, int64_t index, const int64_t *size, int64_t group, sx_view *v, int64_t *offset, sx_report *report, int64_t step, int64_t operand) {
    const sx_view_row *row = p->views + index;
    const sx_buffer *b = p->buffers + row->buffer;
    int item = sx_item_bytes(row->dtype);
    int64_t bytes = buffer_bytes(p, b, size);
    *v = (sx_view){.rank = (int32_t)row->rank, .dtype = (int32_t)row->dtype, .packing = (int32_t)row->packing};
    for (int64_t d = 0; d < row->rank; d++) v->dim[d] = size[row->dim[d]], v->stride[d] = size[row->stride[d]];
    int64_t count = sx_count_of(v->dim, row->rank), start = size[row->start], low = start, high = start;
    if (count < 0 || bytes < 0) return sx_say(report, SX_E_SHAPE, SX_R_OVERFLOW, step, operand, count, bytes);
    *offset = 0;
    v->extent = bytes / item;
    if (row->packing) {
        int64_t need = sx_packed_bytes(row->packing, item, v->dim, v->rank, group);
        v->extent = bytes;
        return need < 0 || need > bytes ? sx_say(report, SX_E_FORMAT, SX_R_EXTENT, step, operand, need, bytes) : 0;
    }
    if (count == 0) return 0; /* nothing is reached, wherever it starts */
    for (int64_t d = 0; d < row->rank; d++) {
        int64_t reach;
        if (__builtin_mul_overflow(v->dim[d] - 1, v->stride[d], &reach) || __builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high))
            return sx_say(report, SX_E_SHAPE, SX_R_OVERFLOW, step, operand, v->dim[d], v->stride[d]);
    }
    if (low < 0 || high >= bytes / item) return sx_say(report, SX_E_FORMAT, SX_R_EXTENT, step, operand, low < 0 ? low : high, bytes / item);
    *offset = start * item;
    v->extent = bytes / item - start;
    return 0;
}

/* A form of a constant: where it is, or will be (`data` is NULL: to be made), or NULL where there is no room. All forms together take at most a quarter of the constants' memory and a little; with bfloat16 half as much again.
   The caller holds `deriving`. */
static sx_derived *derived_of(sx_program *p, int64_t constant, int packing, int64_t bytes) {
    enum { LITTLE = 16 << 20 };
    sx_derived *d = p->derived + SX_DERIVED * constant;
    for (int i = 0; i < SX_DERIVED - 1 && d->data && d->packing != packing; i++) d++;
    if (d->data) return d->packing == packing && d->bytes == bytes ? d : NULL;
    int64_t most = LITTLE;
    for (int64_t i = 0; i < p->n_constants; i++) most += p->constants[i].bytes / 4 * (p->bf16 ? 3 : 1);
    if (p->derived_bytes + bytes > most) return NULL;
    *d = (sx_derived){NULL, bytes, packing};
    return d;
}

static int allocate_derived(sx_program *p, sx_derived *d) {
    d->data = sx_host_alloc(d->bytes);
    if (d->data) p->derived_bytes += d->bytes;
    return d->data != NULL;
}

/* The second operand of a call in the form its kernel would rather have, made once a program. */
static void use_derived(const sx_program *shared, const sx_derivation *how, const sx_call *call, sx_view *operand, int64_t constant) {
    sx_program *p = (sx_program *)(uintptr_t)shared;
    int packing = how->wanted ? how->wanted(call) : 0;
    if (!packing) return;
    while (__atomic_test_and_set(&p->deriving, __ATOMIC_ACQUIRE)) {}
    sx_derived *d = derived_of(p, constant, packing, how->bytes(call, packing));
    if (d && !d->data && allocate_derived(p, d)) how->derive(call, packing, d->data);
    if (d && d->data) operand->data = d->data, operand->packing = packing, operand->dtype = SX_FLOAT, operand->extent = d->bytes;
    __atomic_clear(&p->deriving, __ATOMIC_RELEASE);
}

/* The column sums of a call's constant operand, made once a program. */
static void use_sums(const sx_program *shared, sx_call *call, int64_t at) {
    enum { SUMS = 128 }; /* and the type: what stands for a packing */
    sx_program *p = (sx_program *)(uintptr_t)shared;
    const sx_summing *how = &p->table->summing;
    const sx_step_row *row = p->steps + at;
    int operand = how->operand ? how->operand(call) : -1;
    if (operand < 0) return;
    const sx_buffer *b = p->buffers + p->views[p->lists[row->inputs + operand]].buffer;
    if (b->home != SX_HOME_DATA || call->in[operand].data != p->constants[b->at].data) return;
    while (__atomic_test_and_set(&p->deriving, __ATOMIC_ACQUIRE)) {}
    sx_derived *d = derived_of(p, b->at, SUMS + call->in[operand].dtype, 4 * sx_sums_count(call->in + operand));
    if (d && !d->data && allocate_derived(p, d)) how->make(call->in + operand, d->data);
    if (d && d->data) call->sums = d->data;
    __atomic_clear(&p->deriving, __ATOMIC_RELEASE);
}

#ifndef __wasm__
/* Every step's constants are what the products before it may ask for early. */
static void look_ahead(const sx_program *p, sx_state *s) {
    enum { LEAST = 16384 }; /* less comes by itself */
    const char *ahead = NULL;
    int64_t bytes = 0;
    for (int64_t i = p->n_steps - 1; i >= 0; i--) {
        const sx_step_row *row = p->steps + i;
        sx_call *call = s->calls + i;
        call->ahead = ahead, call->ahead_bytes = bytes;
        if ((row->kind != SX_MATMUL && row->kind != SX_CONV) || p->lists[row->inputs + 1] < 0) continue;
        const sx_view *b = call->in + 1;
        int64_t length = b->packing ? b->extent : b->extent * sx_item_bytes(b->dtype);
        if (p->buffers[p->views[p->lists[row->inputs + 1]].buffer].home == SX_HOME_DATA && length >= LEAST) ahead = b->data, bytes = length;
    }
}
#endif

/* What kernels that are asked for their scratch lay it out from: an address, never memory (counting from NULL is undefined). */
static char nowhere[64];

/* In builds with sanitizers, which can not tell one part of the arena from another: bytes behind each worker's scratch that no kernel may touch. One that does ends the process. */
#ifdef SX_GUARDED
enum { GUARD = 256 };
static void guard(const sx_program *p, const sx_call *call, int check) {
    for (int64_t worker = 1; worker <= p->threads; worker++) {
        uint64_t *words = (uint64_t *)(void *)(call->scratch + worker * call->scratch_bytes - GUARD);
        for (int i = 0; i < GUARD / 8; i++)
            if (!check) words[i] = 0x5a5a5a5a5a5a5a5aull;
            else if (words[i] != 0x5a5a5a5a5a5a5a5aull) __builtin_trap();
    }
}
#else
enum { GUARD = 0 };
static void guard(const sx_program *p, const sx_call *call, int check) { (void)p, (void)call, (void)check; }
#endif

static int bind_steps(const sx_program *p, sx_state *s, sx_report *report) {
    sx_view *view = s->operands;
    int64_t *param = s->params;
    for (int64_t i = 0; i < p->n_steps; i++) {
        const sx_step_row *row = p->steps + i;
        sx_call *call = s->calls + i;
        *call = (sx_call){.kind = (int32_t)row->kind, .n_in = (int32_t)row->n_in, .n_out = (int32_t)row->n_out, .n_param = (int32_t)row->n_param, .in = view, .out = view + row->n_in,
                          .param = param, .prologue = row->prologue < 0 ? NULL : p->made + row->prologue, .epilogue = row->epilogue < 0 ? NULL : p->made + row->epilogue, .fault = s->fault, .stop = s->watch};
        for (int64_t j = 0; j < row->n_param; j++) *param++ = s->sizes[p->lists[row->params + j]];
        int64_t group = row->kind == SX_CONV ? call->param[1] : 1;
        for (int64_t j = 0; j < row->n_in + row->n_out; j++, view++) {
            int64_t index = p->lists[j < row->n_in ? row->inputs + j : row->outputs + j - row->n_in], offset;
            if (index < 0) {
                *view = (sx_view){0};
                continue;
            }
            int code = bind_view(p, index, s->sizes, group, view, &offset, report, i, j);
            if (code) return code;
            const sx_buffer *b = p->buffers + p->views[index].buffer;
            if (b->home == SX_HOME_DATA) view->data = (char *)(uintptr_t)p->constants[b->at].data + offset; /* an .onnx file does not align its tensors */
            else s->patches[s->n_patches++] = (sx_patch){view - s->operands, b->at, b->home == SX_HOME_ARENA ? s->sizes[b->at] + offset : offset, (int32_t)b->home};
        }
        int code = sx_check(call, i, report);
        if (code) return code;
        sx_simplify(call);
        call->bf16 = p->bf16;
        if (row->kind == SX_CONV || (p->bf16 && row->kind == SX_MATMUL)) {
            const sx_buffer *b = p->buffers + p->views[p->lists[row->inputs + 1]].buffer;
            sx_view *weights = view - row->n_in - row->n_out + 1;
            if (b->home == SX_HOME_DATA && row->kind == SX_CONV) use_derived(p, &p->table->derivation, call, weights, b->at);
#ifndef __wasm__
            if (b->home == SX_HOME_DATA && p->bf16) use_derived(p, &p->table->words, call, weights, b->at);
#endif
        }
        use_sums(p, call, i);
        call->scratch = nowhere;
        int64_t need = p->table->kernels[row->kind].scratch ? p->table->kernels[row->kind].scratch(call) : 0;
        if (need < 0 || need > SX_LARGEST) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, i, -1, need, 0);
        call->scratch_bytes = sx_aligned(need) + GUARD;
        if (call->scratch_bytes > s->scratch_bytes) s->scratch_bytes = call->scratch_bytes;
    }
#ifndef __wasm__
    look_ahead(p, s);
#endif
    return 0;
}

/* One block: state, sizes, operands, calls, parameters, patches, pointers. */
static sx_state *allocate(const sx_program *p, sx_report *report) {
    int64_t operands = 0, params = 0;
    for (int64_t i = 0; i < p->n_steps; i++) operands += p->steps[i].n_in + p->steps[i].n_out, params += p->steps[i].n_param;
    const int64_t parts[] = {sizeof(sx_state), p->n_sizes * 8, operands * (int64_t)sizeof(sx_view), p->n_steps * (int64_t)sizeof(sx_call), params * 8, operands * (int64_t)sizeof(sx_patch),
                             p->n_inputs * (int64_t)sizeof(void *), p->n_outputs * (int64_t)sizeof(void *)};
    int64_t at[9] = {0};
    for (int i = 0; i < 8; i++) at[i + 1] = at[i] + sx_aligned(parts[i]);
    char *block = sx_host_alloc(at[8]);
    if (!block) {
        sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, at[8], 0);
        return NULL;
    }
    sx_state *s = (sx_state *)block;
    *s = (sx_state){.program = p, .block = block, .block_bytes = at[8], .sizes = (int64_t *)(block + at[1]), .operands = (sx_view *)(block + at[2]), .calls = (sx_call *)(block + at[3]),
                    .params = (int64_t *)(block + at[4]), .patches = (sx_patch *)(block + at[5]), .input = (const void **)(block + at[6]), .output = (void **)(block + at[7])};
    s->watch = &s->stop;
    return s;
}

int sx_bind(sx_program *p, const int64_t *dims, int64_t count, const void *const *inputs, sx_state **out, sx_report *report) {
    *out = NULL;
    if (count != p->n_dims) return sx_say(report, SX_E_ARGUMENT, SX_R_COUNT, -1, -1, count, p->n_dims);
    sx_state *s = allocate(p, report);
    if (!s) return SX_E_MEMORY;
    int code = evaluate_sizes(p, dims, inputs, s->sizes, report);
    if (!code) code = check_inputs(p, dims, s->sizes, report);
    if (!code) code = check_arena(p, s->sizes, report);
    for (int64_t i = 0; !code && i < p->n_outputs; i++)
        if (port_bytes(p->outputs + i, s->sizes) < 0) code = sx_say(report, SX_E_SHAPE, SX_R_OVERFLOW, -1, i, -1, 0);
    if (!code) code = bind_steps(p, s, report);
    if (!code) {
        s->scratch_at = p->arena < 0 ? 0 : sx_aligned(s->sizes[p->arena]);
        s->arena_bytes = s->scratch_at + p->threads * s->scratch_bytes;
        if (p->memory_limit && s->arena_bytes > p->memory_limit) code = sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, s->arena_bytes, p->memory_limit);
    }
    if (code) {
        sx_unbind(s);
        return code;
    }
    *out = s;
    return 0;
}

static int finish(sx_state *s, int code);

void sx_unbind(sx_state *s) {
    if (!s) return;
    finish(s, 0); /* a run that was left at SX_YIELD has an arena */
    sx_host_free(s->block, s->block_bytes);
}

int sx_output_shape(const sx_state *s, int64_t number, int64_t *dims) {
    if (number < 0 || number >= s->program->n_outputs) return -1;
    const sx_port *port = s->program->outputs + number;
    for (int64_t d = 0; d < port->rank; d++) dims[d] = s->sizes[port->dim[d]];
    return (int)port->rank;
}

const int64_t *sx_sizes(const sx_state *s, int64_t *count) {
    *count = s->program->n_sizes;
    return s->sizes;
}

int64_t sx_arena_bytes(const sx_state *s) { return s->arena_bytes; }
void sx_watch(sx_state *s, int *stop) {
    s->watch = stop;
    for (int64_t i = 0; i < s->program->n_steps; i++) s->calls[i].stop = stop;
}
void sx_profile(sx_state *s, int64_t *times) { s->times = times; }
void sx_terminate(sx_state *s) { __atomic_store_n(&s->stop, 1, __ATOMIC_RELAXED); }

/* -- run ------------------------------------------------------------------------------------------------------------------------------------------- */

static void lock(sx_program *p) { while (__atomic_test_and_set(&p->busy, __ATOMIC_ACQUIRE)) {} }
static void unlock(sx_program *p) { __atomic_clear(&p->busy, __ATOMIC_RELEASE); }

/* An arena no other run uses: a spare one that is large enough, or a new one. */
static char *take_arena(sx_program *p, int64_t bytes, int64_t *have) {
    sx_spare found = {0};
    lock(p);
    for (int i = 0; i < SX_SPARES; i++)
        if (p->spare[i].memory && p->spare[i].bytes >= bytes) {
            found = p->spare[i];
            p->spare[i] = (sx_spare){0};
            break;
        }
    unlock(p);
    *have = found.memory ? found.bytes : bytes;
    return found.memory ? found.memory : sx_host_alloc(bytes);
}

/* Keep it for the next run, in place of a smaller one where all places are taken. */
static void give_arena(sx_program *p, char *memory, int64_t bytes) {
    sx_spare out = {memory, bytes};
    lock(p);
    for (int i = 0; i < SX_SPARES && out.memory; i++)
        if (p->spare[i].bytes < out.bytes || !p->spare[i].memory) {
            sx_spare was = p->spare[i];
            p->spare[i] = out;
            out = was;
        }
    unlock(p);
    if (out.memory) sx_host_free(out.memory, out.bytes);
}

static int finish(sx_state *s, int code) {
    if (s->own) give_arena((sx_program *)s->program, s->own, s->own_bytes);
    s->own = s->arena = NULL;
    return code;
}

static int check_pointers(const sx_state *s, const void *const *pointers, const sx_port *ports, int64_t count, sx_report *report) {
    for (int64_t i = 0; i < count; i++) {
        int item = sx_item_bytes(ports[i].dtype);
        if ((uintptr_t)pointers[i] % (item > 8 ? 8 : item) || (!pointers[i] && port_bytes(ports + i, s->sizes))) return sx_say(report, SX_E_ARGUMENT, SX_R_POINTER, -1, i, item, 0);
    }
    return 0;
}

int sx_run(sx_state *s, const void *const *inputs, void *const *outputs, void *arena, int64_t budget, sx_report *report) {
    const sx_program *p = s->program;
    if (s->arena) finish(s, 0); /* a run that was left at SX_YIELD */
    int code = check_pointers(s, inputs, p->inputs, p->n_inputs, report);
    if (!code) code = check_pointers(s, (const void *const *)outputs, p->outputs, p->n_outputs, report);
    if (code) return code;
    if ((uintptr_t)arena % ALIGN) return sx_say(report, SX_E_ARGUMENT, SX_R_POINTER, -1, -1, ALIGN, 0);
    __atomic_store_n(&s->stop, 0, __ATOMIC_RELAXED);
    s->arena = arena;
    if (!arena) {
        int64_t bytes = s->arena_bytes ? s->arena_bytes : ALIGN;
        s->arena = s->own = take_arena((sx_program *)p, bytes, &s->own_bytes);
        if (!s->own) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, bytes, 0);
    }
    for (int64_t i = 0; i < s->n_patches; i++) {
        const sx_patch *q = s->patches + i;
        char *base = q->home == SX_HOME_ARENA ? s->arena : q->home == SX_HOME_INPUT ? (char *)(uintptr_t)inputs[q->port] : (char *)outputs[q->port];
        s->operands[q->operand].data = base + q->offset;
    }
    s->next = 0, s->pause = (sx_pause){0}, s->resumed = 0, s->odd ^= 1;
    return sx_continue(s, budget, report);
}

void sx_for(const sx_call *call, int64_t n, void (*body)(void *, int64_t, int), void *arg) { sx_host_for(call, 0, n, 0, body, arg); }

int sx_tiles(const sx_call *call, int64_t n, void (*body)(void *, int64_t, int), void *arg) {
    sx_pause *p = call->pause;
    if (!p) return sx_for(call, n, body, arg), 1;
    if (p->left) return 0;
    if (p->loop++ < p->loops) return 1;
    p->tile = sx_host_for(call, p->tile, n, p->until, body, arg);
    if (p->tile < n) return p->left = 1, 0;
    p->tile = 0, p->loops++;
    return 1;
}

int sx_due(const sx_call *call) { return (call->pause && sx_host_now() > call->pause->until) || sx_stopped(call); }

static int fault(const sx_state *s, int code, sx_report *report) {
    const int64_t *f = s->fault;
    int rule = code == SX_E_INDEX ? SX_R_INDEX : code == SX_E_DIVISION ? SX_R_DIVISION : code == SX_E_UNSUPPORTED ? SX_R_KERNEL : code == SX_E_SHAPE ? SX_R_STRIDE : code == SX_E_DTYPE ? SX_R_TYPE : SX_R_NONE;
    return sx_say(report, code, rule, s->next, f[0] ? f[1] : -1, f[0] ? f[2] : 0, f[0] ? f[3] : 0);
}

int sx_continue(sx_state *s, int64_t budget, sx_report *report) {
    const sx_program *p = s->program;
    if (!s->arena) return sx_say(report, SX_E_ARGUMENT, SX_R_POINTER, -1, -1, 0, 0);
    sx_team *team = p->threads > 1 ? sx_host_join(p->threads) : NULL;
    int64_t until = budget ? sx_host_now() + budget : 0;
    int code = 0;
    for (int64_t first = s->next; s->next < p->n_steps && !code; s->next++) {
        if (__atomic_load_n(s->watch, __ATOMIC_RELAXED)) {
            code = sx_say(report, SX_E_TERMINATED, SX_R_STOPPED, s->next, -1, 0, 0);
            break;
        }
        if (until && s->next > first && sx_host_now() > until) { /* one tile at least, so that every call gets on */
            if (team) sx_host_leave(team);
            return SX_YIELD;
        }
        sx_call *call = s->calls + s->next;
        call->team = team, call->odd = s->odd;
        call->scratch = s->arena + s->scratch_at;
        call->pause = until ? &s->pause : NULL;
        s->pause.until = until, s->pause.loop = 0;
        s->fault[0] = 0;
        int64_t start = s->times ? sx_host_now() : 0;
        guard(p, call, 0);
        code = p->table->kernels[call->kind].run(call);
        guard(p, call, 1);
        if (!code) code = (int)s->fault[0];
        if (s->times) {
            int64_t *row = s->times + 2 * s->next;
            if (!s->resumed) row[0] = start, row[1] = 0;
            row[1] += sx_host_now() - start;
        }
        if (code) {
            code = fault(s, code, report);
            break;
        }
        if (s->pause.left && !__atomic_load_n(s->watch, __ATOMIC_RELAXED)) {
            s->pause.left = 0, s->resumed = 1;
            if (team) sx_host_leave(team);
            return SX_YIELD;
        }
        s->pause = (sx_pause){0}, s->resumed = 0;
    }
    if (!code && __atomic_load_n(s->watch, __ATOMIC_RELAXED)) code = sx_say(report, SX_E_TERMINATED, SX_R_STOPPED, s->next, -1, 0, 0); /* tiles may have been skipped */
    if (team) sx_host_leave(team);
    return finish(s, code);
}
