/* sx_kernel.h: what a kernel is given and what it may use. The one header every kernel family includes.

   How to think
   - A kernel is a function `int sx_k_<kind>(const sx_call *call)`. It never allocates, never calls libc, never reads a graph. Sizes and strides are plain numbers by
     now: symbolic sizes were bound before.
   - Every operand is an `sx_view`: a pointer to its first element, a dtype, dims, and strides in ELEMENTS (0 broadcasts; strides may be negative). The engine has checked that
     every element a view can reach lies inside its buffer. Data-dependent indices (Gather, LOAD) are checked by the kernel.
   - Logical dims are ONNX's (N, C, H, W for a convolution); channels-last is a matter of strides. A kernel may demand strides (it says so in its header comment); the
     planner places a Copy where they do not hold.
   - Work is cut into tiles by shape only, never by the number of workers, so results are bit-equal for any number of threads. `sx_for` runs the tiles, and `sx_tiles` those after some of which
     the step may be left: a run with a budget returns to its host there, and calls the kernel again later. Tiles take a few milliseconds at most, so that a run stops when it is told to.
   - Scratch memory is `call->scratch`, `call->scratch_bytes` per worker slice; its size comes from the family's pure function `sx_scratch_<kind>(call, workers)`.
   - A kernel returns 0, or an error: `sx_fail(call, SX_E_…, operand, a, b)`.
   - Each family is one .c file, compiled once per ISA: names are wrapped by SX_NAME, vectors come from sx_vec.h. */
#ifndef SX_KERNEL_H
#define SX_KERNEL_H
#include <stddef.h>
#include <stdint.h>
#include "sardonyx.h" /* error numbers */

#define SX_RANK 8

static inline int64_t sx_min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t sx_max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t sx_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t sx_round_up(int64_t a, int64_t b) { return sx_ceil_div(a, b) * b; }
static inline int64_t sx_magnitude(int64_t a) { return a < 0 ? -a : a; }

/* ONNX element types. */
enum sx_dtype {
    SX_FLOAT = 1, SX_UINT8 = 2, SX_INT8 = 3, SX_UINT16 = 4, SX_INT16 = 5, SX_INT32 = 6, SX_INT64 = 7, SX_BOOL = 9, SX_FLOAT16 = 10, SX_DOUBLE = 11, SX_UINT32 = 12,
    SX_UINT64 = 13, SX_BFLOAT16 = 16
}; /* core/types.py; copies move every type, the others are computed as sx_convert.h says */

/* Kernel kinds: core/kernels.py. */
enum sx_kind {
    SX_MAP = 1, SX_REDUCE, SX_SCAN, SX_MATMUL, SX_CONV, SX_POOL, SX_SOFTMAX, SX_NORM, SX_ATTENTION, SX_RNN, SX_GATHER, SX_SCATTER, SX_COPY, SX_RESIZE, SX_SAMPLE, SX_SORT,
    SX_COMPACT, SX_RANDOM, SX_FFT, SX_LINALG, SX_UNUSED_21, SX_TREES, SX_IF, SX_LOOP, SX_CALL, SX_KINDS
};


typedef struct {
    char *data;              /* first element */
    int64_t dim[SX_RANK];
    int64_t stride[SX_RANK]; /* in elements */
    int32_t rank;
    int32_t dtype;
    int32_t packing;         /* 0: plain; else a packing id of core/model/packing.py: `data` points at the packed words, dims are the logical ones, strides unused */
    int32_t reserved;
    int64_t extent;          /* elements reachable from `data` in memory order (bound of LOAD); packed: bytes */
} sx_view;

/* An encoded expression (core/expr.py): `count` instructions of 6 int32 words. */
typedef struct {
    const int32_t *words;
    int32_t count;
    int32_t registers;
    int32_t results[4];
    int32_t n_results;
    int32_t first_leaf;      /* operand number in call->in that leaf 0 of this code means */
} sx_code;

typedef struct sx_team sx_team; /* the workers joined to this run */

/* How far a step has got that a run with a budget left in the middle. */
typedef struct {
    int64_t until;                /* of sx_host_now(): no tile is begun from then on, but for one */
    int64_t loop, loops, tile;    /* loops of sx_tiles met in this call of the kernel; finished ones; finished tiles of the next */
    int64_t at[2];                /* for a kernel's own use: 0 when the step begins */
    int left;                     /* set where the step is left */
} sx_pause;

