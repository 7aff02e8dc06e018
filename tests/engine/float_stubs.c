/* What the float kernels take from the rest of the engine, as simply as it can be said, so that they can be tested alone: sx_for and sx_tiles on `stub_workers` threads, and an sx_finish whose epilogue,
   where the call has one, is 2 · acc + Σ (axis + 1) · position: a misplaced block shows. */
#include "sx_kernel.h"
#include "sx_sum.h"
#include <pthread.h>

int stub_workers = 1;
int sx_host_amx(void) { return 0; }

typedef struct { void (*body)(void *, int64_t, int); void *arg; int64_t n; int worker; int64_t *next; } lane;

static void *work(void *given) {
    lane *l = given;
    for (int64_t i; (i = __atomic_fetch_add(l->next, 1, __ATOMIC_RELAXED)) < l->n;) l->body(l->arg, i, l->worker);
    return NULL;
}

void sx_for(const sx_call *call, int64_t n, void (*body)(void *, int64_t, int), void *arg) {
    (void)call;
    int64_t next = 0;
    lane lanes[16];
    pthread_t threads[16];
    for (int w = 0; w < stub_workers; w++) lanes[w] = (lane){body, arg, n, w, &next};
    for (int w = 1; w < stub_workers; w++) pthread_create(&threads[w], NULL, work, &lanes[w]);
    work(&lanes[0]);
    for (int w = 1; w < stub_workers; w++) pthread_join(threads[w], NULL);
}

int sx_tiles(const sx_call *call, int64_t n, void (*body)(void *, int64_t, int), void *arg) { return sx_for(call, n, body, arg), 1; }

/* No epilogue is a sum without operands; the stub's is none. */
int sx_sum_of(const sx_call *call, int col_axis, sx_sum *made) {
    const sx_view *y = &call->out[0];
    *made = (sx_sum){.lo = -__builtin_inff(), .hi = __builtin_inff()};
    return !call->epilogue && y->dtype == SX_FLOAT && (col_axis < 0 || y->stride[col_axis] == 1 || y->dim[col_axis] == 1);
}

void sx_finish(const sx_call *call, const void *block, int acc_type, int64_t rows, int64_t cols, int64_t ld, const int64_t *start, int row_axis, int col_axis) {
    const sx_view *y = &call->out[0];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            double value = acc_type == 2 ? ((const int32_t *)block)[r * ld + c] : acc_type == 1 ? ((const double *)block)[r * ld + c] : ((const float *)block)[r * ld + c];
            int64_t at = 0, place[SX_RANK];
            if (call->epilogue) value *= 2;
            for (int d = 0; d < y->rank; d++) {
                place[d] = start[d] + (d == row_axis ? r : 0) + (d == col_axis ? c : 0);
                at += place[d] * y->stride[d];
            }
            for (int d = row_axis; col_axis == 1 && d > 1 && place[d] >= y->dim[d]; d--) { /* lines of pixels that follow one another may be counted through, then images */
                place[d > 2 ? d - 1 : 0] += place[d] / y->dim[d];
                place[d] %= y->dim[d];
            }
            for (int d = 0; d < y->rank; d++) if (call->epilogue) value += (double)((d + 1) * place[d]);
            if (y->dtype == SX_DOUBLE) ((double *)y->data)[at] = value;
            else if (y->dtype == SX_FLOAT) ((float *)y->data)[at] = (float)value;
            else if (y->dtype == SX_INT8 || y->dtype == SX_UINT8) y->data[at] = (char)(int)value;
            else ((_Float16 *)y->data)[at] = (_Float16)value;
        }
}
