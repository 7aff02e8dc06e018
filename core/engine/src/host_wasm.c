/* host_wasm.c: memory, clock and the thread pool in WebAssembly. core/engine/WASM.md says how a host uses it.

   Memory: blocks of whole 64-byte lines behind a 64-byte header, a free list in the order of addresses, neighbours merged, the smallest block that fits taken. memory.grow only where nothing fits;
   what was grown is never given back to the page (WebAssembly can not), but used again. Memory a host grew itself is left alone.

   The pool (shared memory only): workers are lent by the host, which instantiates the module on the same memory, gives each instance a stack and calls sx_worker. As in host_posix.c a job is an odd
   epoch: a worker that sees one counts itself in, checks that the epoch still holds and claims tiles; the caller closes the job and spins until nobody is in (a page's main thread may not
   wait; a host whose threads may says so with sx_may_wait, for machines with more threads than cores). Workers spin for 500 µs between jobs, then sleep in memory.atomic.wait32. */
#include "job.h"
#include "sx_tables.h"

#define PAGE 65536u
#define LINE 64u
#define AWAKE_NS 2000000 /* a few megabytes are copied in it */
#define STEP (16 * PAGE) /* grown at once: each growth detaches the page's views of memory */

__attribute__((import_module("env"), import_name("now"))) double sx_import_now(void); /* milliseconds, performance.now() */

int64_t sx_host_now(void) { return (int64_t)(sx_import_now() * 1e6); }
int sx_host_amx(void) { return 0; }
int sx_isa_available(int number) { return number >= 0 && number < SX_ISAS; } /* a module that runs has been validated */

/* -- memory ----------------------------------------------------------------------------------------------------------------------------------------- */

typedef struct block block;
struct block {
    uint32_t bytes; /* the header included */
    uint32_t mark;  /* USED or 0 */
    block *next;    /* of the free list */
};
#define USED 0x53585553u

extern char __heap_base;
static block *vacant;
static uint32_t region_end; /* of the last region taken from memory; 0: none yet */
static char locked;

#ifdef SX_SHARED
static void lock(void) { while (__atomic_test_and_set(&locked, __ATOMIC_ACQUIRE)) {} }
static void unlock(void) { __atomic_clear(&locked, __ATOMIC_RELEASE); }
#else
static void lock(void) { (void)locked; }
static void unlock(void) {}
#endif

/* Put a block into the list and merge it with its neighbours. */
static void put(block *b) {
    block **at = &vacant, *before = NULL;
    while (*at && *at < b) before = *at, at = &before->next;
    b->mark = 0, b->next = *at, *at = b;
    if (b->next && (char *)b + b->bytes == (char *)b->next) b->bytes += b->next->bytes, b->next = b->next->next;
    if (before && (char *)before + before->bytes == (char *)b) before->bytes += b->bytes, before->next = b->next;
}

/* Memory from `from` to `to` as a free block. The last line of a 4 GB memory is never part of one. */
static void add_region(uint32_t from, uint64_t to) {
    from = (from + LINE - 1) & ~(LINE - 1);
    if (to > UINT32_MAX - LINE + 1u) to = UINT32_MAX - LINE + 1u;
    if (to < from + 2 * LINE) return;
    block *b = (block *)(uintptr_t)from;
    b->bytes = (uint32_t)to - from;
    put(b);
}

static int grow(uint32_t need) {
    uint64_t end = (uint64_t)__builtin_wasm_memory_size(0) * PAGE;
    if (!region_end) { /* what the module was instantiated with */
        region_end = 1;
        add_region((uint32_t)(uintptr_t)&__heap_base, end);
        return 1;
    }
    uint64_t wanted = (need + STEP - 1ull) / STEP * STEP;
    uintptr_t was = __builtin_wasm_memory_grow(0, wanted / PAGE);
    if (was == (uintptr_t)-1) was = __builtin_wasm_memory_grow(0, (wanted = (need + PAGE - 1ull) / PAGE * PAGE) / PAGE);
    if (was == (uintptr_t)-1) return 0;
    add_region((uint32_t)(was * PAGE), was * (uint64_t)PAGE + wanted);
    return 1;
}

static block **fitting(uint32_t need) {
    block **best = NULL;
    for (block **at = &vacant; *at; at = &(*at)->next)
        if ((*at)->bytes >= need && (!best || (*at)->bytes < (*best)->bytes)) best = at;
    return best;
}

void *sx_host_alloc(int64_t bytes) {
    if (bytes <= 0) bytes = LINE;
    if (bytes > (int64_t)UINT32_MAX - 4 * PAGE) return NULL;
    uint32_t need = ((uint32_t)bytes + LINE - 1) / LINE * LINE + LINE;
    lock();
    block **at = fitting(need);
    for (int tries = 0; !at && tries < 2 && grow(need); tries++) at = fitting(need);
    block *b = at ? *at : NULL;
    if (b) {
        if (b->bytes >= need + 2 * LINE) { /* the rest stays in its place in the list */
            block *rest = (block *)((char *)b + need);
            *rest = (block){b->bytes - need, 0, b->next};
            b->bytes = need, *at = rest;
        } else {
            *at = b->next;
        }
        b->mark = USED;
    }
    unlock();
    return b ? (char *)b + LINE : NULL;
}