typedef struct {
    int32_t kind;
    int32_t n_in, n_out, n_param;
    const sx_view *in;
    const sx_view *out;
    const int64_t *param;     /* the kind's record (core/kernels.py, RECORDS); floats as the bits of a double */
    const sx_code *prologue;  /* NULL where absent */
    const sx_code *epilogue;
    sx_team *team;
    char *scratch;            /* workers × scratch_bytes, 64-byte aligned; worker w uses scratch + w * scratch_bytes */
    int64_t scratch_bytes;
    int64_t *fault;           /* 4 words: where the error's operand and values go */
    const int *stop;          /* not 0: the run is to end; sx_for polls it between tiles. May be NULL */
    sx_pause *pause;          /* NULL: the run has no budget */
    const int32_t *sums;      /* of the columns of a constant right-hand side, packed bytes, in whole panels (gemm_int.h); NULL: not known */
    const char *ahead;        /* constants a later step reads, which a product may ask for meanwhile; NULL: none */
    int64_t ahead_bytes;
    int32_t bf16;             /* not 0: float products may round their factors to bfloat16, and the machine can */
    int32_t odd;              /* every other run: constants larger than a cache are read from their end, where the run before left them in it */
} sx_call;

/* Constants that come soon: a product asks for a line of them now and then, while it computes, so that they lie in a cache when their step begins. Results never depend on it. */
typedef struct { const char *at, *end; } sx_coming;

/* Tile i's share of n. */
static inline sx_coming sx_coming_of(const sx_call *call, int64_t i, int64_t n) {
#ifdef __wasm__ /* which can not ask */
    return (void)call, (void)i, (void)n, (sx_coming){0, 0};
#endif
    int64_t share = (call->ahead_bytes / n + 63) / 64 * 64, from = i * share, to = from + share;
    return (sx_coming){call->ahead + (from < call->ahead_bytes ? from : call->ahead_bytes), call->ahead + (to < call->ahead_bytes ? to : call->ahead_bytes)};
}

#define SX_MAX_WORKERS 64
typedef int (*sx_kernel)(const sx_call *call);
typedef int64_t (*sx_scratch)(const sx_call *call); /* bytes per worker */

/* Run body(arg, i, worker) for i in 0 … n-1, each once, on the workers joined to this run. Tiles should take at least a few microseconds. With no team it is a loop. */
void sx_for(const sx_call *call, int64_t n, void (*body)(void *arg, int64_t i, int worker), void *arg);
/* The same, left where the budget is used up: 0 where tiles remain, and the kernel returns SX_OK. Called again it does everything again up to the loop it left, with the same scratch; loops
   that are done are skipped. So what stands between loops reads what tiles wrote and changes nothing that is read before. */
int sx_tiles(const sx_call *call, int64_t n, void (*body)(void *arg, int64_t i, int worker), void *arg);
/* Whether a kernel that keeps its place itself (pause->at; it sets pause->left) is to return: the budget is used up, or the run is to end. */
int sx_due(const sx_call *call);
/* Whether the run is to end: what a long tile asks now and then. */
static inline int sx_stopped(const sx_call *call) { return call->stop && __atomic_load_n(call->stop, __ATOMIC_RELAXED); }

/* Whether the machine has tiles of bytes (AMX) and this process may use them. */
int sx_host_amx(void);
/* Whether the machine multiplies bfloat16 as gemm_bf16.c does (AVX512_BF16). */
int sx_host_bf16(void);

static inline int sx_fail(const sx_call *call, int code, int64_t operand, int64_t a, int64_t b) {
    if (call->fault) { call->fault[0] = code; call->fault[1] = operand; call->fault[2] = a; call->fault[3] = b; }
    return code;
}

static inline double sx_param_float(int64_t word) { union { int64_t i; double d; } u = {.i = word}; return u.d; }

/* A function no model spends its time in: compiled for size in a module for the web. */
#ifdef __wasm__
#define SX_SMALL __attribute__((minsize, noinline))
#else
#define SX_SMALL
#endif

#define SX_CAT_(a, b) a##_##b
#define SX_CAT(a, b) SX_CAT_(a, b)
#ifndef SX_ISA
#define SX_ISA base
#endif
#define SX_NAME(name) SX_CAT(name, SX_ISA) /* sx_k_map → sx_k_map_avx512 */


/* Run an epilogue/prologue expression over a block of the output's index space.
   `block`: the accumulated values, compute type F32/I32/… as `acc_type` says (enum of core/expr.py), rows × cols with `ld` elements between rows. The block covers, in the iteration
   space of call->out[0] (rank r), the positions start[0..r-1] + (row along axis `row_axis`) + (col along axis `col_axis`). Results are converted and stored to call->out[0].
   Without an epilogue the block is just converted and stored. Implemented in finish.c. */
#define sx_finish SX_NAME(sx_finish)
void sx_finish(const sx_call *call, const void *block, int acc_type, int64_t rows, int64_t cols, int64_t ld, const int64_t *start, int row_axis, int col_axis);

#endif
