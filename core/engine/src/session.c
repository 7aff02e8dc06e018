/* session.c: run a package (package.c). A stack of frames, one for each block that is open, so that a run can stop anywhere (budget, host, terminate) and go on.

   Memory: tensors are counted; a block of memory nobody holds is kept for later tensors until two runs did without it. Inputs of a run, and slices of a tensor along its first axis, are read
   where they lie; what grows run by run may do so in place (session_grow.c). One arena serves all programs: only one runs at a time. Bound states are kept by program, dims and the elements that decide sizes. */
#include "sx_session.h"

/* -- programs --------------------------------------------------------------------------------------------------------------------------------------- */

static int slot_dims(const sx_session *s, const sx_frame *f, const sx_segment_row *g, const sx_program *p, int64_t *dims, const void **pointers, sx_report *report) {
    const int64_t *in = s->package->lists + g->inputs;
    for (int64_t i = 0; i < g->n_in; i++) {
        const sx_tensor *t = &f->slots[in[i]].t;
        if (t->rank != p->inputs[i].rank || t->dtype != p->inputs[i].dtype) return sx_say(report, SX_E_DTYPE, SX_R_TENSOR, -1, i, t->rank, t->dtype);
        for (int64_t d = 0; d < t->rank; d++) *dims++ = t->dim[d];
        pointers[i] = t->data;
    }
    return 0;
}

/* The state for these dims and elements, kept or new. s->dims holds the dims; elements follow. */
static int find_state(sx_session *s, int64_t program, const void *const *pointers, sx_state **out, sx_report *report) {
    sx_program *p = s->package->programs[program];
    int64_t *key = s->dims, n = p->n_dims;
    for (int64_t i = 0; p->n_elements && i < p->n_sizes; i++)
        if (p->sizes[i].op == SX_SIZE_ELEMENT) {
            int code = sx_element(p, p->sizes + i, sx_dims_of(p, key, p->sizes[i].a), pointers, key + n, report);
            if (code) return code;
            n++;
        }
    uint64_t hash = 14695981039346656037u;
    for (int64_t i = 0; i < n; i++) hash = (hash ^ (uint64_t)key[i]) * 1099511628211u;
    sx_bound *set = s->bound + program * s->ways, *oldest = set;
    for (int64_t w = 0; w < s->ways; w++) {
        sx_bound *b = set + w;
        if (b->stamp < oldest->stamp) oldest = b;
        if (!b->state || b->hash != (int64_t)hash) continue;
        int64_t i = 0;
        while (i < n && b->key[i] == key[i]) i++;
        if (i < n) continue;
        b->stamp = ++s->stamp;
        *out = b->state;
        return 0;
    }
    sx_state *made;
    int code = sx_bind(p, key, p->n_dims, pointers, &made, report);
    if (code) return code;
    sx_watch(made, &s->stop);
    if (oldest->state) sx_unbind(oldest->state);
    if (!oldest->key && !(oldest->key = sx_host_alloc((p->n_dims + p->n_elements + 1) * 8))) {
        oldest->state = NULL;
        sx_unbind(made);
        return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, n * 8, 0);
    }
    sx_copy(oldest->key, key, n * 8);
    *oldest = (sx_bound){made, program, (int64_t)hash, ++s->stamp, oldest->key};
    *out = made;
    return 0;
}

static int need_arena(sx_session *s, int64_t bytes, sx_report *report) {
    bytes = bytes ? bytes : 64;
    if (bytes <= s->arena_bytes) return 0;
    int64_t limit = s->package->memory_limit;
    if (limit && s->held - s->arena_bytes + bytes > limit) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, s->held - s->arena_bytes + bytes, limit);
    if (s->arena) sx_host_free(s->arena, s->arena_bytes);
    s->held -= s->arena_bytes;
    s->arena_bytes = 0;
    if (!(s->arena = sx_host_alloc(bytes))) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, bytes, limit);
    s->arena_bytes = bytes, s->held += bytes;
    return 0;
}

