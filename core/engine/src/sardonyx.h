/* sardonyx.h: run stored models from C or anything that calls C. No Python, no graph. A model is a package (core/package.py): programs and the blocks that connect them.

   How to think, packages
   - sx_package_map opens a mapped .sdx file in one call; sx_package_open takes the programs section alone, sx_package_data or sx_package_set then lend the constants, which must outlive the
     package and be set before a session is opened.
   - A session runs the package, one run at a time; any number of sessions of one package run side by side. Inputs are lent to the end of the run, outputs to the next run.
   - sx_session_run returns 0, an error, SX_YIELD (the budget is used up: sx_session_continue) or SX_WAIT_HOST (a segment is for another device: read its inputs with sx_session_input, give its
     outputs with sx_session_put, then sx_session_continue).
   - Numbers in structs have the same offsets with pointers of 4 and of 8 bytes.

   How to think, single programs (core/program.py)
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
typedef struct sx_package sx_package;
typedef struct sx_session sx_session;

/* SX_E_GUARD: no plan covers these sizes; who has the graph can plan for them. Nothing else gives it. */
enum sx_status {
    SX_OK = 0, SX_E_UNSUPPORTED = 1, SX_E_INDEX = 2, SX_E_DIVISION = 3, SX_E_SHAPE = 4, SX_E_MEMORY = 5, SX_E_FORMAT = 6, SX_E_TERMINATED = 7, SX_E_DTYPE = 8, SX_E_GUARD = 9,
    SX_E_ARGUMENT = 10, SX_YIELD = 100, SX_WAIT_HOST = 101
};

