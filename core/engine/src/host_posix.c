/* host_posix.c: memory, clock, instruction sets and the thread pool on Linux, macOS and other POSIX systems.

   The pool: one for the process, started on first need. A run takes it by try-lock (a second run at the same time gets none and works alone). Within a run `sx_for` opens a job: an odd epoch.
   A worker that sees one counts itself in, checks that the epoch still holds, and claims tiles; the caller closes the job (even epoch) and waits until nobody is in. Between jobs workers spin
   for 50 µs, then sleep; only a job wakes them, so an idle process uses no CPU. A forked child starts with no workers. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <time.h>
#include <unistd.h>
#include "sx_internal.h"
#include "sx_tables.h"

#define SPIN_NS 50000
#define HUGE_BYTES ((int64_t)4 << 20)

/* -- memory, clock, cores -------------------------------------------------------------------------------------------------------------------------- */

void *sx_host_alloc(int64_t bytes) {
    void *memory = NULL;
    if (bytes <= 0) bytes = 64;
    if (posix_memalign(&memory, bytes >= HUGE_BYTES ? 1 << 21 : 64, (size_t)bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE_BYTES) madvise(memory, (size_t)bytes, MADV_HUGEPAGE); /* fewer page faults and TLB misses; advice only */
#endif
    return memory;
}

void sx_host_free(void *memory, int64_t bytes) {
    (void)bytes;
    free(memory);
}

int64_t sx_host_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int sx_host_cores(void) {
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* -- instruction sets -------------------------------------------------------------------------------------------------------------------------------- */

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
#else
static int has_isa(const char *name) { return equal(name, "neon"); }
int sx_host_amx(void) { return 0; }
#endif

int sx_isa_available(int number) { return number >= 0 && number < SX_ISAS && has_isa(sx_tables[number]->name); }

/* -- the pool ---------------------------------------------------------------------------------------------------------------------------------------- */

struct sx_team {
    pthread_mutex_t owner;     /* held by the run that has the pool */
    pthread_mutex_t mutex;     /* of `wake` and `sleepers` */
    pthread_cond_t wake;
    int started, sleepers, failed;
    int threads;               /* workers this run may use */
    const int *stop;           /* of the job's call */
    void (*body)(void *, int64_t, int);
    void *arg;
    int64_t n;
    _Alignas(64) uint64_t epoch; /* odd: a job is open */
    _Alignas(64) int64_t next;
    _Alignas(64) int inside;
};

static struct sx_team pool = {.owner = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void forked(void) { pool = (struct sx_team){.owner = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER}; }

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int stopped(const int *stop) { return stop && __atomic_load_n(stop, __ATOMIC_RELAXED); }

static void claim(struct sx_team *t, int worker) {
    for (;;) {
        int64_t i = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
        if (i >= t->n || stopped(t->stop)) return;
        t->body(t->arg, i, worker);
    }
}

/* Wait for an open job other than `seen`: spin, then sleep. */
static uint64_t await(struct sx_team *t, uint64_t seen) {
    int64_t until = sx_host_now() + SPIN_NS;
    for (int turn = 0;; turn++) {
        uint64_t e = __atomic_load_n(&t->epoch, __ATOMIC_SEQ_CST);
        if (e & 1 && e != seen) return e;
        pause_cpu();
        if (turn % 64 == 63 && sx_host_now() > until) break;
    }
    pthread_mutex_lock(&t->mutex);
    __atomic_fetch_add(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    uint64_t e;
    while (e = __atomic_load_n(&t->epoch, __ATOMIC_SEQ_CST), !(e & 1) || e == seen) pthread_cond_wait(&t->wake, &t->mutex);
    __atomic_fetch_sub(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&t->mutex);
    return e;
}

static void *work(void *arg) {
    int worker = (int)(intptr_t)arg;
    uint64_t seen = 0;
    for (;;) {
        seen = await(&pool, seen);
        __atomic_fetch_add(&pool.inside, 1, __ATOMIC_SEQ_CST);
        /* Either this load sees the job closed, or the caller sees us inside and waits. */
        if (__atomic_load_n(&pool.epoch, __ATOMIC_SEQ_CST) == seen && worker < pool.threads) claim(&pool, worker);
        __atomic_fetch_sub(&pool.inside, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static int grow(struct sx_team *t, int threads) {
    static int registered;
    if (!registered) registered = !pthread_atfork(NULL, NULL, forked);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 1 << 20);
    while (t->started < threads - 1) {
        pthread_t thread;
        if (pthread_create(&thread, &attr, work, (void *)(intptr_t)(t->started + 1))) {
            t->failed = 1; /* as many as there are */
            break;
        }
        t->started++;
    }
    pthread_attr_destroy(&attr);
    return t->started + 1;
}

sx_team *sx_host_join(int threads) {
    if (pthread_mutex_trylock(&pool.owner)) return NULL;
    if (pool.started < threads - 1 && !pool.failed) grow(&pool, threads);
    pool.threads = threads;
    return &pool;
}

void sx_host_leave(sx_team *team) { pthread_mutex_unlock(&team->owner); }

void sx_for(const sx_call *call, int64_t n, void (*body)(void *, int64_t, int), void *arg) {
    struct sx_team *t = call->team;
    int asleep = t && t->started && __atomic_load_n(&t->sleepers, __ATOMIC_RELAXED) == t->started; /* waking costs as much as a few tiles */
    if (n <= (asleep ? 3 : 1) || !t || !t->started) {
        for (int64_t i = 0; i < n && !stopped(call->stop); i++) body(arg, i, 0);
        return;
    }
    t->body = body, t->arg = arg, t->n = n, t->stop = call->stop;
    __atomic_store_n(&t->next, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->epoch, 1, __ATOMIC_SEQ_CST); /* open */
    if (__atomic_load_n(&t->sleepers, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&t->mutex);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->mutex);
    }
    claim(t, 0);
    __atomic_fetch_add(&t->epoch, 1, __ATOMIC_SEQ_CST); /* closed */
    for (int turn = 0; __atomic_load_n(&t->inside, __ATOMIC_SEQ_CST); turn++) {
        pause_cpu();
        if (turn > 4096) sched_yield(); /* more runnable threads than cores */
    }
}