static void row(sx_session *s, int64_t program, int64_t number, int64_t a, int64_t b) {
    if (s->n_rows >= s->most_rows) return;
    int64_t *row = s->rows + 4 * s->n_rows++;
    row[0] = program, row[1] = number, row[2] = a, row[3] = b;
}

/* What the running program was bound for (s->dims still holds it), then its steps. */
static void record(sx_session *s) {
    if (!s->rows || !s->times) return;
    const sx_program *p = s->package->programs[s->running_program];
    for (int64_t i = 0; i < p->n_dims + p->n_elements; i++) row(s, -2 - s->running_program, i, s->dims[i], 0);
    for (int64_t i = 0; i < p->n_steps; i++) {
        int64_t number = i;
#ifndef __wasm__
        number += (int64_t)sx_in_bfloat16(s->running, i) << 32;
#endif
        row(s, s->running_program, number, s->times[2 * i], s->times[2 * i + 1]);
    }
}

/* After the program of a segment has come to an end, well or not: its outputs into slots. */
static int end_program(sx_session *s, sx_frame *f, const sx_segment_row *g, int code, sx_report *report) {
    record(s);
    sx_program *p = s->package->programs[s->running_program];
    for (int64_t i = 0; i < p->n_outputs; i++) {
        int64_t slot = s->package->lists[g->outputs + i];
        if (code || slot < 0) {
            sx_s_give_back(s, s->fresh[i]);
            continue;
        }
        sx_slot made = {.t = {.dtype = (int32_t)p->outputs[i].dtype, .data = s->fresh[i] + 1}, .memory = s->fresh[i], .filled = 1};
        made.t.rank = sx_output_shape(s->running, i, made.t.dim);
        sx_s_grew(s->fresh[i], &made.t);
        f->slots[slot] = made;
    }
    s->running = NULL;
    if (code && report) report->program = (int32_t)s->running_program;
    return code;
}

static int64_t left(const sx_session *s) {
    if (!s->until) return 0;
    int64_t rest = s->until - sx_host_now();
    return rest > 1 ? rest : 1;
}

static int start_program(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report) {
    sx_program *p = s->package->programs[g->program];
    sx_state *state;
    const void **pointers = (const void **)(s->dims + s->most_key);
    int code = slot_dims(s, f, g, p, s->dims, pointers, report);
    if (!code) code = find_state(s, g->program, pointers, &state, report);
    if (!code) code = need_arena(s, sx_arena_bytes(state), report);
    if (code) {
        if (report) report->program = (int32_t)g->program;
        return code;
    }
    const int64_t *in = s->package->lists + g->inputs;
    for (int64_t i = 0; s->grown && !code && i < p->n_inputs; i++) {
        code = sx_s_dense(s, f, g, state, i, f->slots + in[i], report);
        pointers[i] = f->slots[in[i]].t.data;
    }
    int64_t made = 0;
    for (; !code && made < p->n_outputs; made++) {
        sx_tensor t = {.dtype = (int32_t)p->outputs[made].dtype};
        t.rank = sx_output_shape(state, made, t.dim);
        s->fresh[made] = s->grew ? sx_s_grow(s, f, g, state, made, &code, report) : NULL;
        if (!s->fresh[made] && !code) s->fresh[made] = sx_s_take(s, sx_s_bytes(&t), report);
        if (!s->fresh[made]) code = SX_E_MEMORY;
        else state->output[made] = s->fresh[made] + 1;
    }
    if (code) {
        for (made--; made--;) sx_s_give_back(s, s->fresh[made]);
        return code;
    }
    s->running = state, s->running_program = g->program;
    if (s->rows && s->times) sx_clear(s->times, p->n_steps * 16);
    sx_profile(state, s->rows ? s->times : NULL);
    code = sx_run(state, pointers, state->output, s->arena, left(s), report);
    return code == SX_YIELD ? code : end_program(s, f, g, code, report);
}

