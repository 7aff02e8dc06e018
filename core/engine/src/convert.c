/* convert.c: rows of storage elements to compute types and back: the dtype matrix of core/expr.py. f16, bf16 compute in F32; 8- and 16-bit integers and bool in I32; uint32 in I64. */
#include "sx_expr.h"
#include "sx_math.h"

#if defined(__F16C__) || defined(__AVX512F__) || defined(__aarch64__)
static inline float widen_half(uint16_t h) { _Float16 x; __builtin_memcpy(&x, &h, 2); return (float)x; }
static inline uint16_t narrow_half(float f) { _Float16 x = (_Float16)f; uint16_t h; __builtin_memcpy(&h, &x, 2); return h; }
#else
/* The bits move into place; a product with 2^112 rights the bias, denormals included. */
static inline float widen_half(uint16_t h) {
    uint32_t m = (uint32_t)(h & 0x7fff) << 13;
    uint32_t u = sx_bits32(sx_float32(m) * 0x1p112f) | (m >= 0x0f800000u ? 0x7f800000u : 0);
    return sx_float32(u | (uint32_t)(h & 0x8000) << 16);
}
/* To nearest even: normal numbers by adding half of what is cut off, denormal ones by adding 2^-1 · 2^-13, so that the hardware rounds at the right bit. */
static inline uint16_t narrow_half(float f) {
    uint32_t u = sx_bits32(f), a = u & 0x7fffffffu;
    uint32_t normal = (a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13;
    uint32_t small = sx_bits32(sx_float32(a) + 0.5f) - 0x3f000000u;
    uint32_t made = a < 0x38800000u ? small : a >= 0x477ff000u ? 0x7c00u : normal;
    made = a > 0x7f800000u ? 0x7e00u : made;
    return (uint16_t)(made | u >> 16 & 0x8000);
}
#endif
static inline float widen_brain(uint16_t h) { return sx_float32((uint32_t)h << 16); }
static inline uint16_t narrow_brain(float f) {
    uint32_t u = sx_bits32(f), even = u + 0x7fffu + (u >> 16 & 1);
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16 | 0x40) : even >> 16);
}

#define LOAD(storage, compute, expression) { \
    const storage *from_ = from; compute *to_ = to; \
    if (stride == 1) for (int64_t i = 0; i < n; i++) { storage v = from_[i]; to_[i] = (compute)(expression); } \
    else for (int64_t i = 0; i < n; i++) { storage v = from_[i * stride]; to_[i] = (compute)(expression); } \
    return; }

/* 4- and 2-bit integers lie in the low bits of a byte; what is above them counts for nothing. */
#define SMALL(compute) switch (dtype) { \
    case 21: LOAD(uint8_t, compute, v & 15) \
    case 22: LOAD(uint8_t, compute, ((v & 15) ^ 8) - 8) \
    case 25: LOAD(uint8_t, compute, v & 3) \
    default: LOAD(uint8_t, compute, ((v & 3) ^ 2) - 2) }

void sx_load_row(int dtype, int type, void *restrict to, const void *restrict from, int64_t stride, int64_t n) {
    if (type == SX_I64 && dtype != SX_UINT32 && dtype != SX_INT64) { /* a reduction adds small integers in 64 bits */
        switch (dtype) {
        case SX_INT32: LOAD(int32_t, int64_t, v)
        case SX_INT16: LOAD(int16_t, int64_t, v)
        case SX_UINT16: LOAD(uint16_t, int64_t, v)
        case SX_BOOL: LOAD(uint8_t, int64_t, v != 0)
        case SX_UINT8: LOAD(uint8_t, int64_t, v)
        case SX_INT8: LOAD(int8_t, int64_t, v)
        default: SMALL(int64_t)
        }
    }
    switch (dtype) {
    case SX_FLOAT: LOAD(float, float, v)
    case SX_DOUBLE: LOAD(double, double, v)
    case SX_INT32: LOAD(int32_t, int32_t, v)
    case SX_INT64: case SX_UINT64: LOAD(int64_t, int64_t, v)
    case SX_FLOAT16: LOAD(uint16_t, float, widen_half(v))
    case SX_BFLOAT16: LOAD(uint16_t, float, widen_brain(v))
    case SX_BOOL: LOAD(uint8_t, int32_t, v != 0)
    case SX_UINT8: LOAD(uint8_t, int32_t, v)
    case SX_INT8: LOAD(int8_t, int32_t, v)
    case 21: case 22: case 25: case 26: SMALL(int32_t)
    case SX_UINT16: LOAD(uint16_t, int32_t, v)
    case SX_INT16: LOAD(int16_t, int32_t, v)
    case SX_UINT32: LOAD(uint32_t, int64_t, v)
    default: return;
    }
}

#define STORE(storage, compute, expression) { \
    storage *to_ = to; const compute *from_ = from; \
    if (stride == 1) for (int64_t i = 0; i < n; i++) { compute v = from_[i]; to_[i] = (storage)(expression); } \
    else for (int64_t i = 0; i < n; i++) { compute v = from_[i]; to_[i * stride] = (storage)(expression); } \
    return; }

void sx_store_row(int dtype, int type, void *restrict to, int64_t stride, const void *restrict from, int64_t n) {
    switch (dtype) {
    case SX_FLOAT: STORE(float, float, v)
    case SX_DOUBLE: STORE(double, double, v)
    case SX_INT32: STORE(int32_t, int32_t, v)
    case SX_INT64: case SX_UINT64: STORE(int64_t, int64_t, v)
    case SX_FLOAT16: STORE(uint16_t, float, narrow_half(v))
    case SX_BFLOAT16: STORE(uint16_t, float, narrow_brain(v))
    case SX_BOOL: STORE(uint8_t, int32_t, v != 0)
    case SX_UINT8: case SX_INT8: STORE(uint8_t, int32_t, v)
    case SX_UINT16: case SX_INT16: STORE(uint16_t, int32_t, v)
    case SX_UINT32: STORE(uint32_t, int64_t, v)
    case 21: STORE(uint8_t, int32_t, v & 15)
    case 22: STORE(int8_t, int32_t, ((v & 15) ^ 8) - 8)
    case 25: STORE(uint8_t, int32_t, v & 3)
    case 26: STORE(int8_t, int32_t, ((v & 3) ^ 2) - 2)
    default: return;
    }
}

void sx_load_tile(const sx_leaf *leaf, int type, void *to, int64_t rows, int64_t cols) {
    int64_t size = sx_element_bytes(leaf->dtype), wide = sx_compute_bytes(type);
    if (rows == 1 || leaf->row == leaf->col * cols) sx_load_row(leaf->dtype, type, to, leaf->data, leaf->col, rows * cols);
    else for (int64_t r = 0; r < rows; r++) sx_load_row(leaf->dtype, type, (char *)to + r * cols * wide, leaf->data + r * leaf->row * size, leaf->col, cols);
}

void sx_store_tile(const sx_leaf *out, int type, const void *from, int64_t rows, int64_t cols) {
    int64_t size = sx_element_bytes(out->dtype), wide = sx_compute_bytes(type);
    char *to = (char *)(uintptr_t)out->data;
    if (rows == 1 || out->row == out->col * cols) sx_store_row(out->dtype, type, to, out->col, from, rows * cols);
    else for (int64_t r = 0; r < rows; r++) sx_store_row(out->dtype, type, to + r * out->row * size, out->col, (const char *)from + r * cols * wide, cols);
}
