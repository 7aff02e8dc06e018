/* linalg.c: determinants and inverses of small square matrices, by elimination with the largest pivot of a column (Golub and Van Loan, "Matrix Computations", 3.4). Computed in double. */
#include "sx_expr.h"

#define MOST ((int64_t)1 << 46)
#define WORK 4096

typedef struct {
    const sx_call *call;
    int64_t n, count, per;
    int inverse;
} plan;

static double magnitude(double x) { return x < 0 ? -x : x; }

/* x: n × n, row-major; becomes upper triangular, `other` (NULL or n × n) follows every step. The determinant. */
static double eliminate(const sx_call *call, double *x, double *other, int64_t n) {
    double determinant = 1;
    for (int64_t k = 0; k < n && !sx_stopped(call); k++) {
        int64_t pivot = k;
        for (int64_t i = k + 1; i < n; i++) if (magnitude(x[i * n + k]) > magnitude(x[pivot * n + k])) pivot = i;
        if (pivot != k) {
            for (int64_t j = 0; j < n; j++) { double t = x[k * n + j]; x[k * n + j] = x[pivot * n + j], x[pivot * n + j] = t; }
            for (int64_t j = 0; other && j < n; j++) { double t = other[k * n + j]; other[k * n + j] = other[pivot * n + j], other[pivot * n + j] = t; }
            determinant = -determinant;
        }
        double top = x[k * n + k];
        determinant *= top;
        if (top == 0) return 0;
        for (int64_t i = k + 1; i < n; i++) {
            double factor = x[i * n + k] / top;
            if (factor == 0) continue;
            for (int64_t j = k; j < n; j++) x[i * n + j] -= factor * x[k * n + j];
            for (int64_t j = 0; other && j < n; j++) other[i * n + j] -= factor * other[k * n + j];
        }
    }
    return determinant;
}

/* other = x⁻¹ other for upper triangular x. */
static void solve(const sx_call *call, const double *x, double *other, int64_t n) {
    for (int64_t k = n - 1; k >= 0 && !sx_stopped(call); k--) {
        double *row = other + k * n;
        for (int64_t i = k + 1; i < n; i++) for (int64_t j = 0; j < n; j++) row[j] -= x[k * n + i] * other[i * n + j];
        for (int64_t j = 0; j < n; j++) row[j] /= x[k * n + k];
    }
}

static int one_matrix(const plan *p, int64_t number, double *room) {
    const sx_view *x = p->call->in, *y = p->call->out;
    int r = x->rank;
    int64_t n = p->n, xat = 0, yat = 0;
    for (int d = r - 3; d >= 0; d--) {
        int64_t i = number % x->dim[d];
        number /= x->dim[d];
        xat += i * x->stride[d], yat += i * y->stride[d];
    }
    int64_t xi = sx_element_bytes(x->dtype), yi = sx_element_bytes(y->dtype);
    int type = x->dtype == SX_DOUBLE ? SX_F64 : SX_F32;
    for (int64_t i = 0; i < n; i++) {
        char *row = (char *)(room + i * n);
        sx_load_row(x->dtype, type, row, x->data + (xat + i * x->stride[r - 2]) * xi, x->stride[r - 1], n);
        if (type == SX_F32) for (int64_t j = n - 1; j >= 0; j--) { float v; __builtin_memcpy(&v, row + j * 4, 4); room[i * n + j] = v; } /* widened in place, from the end */
    }
    double *other = p->inverse ? room + n * n : NULL;
    for (int64_t i = 0; other && i < n * n; i++) other[i] = i % (n + 1) == 0;
    double determinant = eliminate(p->call, room, other, n);
    if (!p->inverse) {
        float narrow = (float)determinant;
        sx_store_row(y->dtype, type, y->data + yat * yi, 1, type == SX_F64 ? (void *)&determinant : (void *)&narrow, 1);
        return SX_OK;
    }
    if (determinant == 0 && n) {
        int singular = 0; /* a tiny determinant may have become 0: what counts is a pivot */
        for (int64_t i = 0; i < n; i++) singular |= room[i * n + i] == 0;
        if (singular) return sx_fail(p->call, SX_E_ARGUMENT, 0, 0, n);
    }
    solve(p->call, room, other, n);
    for (int64_t i = 0; i < n; i++) {
        float *row = (float *)(other + i * n);
        if (type == SX_F32) for (int64_t j = 0; j < n; j++) { double v; __builtin_memcpy(&v, other + i * n + j, 8); float f = (float)v; __builtin_memcpy(row + j, &f, 4); }
        sx_store_row(y->dtype, type, y->data + (yat + i * y->stride[r - 2]) * yi, y->stride[r - 1], row, n);
    }
    return SX_OK;
}

static void task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    double *room = (double *)(p->call->scratch + worker * p->call->scratch_bytes);
    int64_t end = sx_min64(p->count, (number + 1) * p->per);
    for (int64_t i = number * p->per; i < end; i++) if (one_matrix(p, i, room)) return;
}

int64_t SX_NAME(sx_scratch_linalg)(const sx_call *call) {
    int64_t n = call->in->dim[call->in->rank - 1];
    return n > (int64_t)1 << 20 ? MOST : n * n * 8 * (call->param[0] ? 2 : 1) + 64;
}

int SX_NAME(sx_k_linalg)(const sx_call *call) {
    const sx_view *x = call->in;
    plan p = {.call = call, .n = x->dim[x->rank - 1], .count = 1, .inverse = call->param[0] == 1};
    for (int d = 0; d < x->rank - 2; d++) p.count *= x->dim[d];
    p.per = sx_max64(1, WORK / sx_max64(1, p.n * p.n * p.n));
    sx_tiles(call, (p.count + p.per - 1) / p.per, task, &p);
    return SX_OK;
}