/* -- blocks -------------------------------------------------------------------------------------------------------------------------------------------- */

/* Slots nobody reads any more. */
static void retire(sx_session *s, sx_frame *f, const sx_segment_row *g) {
    const sx_slot_type *types = s->package->types + s->package->first_type[f->block];
    const int64_t *lists = s->package->lists;
    for (int64_t i = 0; i < g->n_in; i++) if (lists[g->inputs + i] >= 0 && types[lists[g->inputs + i]].last == f->next) sx_s_release(s, f->slots + lists[g->inputs + i]);
    for (int64_t i = 0; i < g->n_out; i++) if (lists[g->outputs + i] >= 0 && types[lists[g->outputs + i]].last == f->next) sx_s_release(s, f->slots + lists[g->outputs + i]);
    f->next++;
}

static int start_if(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report) {
    const int64_t *lists = s->package->lists;
    int64_t cond;
    int code = sx_s_scalar(f->slots + lists[g->inputs], 0, &cond, report);
    if (!code) code = sx_s_push(s, lists[g->blocks + !cond], report);
    for (int64_t i = 1; !code && i < g->n_in; i++) *sx_s_input(s, f + 1, i - 1) = sx_s_shared(f->slots + lists[g->inputs + i]);
    return code;
}

/* -- running ---------------------------------------------------------------------------------------------------------------------------------------------- */

static const sx_segment_row *segment_of(const sx_session *s, const sx_frame *f) { return s->package->segments + s->package->blocks[f->block].segments + f->next; }

/* A block came to its end: what it gives goes to the segment that opened it. */
static int end_block(sx_session *s, sx_report *report) {
    sx_frame *f = s->frames + s->depth - 1;
    const int64_t *out = s->package->lists + s->package->blocks[f->block].outputs;
    if (s->depth == 1) {
        int code = 0;
        for (int64_t i = 0; !code && i < s->package->n_outputs; i++) {
            const sx_slot *from = f->slots + out[i];
            if (from->memory) s->outputs[i] = sx_s_shared(from);
            else code = sx_s_copied(s, &from->t, s->outputs + i, report); /* an input given out */
        }
        sx_s_pop(s);
        return code;
    }
    sx_frame *parent = f - 1;
    const sx_segment_row *g = segment_of(s, parent);
    if (g->kind == SX_DO_LOOP) return sx_s_end_round(s, parent, g, report);
    for (int64_t i = 0; i < g->n_out; i++) {
        int64_t slot = s->package->lists[g->outputs + i];
        if (slot >= 0) parent->slots[slot] = sx_s_shared(f->slots + out[i]);
    }
    sx_s_pop(s);
    retire(s, parent, segment_of(s, parent));
    return 0;
}

/* One step: a program, the opening or closing of a block or round. */
static int step(sx_session *s, sx_report *report) {
    sx_frame *f = s->frames + s->depth - 1;
    if (f->next == s->package->blocks[f->block].n_segments) return end_block(s, report);
    const sx_segment_row *g = segment_of(s, f);
    if (s->running) {
        int code = sx_continue(s->running, left(s), report);
        if (code == SX_YIELD || (code = end_program(s, f, g, code, report))) return code;
    } else if (g->kind == SX_DO_PROGRAM && g->device != SX_ON_ENGINE) {
        if (!s->waiting) return s->waiting = 1, SX_WAIT_HOST;
        for (int64_t i = 0; i < g->n_out; i++) {
            int64_t slot = s->package->lists[g->outputs + i];
            if (slot >= 0 && !f->slots[slot].filled) return sx_say(report, SX_E_ARGUMENT, SX_R_HOST, -1, i, -1, -1);
        }
        s->waiting = 0;
    } else if (g->kind == SX_DO_PROGRAM) {
        int code = start_program(s, f, g, report);
        if (code) return code;
    } else if (g->kind == SX_DO_IF) return start_if(s, f, g, report);
    else {
        int code = f->looping ? 0 : sx_s_start_loop(s, f, g, report);
        if (code) return code;
        if (f->go && f->round < f->rounds) return sx_s_start_round(s, f, g, report);
        if ((code = sx_s_end_loop(s, f, g, report))) return code;
    }
    retire(s, f, g);
    return 0;
}

