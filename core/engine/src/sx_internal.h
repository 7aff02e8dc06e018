/* sx_internal.h: the loader's own structures, and what the host file provides. */
#ifndef SX_INTERNAL_H
#define SX_INTERNAL_H
#include "sx_kernel.h"

/* One entry of an ISA's kernel table. */
typedef struct { sx_kernel run; sx_scratch scratch; } sx_entry;
/* Constants worth another form, made when a program is first bound (conv.h says how): the packing a call's second operand then has (0: none), its bytes, the making. */
typedef struct { int (*wanted)(const sx_call *call); int64_t (*bytes)(const sx_call *call, int packing); void (*derive)(const sx_call *call, int packing, void *derived); } sx_derivation;
static inline int64_t sx_sums_count(const sx_view *b) { return (b->dim[1] + 15) / 16 * 16; } /* whole panels */
/* Column sums of constants, made likewise (gemm_int.h): the operand of a call they are wanted of (-1: none), the making. */
typedef struct { int (*operand)(const sx_call *call); void (*make)(const sx_view *b, int32_t *to); } sx_summing;
typedef struct {
    const char *name;
    sx_entry kernels[SX_KINDS];
    sx_derivation derivation;
    sx_summing summing;
#ifndef __wasm__
    sx_derivation words;               /* of products whose factors are rounded to bfloat16 (gemm_bf16.c), and whether a call's are; NULL: no kernels for it */
    int (*rounds)(const sx_call *call);
#endif
} sx_table;

/* -- host ------------------------------------------------------------------------------------------------------------------------------------ */
void *sx_host_alloc(int64_t bytes);   /* 64-byte aligned, NULL where there is none; not cleared */
void sx_host_free(void *memory, int64_t bytes);
int64_t sx_host_now(void);            /* nanoseconds */
int sx_host_cores(void);              /* cores this process may use */
/* Join up to `threads` workers (the caller included) for a run; NULL: none to be had, run alone. */
sx_team *sx_host_join(int threads);
void sx_host_leave(sx_team *team);
/* Tiles from … n - 1 on the call's team. Without `until` all, else no more after that time, but one at least. What they have got to. */
int64_t sx_host_for(const sx_call *call, int64_t from, int64_t n, int64_t until, void (*body)(void *arg, int64_t i, int worker), void *arg);

/* -- program ---------------------------------------------------------------------------------------------------------------------------------- */
typedef struct { int64_t op, a, b, c; } sx_size;
typedef struct { int64_t kind, a, b; } sx_guard;
typedef struct { int64_t home, at, bytes; } sx_buffer;
typedef struct { int64_t buffer, dtype, rank, packing, start, extent, dim[SX_RANK], stride[SX_RANK]; } sx_view_row;
typedef struct { int64_t offset, count, registers, first, results, result[4]; } sx_code_row;
typedef struct { int64_t kind, version, origin, inputs, n_in, outputs, n_out, params, n_param, prologue, epilogue; } sx_step_row;
typedef struct { int64_t name, dtype, rank, view, dim[SX_RANK]; } sx_port;

enum { SX_HOME_ARENA, SX_HOME_INPUT, SX_HOME_OUTPUT, SX_HOME_DATA };
enum { SX_SIZE_CONST, SX_SIZE_DIM, SX_SIZE_ADD, SX_SIZE_SUB, SX_SIZE_MUL, SX_SIZE_FLOORDIV, SX_SIZE_CEILDIV, SX_SIZE_MOD, SX_SIZE_MIN, SX_SIZE_MAX, SX_SIZE_ELEMENT, SX_SIZES };
enum { SX_GUARD_EQUAL, SX_GUARD_AT_LEAST, SX_GUARD_AT_MOST, SX_GUARDS };

typedef struct { const void *data; int64_t bytes; } sx_constant;
typedef struct { void *data; int64_t bytes; int32_t packing; } sx_derived;
typedef struct { char *memory; int64_t bytes; } sx_spare;
#define SX_DERIVED 2      /* forms of a constant */
#define SX_SPARES 4       /* arenas kept between runs */

struct sx_program {
    char *bytes;              /* the copy; the tables point into it */
    int64_t length, total;
    int64_t arena;            /* size index, -1: none */
    int64_t n_sizes, n_guards, n_buffers, n_views, n_codes, n_words, n_steps, n_lists, n_inputs, n_outputs, n_offsets, n_text;
    const sx_size *sizes;
    const sx_guard *guards;
    const sx_buffer *buffers;
    const sx_view_row *views;
    const sx_code_row *codes;
    const int32_t *words;
    const sx_step_row *steps;
    const int64_t *lists;
    const sx_port *inputs, *outputs;
    const int64_t *offsets;
    const char *text;
    const sx_table *table;
    sx_code *made;            /* the codes as kernels see them */
    sx_constant *constants;
    sx_derived *derived;      /* SX_DERIVED of each constant */
    int64_t derived_bytes;
    char deriving;            /* spin lock of `derived` */
    int64_t n_constants, n_dims, n_elements;
    int threads;
    int64_t memory_limit;
    int bf16;                 /* products may round their factors */
    char busy;                /* spin lock of `spare` */
    sx_spare spare[SX_SPARES];
};

/* An operand whose pointer a run decides. */
typedef struct { int64_t operand, port, offset; int32_t home; } sx_patch;

