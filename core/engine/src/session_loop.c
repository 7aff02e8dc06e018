/* session_loop.c: frames, and loops: rounds are frames on top of the loop's own; what rounds give is stacked as they end. */
#include "sx_session.h"

static void close_loop(sx_session *s, sx_frame *f) {
    for (int64_t i = 0; i < f->n_carried; i++) sx_s_release(s, f->carried + i);
    if (f->carried) sx_host_free(f->carried, (f->n_carried + 1) * (int64_t)sizeof(sx_slot));
    f->carried = NULL, f->n_carried = 0, f->looping = 0;
}

void sx_s_pop(sx_session *s) {
    sx_frame *f = s->frames + --s->depth;
    close_loop(s, f);
    for (int64_t i = 0; i < f->n_slots; i++) sx_s_release(s, f->slots + i);
    if (f->slots) sx_host_free(f->slots, f->n_slots * (int64_t)sizeof(sx_slot));
    *f = (sx_frame){0};
}

int sx_s_push(sx_session *s, int64_t block, sx_report *report) {
    if (s->depth > SX_MAX_DEPTH) return sx_say(report, SX_E_FORMAT, SX_R_BLOCK, -1, block, SX_MAX_DEPTH, 0); /* verified; a second lock */
    sx_frame *f = s->frames + s->depth;
    *f = (sx_frame){.block = block, .n_slots = s->package->blocks[block].slots};
    if (f->n_slots && !(f->slots = sx_cleared(f->n_slots * (int64_t)sizeof(sx_slot)))) return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, f->n_slots, 0);
    s->depth++;
    return 0;
}

/* A condition or trip count: the one element of a slot. */
int sx_s_scalar(const sx_slot *slot, int64_t number, int64_t *value, sx_report *report) {
    int64_t n = sx_count_of(slot->t.dim, slot->t.rank);
    if (n != 1) return sx_say(report, SX_E_SHAPE, SX_R_SCALAR, -1, number, n, 0);
    *value = slot->t.dtype == SX_INT64 ? *(const int64_t *)slot->t.data : *(const uint8_t *)slot->t.data != 0;
    return 0;
}

int sx_s_start_loop(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report) {
    sx_loop l = sx_loop_of(s->package, g);
    const int64_t *in = s->package->lists + g->inputs;
    int64_t rounds = UNBOUNDED, cond = 1;
    int code = l.counts && in[0] >= 0 ? sx_s_scalar(f->slots + in[0], 0, &rounds, report) : 0;
    if (!code && l.counts && in[1] >= 0) code = sx_s_scalar(f->slots + in[1], 1, &cond, report);
    if (code) return code;
    for (int64_t i = 0; i < l.scanned; i++) {
        int64_t length = f->slots[in[2 + l.carried + i]].t.dim[l.pairs[2 * i]], first = f->slots[in[2 + l.carried]].t.dim[l.pairs[0]];
        if (length != first) return sx_say(report, SX_E_SHAPE, SX_R_ROUNDS, -1, i, length, first);
        rounds = length < rounds ? length : rounds;
    }
    f->n_carried = l.carried + l.stacked;
    if (!(f->carried = sx_cleared((f->n_carried + 1) * (int64_t)sizeof(sx_slot)))) {
        f->n_carried = 0;
        return sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, l.carried, 0);
    }
    for (int64_t i = 0; i < l.carried; i++) f->carried[i] = sx_s_shared(f->slots + in[2 + i]);
    f->looping = 1, f->round = 0, f->rounds = rounds > 0 ? rounds : 0, f->go = (int)cond;
    return 0;
}

/* Dims before and behind an axis: how many parts, and the bytes of one. */
static void around(const sx_tensor *t, int64_t axis, int64_t *outer, int64_t *inner) {
    *outer = 1, *inner = sx_item_bytes(t->dtype);
    for (int64_t d = 0; d < t->rank; d++) *(d < axis ? outer : inner) *= d == axis ? 1 : t->dim[d];
}

/* One place of a scanned input, its axis gone: read where it lies, or copied together. */
static int slice(sx_session *s, const sx_slot *from, int64_t axis, int64_t place, sx_slot *out, sx_report *report) {
    int64_t outer, inner, dim[SX_RANK];
    around(&from->t, axis, &outer, &inner);
    for (int64_t d = 0, k = 0; d < from->t.rank; d++) if (d != axis) dim[k++] = from->t.dim[d];
    if (outer == 1) {
        *out = sx_s_shared(from);
        out->t.rank--;
        for (int64_t d = 0; d < out->t.rank; d++) out->t.dim[d] = dim[d];
        out->t.data = (char *)from->t.data + place * inner;
        return 0;
    }
    int code = sx_s_make(s, from->t.dtype, from->t.rank - 1, dim, out, report);
    for (int64_t i = 0; !code && i < outer; i++) sx_copy((char *)out->t.data + i * inner, (const char *)from->t.data + (i * from->t.dim[axis] + place) * inner, inner);
    return code;
}

