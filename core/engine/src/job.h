/* job.h: one loop over tiles, and how workers take them. What the native pool (pool.h) and the one in WebAssembly (host_wasm.c) have in common. */
#ifndef SX_JOB_H
#define SX_JOB_H
#include "sx_internal.h"

/* How long a worker looks for the next job before it sleeps. In a page's next run it comes when outputs were copied out and inputs in, and waking takes as long as a small run's work. */
#ifdef __wasm__
#define SPIN_NS 500000
#else
#define SPIN_NS 50000
#endif

typedef struct {
    const int *stop;           /* of the job's call */
    int64_t until;
    void (*body)(void *, int64_t, int);
    void *arg;
    int64_t n;
    _Alignas(64) int64_t next; /* tile */
} sx_job;

static int stopped(const int *stop) { return stop && __atomic_load_n(stop, __ATOMIC_RELAXED); }

static int over(int64_t until) { return until && sx_host_now() > until; }

/* Tiles until there are none, the run is to end or, after one, the budget is used up. What is claimed is done. */
static void claim(sx_job *j, int worker) {
    for (int did = 0; !(did && over(j->until)); did = 1) {
        int64_t i = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED);
        if (i >= j->n || stopped(j->stop)) return;
        j->body(j->arg, i, worker);
    }
}

/* All of it by the caller: what it got to. */
static int64_t by_itself(const sx_call *call, int64_t from, int64_t n, int64_t until, void (*body)(void *, int64_t, int), void *arg) {
    int64_t i = from;
    for (; i < n && !stopped(call->stop) && !(i > from && over(until)); i++) body(arg, i, 0);
    return i;
}

static int64_t reached(const sx_job *j) {
    int64_t at = __atomic_load_n(&j->next, __ATOMIC_RELAXED);
    return at < j->n ? at : j->n;
}
#endif