void sx_host_free(void *memory, int64_t bytes) {
    (void)bytes;
    if (!memory) return;
    block *b = (block *)((char *)memory - LINE);
    if ((uintptr_t)memory % LINE || b->mark != USED) __builtin_trap(); /* not from sx_alloc, or freed before */
    lock();
    put(b);
    unlock();
}

/* For the host: `bytes` as a double, which a JavaScript number is; 0 where there is no memory. */
SX_API void *sx_alloc(double bytes);
SX_API void sx_free(void *memory);
SX_API double sx_memory_free(void);

void *sx_alloc(double bytes) { return bytes >= 0 && bytes < 4294967296.0 ? sx_host_alloc((int64_t)bytes) : NULL; }
void sx_free(void *memory) { sx_host_free(memory, 0); }

/* Bytes of the memory that nothing uses now. */
double sx_memory_free(void) {
    double sum = 0;
    lock();
    for (block *b = vacant; b; b = b->next) sum += b->bytes;
    unlock();
    return sum;
}

/* -- workers ---------------------------------------------------------------------------------------------------------------------------------------- */

#ifndef SX_SHARED

int sx_host_cores(void) { return 1; }
sx_team *sx_host_join(int threads) {
    (void)threads;
    return NULL;
}
void sx_host_leave(sx_team *team) { (void)team; }
int64_t sx_host_for(const sx_call *call, int64_t from, int64_t n, int64_t until, void (*body)(void *, int64_t, int), void *arg) {
    return by_itself(call, from, n, until, body, arg);
}

#else

struct sx_team {
    int started;               /* workers inside sx_worker */
    uint64_t numbers;          /* those taken, bit by bit */
    char owned;                /* a run has the pool */
    int sleepers, leaving, may_wait;
    int threads;               /* workers this run may use */
    int64_t awake;             /* until when they do not sleep */
    sx_job job;
    _Alignas(64) uint32_t epoch; /* odd: a job is open */
    _Alignas(64) int inside;
};
static struct sx_team pool;

/* An open job other than `seen`, or 0 when workers are to leave: spin, then sleep. */
static uint32_t await(struct sx_team *t, uint32_t seen) {
    int64_t until = sx_host_now() + SPIN_NS;
    for (int turn = 1;; turn++) {
        uint32_t e = __atomic_load_n(&t->epoch, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&t->leaving, __ATOMIC_RELAXED)) return 0;
        if (e & 1 && e != seen) return e;
        if (turn % 256) continue;
        int64_t now = sx_host_now();
        if (now <= until || now <= __atomic_load_n(&t->awake, __ATOMIC_RELAXED)) continue;
        __atomic_fetch_add(&t->sleepers, 1, __ATOMIC_SEQ_CST);
        e = __atomic_load_n(&t->epoch, __ATOMIC_SEQ_CST); /* a job opened after this finds a sleeper and notifies; one before it is seen here */
        if ((!(e & 1) || e == seen) && !__atomic_load_n(&t->leaving, __ATOMIC_SEQ_CST)) __builtin_wasm_memory_atomic_wait32((int *)&t->epoch, (int)e, -1);
        __atomic_fetch_sub(&t->sleepers, 1, __ATOMIC_SEQ_CST);
        until = sx_host_now() + SPIN_NS;
    }
}