static int number(sx_session *s, int64_t dtype, int64_t value, sx_slot *out, sx_report *report) {
    int code = sx_s_make(s, dtype, 0, NULL, out, report);
    if (!code && dtype == SX_INT64) *(int64_t *)out->t.data = value;
    else if (!code) *(uint8_t *)out->t.data = value != 0;
    return code;
}

int sx_s_start_round(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report) {
    sx_loop l = sx_loop_of(s->package, g);
    const int64_t *in = s->package->lists + g->inputs;
    sx_frame *child = f + 1;
    int code = sx_s_push(s, s->package->lists[g->blocks], report);
    int64_t at = 0;
    if (!code && l.counts) code = number(s, SX_INT64, f->round, sx_s_input(s, child, at++), report);
    if (!code && l.counts) code = number(s, SX_BOOL, f->go, sx_s_input(s, child, at++), report);
    for (int64_t i = 0; !code && i < l.carried; i++) {
        *sx_s_input(s, child, at++) = f->carried[i]; /* moved */
        f->carried[i] = (sx_slot){0};
    }
    for (int64_t i = 0; !code && i < l.scanned; i++) {
        const sx_slot *from = f->slots + in[2 + l.carried + i];
        int64_t axis = l.pairs[2 * i], place = l.pairs[2 * i + 1] ? from->t.dim[axis] - 1 - f->round : f->round;
        code = slice(s, from, axis, place, sx_s_input(s, child, at++), report);
    }
    for (int64_t i = 2 + l.carried + l.scanned; !code && i < g->n_in; i++) *sx_s_input(s, child, at++) = sx_s_shared(f->slots + in[i]);
    return code;
}

/* What a round gives for one stack. Its memory grows by doubling, at most to all rounds. */
static int stack(sx_session *s, sx_frame *f, sx_slot *to, const sx_slot *part, int64_t output, int64_t axis, int reverse, int counts, sx_report *report) {
    int64_t dim[SX_RANK], outer, inner;
    for (int64_t d = 0, k = 0; d <= part->t.rank; d++) dim[d] = d == axis ? 0 : part->t.dim[k++];
    int64_t have = to->filled ? to->t.dim[axis] : 0;
    for (int64_t d = 0; to->filled && d <= part->t.rank; d++)
        if (d != axis && to->t.dim[d] != dim[d]) return sx_say(report, SX_E_SHAPE, SX_R_STACK, -1, output, dim[d], to->t.dim[d]);
    if (f->round >= have) {
        sx_slot grown;
        int64_t want = have ? 2 * have : counts ? 4 : f->rounds;
        dim[axis] = want < f->rounds ? want : f->rounds;
        int code = sx_s_make(s, part->t.dtype, part->t.rank + 1, dim, &grown, report);
        if (code) return code;
        if (to->filled) sx_copy(grown.t.data, to->t.data, sx_s_bytes(&to->t)); /* axis 0: only loops that count do not know their rounds */
        sx_s_release(s, to);
        *to = grown;
    }
    around(&to->t, axis, &outer, &inner);
    int64_t place = reverse ? f->rounds - 1 - f->round : f->round;
    for (int64_t i = 0; i < outer; i++) sx_copy((char *)to->t.data + (i * to->t.dim[axis] + place) * inner, (const char *)part->t.data + i * inner, inner);
    return 0;
}

int sx_s_end_round(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report) {
    sx_loop l = sx_loop_of(s->package, g);
    sx_frame *child = f + 1;
    const int64_t *out = s->package->lists + s->package->blocks[child->block].outputs;
    int64_t go = 1;
    int code = l.counts ? sx_s_scalar(child->slots + out[0], 0, &go, report) : 0;
    out += l.counts ? 1 : 0;
    for (int64_t i = 0; !code && i < l.carried; i++) f->carried[i] = sx_s_shared(child->slots + out[i]);
    for (int64_t i = 0; !code && i < l.stacked; i++)
        code = stack(s, f, f->carried + l.carried + i, child->slots + out[l.carried + i], l.carried + i, l.pairs[2 * (l.scanned + i)], (int)l.pairs[2 * (l.scanned + i) + 1], (int)l.counts, report);
    sx_s_pop(s);
    f->round++, f->go = (int)go;
    return code;
}

int sx_s_end_loop(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report) {
    sx_loop l = sx_loop_of(s->package, g);
    int code = 0;
    for (int64_t i = 0; !code && i < g->n_out; i++) {
        int64_t slot = s->package->lists[g->outputs + i];
        if (i >= l.carried && !f->carried[i].filled && slot >= 0) {
            const sx_slot_type *t = s->package->types + s->package->first_type[f->block] + slot;
            int64_t dim[SX_RANK], axis = l.pairs[2 * (l.scanned + i - l.carried)];
            for (int64_t d = 0; d < t->rank; d++) dim[d] = d == axis || t->dim[d] < 0 ? 0 : t->dim[d];
            code = sx_s_make(s, t->dtype, t->rank, dim, f->carried + i, report);
        } else if (i >= l.carried && f->carried[i].filled && l.counts) f->carried[i].t.dim[0] = f->round;
        if (!code && slot >= 0) {
            f->slots[slot] = f->carried[i];
            f->carried[i] = (sx_slot){0};
        }
    }
    close_loop(s, f);
    return code;
}
