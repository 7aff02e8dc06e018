/* pool.h: the workers. Part of a host file, which gives it locks, a condition and a way to start threads (host_posix.c lists them).

   The pool: one for the process, started on first need. A run takes it by try-lock (a second run at the same time gets none and works alone). Within a run `sx_for` opens a job: an odd epoch.
   A worker that sees one counts itself in, checks that the epoch still holds, and claims tiles; the caller closes the job (even epoch) and waits until nobody is in. Between jobs workers spin
   for 50 µs, then sleep; only a job wakes them, so an idle process uses no CPU. A forked child starts with no workers. */
#ifndef SX_POOL_H
#define SX_POOL_H
#include "job.h"

struct sx_team {
    sx_mutex owner;     /* held by the run that has the pool */
    sx_mutex mutex;     /* of `wake` and `sleepers` */
    sx_condition wake;
    int started, sleepers, failed;
    int threads;               /* workers this run may use */
    sx_job job;
    _Alignas(64) uint64_t epoch; /* odd: a job is open */
    _Alignas(64) int inside;
};

static struct sx_team pool = {.owner = SX_MUTEX, .mutex = SX_MUTEX, .wake = SX_CONDITION};

static void forked(void) { pool = (struct sx_team){.owner = SX_MUTEX, .mutex = SX_MUTEX, .wake = SX_CONDITION}; }

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
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
    sx_lock(&t->mutex);
    __atomic_fetch_add(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    uint64_t e;
    while (e = __atomic_load_n(&t->epoch, __ATOMIC_SEQ_CST), !(e & 1) || e == seen) sx_wait(&t->wake, &t->mutex);
    __atomic_fetch_sub(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    sx_unlock(&t->mutex);
    return e;
}

static void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
        seen = await(&pool, seen);
        __atomic_fetch_add(&pool.inside, 1, __ATOMIC_SEQ_CST);
        /* Either this load sees the job closed, or the caller sees us inside and waits. */
        if (__atomic_load_n(&pool.epoch, __ATOMIC_SEQ_CST) == seen && worker < pool.threads) claim(&pool.job, worker);
        __atomic_fetch_sub(&pool.inside, 1, __ATOMIC_SEQ_CST);
    }
}

static int grow(struct sx_team *t, int threads) {
    static int registered;
    if (!registered) registered = sx_on_fork(forked);
    while (t->started < threads - 1) {
        if (!sx_spawn(t->started + 1)) {
            t->failed = 1; /* as many as there are */
            break;
        }
        t->started++;
    }
    return t->started + 1;
}

sx_team *sx_host_join(int threads) {
    if (!sx_try_lock(&pool.owner)) return NULL;
    if (pool.started < threads - 1 && !pool.failed) grow(&pool, threads);
    pool.threads = threads;
    return &pool;
}

void sx_host_leave(sx_team *team) { sx_unlock(&team->owner); }

int64_t sx_host_for(const sx_call *call, int64_t from, int64_t n, int64_t until, void (*body)(void *, int64_t, int), void *arg) {
    struct sx_team *t = call->team;
    int asleep = t && t->started && __atomic_load_n(&t->sleepers, __ATOMIC_RELAXED) == t->started; /* waking costs as much as a few tiles */
    if (n - from <= (asleep ? 3 : 1) || !t || !t->started) return by_itself(call, from, n, until, body, arg);
    t->job.body = body, t->job.arg = arg, t->job.n = n, t->job.stop = call->stop, t->job.until = until;
    __atomic_store_n(&t->job.next, from, __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->epoch, 1, __ATOMIC_SEQ_CST); /* open */
    if (__atomic_load_n(&t->sleepers, __ATOMIC_SEQ_CST)) {
        sx_lock(&t->mutex);
        sx_wake_all(&t->wake);
        sx_unlock(&t->mutex);
    }
    claim(&t->job, 0);
    __atomic_fetch_add(&t->epoch, 1, __ATOMIC_SEQ_CST); /* closed */
    for (int turn = 0; __atomic_load_n(&t->inside, __ATOMIC_SEQ_CST); turn++) {
        pause_cpu();
        if (turn > 4096) sx_give_way(); /* more runnable threads than cores */
    }
    return reached(&t->job);
}
#endif
