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

/* Floats of 8 bits and fewer (core/types.py): a sign, E bits of exponent with this bias, M of fraction. What the greatest exponents mean differs: FINITE numbers like the others, the last code
   NaN (LAST), infinity and NaN as in IEEE, or no -0, its code being NaN (UNSIGNED). */
enum { FINITE, LAST, IEEE, UNSIGNED };
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS float widen_tiny(uint8_t b, int e, int m, int bias, int kind) {
    uint32_t sign = (uint32_t)(b >> (e + m) & 1) << 31, code = b & ((1u << (e + m)) - 1);
    float least = sx_float32((uint32_t)(127 + 1 - bias - m) << 23); /* of the code 1 */
    uint32_t normal = ((code >> m) + 127 - (uint32_t)bias) << 23 | (code & ((1u << m) - 1)) << (23 - m);
    uint32_t made = code >> m ? normal : sx_bits32((float)code * least);
    if (kind == LAST) made = code == (1u << (e + m)) - 1 ? 0x7fc00000u : made;
    if (kind == IEEE) made = code >> m == (1u << e) - 1 ? (code & ((1u << m) - 1) ? 0x7fc00000u : 0x7f800000u) : made;
    if (kind == UNSIGNED && sign && !code) return sx_float32(0xffc00000u);
    return sx_float32(sign | made);
}

/* To nearest even; beyond the greatest number: NaN, infinity or (FINITE) that number. NaN where there is none: -0 of FINITE. */
ALWAYS uint8_t narrow_tiny(float f, int e, int m, int bias, int kind) {
    uint32_t u = sx_bits32(f), a = u & 0x7fffffffu, sign = u >> 31 << (e + m), all = (1u << (e + m)) - 1;
    uint32_t most = kind == LAST ? all - 1 : kind == IEEE ? (((1u << e) - 1) << m) - 1 : all;
    uint32_t rounded = a + (1u << (22 - m)) - 1 + (a >> (23 - m) & 1);
    uint32_t normal = (rounded >> (23 - m)) - ((uint32_t)(127 - bias) << m);
    uint32_t tiny = sx_bits32(sx_float32(a) + sx_float32((uint32_t)(127 + 1 - bias - m + 23) << 23)) & 0x7fffff; /* the sum's last bit is the code 1 */
    uint32_t code = a < (uint32_t)(127 + 1 - bias) << 23 ? tiny : normal;
    int over = a >= (uint32_t)(127 + 1 - bias) << 23 && normal > most, nan = a > 0x7f800000u;
    if (kind == FINITE) return (uint8_t)(nan ? sign ^ 1u << (e + m) : sign | (over ? most : code));
    if (kind == IEEE) return (uint8_t)(sign | (nan ? all - (1u << (m - 1)) + 1 : over ? most + 1 : code));
    if (kind == LAST) return (uint8_t)(sign | (nan || over ? all : code));
    return (uint8_t)(nan || over ? 1u << (e + m) : code ? sign | code : 0);
}

static float widen_power(uint8_t b) { return b == 255 ? sx_float32(0x7fc00000u) : b ? sx_float32((uint32_t)b << 23) : 0x1p-127f; }
/* The nearest power of two, the greater one from 1.5 on; none for 0 and negative numbers. */
static uint8_t narrow_power(float f) {
    uint32_t u = sx_bits32(f);
    if (u - 1 >= 0x7f800000u - 1) return 255;
    if (u < 0x800000u) return u > 0x400000u; /* as ml_dtypes has it */
    uint32_t code = (u + 0x400000u) >> 23;
    return (uint8_t)(code > 254 ? 255 : code);
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

SX_SMALL static void load_any(int dtype, int type, void *restrict to, const void *restrict from, int64_t stride, int64_t n) {
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
    case 17: LOAD(uint8_t, float, widen_tiny(v, 4, 3, 7, LAST))
    case 18: LOAD(uint8_t, float, widen_tiny(v, 4, 3, 8, UNSIGNED))
    case 19: LOAD(uint8_t, float, widen_tiny(v, 5, 2, 15, IEEE))
    case 20: LOAD(uint8_t, float, widen_tiny(v, 5, 2, 16, UNSIGNED))
    case 23: LOAD(uint8_t, float, widen_tiny(v, 2, 1, 1, FINITE))
    case 24: LOAD(uint8_t, float, widen_power(v))
    case 27: LOAD(uint8_t, float, widen_tiny(v, 2, 3, 1, FINITE))
    case 28: LOAD(uint8_t, float, widen_tiny(v, 3, 2, 3, FINITE))
    default: return;
    }
}

void sx_load_row(int dtype, int type, void *restrict to, const void *restrict from, int64_t stride, int64_t n) {
#ifdef __wasm__ /* loops worth their bytes: dense rows of what models hold */
    if (stride == 1) switch (dtype) {
    case SX_FLOAT: LOAD(float, float, v)
    case SX_FLOAT16: LOAD(uint16_t, float, widen_half(v))
    case SX_UINT8: if (type == SX_I32) LOAD(uint8_t, int32_t, v) break;
    case SX_INT8: if (type == SX_I32) LOAD(int8_t, int32_t, v) break;
    default: break;
    }
#endif
    load_any(dtype, type, to, from, stride, n);
}

#define STORE(storage, compute, expression) { \
    storage *to_ = to; const compute *from_ = from; \
    if (stride == 1) for (int64_t i = 0; i < n; i++) { compute v = from_[i]; to_[i] = (storage)(expression); } \
    else for (int64_t i = 0; i < n; i++) { compute v = from_[i]; to_[i * stride] = (storage)(expression); } \
    return; }

SX_SMALL static void store_any(int dtype, int type, void *restrict to, int64_t stride, const void *restrict from, int64_t n) {
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
    case 17: STORE(uint8_t, float, narrow_tiny(v, 4, 3, 7, LAST))
    case 18: STORE(uint8_t, float, narrow_tiny(v, 4, 3, 8, UNSIGNED))
    case 19: STORE(uint8_t, float, narrow_tiny(v, 5, 2, 15, IEEE))
    case 20: STORE(uint8_t, float, narrow_tiny(v, 5, 2, 16, UNSIGNED))
    case 23: STORE(uint8_t, float, narrow_tiny(v, 2, 1, 1, FINITE))
    case 24: STORE(uint8_t, float, narrow_power(v))
    case 27: STORE(uint8_t, float, narrow_tiny(v, 2, 3, 1, FINITE))
    case 28: STORE(uint8_t, float, narrow_tiny(v, 3, 2, 3, FINITE))
    default: return;
    }
}

void sx_store_row(int dtype, int type, void *restrict to, int64_t stride, const void *restrict from, int64_t n) {
#ifdef __wasm__
    if (stride == 1) switch (dtype) {
    case SX_FLOAT: STORE(float, float, v)
    case SX_FLOAT16: STORE(uint16_t, float, narrow_half(v))
    case SX_UINT8: case SX_INT8: STORE(uint8_t, int32_t, v)
    default: break;
    }
#endif
    store_any(dtype, type, to, stride, from, n);
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
