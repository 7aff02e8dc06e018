/* session_memory.c: the memory of a session's tensors. Blocks are counted; one that nobody holds is kept as a spare until two runs did without it. */
#include "sx_session.h"

void sx_s_drop(sx_session *s, sx_memory *m) {
    s->held -= m->bytes;
    sx_host_free(m, m->bytes + (int64_t)sizeof *m);
}

sx_memory *sx_s_take(sx_session *s, int64_t bytes, sx_report *report) {
    int best = -1;
    int64_t want = sx_aligned(bytes ? bytes : 1);
    for (int64_t step = 1 << 10; want > step * 8; step *= 2) want = (want + step - 1) & ~(step - 1); /* rounded up by at most an eighth, so that sizes that grow fit again */
    for (int i = 0; i < SPARES; i++) {
        const sx_memory *m = s->spare[i].memory;
        if (m && m->bytes >= bytes && m->bytes <= 4 * want && (best < 0 || m->bytes < s->spare[best].memory->bytes)) best = i;
    }
    if (best >= 0) {
        sx_memory *m = s->spare[best].memory;
        s->spare[best].memory = NULL;
        m->refs = 1;
        return m;
    }
    int64_t limit = s->package->memory_limit;
    for (int i = 0; limit && i < SPARES && s->held + want > limit; i++)
        if (s->spare[i].memory) sx_s_drop(s, s->spare[i].memory), s->spare[i].memory = NULL;
    sx_memory *m = limit && s->held + want > limit ? NULL : sx_host_alloc(want + (int64_t)sizeof *m);
    if (!m) {
        sx_say(report, SX_E_MEMORY, SX_R_MEMORY, -1, -1, s->held + want, limit);
        return NULL;
    }
    *m = (sx_memory){.bytes = want, .refs = 1, .owner = s};
    s->held += want;
    return m;
}

void sx_s_give_back(sx_session *s, sx_memory *m) {
    if (!m || --m->refs) return;
    if (sx_s_forget(s, m)) s->held += m->bytes;
    int place = 0;
    for (int i = 0; i < SPARES; i++) {
        if (!s->spare[i].memory) {
            s->spare[i] = (sx_kept){m, s->run};
            return;
        }
        if (s->spare[i].memory->bytes < s->spare[place].memory->bytes) place = i;
    }
    if (s->spare[place].memory->bytes < m->bytes) {
        sx_memory *was = s->spare[place].memory;
        s->spare[place] = (sx_kept){m, s->run};
        m = was;
    }
    sx_s_drop(s, m);
}

void sx_s_release(sx_session *s, sx_slot *slot) {
    if (slot->filled) sx_s_give_back(s, slot->memory);
    *slot = (sx_slot){0};
}

/* A tensor with memory of its own. */
int sx_s_make(sx_session *s, int64_t dtype, int64_t rank, const int64_t *dim, sx_slot *out, sx_report *report) {
    sx_slot made = {.t = {.dtype = (int32_t)dtype, .rank = (int32_t)rank}, .filled = 1};
    for (int64_t d = 0; d < rank; d++) made.t.dim[d] = dim[d];
    int64_t bytes = sx_s_bytes(&made.t);
    if (bytes < 0 || bytes > SX_LARGEST) return sx_say(report, SX_E_SHAPE, SX_R_OVERFLOW, -1, -1, bytes, 0);
    if (!(made.memory = sx_s_take(s, bytes, report))) return SX_E_MEMORY;
    made.t.data = made.memory + 1;
    *out = made;
    return 0;
}

int sx_s_copied(sx_session *s, const sx_tensor *t, sx_slot *out, sx_report *report) {
    int code = sx_s_make(s, t->dtype, t->rank, t->dim, out, report);
    if (!code) sx_copy(out->t.data, t->data, sx_s_bytes(t));
    return code;
}

void sx_tensor_free(void *data) {
    if (!data) return;
    sx_memory *m = (sx_memory *)data - 1;
    if (--m->refs) return;
    if (m->owner && m->lent) sx_s_forget(m->owner, m);
    sx_host_free(m, m->bytes + (int64_t)sizeof *m);
}