static int take_number(struct sx_team *t) {
    for (uint64_t taken = __atomic_load_n(&t->numbers, __ATOMIC_RELAXED);;) {
        int number = 1;
        while (number < SX_MAX_WORKERS && taken >> number & 1) number++;
        if (number == SX_MAX_WORKERS) return 0;
        if (__atomic_compare_exchange_n(&t->numbers, &taken, taken | 1ull << number, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) return number;
    }
}

/* Work for runs until sx_workers_leave. Returns the number this worker had, 0 where all are taken. Called on an instance with a stack of its own, from a thread that may wait. */
SX_API int sx_worker(void);
int sx_worker(void) {
    int worker = take_number(&pool);
    if (!worker) return 0;
    __atomic_fetch_add(&pool.started, 1, __ATOMIC_SEQ_CST);
    for (uint32_t seen = 0; (seen = await(&pool, seen));) {
        __atomic_fetch_add(&pool.inside, 1, __ATOMIC_SEQ_CST);
        /* Either this load sees the job closed, or the caller sees us inside and waits. */
        if (__atomic_load_n(&pool.epoch, __ATOMIC_SEQ_CST) == seen && worker < pool.threads) claim(&pool.job, worker);
        __atomic_fetch_sub(&pool.inside, 1, __ATOMIC_SEQ_CST);
    }
    __atomic_fetch_sub(&pool.started, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_and(&pool.numbers, ~(1ull << worker), __ATOMIC_SEQ_CST);
    return worker;
}

/* Workers now in sx_worker. */
SX_API int sx_workers(void);
int sx_workers(void) { return __atomic_load_n(&pool.started, __ATOMIC_SEQ_CST); }

/* A run is about to begin: workers wake, and wait for it for AWAKE_NS. */
SX_API void sx_workers_wake(void);
void sx_workers_wake(void) {
    __atomic_store_n(&pool.awake, sx_host_now() + AWAKE_NS, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&pool.sleepers, __ATOMIC_SEQ_CST)) __builtin_wasm_memory_atomic_notify((int *)&pool.epoch, (unsigned)-1);
}

/* leave 1: every worker returns from sx_worker soon; 0: workers may join again (when sx_workers() is 0). */
SX_API void sx_workers_leave(int leave);
void sx_workers_leave(int leave) {
    __atomic_store_n(&pool.leaving, leave, __ATOMIC_SEQ_CST);
    if (leave) {
        __atomic_fetch_add(&pool.epoch, 2, __ATOMIC_SEQ_CST); /* one about to sleep sees it and does not */
        __builtin_wasm_memory_atomic_notify((int *)&pool.epoch, (unsigned)-1);
    }
}

/* Whether threads that call sx_run may wait (1), which a page's main thread may not. */
SX_API void sx_may_wait(int may);
void sx_may_wait(int may) { pool.may_wait = may; }

int sx_host_cores(void) { return 1 + sx_workers(); }

sx_team *sx_host_join(int threads) {
    if (!sx_workers() || __atomic_test_and_set(&pool.owned, __ATOMIC_ACQUIRE)) return NULL;
    pool.threads = threads;
    return &pool;
}

void sx_host_leave(sx_team *team) {
    __atomic_store_n(&team->awake, 0, __ATOMIC_RELAXED);
    __atomic_clear(&team->owned, __ATOMIC_RELEASE);
}

int64_t sx_host_for(const sx_call *call, int64_t from, int64_t n, int64_t until, void (*body)(void *, int64_t, int), void *arg) {
    struct sx_team *t = call->team;
    int asleep = t && __atomic_load_n(&t->sleepers, __ATOMIC_RELAXED) >= sx_workers(); /* waking costs as much as a few tiles */
    if (n - from <= (asleep ? 3 : 1) || !t) return by_itself(call, from, n, until, body, arg);
    t->job.body = body, t->job.arg = arg, t->job.n = n, t->job.stop = call->stop, t->job.until = until;
    __atomic_store_n(&t->job.next, from, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->epoch, 1, __ATOMIC_SEQ_CST); /* open */
    if (__atomic_load_n(&t->sleepers, __ATOMIC_SEQ_CST)) __builtin_wasm_memory_atomic_notify((int *)&t->epoch, (unsigned)-1);
    char apart[128]; /* what tiles write to this stack lies in other lines than their argument, a variable further up that all workers read: a third of a forest's time was that */
    __asm__ volatile("" : : "r"(apart) : "memory");
    claim(&t->job, 0);
    __atomic_fetch_add(&t->epoch, 1, __ATOMIC_SEQ_CST); /* closed */
    int in;
    for (int64_t turn = 0; (in = __atomic_load_n(&t->inside, __ATOMIC_SEQ_CST)); turn++) {
        if (t->may_wait && turn >= 1 << 14) __builtin_wasm_memory_atomic_wait32(&t->inside, in, 50000); /* nobody notifies: it is a nap */
        if (turn == (t->may_wait ? 1ll << 22 : 1ll << 36)) __builtin_trap(); /* minutes in one tile: the host ended a worker inside it */
    }
    return reached(&t->job);
}
#endif

/* -- what the compiler calls ------------------------------------------------------------------------------------------------------------------------ */

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) { return __builtin_memcpy(to, from, bytes); } /* memory.copy */
void *memmove(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes) { return __builtin_memmove(to, from, bytes); }
void *memset(void *to, int value, size_t bytes);
void *memset(void *to, int value, size_t bytes) { return __builtin_memset(to, value, bytes); }

/* The product of 128-bit integers, modulo 2^128: what an overflow check of a 64-bit product is made of. */
__int128 __multi3(__int128 a, __int128 b);
__int128 __multi3(__int128 a, __int128 b) {
    uint64_t x = (uint64_t)a, y = (uint64_t)b, x0 = x & 0xffffffff, x1 = x >> 32, y0 = y & 0xffffffff, y1 = y >> 32;
    uint64_t low = x0 * y0, middle = x1 * y0 + (low >> 32), other = x0 * y1 + (middle & 0xffffffff);
    uint64_t high = x1 * y1 + (middle >> 32) + (other >> 32) + x * (uint64_t)(b >> 64) + (uint64_t)(a >> 64) * y;
    return (__int128)((unsigned __int128)high << 64 | (other << 32 | (low & 0xffffffff)));
}
