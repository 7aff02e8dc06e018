/* session_grow.c: tensors that grow in place. A language model's cache (`present`) is what it was (`past`) with rows behind it. Where an output is to be taken (sx_session_grows), and all that a
   program does with it and with that input is to give both to one ATTENTION, the output gets memory with room for more rows, and where the next run is given it as its past, the new rows are
   written behind the old ones: nothing is copied.

   Memory: `outer` blocks (heads) of `room` rows of `row` bytes, of which `rows` are written. All tensors that lie in it are its first rows, and rows that are written never change, so that each stays
   what it was: only the one that has all rows grows in place; another one's past is read where it lies, and its present gets memory of its own.
   Who else reads such a tensor (another input, another program) gets a dense copy. */
#include "sx_session.h"

/* Room where `rows` are needed: an eighth more, and some. */
static int64_t room_for(int64_t rows) { return rows + rows / 8 + 32; }

static sx_memory *grown_at(const sx_session *s, const void *data) {
    sx_memory *m = s->grown;
    while (m && (const void *)(m + 1) != data) m = m->next;
    return m;
}

/* The only place where an input or output of a program is an operand, at its begin; NULL: it is one more or less often. */
static const sx_patch *only_place(const sx_state *state, int home, int64_t port) {
    const sx_patch *found = NULL;
    for (int i = 0; i < (int)state->n_patches; i++) {
        const sx_patch *q = state->patches + i;
        if (q->home != home || q->port != port) continue;
        if (found || q->offset) return NULL;
        found = q;
    }
    return found;
}

/* The port an operand is, -1: none of this home, or not only this operand. */
static int port_of(const sx_state *state, const sx_view *v, int home) {
    for (int i = 0; i < (int)state->n_patches; i++) {
        const sx_patch *q = state->patches + i;
        if (state->operands + q->operand == v) return q->home == home && only_place(state, home, q->port) ? (int)q->port : -1;
    }
    return -1;
}

/* How often a number stands in a list. */
static int times(const int64_t *list, int64_t n, int64_t number) {
    int found = 0;
    while (n--) found += *list++ == number;
    return found;
}

/* How memory is cut by axis 2 (keys) of a view of all of a dense tensor; 0 where it is not one. */
typedef struct { int64_t outer, row; } cut;
static int cut_of(const sx_view *v, const sx_tensor *t, cut *out) {
    int64_t outer = 1, inner = 1, step = v->stride[2];
    for (int d = 0; d < 4; d++)
        if (d != 2 && v->dim[d] != 1) *(v->stride[d] >= step ? &outer : &inner) *= v->dim[d];
    *out = (cut){outer, step * sx_item_bytes(v->dtype)};
    return inner == step && outer * v->dim[2] * out->row == sx_s_bytes(t);
}

/* Blocks of a view begin `room` rows apart, whatever it was. */
static void spread(sx_view *v, int64_t room) {
    int64_t was = v->reserved ? v->reserved : v->dim[2];
    if (!was || was == room) return;
    for (int d = 0; d < 4; d++) if (d != 2 && v->dim[d] != 1 && v->stride[d] >= v->stride[2]) v->stride[d] = v->stride[d] / was * room;
    v->reserved = (int32_t)room;
}

/* Where an input or output is one of a pair: both numbers, and the views, which are made dense. */
typedef struct { int in, out; sx_view *past, *present; cut cut; } pair;
static int pair_of(const sx_session *s, const sx_frame *f, const sx_segment_row *g, sx_state *state, int home, int64_t port, pair *to) {
    const int64_t *lists = s->package->lists;
    const sx_block_row *block = s->package->blocks + f->block;
    const sx_patch *place = only_place(state, home, port);
    if (!place || s->depth != 1 || block->n_segments != 1) return 0;
    sx_view *view = state->operands + place->operand;
    const sx_call *call = state->calls;
    for (int i = 1; i < (int)state->program->n_steps && state->calls[i].in <= view; i++) call++;
    unsigned at = (unsigned)(view - call->in) - (home == SX_HOME_INPUT ? 4 : (unsigned)call->n_in + 1); /* 0: keys, 1: values */
    if (call->kind != SX_ATTENTION || call->n_in < 6 || call->n_out < 3 || at > 1) return 0;
    sx_view *past = (sx_view *)(uintptr_t)call->in + 4 + at, *present = (sx_view *)(uintptr_t)call->out + 1 + at;
    int in = port_of(state, past, SX_HOME_INPUT), out = port_of(state, present, SX_HOME_OUTPUT);
    if (in < 0 || out < 0) return 0;
    int64_t from = lists[g->inputs + in];
    if (times(lists + g->inputs, g->n_in, from) != 1 || times(lists + block->outputs, block->n_out, lists[g->outputs + out]) != 1 || times(lists + block->outputs, block->n_out, from)) return 0;
    cut cut;
    sx_tensor t = {.dtype = present->dtype};
    t.rank = sx_output_shape(state, out, t.dim);
    spread(past, past->dim[2]), spread(present, present->dim[2]);
    *to = (pair){in, out, past, present, {0}};
    return cut_of(present, &t, &to->cut) && cut_of(past, &f->slots[from].t, &cut) && to->cut.row == cut.row && (to->cut.outer == cut.outer || !past->dim[2]) && past->dtype == present->dtype;
}

