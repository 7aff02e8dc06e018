/* run.c: run a model that `sardonyx convert` wrote, from C.

   cc -I ../src run.c -L <folder of libsardonyx.so> -lsardonyx -o run
   ./run model.sdx batch=1 seq=16

   Every size the model leaves open is given by its name (1 where it is not). Inputs are filled with 0, 1 … 6, 0, 1 … (floats: sevenths of it); outputs are printed. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "sardonyx.h"

enum { FLOAT = 1, INT32 = 6, INT64 = 7, BOOL = 9, DOUBLE = 11 };

static int64_t size_of(int dtype) { return dtype == BOOL ? 1 : dtype == FLOAT || dtype == INT32 ? 4 : 8; }

static int64_t count_of(const sx_tensor *t) {
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->dim[d];
    return n;
}

static int fail(const char *what, const sx_report *report, const sx_package *package) {
    char text[1024];
    sx_package_error_text(report, package, text, sizeof text);
    fprintf(stderr, "%s: error %d: %s\n", what, report->code, text);
    return 1;
}

/* The number given for a named size on the command line. */
static int64_t given(const char *name, int64_t bytes, int words, char **word) {
    for (int i = 2; i < words; i++)
        if (!strncmp(word[i], name, (size_t)bytes) && word[i][bytes] == '=') return atoll(word[i] + bytes + 1);
    return 1;
}

static int fill(const sx_package *package, int64_t number, sx_tensor *t, int words, char **word) {
    sx_port_info port;
    sx_package_port(package, 0, number, &port);
    t->dtype = port.dtype, t->rank = port.rank;
    for (int d = 0; d < port.rank; d++) {
        int64_t bytes = 0;
        const char *name = port.dim[d] <= -2 ? sx_package_symbol(package, -2 - port.dim[d], &bytes) : "";
        t->dim[d] = port.dim[d] >= 0 ? port.dim[d] : given(name, bytes, words, word);
    }
    if (t->dtype != FLOAT && t->dtype != INT32 && t->dtype != INT64 && t->dtype != BOOL && t->dtype != DOUBLE) {
        fprintf(stderr, "input %.*s has element type %d, which this example does not fill\n", (int)port.name_bytes, port.name, t->dtype);
        return 1;
    }
    int64_t n = count_of(t);
    t->data = malloc((size_t)(n * size_of(t->dtype)) + 1);
    for (int64_t i = 0; i < n && t->data; i++) {
        int v = (int)(i % 7);
        if (t->dtype == FLOAT) ((float *)t->data)[i] = (float)v / 7;
        else if (t->dtype == DOUBLE) ((double *)t->data)[i] = (double)v / 7;
        else if (t->dtype == INT32) ((int32_t *)t->data)[i] = v;
        else if (t->dtype == INT64) ((int64_t *)t->data)[i] = v;
        else ((uint8_t *)t->data)[i] = v & 1;
    }
    return !t->data;
}

static void print(const sx_package *package, int64_t number, const sx_tensor *t) {
    sx_port_info port;
    sx_package_port(package, 1, number, &port);
    printf("%.*s [", (int)port.name_bytes, port.name);
    for (int d = 0; d < t->rank; d++) printf("%s%lld", d ? ", " : "", (long long)t->dim[d]);
    printf("]");
    int64_t n = count_of(t);
    for (int64_t i = 0; i < n && i < 64; i++) {
        if (t->dtype == FLOAT) printf(" %.9g", (double)((float *)t->data)[i]);
        else if (t->dtype == DOUBLE) printf(" %.17g", ((double *)t->data)[i]);
        else if (t->dtype == INT32) printf(" %d", ((int32_t *)t->data)[i]);
        else if (t->dtype == INT64) printf(" %lld", (long long)((int64_t *)t->data)[i]);
        else if (t->dtype == BOOL) printf(" %d", ((uint8_t *)t->data)[i]);
    }
    printf("%s\n", n > 64 ? " …" : "");
}

int main(int words, char **word) {
    if (words < 2) {
        fprintf(stderr, "usage: run model.sdx [size=N …]\n");
        return 2;
    }
    struct stat about;
    int file = open(word[1], O_RDONLY);
    if (file < 0 || fstat(file, &about)) {
        perror(word[1]);
        return 1;
    }
    void *map = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    sx_report report = {0};
    sx_package *package = NULL;
    sx_session *session = NULL;
    if (map == MAP_FAILED || sx_package_map(map, (uint64_t)about.st_size, NULL, &package, &report)) return fail(word[1], &report, package);
    if (sx_session_open(package, &session, &report)) return fail("open", &report, package);
    int64_t n = sx_package_count(package, 0), made = sx_package_count(package, 1);
    sx_tensor *inputs = calloc((size_t)n + 1, sizeof *inputs), output;
    for (int64_t i = 0; i < n; i++)
        if (fill(package, i, inputs + i, words, word)) return 1;
    int code = sx_session_run(session, inputs, n, 0, &report);
    if (code) return fail("run", &report, package);
    for (int64_t i = 0; i < made; i++)
        if (!sx_session_output(session, i, &output)) print(package, i, &output);
    sx_session_close(session);
    sx_package_close(package);
    for (int64_t i = 0; i < n; i++) free(inputs[i].data);
    free(inputs);
    return 0;
}