static void abandon(sx_session *s) {
    if (s->running) end_program(s, s->frames + s->depth - 1, segment_of(s, s->frames + s->depth - 1), SX_E_TERMINATED, NULL);
    while (s->depth) sx_s_pop(s);
    s->waiting = 0;
}

/* The end of a run: memory that two runs did without goes back. */
static int finish(sx_session *s, int code) {
    abandon(s);
    for (int i = 0; i < SPARES; i++)
        if (s->spare[i].memory && s->spare[i].stamp < s->run - 1) sx_s_drop(s, s->spare[i].memory), s->spare[i].memory = NULL;
    return code;
}

static int go_on(sx_session *s, int64_t budget, sx_report *report) {
    s->until = budget ? sx_host_now() + budget : 0;
    for (int64_t steps = 0; s->depth; steps++) {
        int block = (int)s->frames[s->depth - 1].block, segment = (int)s->frames[s->depth - 1].next;
        int code = __atomic_load_n(&s->stop, __ATOMIC_RELAXED) ? sx_say(report, SX_E_TERMINATED, SX_R_STOPPED, -1, -1, 0, 0) : 0;
        if (!code && s->until && steps && sx_host_now() > s->until) return SX_YIELD;
        if (!code) code = step(s, report);
        if (code == SX_YIELD || code == SX_WAIT_HOST) return code;
        if (code) {
            if (report) report->block = block, report->segment = segment;
            return finish(s, code);
        }
    }
    return finish(s, 0);
}

static int check_inputs(sx_session *s, const sx_tensor *inputs, int64_t count, int64_t *variant, sx_report *report) {
    const sx_package *p = s->package;
    int64_t *dim = s->dims;
    if (count != p->n_inputs) return sx_say(report, SX_E_ARGUMENT, SX_R_COUNT, -1, -1, count, p->n_inputs);
    for (int64_t i = 0; i < count; i++) {
        const sx_tensor *t = inputs + i;
        if (t->rank != p->inputs[i].rank || t->dtype != p->inputs[i].dtype) return sx_say(report, SX_E_ARGUMENT, SX_R_TENSOR, -1, i, t->rank, t->dtype);
        int64_t bytes = sx_s_bytes(t);
        int item = sx_item_bytes(t->dtype);
        if (bytes < 0) return sx_say(report, SX_E_SHAPE, SX_R_OVERFLOW, -1, i, bytes, 0);
        if ((uintptr_t)t->data % (item > 8 ? 8 : item) || (!t->data && bytes)) return sx_say(report, SX_E_ARGUMENT, SX_R_POINTER, -1, i, item, 0);
        for (int64_t d = 0; d < t->rank; d++) *dim++ = t->dim[d];
    }
    *variant = sx_find_variant(p, s->dims);
    if (*variant < 0) {
        int64_t worst = 0;
        return sx_say(report, SX_E_GUARD, SX_R_VARIANT, -1, worst, count ? inputs[worst].rank : 0, count ? inputs[worst].dtype : 0);
    }
    return 0;
}