/* Whether an output of the segment may grow. */
static int wanted(const sx_session *s, const sx_frame *f, int64_t slot) {
    const int64_t *list = s->package->lists + s->package->blocks[f->block].outputs;
    for (int i = 0; i < (int)s->package->n_outputs; i++) if (list[i] == slot) return s->grows[i];
    return 0;
}

/* Memory for output `out` of a program that is bound, and strides for what it reads: NULL and code 0 where it is a tensor as others. */
sx_memory *sx_s_grow(sx_session *s, const sx_frame *f, const sx_segment_row *g, sx_state *state, int64_t out, int *code, sx_report *report) {
    pair p;
    if (!pair_of(s, f, g, state, SX_HOME_OUTPUT, out, &p)) return NULL;
    sx_memory *was = grown_at(s, f->slots[s->package->lists[g->inputs + p.in]].t.data);
    int64_t rows = p.past->dim[2], all = p.present->dim[2], room = room_for(all), bytes;
    if (was) spread(p.past, was->room);
    if (!wanted(s, f, s->package->lists[g->outputs + out]) || all < 1 || all > 1 << 30) return NULL;
    if (was && was->rows == rows && all <= was->room && was->run != (int32_t)s->run) { /* another input may be the same tensor: one grows, the other one's present does not */
        spread(p.present, was->room);
        was->run = (int32_t)s->run, was->refs++;
        return was;
    }
    if (__builtin_mul_overflow(p.cut.outer * p.cut.row, room, &bytes) || bytes > SX_LARGEST) return NULL;
    sx_memory *m = sx_s_take(s, bytes, report);
    if (!m) return *code = SX_E_MEMORY, m;
    m->outer = p.cut.outer, m->row = p.cut.row, m->room = (int32_t)room, m->rows = 0, m->run = (int32_t)s->run;
    spread(p.present, room);
    return m;
}

/* After a run: the rows that are there. */
void sx_s_grew(sx_memory *m, const sx_tensor *t) {
    if (m->room) m->rows = (int32_t)(sx_s_bytes(t) / (m->outer * m->row));
}

/* An input that lies in such memory and is not read as a past becomes dense. */
int sx_s_dense(sx_session *s, const sx_frame *f, const sx_segment_row *g, sx_state *state, int64_t in, sx_slot *slot, sx_report *report) {
    const sx_memory *m = grown_at(s, slot->t.data);
    pair p;
    if (!m || slot->memory) return 0;
    if (state && pair_of(s, f, g, state, SX_HOME_INPUT, in, &p) && p.cut.outer == m->outer && p.cut.row == m->row && p.past->dim[2] <= m->rows) return 0;
    sx_slot made;
    int code = sx_s_make(s, slot->t.dtype, slot->t.rank, slot->t.dim, &made, report);
    int64_t block = sx_s_bytes(&slot->t) / m->outer;
    for (int64_t i = 0; !code && i < m->outer; i++) __builtin_memcpy((char *)made.t.data + i * block, (const char *)slot->t.data + i * m->room * m->row, (uint64_t)block);
    if (!code) *slot = made;
    return code;
}

/* It is the caller's now, if it was not. */
void sx_s_lend(sx_session *s, sx_memory *m) {
    if (!m->room || m->lent) return;
    m->lent = 1, m->next = s->grown, s->grown = m;
}

/* Nobody holds it: it is memory as any other. 1: the caller had it. */
int sx_s_forget(sx_session *s, sx_memory *m) {
    int lent = m->lent;
    for (sx_memory **at = &s->grown; lent && *at; at = &(*at)->next)
        if (*at == m) { *at = m->next; break; }
    m->room = 0, m->lent = 0;
    return lent;
}

void sx_session_grows(sx_session *s, int64_t number, int may) {
    if (number >= 0 && number < s->package->n_outputs) s->grows[number] = (char)may, s->grew |= may;
}

int64_t sx_tensor_blocks(const void *data, int64_t *apart) {
    const sx_memory *m = (const sx_memory *)data - 1;
    *apart = m->room * m->row;
    return m->room ? m->outer : 0;
}
