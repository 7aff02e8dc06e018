/* cpu.h: which instruction sets this machine runs. Part of a host file (host_posix.c, host_win32.c). */
#ifndef SX_CPU_H
#define SX_CPU_H
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <stdlib.h>
#include "sx_internal.h"
#include "sx_tables.h"

static int equal(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

#if defined(__x86_64__)
#include <cpuid.h>
static int has_isa(const char *name) {
    unsigned a, b, c, d, b7 = 0, c7 = 0, xcr0 = 0, high;
    __cpuid(1, a, b, c, d);
    unsigned c1 = c;
    if (__get_cpuid_max(0, NULL) >= 7) {
        __cpuid_count(7, 0, a, b7, c7, d);
    }
    if (c1 >> 27 & 1) __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0)); /* what the system saves on a switch */
    int ymm = (xcr0 & 6) == 6, zmm = (xcr0 & 0xe6) == 0xe6;
    if (equal(name, "sse")) return c1 >> 20 & 1;                                                                    /* SSE4.2 */
    if (equal(name, "avx2")) return ymm && c1 >> 12 & 1 && c1 >> 29 & 1 && b7 >> 5 & 1;                             /* FMA, F16C, AVX2 */
    if (equal(name, "avx512")) return zmm && b7 >> 16 & 1 && b7 >> 17 & 1 && b7 >> 30 & 1 && b7 >> 31 & 1 && c7 >> 11 & 1; /* F, DQ, BW, VL, VNNI */
    return 0;
}

/* AMX for bytes: the machine has it, the system saves tiles, and grants them to this process (Linux, since their state is large). SARDONYX_AMX=0 does without. */
static int find_amx(void) {
    unsigned a, b, c, d, xcr0 = 0, high;
    const char *asked = getenv("SARDONYX_AMX");
    if ((asked && equal(asked, "0")) || !has_isa("avx512")) return 0;
    __cpuid_count(7, 0, a, b, c, d);
    __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if (!(d >> 24 & 1) || !(d >> 25 & 1) || (xcr0 & 0x60000) != 0x60000) return 0;
#ifdef __linux__
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
    return 0;
#endif
}
int sx_host_amx(void) {
    static int found; /* 0: not looked for yet, 1: no, 2: yes. Several threads looking find the same */
    int known = __atomic_load_n(&found, __ATOMIC_RELAXED);
    if (!known) __atomic_store_n(&found, known = 1 + find_amx(), __ATOMIC_RELAXED);
    return known == 2;
}

/* SARDONYX_BF16=0 does without. */
int sx_host_bf16(void) {
    unsigned a, b, c, d;
    const char *asked = getenv("SARDONYX_BF16");
    if ((asked && equal(asked, "0")) || !has_isa("avx512")) return 0;
    __cpuid_count(7, 1, a, b, c, d);
    return a >> 5 & 1;
}
#else
#if defined(__linux__)
#include <sys/auxv.h>
static int dot_products(void) { return getauxval(AT_HWCAP) >> 20 & 1; }    /* HWCAP_ASIMDDP */
static int byte_matrices(void) { return getauxval(AT_HWCAP2) >> 13 & 1; }  /* HWCAP2_I8MM */
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static int feature(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(name, &value, &size, NULL, 0) && value;
}
static int dot_products(void) { return feature("hw.optional.arm.FEAT_DotProd"); }
static int byte_matrices(void) { return feature("hw.optional.arm.FEAT_I8MM"); }
#else
static int dot_products(void) { return 0; }
static int byte_matrices(void) { return 0; }
#endif
static int has_isa(const char *name) {
    if (equal(name, "i8mm")) return dot_products() && byte_matrices();
    return equal(name, "dotprod") ? dot_products() : equal(name, "neon");
}
int sx_host_amx(void) { return 0; }
int sx_host_bf16(void) { return 0; }
#endif

int sx_isa_available(int number) { return number >= 0 && number < SX_ISAS && has_isa(sx_tables[number]->name); }
#endif