int sx_session_run(sx_session *s, const sx_tensor *inputs, int64_t count, int64_t budget, sx_report *report) {
    sx_report unused;
    report = report ? report : &unused;
    abandon(s);
    for (int64_t i = 0; i < s->package->n_outputs; i++) sx_s_release(s, s->outputs + i);
    s->run++;
    __atomic_store_n(&s->stop, 0, __ATOMIC_RELAXED);
    int64_t variant;
    int code = check_inputs(s, inputs, count, &variant, report);
    if (!code) code = sx_s_push(s, s->package->variants[variant].block, report);
    if (code) return code;
    for (int64_t i = 0; !code && i < count; i++) {
        sx_slot *slot = sx_s_input(s, s->frames, i);
        *slot = (sx_slot){.t = inputs[i], .filled = 1};
        if (s->grown && s->package->blocks[s->frames->block].n_segments != 1) code = sx_s_dense(s, NULL, NULL, NULL, i, slot, report);
    }
    return code ? finish(s, code) : go_on(s, budget, report);
}

int sx_session_continue(sx_session *s, int64_t budget, sx_report *report) {
    sx_report unused;
    report = report ? report : &unused;
    return s->depth ? go_on(s, budget, report) : sx_say(report, SX_E_ARGUMENT, SX_R_POINTER, -1, -1, 0, 0);
}

void sx_session_terminate(sx_session *s) { __atomic_store_n(&s->stop, 1, __ATOMIC_RELAXED); }

/* -- outputs and the host's segments ------------------------------------------------------------------------------------------------------------------------ */

int sx_session_output(const sx_session *s, int64_t i, sx_tensor *out) {
    if (i < 0 || i >= s->package->n_outputs || !s->outputs[i].filled) return SX_E_ARGUMENT;
    *out = s->outputs[i].t;
    return 0;
}

int sx_session_take(sx_session *s, int64_t i, sx_tensor *out) {
    if (i < 0 || i >= s->package->n_outputs || !s->outputs[i].filled) return SX_E_ARGUMENT;
    sx_slot *slot = s->outputs + i;
    sx_memory *m = slot->memory;
    if (!m->room && (m->refs > 1 || slot->t.data != m + 1)) { /* another output is the same memory, or this is a part of it */
        sx_slot own;
        int code = sx_s_copied(s, &slot->t, &own, NULL);
        if (code) return code;
        sx_s_release(s, slot);
        *slot = own;
    }
    if (!slot->memory->lent) s->held -= slot->memory->bytes;
    sx_s_lend(s, slot->memory);
    *out = slot->t;
    *slot = (sx_slot){0};
    return 0;
}

static const sx_segment_row *waits(const sx_session *s) { return s->waiting && s->depth ? segment_of(s, s->frames + s->depth - 1) : NULL; }

int sx_session_waiting(const sx_session *s, sx_waiting *out) {
    const sx_segment_row *g = waits(s);
    if (!g) return SX_E_ARGUMENT;
    const sx_frame *f = s->frames + s->depth - 1;
    *out = (sx_waiting){(int32_t)f->block, (int32_t)f->next, (int32_t)g->program, (int32_t)g->device, (int32_t)g->n_in, (int32_t)g->n_out};
    return 0;
}

int sx_session_input(const sx_session *s, int64_t i, sx_tensor *out) {
    const sx_segment_row *g = waits(s);
    if (!g || i < 0 || i >= g->n_in) return SX_E_ARGUMENT;
    *out = s->frames[s->depth - 1].slots[s->package->lists[g->inputs + i]].t;
    return 0;
}

int sx_session_put(sx_session *s, int64_t i, const sx_tensor *value, sx_report *report) {
    const sx_segment_row *g = waits(s);
    if (!g || i < 0 || i >= g->n_out) return sx_say(report, SX_E_ARGUMENT, SX_R_HOST, -1, i, -1, -1);
    sx_frame *f = s->frames + s->depth - 1;
    int64_t slot = s->package->lists[g->outputs + i];
    const sx_port *port = s->package->programs[g->program]->outputs + i;
    if (value->rank != port->rank || value->dtype != port->dtype || sx_s_bytes(value) < 0 || (!value->data && sx_s_bytes(value))) return sx_say(report, SX_E_ARGUMENT, SX_R_HOST, -1, i, value->rank, value->dtype);
    if (slot < 0) return 0;
    sx_s_release(s, f->slots + slot);
    return sx_s_copied(s, value, f->slots + slot, report);
}

