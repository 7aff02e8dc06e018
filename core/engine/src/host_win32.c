/* host_win32.c: memory, clock and threads on Windows. What instruction sets there are: cpu.h; the pool: pool.h. */
#define WIN32_LEAN_AND_MEAN
#include <malloc.h>
#include <windows.h>
#include "sx_internal.h"
#include "sx_tables.h"
#include "cpu.h"

/* -- memory, clock, cores -------------------------------------------------------------------------------------------------------------------------- */

void *sx_host_alloc(int64_t bytes) { return _aligned_malloc(bytes > 0 ? (size_t)bytes : 64, 64); }

void sx_host_free(void *memory, int64_t bytes) {
    (void)bytes;
    _aligned_free(memory);
}

int64_t sx_host_now(void) {
    static int64_t frequency;
    LARGE_INTEGER t;
    if (!frequency) {
        QueryPerformanceFrequency(&t);
        frequency = t.QuadPart;
    }
    QueryPerformanceCounter(&t);
    return t.QuadPart / frequency * 1000000000 + t.QuadPart % frequency * 1000000000 / frequency;
}

int sx_host_cores(void) {
    DWORD_PTR mine, all;
    if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) && mine) return __builtin_popcountll(mine);
    return 1;
}

/* -- what pool.h needs ------------------------------------------------------------------------------------------------------------------------------- */

typedef SRWLOCK sx_mutex;
typedef CONDITION_VARIABLE sx_condition;
#define SX_MUTEX SRWLOCK_INIT
#define SX_CONDITION CONDITION_VARIABLE_INIT
static void sx_lock(sx_mutex *m) { AcquireSRWLockExclusive(m); }
static void sx_unlock(sx_mutex *m) { ReleaseSRWLockExclusive(m); }
static int sx_try_lock(sx_mutex *m) { return TryAcquireSRWLockExclusive(m); }
static void sx_wait(sx_condition *c, sx_mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void sx_wake_all(sx_condition *c) { WakeAllConditionVariable(c); }
static void sx_give_way(void) { SwitchToThread(); }
static int sx_on_fork(void (*child)(void)) { /* there is no fork */
    (void)child;
    return 1;
}

static void work(int worker);
static DWORD WINAPI begin(void *arg) {
    work((int)(intptr_t)arg);
    return 0;
}
static int sx_spawn(int worker) {
    HANDLE thread = CreateThread(NULL, 1 << 20, begin, (void *)(intptr_t)worker, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (thread) CloseHandle(thread);
    return thread != NULL;
}

#include "pool.h"
