/* fuzz_packages.c: opens packages from standard input (int64 length, bytes, …), runs what opens on inputs of small sizes and reads every output; for builds with sanitizers (test_sanitized_packages.py).
   A run is stopped after some hundred yields. Prints how many opened and ran. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sardonyx.h"

static uint32_t seed = 1;
static uint32_t next(uint32_t below) { return (seed = seed * 1664525u + 1013904223u) >> 8, (seed >> 8) % below; }

static int64_t item(int dtype) { return dtype == 1 || dtype == 6 || dtype == 12 ? 4 : dtype == 7 || dtype == 11 || dtype == 13 || dtype == 14 ? 8 : dtype == 15 ? 16 : dtype == 4 || dtype == 5 || dtype == 10 || dtype == 16 ? 2 : 1; }

static int64_t count(const sx_tensor *t) {
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->dim[d];
    return n;
}

static int run(sx_package *p) {
    sx_session *s;
    sx_report r;
    if (sx_session_open(p, &s, &r)) return 0;
    int64_t n = sx_package_count(p, 0), good = 0, total = 0;
    sx_tensor *in = calloc((size_t)n + 1, sizeof *in), out;
    for (int turn = 0; turn < 3; turn++) {
        int64_t size[3] = {next(6), next(6), next(4)};
        for (int64_t i = 0; i < n; i++) {
            sx_port_info port;
            sx_package_port(p, 0, i, &port);
            in[i].dtype = port.dtype, in[i].rank = port.rank;
            for (int d = 0; d < port.rank; d++) in[i].dim[d] = port.dim[d] >= 0 && port.dim[d] < 10 ? port.dim[d] : size[(uint64_t)-port.dim[d] % 3];
            int64_t bytes = count(in + i) * item(port.dtype);
            if (bytes > 1 << 20) goto done;
            in[i].data = malloc((size_t)bytes); /* exactly as large: a sanitizer sees what goes beyond */
            for (int64_t k = 0; k < bytes; k++) ((char *)in[i].data)[k] = (char)(k % 8 ? 0 : next(4));
            total += bytes;
        }
        int code = sx_session_run(s, in, n, 20000, &r);
        for (int k = 0; code == SX_YIELD; k++) {
            if (k == 300) sx_session_terminate(s);
            code = sx_session_continue(s, 20000, &r);
        }
        good += !code;
        char text[200];
        if (code) sx_package_error_text(&r, p, text, sizeof text);
        for (int64_t i = 0; !code && i < sx_package_count(p, 1); i++) {
            int taken = turn % 2, got = taken ? sx_session_take(s, i, &out) : sx_session_output(s, i, &out);
            volatile char sum = 0;
            for (int64_t k = 0; !got && k < count(&out) * item(out.dtype); k++) sum ^= ((char *)out.data)[k];
            if (taken && !got) sx_tensor_free(out.data);
        }
        for (int64_t i = 0; i < n; i++) free(in[i].data), in[i].data = NULL;
    }
done:
    for (int64_t i = 0; i < n; i++) free(in[i].data);
    free(in);
    sx_session_close(s);
    return good > 0;
}

int main(void) {
    int64_t length, all = 0, opened = 0, ran = 0;
    sx_options options = {.threads = 1, .memory_limit = 1 << 24};
    while (fread(&length, 8, 1, stdin) == 1) {
        char *bytes = malloc((size_t)length + 1);
        if (fread(bytes, 1, (size_t)length, stdin) != (size_t)length) return 2;
        sx_package *p = NULL;
        sx_report r;
        all++;
        if (!sx_package_open(bytes, (uint64_t)length, &options, &p, &r)) {
            opened++;
            ran += run(p);
            sx_package_close(p);
        }
        free(bytes);
    }
    printf("%lld %lld %lld\n", (long long)all, (long long)opened, (long long)ran);
    return 0;
}
