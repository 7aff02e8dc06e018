/* runner.c: the engine behind a pipe, so that builds Python can not load (other processors under qemu-user, sanitizers) run the same tests. tests/engine/remote.py speaks to it.

   Requests on stdin, little-endian; every request is answered on stdout.
   'I'                                                                          names of the instruction sets this machine runs: u32 bytes, text with a space after each
   'O' u64 bytes, program; i32 isa, i32 threads; u32 constants, each u64 bytes, data    open; i32 status, u32 bytes, message
   'R' u32 dims, i64 each; u32 inputs, each u64 bytes, data; u32 outputs, each u64 bytes, data    run into the given output memory; i32 status, u32 bytes, message, then the outputs' bytes
   'C' u32 callers, u32 rounds, then as 'R'    as many threads at once, each with a state and outputs of its own, run as often, every other run with a budget, and one more thread that terminates
                                               one of them again and again; i32 0, u32 0, i32 status: 0 where all outputs of runs that were not terminated are those of a
                                               run alone, -1 where some are not, else an error
   Every block of memory handed to the engine is an allocation of its own, of exactly its size: a sanitizer sees what is read or written beyond it. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
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

typedef struct { int64_t dims[MOST * 8]; void *in[MOST]; uint64_t bytes[MOST]; uint32_t n_dims, n_in, n_out, rounds; void *want[MOST]; int ended; } together;
typedef struct { together *t; sx_state *state; int wrong, victim; pthread_t thread; } caller;

static int once(const together *t, sx_state *state, int64_t budget, void *const *out) {
    sx_report report = {0};
    for (uint32_t i = 0; i < t->n_out; i++) memset(out[i], 0x5b, t->bytes[i]);
    int status = sx_run(state, (const void *const *)t->in, out, NULL, budget, &report);
    while (status == SX_YIELD) status = sx_continue(state, budget, &report);
    return status;
}

static void *call(void *arg) {
    caller *c = arg;
    const together *t = c->t;
    void *out[MOST];
    for (uint32_t i = 0; i < t->n_out; i++) out[i] = malloc(t->bytes[i] + 1);
    for (uint32_t round = 0; round < t->rounds; round++) {
        int status = once(t, c->state, round % 2, out);
        if (status && !(c->victim && status == SX_E_TERMINATED)) c->wrong = status;
        for (uint32_t i = 0; i < t->n_out && !status; i++) if (memcmp(out[i], t->want[i], t->bytes[i])) c->wrong = -1;
    }
    for (uint32_t i = 0; i < t->n_out; i++) free(out[i]);
    return NULL;
}

static void *terminate(void *arg) {
    caller *c = arg;
    struct timespec nap = {0, 300000};
    while (!__atomic_load_n(&c->t->ended, __ATOMIC_RELAXED)) sx_terminate(c->state), nanosleep(&nap, NULL);
    return NULL;
}

static void run_together(void) {
    together t = {0};
    caller callers[16] = {0};
    pthread_t stopper;
    uint64_t size;
    int status = 0;
    uint32_t n = u32();
    t.rounds = u32(), t.n_dims = u32();
    for (uint32_t i = 0; i < t.n_dims; i++) t.dims[i] = (int64_t)u64();
    t.n_in = u32();
    for (uint32_t i = 0; i < t.n_in; i++) t.in[i] = block(&size);
    t.n_out = u32();
    for (uint32_t i = 0; i < t.n_out; i++) t.want[i] = block(t.bytes + i);
    for (uint32_t i = 0; i < n && !status; i++) {
        callers[i].t = &t, callers[i].victim = i == 0;
        status = sx_bind(program, t.dims, t.n_dims, (const void *const *)t.in, &callers[i].state, NULL);
    }
    if (!status) status = once(&t, callers[0].state, 0, t.want);
    if (!status) {
        for (uint32_t i = 0; i < n; i++) pthread_create(&callers[i].thread, NULL, call, callers + i);
        pthread_create(&stopper, NULL, terminate, callers);
        for (uint32_t i = 0; i < n; i++) pthread_join(callers[i].thread, NULL), status = callers[i].wrong ? callers[i].wrong : status;
        __atomic_store_n(&t.ended, 1, __ATOMIC_RELAXED);
        pthread_join(stopper, NULL);
    }
    for (uint32_t i = 0; i < n; i++) sx_unbind(callers[i].state);
    for (uint32_t i = 0; i < t.n_in; i++) free(t.in[i]);
    for (uint32_t i = 0; i < t.n_out; i++) free(t.want[i]);
    answer(0, NULL, program);
    fwrite(&status, 4, 1, stdout);
}

int main(void) {
    for (int request; (request = getchar()) != EOF; fflush(stdout)) {
        if (request == 'O') open_program();
        else if (request == 'R') run();
        else if (request == 'C') run_together();
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
