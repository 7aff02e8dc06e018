/* sx_keys.h: numbers as unsigned keys that order as the numbers do: the sign folded, -0 and 0 one key, every NaN the greatest. */
#ifndef SX_KEYS_H
#define SX_KEYS_H
#include <stdint.h>

static inline uint32_t sx_float_key(uint32_t u) {
    if ((u & 0x7fffffffu) > 0x7f800000u) return ~0u;
    if ((u & 0x7fffffffu) == 0) u = 0;
    return u ^ ((uint32_t)((int32_t)u >> 31) | 0x80000000u);
}

static inline uint64_t sx_double_key(uint64_t u) {
    if ((u & ~((uint64_t)1 << 63)) > (uint64_t)0x7ff << 52) return ~(uint64_t)0;
    if (u << 1 == 0) u = 0;
    return u ^ ((uint64_t)((int64_t)u >> 63) | (uint64_t)1 << 63);
}
#endif
