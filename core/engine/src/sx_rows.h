/* sx_rows.h: what kernels that move elements share: rows of any item size, and a tensor's axes in the order of its strides. */
#ifndef SX_ROWS_H
#define SX_ROWS_H
#include "sx_kernel.h"

typedef struct { uint64_t half[2]; } wide;

/* n elements, strides in elements. */
#define ROW(T) { \
    const T *restrict x_ = (const T *)x; T *restrict y_ = (T *)y; \
    if (ys == 1) for (int64_t i = 0; i < n; i++) y_[i] = x_[i * xs]; \
    else for (int64_t i = 0; i < n; i++) y_[i * ys] = x_[i * xs]; \
    return; }
static inline void copy_row(char *y, int64_t ys, const char *x, int64_t xs, int64_t n, int64_t item) {
    if (ys == 1 && xs == 1) { __builtin_memcpy(y, x, (uint64_t)(n * item)); return; }
    switch (item) {
    case 1: ROW(uint8_t)
    case 2: ROW(uint16_t)
    case 4: ROW(uint32_t)
    case 8: ROW(uint64_t)
    default: ROW(wide)
    }
}
#undef ROW

/* The axes of y that are not of size 1, those with the largest strides first; how many. */
static inline int axes_by_stride(const sx_view *y, int *order) {
    int n = 0;
    for (int d = 0; d < y->rank; d++) if (y->dim[d] != 1) {
        int at = n++;
        for (; at > 0 && sx_magnitude(y->stride[order[at - 1]]) < sx_magnitude(y->stride[d]); at--) order[at] = order[at - 1];
        order[at] = d;
    }
    return n;
}

#endif
