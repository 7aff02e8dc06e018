/* host_posix.c: memory, clock and threads on Linux, macOS and other POSIX systems. What instruction sets there are: cpu.h; the pool: pool.h. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "sx_internal.h"
#include "sx_tables.h"
#include "cpu.h"

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

/* -- what pool.h needs ------------------------------------------------------------------------------------------------------------------------------- */

typedef pthread_mutex_t sx_mutex;
typedef pthread_cond_t sx_condition;
#define SX_MUTEX PTHREAD_MUTEX_INITIALIZER
#define SX_CONDITION PTHREAD_COND_INITIALIZER
static void sx_lock(sx_mutex *m) { pthread_mutex_lock(m); }
static void sx_unlock(sx_mutex *m) { pthread_mutex_unlock(m); }
static int sx_try_lock(sx_mutex *m) { return !pthread_mutex_trylock(m); }
static void sx_wait(sx_condition *c, sx_mutex *m) { pthread_cond_wait(c, m); }
static void sx_wake_all(sx_condition *c) { pthread_cond_broadcast(c); }
static void sx_give_way(void) { sched_yield(); }
static int sx_on_fork(void (*child)(void)) { return !pthread_atfork(NULL, NULL, child); }

static void work(int worker);
static void *begin(void *arg) {
    work((int)(intptr_t)arg);
    return NULL;
}
static int sx_spawn(int worker) {
    pthread_t thread;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 1 << 20);
    int failed = pthread_create(&thread, &attr, begin, (void *)(intptr_t)worker);
    pthread_attr_destroy(&attr);
    return !failed;
}

#include "pool.h"
