/* sx_session.h: what the files of a session share: its records (session.c says what they are for), its memory (session_memory.c, session_grow.c), its frames and loops (session_loop.c). */
#ifndef SX_SESSION_H
#define SX_SESSION_H

#include "sx_package.h"

#define SPARES 24
#define UNBOUNDED ((int64_t)1 << 62)

/* The memory of tensors; the tensor's bytes follow. room: 0, or it is of tensors that grow (session_grow.c), `lent`: which the caller has; run: the last that wrote there. */
typedef struct sx_memory {
    _Alignas(64) int64_t bytes;
    int64_t refs;
    struct sx_session *owner; /* NULL: it is closed */
    struct sx_memory *next;   /* lent */
    int64_t outer, row;
    int32_t room, rows, run, lent;
} sx_memory;
typedef struct { sx_memory *memory; int64_t stamp; } sx_kept;
/* memory NULL: lent by the caller. */
typedef struct { sx_tensor t; sx_memory *memory; int32_t filled; } sx_slot;
typedef struct { sx_state *state; int64_t program, hash, stamp; int64_t *key; } sx_bound;

typedef struct {
    int64_t block, next;   /* the segment that runs */
    sx_slot *slots;
    int64_t n_slots;
    /* the LOOP that runs, if one does */
    int looping, go;
    int64_t round, rounds;
    sx_slot *carried;      /* carried, then stacks */
    int64_t n_carried;
} sx_frame;

struct sx_session {
    sx_package *package;
    sx_frame frames[SX_MAX_DEPTH + 1];
    int depth;             /* frames open */
    sx_slot *outputs;
    sx_kept spare[SPARES];
    sx_bound *bound;
    int64_t ways, stamp, run;
    char *arena;
    int64_t arena_bytes, held;
    sx_state *running;
    int64_t running_program, until;
    int waiting, stop;
    sx_memory **fresh;     /* memory of the running program's outputs */
    sx_memory *grown;      /* what callers have of tensors that grow */
    char *grows;           /* of each output, whether it may; `grew`: one of them might */
    int grew;
    int64_t *rows, *times;
    int64_t n_rows, most_rows, n_times;
    int64_t most_in, most_out, most_key;
    int64_t *dims;         /* room for a key */
};

static inline sx_slot sx_s_shared(const sx_slot *slot) {
    if (slot->memory) slot->memory->refs++;
    return *slot;
}

static inline int64_t sx_s_bytes(const sx_tensor *t) {
    int64_t n = sx_count_of(t->dim, t->rank);
    return n < 0 ? -1 : n * sx_item_bytes(t->dtype);
}

static inline sx_slot *sx_s_input(const sx_session *s, sx_frame *f, int64_t number) { return f->slots + s->package->lists[s->package->blocks[f->block].inputs + number]; }

/* session_memory.c */
void sx_s_drop(sx_session *s, sx_memory *m);
sx_memory *sx_s_take(sx_session *s, int64_t bytes, sx_report *report);
void sx_s_give_back(sx_session *s, sx_memory *m);
void sx_s_release(sx_session *s, sx_slot *slot);
int sx_s_make(sx_session *s, int64_t dtype, int64_t rank, const int64_t *dim, sx_slot *out, sx_report *report);
int sx_s_copied(sx_session *s, const sx_tensor *t, sx_slot *out, sx_report *report);

/* session_grow.c */
sx_memory *sx_s_grow(sx_session *s, const sx_frame *f, const sx_segment_row *g, sx_state *state, int64_t out, int *code, sx_report *report);
void sx_s_grew(sx_memory *m, const sx_tensor *t);
int sx_s_dense(sx_session *s, const sx_frame *f, const sx_segment_row *g, sx_state *state, int64_t in, sx_slot *slot, sx_report *report);
void sx_s_lend(sx_session *s, sx_memory *m);
int sx_s_forget(sx_session *s, sx_memory *m);

/* session_loop.c */
int sx_s_push(sx_session *s, int64_t block, sx_report *report);
void sx_s_pop(sx_session *s);
int sx_s_scalar(const sx_slot *slot, int64_t number, int64_t *value, sx_report *report);
int sx_s_start_loop(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report);
int sx_s_start_round(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report);
int sx_s_end_round(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report);
int sx_s_end_loop(sx_session *s, sx_frame *f, const sx_segment_row *g, sx_report *report);

#endif