/* What went wrong and where. `rule` names what was violated (sx_rule in sx_internal.h); the text says it in words. */
typedef struct {
    int32_t code;
    int32_t rule;
    int64_t step;    /* -1: none */
    int64_t operand; /* operand, or row of a table */
    int64_t values[2];
    int32_t program, block, segment; /* of a package; -1: none */
    int32_t reserved;
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
/* The bound size table, which lives as long as the state: for hosts that run a program of another device (core/package.py). */
SX_API const int64_t *sx_sizes(const sx_state *state, int64_t *count);
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

/* Products of floats (MatMul, Gemm, convolutions but depthwise and Winograd ones) may round their factors to bfloat16 and add in float, which machines with AVX512_BF16 do twice as fast: a
   relative error of 2^-8 a factor. Said before the program is first bound. 0: this machine or instruction set can not, and nothing changes. Not in WebAssembly. */
SX_API int sx_use_bfloat16(sx_program *program);
SX_API int sx_package_use_bfloat16(sx_package *package);
SX_API int sx_bfloat16_available(void);
/* Whether a step of a bound program does. */
SX_API int sx_in_bfloat16(const sx_state *state, int64_t step);

SX_API int64_t sx_counts(const sx_program *program, int what); /* 0 inputs, 1 outputs, 2 steps, 3 constants, 4 sizes that are elements of inputs */
/* The report in words, at most `size` bytes with the closing 0; returns the text's full length. */
SX_API int64_t sx_error_text(const sx_report *report, const sx_program *program, char *text, int64_t size);
/* -- packages ------------------------------------------------------------------------------------------------------------------------------------ */

/* A dense, row-major tensor; `data` is aligned to its element. */
typedef struct {
    int32_t dtype, rank; /* ONNX element type; at most 8 dims */
    int64_t dim[8];
    void *data;
} sx_tensor;

/* An input or output of the model. dim: 0 or more a size, -1 any size, -2 - k the size named by symbol k. The name is not closed by a 0. */
typedef struct {
    int32_t dtype, rank;
    int64_t dim[8];
    const char *name;
    int64_t name_bytes;
} sx_port_info;

/* A segment that waits for its host. device: core/package.py. */
typedef struct { int32_t block, segment, program, device, n_in, n_out; } sx_waiting;

/* Sections of a .sdx file (core/model/FORMAT.md): offsets and lengths. external: the tensor data lie in another file, `data` bytes from its begin. */
typedef struct { uint64_t graph, graph_bytes, programs, programs_bytes, data, data_bytes; int32_t external, reserved; } sx_file;

/* From the first 128 bytes of a file of `file_bytes`. */
SX_API int sx_file_sections(const void *header, uint64_t file_bytes, sx_file *out, sx_report *report);
/* A whole .sdx in memory (mapped), which must stay there. Where its tensor data are external, sx_package_data is still to be called. */
SX_API int sx_package_map(const void *file, uint64_t bytes, const sx_options *options, sx_package **out, sx_report *report);
/* The programs section of a .sdx, or a packed package; copied and verified. */
SX_API int sx_package_open(const void *package, uint64_t bytes, const sx_options *options, sx_package **out, sx_report *report);
/* The tensor data section (64-byte aligned): lends every constant that lies there. */
SX_API int sx_package_data(sx_package *package, const void *data, uint64_t bytes, sx_report *report);
/* Where constant `number` lies in the tensor data (offset -1: it is to be set); returns the bytes of an element that is stored once for all, else 0. -1: no such constant. */
SX_API int64_t sx_package_constant(const sx_package *package, int64_t number, int64_t *offset, int64_t *bytes);
SX_API int sx_package_set(sx_package *package, int64_t number, const void *data, uint64_t bytes, sx_report *report);
SX_API int64_t sx_package_count(const sx_package *package, int what); /* 0 inputs, 1 outputs, 2 constants, 3 programs, 4 blocks, 5 variants, 6 symbols */
SX_API int sx_package_port(const sx_package *package, int output, int64_t number, sx_port_info *out);
SX_API const char *sx_package_symbol(const sx_package *package, int64_t symbol, int64_t *bytes);
/* Sizes variant `variant` was planned for; most -1: any. */
SX_API int sx_package_range(const sx_package *package, int64_t variant, int64_t symbol, int64_t *least, int64_t *most);
/* A program of the package, for sx_bind and sx_run; not to be closed. */
SX_API sx_program *sx_package_program(sx_package *package, int64_t number);
/* Number of the program that is all the variant for these dims does, on the model's inputs and outputs in their order; -1: there is more to do, or no variant. */
SX_API int64_t sx_package_single(const sx_package *package, const int64_t *dims, int64_t count);
SX_API int64_t sx_package_error_text(const sx_report *report, const sx_package *package, char *text, int64_t size);
SX_API void sx_package_close(sx_package *package);

SX_API int sx_session_open(sx_package *package, sx_session **out, sx_report *report);
SX_API int sx_session_run(sx_session *session, const sx_tensor *inputs, int64_t count, int64_t budget, sx_report *report);
SX_API int sx_session_continue(sx_session *session, int64_t budget, sx_report *report);
/* From any thread. */
SX_API void sx_session_terminate(sx_session *session);
SX_API int sx_session_output(const sx_session *session, int64_t number, sx_tensor *out);
/* The same, but the caller owns `data`: sx_tensor_free(data). */
SX_API int sx_session_take(sx_session *session, int64_t number, sx_tensor *out);
SX_API void sx_tensor_free(void *data);
/* Whether an output of the coming runs, which will be taken, may grow in place (session_grow.c): as the past of a later run it is not copied. Then sx_tensor_blocks(data, &apart) says of what was
   taken: so many blocks of its bytes, in order, lie `apart` bytes from each other; 0: it is dense. Such tensors are given back on the session's thread. */
SX_API void sx_session_grows(sx_session *session, int64_t number, int may);
SX_API int64_t sx_tensor_blocks(const void *data, int64_t *apart);
SX_API int sx_session_waiting(const sx_session *session, sx_waiting *out);
SX_API int sx_session_input(const sx_session *session, int64_t number, sx_tensor *out);
SX_API int sx_session_put(sx_session *session, int64_t number, const sx_tensor *value, sx_report *report);
/* Rows (program, step, start, duration in nanoseconds) of the coming runs, at most `capacity`; NULL: off. 2^32 is added to the number of a step that rounds to bfloat16. Before the steps of a program stand rows (-2 - program, number, value, 0): the sizes of
   its inputs, one after the other, then the elements that decide sizes. Returns how many were written since the last call. */
SX_API int64_t sx_session_profile(sx_session *session, int64_t *rows, int64_t capacity);
SX_API int64_t sx_session_memory(const sx_session *session); /* bytes it holds now */
SX_API void sx_session_close(sx_session *session);

SX_API const char *sx_isa_name(int number);  /* NULL past the last */
SX_API int sx_isa_available(int number);     /* whether this machine runs it */
SX_API int sx_kernel_available(int kind);    /* whether this build has kernels of a kind (core/kernels.py) */

#ifdef __cplusplus
}
#endif
#endif