struct sx_state {
    const sx_program *program;
    char *block;              /* one allocation for everything below */
    int64_t block_bytes;
    int64_t *sizes;
    sx_view *operands;        /* of all steps, one after the other */
    sx_call *calls;
    int64_t *params;
    sx_patch *patches;
    int64_t n_patches;
    int64_t scratch_bytes;    /* the most a worker needs in any step */
    int64_t scratch_at;       /* where scratch begins: the arena's bytes, aligned */
    int64_t arena_bytes;      /* arena and scratch of all workers */
    char *arena, *own;        /* of this run; the engine's own */
    int64_t own_bytes;
    int64_t next;
    int64_t fault[4];
    sx_pause pause;           /* of the step `next` */
    int resumed;              /* it was left before */
    int32_t odd;              /* of this run: sx_call's */
    int64_t *times;
    int stop;
    int *watch;               /* not 0: stop; `stop`, or a session's */
    const void **input;       /* room for the pointers of a run */
    void **output;
};

/* What was violated; sx_error_text has the words, in this order. */
enum sx_rule {
    SX_R_NONE, SX_R_SHORT, SX_R_MAGIC, SX_R_ABI, SX_R_TABLE, SX_R_SIZE, SX_R_GUARD_ROW, SX_R_BUFFER, SX_R_VIEW, SX_R_CODE, SX_R_STEP, SX_R_KIND, SX_R_OPERANDS, SX_R_TYPE, SX_R_PORT,
    SX_R_STRING, SX_R_MEMORY, SX_R_ARENA, SX_R_CONSTANT, SX_R_COUNT, SX_R_INPUT_SIZE, SX_R_GUARD, SX_R_UNEQUAL, SX_R_OVERFLOW, SX_R_EXTENT, SX_R_DIMS, SX_R_PARAM, SX_R_POINTER, SX_R_KERNEL, SX_R_INDEX,
    SX_R_DIVISION, SX_R_STOPPED, SX_R_ISA, SX_R_STRIDE, SX_R_ELEMENT, SX_R_PLACE, SX_R_UNREADABLE, SX_R_PACKAGE, SX_R_BLOCK, SX_R_SLOT, SX_R_SEGMENT, SX_R_NO_PROGRAMS, SX_R_VARIANT, SX_R_TENSOR, SX_R_ROUNDS, SX_R_SCALAR, SX_R_STACK, SX_R_HOST,
    SX_R_FILE, SX_R_EXTERNAL, SX_RULES
};

static inline int sx_say(sx_report *report, int code, int rule, int64_t step, int64_t operand, int64_t a, int64_t b) {
    if (report) *report = (sx_report){code, rule, step, operand, {a, b}, -1, -1, -1, 0};
    return code;
}

int sx_item_bytes(int64_t dtype);            /* bytes of an element in memory; 0: not a type programs hold */
int sx_compute_of(int64_t dtype);            /* compute type (core/expr.py), -1 where none */
int64_t sx_packed_bytes(int64_t packing, int item, const int64_t *dim, int rank, int64_t group); /* core/model/packing.py; -1: wrong */

/* loader.c, for packages. */
int sx_open_in(char *bytes, int64_t length, int64_t total, const sx_options *options, sx_program **out, sx_report *report); /* total > 0: the program owns the bytes */
int sx_element(const sx_program *p, const sx_size *s, const int64_t *dims, const void *const *inputs, int64_t *made, sx_report *report);
const int64_t *sx_dims_of(const sx_program *p, const int64_t *dims, int64_t input); /* where an input's dims begin in those of all */
int64_t sx_count_of(const int64_t *dim, int64_t rank); /* elements, -1: too many or negative */
void sx_watch(sx_state *s, int *stop);

/* verify.c: every index of every table. check.c and check_data.c: dims and parameters of one bound step. */
/* Where a table of packed bytes begins whose (count, offset in words) stand at word `place` of the header; NULL where it does not lie inside. */
const void *sx_table_of(const char *bytes, int64_t length, int64_t place, int64_t width, int64_t *count);
int sx_verify(sx_program *p, sx_report *report);
int sx_check(const sx_call *call, int64_t step, sx_report *report);
int sx_check_data(const sx_call *call, int64_t step, sx_report *report);
/* simplify.c: the same work in fewer axes, where that is better. After the checks; a checked call stays one. */
void sx_simplify(sx_call *call);

static inline int64_t sx_aligned(int64_t bytes) { return (bytes + 63) & ~(int64_t)63; }
static inline void sx_clear(void *memory, int64_t bytes) { for (int64_t i = 0; i < bytes; i++) ((char *)memory)[i] = 0; }
static inline void sx_copy(void *to, const void *from, int64_t bytes) { for (int64_t i = 0; i < bytes; i++) ((char *)to)[i] = ((const char *)from)[i]; }
static inline void *sx_cleared(int64_t bytes) {
    int64_t words = (bytes + 7) / 8, *made = sx_host_alloc(words * 8);
    for (int64_t i = 0; made && i < words; i++) made[i] = 0; /* a run clears a few hundred bytes */
    return made;
}
#define SX_LARGEST ((int64_t)1 << 46) /* bytes: far above any address space in use; keeps sums from overflowing */
#endif