int64_t sx_session_profile(sx_session *s, int64_t *rows, int64_t capacity) {
    int64_t written = s->n_rows;
    s->rows = rows, s->most_rows = rows ? capacity : 0, s->n_rows = 0;
    if (rows && !s->times) s->times = sx_host_alloc(s->n_times * 16 + 64);
    return written;
}

int64_t sx_session_memory(const sx_session *s) { return s->held; }

/* -- open and close ---------------------------------------------------------------------------------------------------------------------------------------- */

int sx_session_open(sx_package *p, sx_session **out, sx_report *report) {
    *out = NULL;
    sx_package_lend(p);
    sx_session *s = sx_cleared(sizeof *s);
    if (!s) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, sizeof *s, 0);
    s->package = p;
    for (int64_t i = 0; i < p->n_programs; i++) {
        const sx_program *q = p->programs[i];
        s->most_in = q->n_inputs > s->most_in ? q->n_inputs : s->most_in;
        s->most_out = q->n_outputs > s->most_out ? q->n_outputs : s->most_out;
        s->most_key = q->n_dims + q->n_elements > s->most_key ? q->n_dims + q->n_elements : s->most_key;
        s->n_times = q->n_steps > s->n_times ? q->n_steps : s->n_times;
    }
    if (p->n_inputs * SX_RANK > s->most_key) s->most_key = p->n_inputs * SX_RANK;
    s->ways = p->n_programs > 16 ? 4 : 64 / (p->n_programs ? p->n_programs : 1);
    s->outputs = sx_cleared((p->n_outputs + 1) * (int64_t)sizeof *s->outputs);
    s->bound = sx_cleared((p->n_programs * s->ways + 1) * (int64_t)sizeof *s->bound);
    s->fresh = sx_cleared((s->most_out + 1) * (int64_t)sizeof *s->fresh);
    s->grows = sx_cleared(p->n_outputs + 1);
    s->dims = sx_cleared((s->most_key + s->most_in + 1) * 8);
    if (!s->outputs || !s->bound || !s->fresh || !s->grows || !s->dims) {
        sx_session_close(s);
        return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, s->most_key, 0);
    }
    *out = s;
    return 0;
}

void sx_session_close(sx_session *s) {
    if (!s) return;
    const sx_package *p = s->package;
    abandon(s);
    for (int64_t i = 0; s->outputs && i < p->n_outputs; i++) sx_s_release(s, s->outputs + i);
    for (; s->grown; s->grown = s->grown->next) s->grown->owner = NULL;
    for (int i = 0; i < SPARES; i++) if (s->spare[i].memory) sx_s_drop(s, s->spare[i].memory);
    for (int64_t i = 0; s->bound && i < p->n_programs * s->ways; i++) {
        if (s->bound[i].state) sx_unbind(s->bound[i].state);
        if (s->bound[i].key) sx_host_free(s->bound[i].key, (p->programs[s->bound[i].program]->n_dims + p->programs[s->bound[i].program]->n_elements + 1) * 8);
    }
    if (s->outputs) sx_host_free(s->outputs, (p->n_outputs + 1) * (int64_t)sizeof *s->outputs);
    if (s->bound) sx_host_free(s->bound, (p->n_programs * s->ways + 1) * (int64_t)sizeof *s->bound);
    if (s->fresh) sx_host_free(s->fresh, (s->most_out + 1) * (int64_t)sizeof *s->fresh);
    if (s->grows) sx_host_free(s->grows, p->n_outputs + 1);
    if (s->dims) sx_host_free(s->dims, (s->most_key + s->most_in + 1) * 8);
    if (s->times) sx_host_free(s->times, s->n_times * 16 + 64);
    if (s->arena) sx_host_free(s->arena, s->arena_bytes);
    sx_host_free(s, sizeof *s);
}
