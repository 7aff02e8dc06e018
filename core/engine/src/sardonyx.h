/* sardonyx.h: run a stored program (core/program.py) from C or anything that calls C. No Python, no graph.

   How to think
   - open: the bytes are copied and verified; after that nothing in them can lead outside a buffer. The constants are lent by the caller (a mapped file) and must outlive the program.
   - bind: the sizes of the inputs decide every size of the program. Each view is checked to lie inside its buffer. A state holds what was decided; it serves one run at a time, any
     number of states of one program run side by side.
   - run: inputs and outputs are dense, row-major, aligned to their element. With a budget it returns SX_YIELD after about that many nanoseconds; call sx_continue.
   Every function returns 0 or an error number and fills `sx_report` (may be NULL). */
#ifndef SARDONYX_H
#define SARDONYX_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SX_ABI_MAJOR 2
#define SX_API __attribute__((visibility("default")))

typedef struct sx_program sx_program;
typedef struct sx_state sx_state;

enum sx_status {
    SX_OK = 0, SX_E_UNSUPPORTED = 1, SX_E_INDEX = 2, SX_E_DIVISION = 3, SX_E_SHAPE = 4, SX_E_MEMORY = 5, SX_E_FORMAT = 6, SX_E_TERMINATED = 7, SX_E_DTYPE = 8, SX_E_GUARD = 9,
    SX_E_ARGUMENT = 10, SX_YIELD = 100
};

/* What went wrong and where. `rule` names what was violated (sx_rule in sx_internal.h); the text says it in words. */
typedef struct {
    int32_t code;
    int32_t rule;
    int64_t step;    /* -1: none */
    int64_t operand; /* operand, or row of a table */
    int64_t values[2];
} sx_report;

typedef struct {
    int32_t threads;      /* workers a run may use, the caller included; 0: one for each core this process may use */
    int32_t isa;          /* 0: the best this machine has; else the ISA's number (sx_isa_name) plus 1 */
    int64_t memory_limit; /* bytes a run may take for its arena and scratch; 0: no limit */
} sx_options;

SX_API int sx_open(const void *program, uint64_t bytes, const sx_options *options, sx_program **out, sx_report *report);
SX_API int sx_set_constant(sx_program *program, int64_t number, const void *data, uint64_t bytes, sx_report *report);
/* `dims`: the sizes of all inputs, one after the other. `inputs`: the inputs themselves where elements of them decide sizes (sx_counts 4), else NULL; only those elements are read. */
SX_API int sx_bind(sx_program *program, const int64_t *dims, int64_t count, const void *const *inputs, sx_state **out, sx_report *report);
/* Sizes of output `number` once bound; returns its rank (at most 8) or -1. */
SX_API int sx_output_shape(const sx_state *state, int64_t number, int64_t *dims);
/* Bytes an arena handed to sx_run must have, 64-byte aligned. */
SX_API int64_t sx_arena_bytes(const sx_state *state);
/* arena NULL: the engine's own. budget: nanoseconds until SX_YIELD; 0: run to the end. */
SX_API int sx_run(sx_state *state, const void *const *inputs, void *const *outputs, void *arena, int64_t budget, sx_report *report);
SX_API int sx_continue(sx_state *state, int64_t budget, sx_report *report);
/* From any thread: the run of this state ends soon with SX_E_TERMINATED. A later sx_run starts fresh. */
SX_API void sx_terminate(sx_state *state);
/* Pairs (start, duration) in nanoseconds for each step, written while running; NULL: off. */
SX_API void sx_profile(sx_state *state, int64_t *times);
SX_API void sx_unbind(sx_state *state);
SX_API void sx_close(sx_program *program);

SX_API int64_t sx_counts(const sx_program *program, int what); /* 0 inputs, 1 outputs, 2 steps, 3 constants, 4 sizes that are elements of inputs */
/* The report in words, at most `size` bytes with the closing 0; returns the text's full length. */
SX_API int64_t sx_error_text(const sx_report *report, const sx_program *program, char *text, int64_t size);
SX_API const char *sx_isa_name(int number);  /* NULL past the last */
SX_API int sx_isa_available(int number);     /* whether this machine runs it */
SX_API int sx_kernel_available(int kind);    /* whether this build has kernels of a kind (core/kernels.py) */

#ifdef __cplusplus
}
#endif
#endif
