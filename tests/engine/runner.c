/* runner.c: the engine behind a pipe, so that builds Python can not load (other processors under qemu-user, sanitizers) run the same tests. tests/engine/remote.py speaks to it.

   Requests on stdin, little-endian; every request is answered on stdout.
   'I'                                                                          names of the instruction sets this machine runs: u32 bytes, text with a space after each
   'O' u64 bytes, program; i32 isa, i32 threads; u32 constants, each u64 bytes, data    open; i32 status, u32 bytes, message
   'R' u32 dims, i64 each; u32 inputs, each u64 bytes, data; u32 outputs, each u64 bytes, data    run into the given output memory; i32 status, u32 bytes, message, then the outputs' bytes
   Every block of memory handed to the engine is an allocation of its own, of exactly its size: a sanitizer sees what is read or written beyond it. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sardonyx.h"

#define MOST 64

static void need(void *to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) exit(0); /* the test is done */
}
static uint32_t u32(void) { uint32_t v; need(&v, 4); return v; }
static uint64_t u64(void) { uint64_t v; need(&v, 8); return v; }

static void *block(uint64_t *bytes) {
    void *memory = NULL;
    *bytes = u64();
    if (posix_memalign(&memory, 64, *bytes ? *bytes : 1)) abort();
    need(memory, *bytes);
    return memory;
}

static void answer(int status, const sx_report *report, const sx_program *program) {
    char text[1024] = "";
    int32_t code = status;
    if (status) sx_error_text(report, program, text, sizeof text);
    uint32_t n = (uint32_t)strlen(text);
    fwrite(&code, 4, 1, stdout);
    fwrite(&n, 4, 1, stdout);
    fwrite(text, 1, n, stdout);
}

static sx_program *program;
static void *constants[4096];
static uint32_t n_constants;

static void open_program(void) {
    uint64_t bytes;
    sx_report report = {0};
    if (program) sx_close(program);
    program = NULL;
    for (uint32_t i = 0; i < n_constants; i++) free(constants[i]);
    void *packed = block(&bytes);
    sx_options options = {0};
    options.isa = (int32_t)u32();
    options.threads = (int32_t)u32();
    int status = sx_open(packed, bytes, &options, &program, &report);
    n_constants = u32();
    for (uint32_t i = 0; i < n_constants; i++) {
        constants[i] = block(&bytes);
        if (!status) status = sx_set_constant(program, i, constants[i], bytes, &report);
    }
    answer(status, &report, program);
    free(packed);
}

static void run(void) {
    int64_t dims[MOST * 8];
    void *in[MOST], *out[MOST];
    uint64_t bytes[MOST], size;
    sx_report report = {0};
    sx_state *state = NULL;
    uint32_t n = u32();
    for (uint32_t i = 0; i < n; i++) dims[i] = (int64_t)u64();
    uint32_t n_in = u32();
    for (uint32_t i = 0; i < n_in; i++) in[i] = block(&size);
    uint32_t n_out = u32();
    for (uint32_t i = 0; i < n_out; i++) out[i] = block(bytes + i);
    int status = sx_bind(program, dims, n, (const void *const *)in, &state, &report);
    if (!status) status = sx_run(state, (const void *const *)in, out, NULL, 0, &report);
    answer(status, &report, program);
    sx_unbind(state);
    for (uint32_t i = 0; i < n_out; i++) fwrite(out[i], 1, bytes[i], stdout), free(out[i]);
    for (uint32_t i = 0; i < n_in; i++) free(in[i]);
}

int main(void) {
    for (int request; (request = getchar()) != EOF; fflush(stdout)) {
        if (request == 'O') open_program();
        else if (request == 'R') run();
        else if (request == 'I') {
            char names[256] = "";
            for (int i = 0; sx_isa_name(i); i++) if (sx_isa_available(i)) strcat(strcat(names, sx_isa_name(i)), " ");
            uint32_t length = (uint32_t)strlen(names);
            fwrite(&length, 4, 1, stdout);
            fwrite(names, 1, length, stdout);
        } else return 2;
    }
    if (program) sx_close(program);
    for (uint32_t i = 0; i < n_constants; i++) free(constants[i]);
    return 0;
}
