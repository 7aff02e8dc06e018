/* sort.c: the first k elements along an axis in order, and where they were. Equal ones keep their order; NaN counts as largest.

   How to think
   - An element becomes an unsigned key that orders as wanted: the sign of floats and integers is folded, descending order complements it, every NaN is one key. (key, index) pairs are all
     different, so any sorting method gives the stable order.
   - Few of many (k ≤ n / 8): a heap of the best k, its worst on top; blocks in which no key beats it are skipped by a vector comparison. k = 1 is the same with a heap of one.
   - Otherwise: short rows by merging, longer ones by radix on the bytes of the key that differ, least first; the longest so in chunks, by all threads: each counts its digits, what stands
     before a chunk's share of a digit is summed up, each chunk moves its items.
   - Keys of up to 32 bits and the index make one 64-bit word; longer keys make a pair. */
#include "sx_expr.h"
#include "sx_keys.h"

#define WORK 16384
#define SHORT 1024   /* up to here merging is faster than radix */
#define SKIP 64      /* keys compared at once with the heap's top */
#define LONG 65536   /* from here on in chunks */
#define CHUNK 32768

typedef struct { uint64_t key, index; } pair;

/* A row in chunks. counts and starts: [chunk][digit]; bits: [chunk] of what all keys and any key have. */
typedef struct {
    const struct plan *p;
    const char *from;
    int64_t stride, chunks, *counts, *starts, at[3];
    uint64_t *bits;
    void *x, *y;
    int shift;
} row_in_chunks;

typedef struct plan {
    const sx_call *call;
    int axis, descending, wide, heap;
    int64_t n, k, rows, per;
} plan;

/* ---- keys: ascending, for a row of n elements `stride` apart ---- */

/* Keys of up to 32 bits: the compute type's order is the element's. */
static void keys32(const plan *p, const char *from, int64_t stride, int64_t n, uint32_t *to) {
    int dtype = p->call->in->dtype;
    if (dtype == SX_UINT32) for (int64_t i = 0; i < n; i++) to[i] = ((const uint32_t *)from)[i * stride];
    else if (dtype == SX_FLOAT || dtype == SX_FLOAT16 || dtype == SX_BFLOAT16) {
        sx_load_row(dtype, SX_F32, to, from, stride, n);
        for (int64_t i = 0; i < n; i++) to[i] = sx_float_key(to[i]);
    } else {
        sx_load_row(dtype, SX_I32, to, from, stride, n);
        for (int64_t i = 0; i < n; i++) to[i] ^= 0x80000000u;
    }
    if (p->descending) for (int64_t i = 0; i < n; i++) to[i] = ~to[i];
}

static void keys64(const plan *p, const char *from, int64_t stride, int64_t n, uint64_t *to) {
    const uint64_t *u = (const uint64_t *)from, flip = p->descending ? ~(uint64_t)0 : 0;
    if (p->call->in->dtype == SX_DOUBLE) for (int64_t i = 0; i < n; i++) to[i] = sx_double_key(u[i * stride]) ^ flip;
    else if (p->call->in->dtype == SX_INT64) for (int64_t i = 0; i < n; i++) to[i] = u[i * stride] ^ (uint64_t)1 << 63 ^ flip;
    else for (int64_t i = 0; i < n; i++) to[i] = u[i * stride] ^ flip;
}

/* ---- sorting items: E is the item, BEFORE(a, b) its order, KEY(e) the key ---- */

#define SORTS(E, S, KEYTYPE, BEFORE, KEY, MAKE) \
    static void sift_##S(E *heap, int64_t n, int64_t at) { /* the worst on top */ \
        E moved = heap[at]; \
        for (;;) { \
            int64_t child = 2 * at + 1; \
            if (child >= n) break; \
            if (child + 1 < n && BEFORE(heap[child], heap[child + 1])) child++; \
            if (!BEFORE(moved, heap[child])) break; \
            heap[at] = heap[child], at = child; } \
        heap[at] = moved; } \
    static void merge_sort_##S(E *x, E *room, int64_t n) { \
        const int64_t run = 12; \
        for (int64_t start = 0; start < n; start += run) { \
            int64_t end = sx_min64(n, start + run); \
            for (int64_t i = start + 1; i < end; i++) { \
                E e = x[i]; \
                int64_t j = i; \
                for (; j > start && BEFORE(e, x[j - 1]); j--) x[j] = x[j - 1]; \
                x[j] = e; } } \
        E *from = x, *to = room; \
        for (int64_t width = run; width < n; width *= 2) { \
            for (int64_t start = 0; start < n; start += 2 * width) { \
                int64_t a = start, mid = sx_min64(n, start + width), b = mid, end = sx_min64(n, start + 2 * width), at = start; \
                while (a < mid && b < end) { \
                    int second = BEFORE(from[b], from[a]); \
                    to[at++] = second ? from[b] : from[a]; \
                    b += second, a += !second; } \
                while (a < mid) to[at++] = from[a++]; \
                while (b < end) to[at++] = from[b++]; } \
            E *swap = from; \
            from = to, to = swap; } \
        if (from != x) for (int64_t i = 0; i < n; i++) x[i] = from[i]; } \
    /* Items come in the order of their indices, and every pass keeps the order of equals. */ \
    static void radix_sort_##S(E *x, E *room, int64_t n) { \
        KEYTYPE all = ~(KEYTYPE)0, any = 0; \
        for (int64_t i = 0; i < n; i++) all &= KEY(x[i]), any |= KEY(x[i]); \
        E *from = x, *to = room; \
        for (int shift = 0; shift < (int)sizeof(KEYTYPE) * 8; shift += 8) { \
            if (!((all ^ any) >> shift & 255)) continue; /* a byte all share */ \
            int64_t count[256] = {0}, sum = 0; \
            for (int64_t i = 0; i < n; i++) count[KEY(from[i]) >> shift & 255]++; \
            for (int d = 0; d < 256; d++) { int64_t c = count[d]; count[d] = sum, sum += c; } \
            for (int64_t i = 0; i < n; i++) to[count[KEY(from[i]) >> shift & 255]++] = from[i]; \
            E *swap = from; \
            from = to, to = swap; } \
        if (from != x) for (int64_t i = 0; i < n; i++) x[i] = from[i]; } \
    static void sort_all_##S(E *x, E *room, int64_t n) { \
        if (n <= SHORT) merge_sort_##S(x, room, n); \
        else radix_sort_##S(x, room, n); } \
    static void fill_##S(E *x, const KEYTYPE *key, int64_t n, int64_t first) { for (int64_t i = 0; i < n; i++) x[i] = MAKE(key[i], first + i); } \
    /* The best k of a row into x, any order. Keys come in blocks. */ \
    static void best_##S(const plan *p, const char *from, int64_t stride, E *x) { \
        KEYTYPE key[SKIP]; \
        int64_t item = sx_element_bytes(p->call->in->dtype), at = 0; \
        for (; at < p->k; at += SKIP) { \
            int64_t m = sx_min64(SKIP, p->k - at); \
            KEYS(p, from + at * stride * item, stride, m, key); \
            fill_##S(x + at, key, m, at); } \
        for (int64_t i = p->k / 2 - 1; i >= 0; i--) sift_##S(x, p->k, i); \
        for (at = p->k; at < p->n; at += SKIP) { \
            int64_t m = sx_min64(SKIP, p->n - at); \
            KEYS(p, from + at * stride * item, stride, m, key); \
            KEYTYPE top = KEY(x[0]); \
            int found = 0; \
            for (int64_t i = 0; i < m; i++) found |= key[i] < top; /* an equal key comes later: it does not beat it */ \
            for (int64_t i = 0; found && i < m; i++) \
                if (key[i] < KEY(x[0])) x[0] = MAKE(key[i], at + i), sift_##S(x, p->k, 0); \
            if (sx_stopped(p->call)) return; } } \
    static void keys_task_##S(void *arg, int64_t number, int worker) { \
        (void)worker; \
        const row_in_chunks *r = arg; \
        int64_t item = sx_element_bytes(r->p->call->in->dtype), at = number * CHUNK, end = sx_min64(r->p->n, at + CHUNK); \
        KEYTYPE key[SKIP], all = ~(KEYTYPE)0, any = 0; \
        for (; at < end; at += SKIP) { \
            int64_t m = sx_min64(SKIP, end - at); \
            KEYS(r->p, r->from + at * r->stride * item, r->stride, m, key); \
            for (int64_t i = 0; i < m; i++) all &= key[i], any |= key[i]; \
            fill_##S((E *)r->x + at, key, m, at); } \
        r->bits[2 * number] = all, r->bits[2 * number + 1] = any; } \
    static void count_task_##S(void *arg, int64_t number, int worker) { \
        (void)worker; \
        const row_in_chunks *r = arg; \
        const E *x = r->x; \
        int64_t *count = r->counts + number * 256, end = sx_min64(r->p->n, (number + 1) * CHUNK); \
        for (int d = 0; d < 256; d++) count[d] = 0; \
        for (int64_t i = number * CHUNK; i < end; i++) count[KEY(x[i]) >> r->shift & 255]++; } \
    static void move_task_##S(void *arg, int64_t number, int worker) { \
        (void)worker; \
        const row_in_chunks *r = arg; \
        const E *x = r->x; \
        E *y = r->y; \
        int64_t at[256], end = sx_min64(r->p->n, (number + 1) * CHUNK); \
        for (int d = 0; d < 256; d++) at[d] = r->starts[number * 256 + d]; \
        for (int64_t i = number * CHUNK; i < end; i++) y[at[KEY(x[i]) >> r->shift & 255]++] = x[i]; } \
    /* As many loops whatever the keys are: a row that is done is passed over when the step goes on. */ \
    static int sort_chunks_##S(row_in_chunks *r) { \
        const sx_call *c = r->p->call; \
        if (!sx_tiles(c, r->chunks, keys_task_##S, r)) return 0; \
        uint64_t all = ~(uint64_t)0, any = 0; \
        for (int64_t i = 0; i < r->chunks; i++) all &= r->bits[2 * i], any |= r->bits[2 * i + 1]; \
        for (r->shift = 0; r->shift < (int)sizeof(KEYTYPE) * 8; r->shift += 8) { \
            int64_t chunks = (all ^ any) >> r->shift & 255 ? r->chunks : 0; \
            if (!sx_tiles(c, chunks, count_task_##S, r)) return 0; \
            if (chunks) sum_counts(r); \
            if (!sx_tiles(c, chunks, move_task_##S, r)) return 0; \
            if (!chunks) continue; \
            void *swap = r->x; \
            r->x = r->y, r->y = swap; } \
        return 1; }

static void sum_counts(const row_in_chunks *r) {
    int64_t sum = 0;
    for (int d = 0; d < 256; d++)
        for (int64_t i = 0; i < r->chunks; i++) r->starts[i * 256 + d] = sum, sum += r->counts[i * 256 + d];
}

#define WORD_BEFORE(a, b) ((a) < (b))
#define WORD_KEY(e) ((uint32_t)((e) >> 32))
#define WORD(key, index) ((uint64_t)(key) << 32 | (uint64_t)(index))
#define PAIR_BEFORE(a, b) ((a).key < (b).key || ((a).key == (b).key && (a).index < (b).index))
#define PAIR_KEY(e) ((e).key)
#define PAIR(k, i) ((pair){k, (uint64_t)(i)})

#define KEYS keys32
SORTS(uint64_t, word, uint32_t, WORD_BEFORE, WORD_KEY, WORD)
#undef KEYS
#define KEYS keys64
SORTS(pair, pair, uint64_t, PAIR_BEFORE, PAIR_KEY, PAIR)
#undef KEYS

/* ---- rows ---- */

static void move(char *to, const char *from, int64_t item) {
    switch (item) {
    case 1: *to = *from; return;
    case 2: *(uint16_t *)to = *(const uint16_t *)from; return;
    case 4: *(uint32_t *)to = *(const uint32_t *)from; return;
    default: *(uint64_t *)to = *(const uint64_t *)from;
    }
}

/* Places i … end of the sorted row at `at`. */
static void deliver(const plan *p, const int64_t *at, const void *sorted, int64_t i, int64_t end) {
    const sx_call *c = p->call;
    const sx_view *x = c->in, *y = c->out, *where = c->n_out > 1 && c->out[1].dtype ? c->out + 1 : NULL;
    int64_t item = sx_element_bytes(x->dtype);
    for (; i < end; i++) {
        int64_t index = p->wide ? (int64_t)((const pair *)sorted)[i].index : (int64_t)(uint32_t)((const uint64_t *)sorted)[i];
        move(y->data + (at[1] + i * y->stride[p->axis]) * item, x->data + (at[0] + index * x->stride[p->axis]) * item, item);
        if (where) ((int64_t *)where->data)[at[2] + i * where->stride[p->axis]] = index;
    }
}

static void deliver_task(void *arg, int64_t number, int worker) {
    (void)worker;
    const row_in_chunks *r = arg;
    deliver(r->p, r->at, r->x, number * CHUNK, sx_min64(r->p->k, (number + 1) * CHUNK));
}

static void sort_row(const plan *p, const int64_t *at, char *room) {
    const sx_view *x = p->call->in;
    int64_t item = sx_element_bytes(x->dtype), stride = x->stride[p->axis], n = p->heap ? p->k : p->n;
    const char *from = x->data + at[0] * item;
    char *second = room + n * (p->wide ? 16 : 8);
    if (p->heap) {
        if (p->wide) best_pair(p, from, stride, (pair *)room);
        else best_word(p, from, stride, (uint64_t *)room);
    } else if (p->wide) {
        keys64(p, from, stride, n, (uint64_t *)second);
        fill_pair((pair *)room, (uint64_t *)second, n, 0);
    } else {
        keys32(p, from, stride, n, (uint32_t *)second);
        fill_word((uint64_t *)room, (uint32_t *)second, n, 0);
    }
    if (p->wide && p->heap) merge_sort_pair((pair *)room, (pair *)second, n); /* the heap's order is not that of indices */
    else if (p->wide) sort_all_pair((pair *)room, (pair *)second, n);
    else if (p->heap) merge_sort_word((uint64_t *)room, (uint64_t *)second, n);
    else sort_all_word((uint64_t *)room, (uint64_t *)second, n);
    deliver(p, at, room, 0, p->k);
}

/* Where row `row` lies in X, Y and the indices. */
static void place_row(const plan *p, int64_t row, int64_t *at) {
    const sx_call *c = p->call;
    at[0] = at[1] = at[2] = 0;
    for (int d = c->out->rank - 1; d >= 0; d--) {
        if (d == p->axis) continue;
        int64_t i = row % c->out->dim[d];
        row /= c->out->dim[d];
        at[0] += i * c->in->stride[d], at[1] += i * c->out->stride[d];
        if (c->n_out > 1 && c->out[1].dtype) at[2] += i * c->out[1].stride[d];
    }
}

static void task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    const sx_call *c = p->call;
    int64_t end = sx_min64(p->rows, (number + 1) * p->per);
    for (int64_t row = number * p->per; row < end; row++) {
        int64_t at[3];
        place_row(p, row, at);
        sort_row(p, at, c->scratch + worker * c->scratch_bytes);
    }
}

static plan plan_of(const sx_call *call) {
    const sx_view *x = call->in, *y = call->out;
    plan p = {.call = call, .axis = (int)call->param[0], .descending = call->param[1] != 0, .wide = sx_element_bytes(x->dtype) == 8, .rows = 1};
    p.n = x->dim[p.axis], p.k = y->dim[p.axis];
    p.heap = p.k <= p.n / 8;
    for (int d = 0; d < y->rank; d++) if (d != p.axis) p.rows *= y->dim[d];
    p.per = sx_max64(1, WORK / sx_max64(p.n, 1));
    return p;
}

static int in_chunks(const plan *p) { return !p->heap && p->n >= LONG; }

static void long_rows(const plan *p) {
    int64_t chunks = (p->n + CHUNK - 1) / CHUNK, bytes = p->n * (p->wide ? 16 : 8);
    char *room = p->call->scratch;
    for (int64_t row = 0; row < p->rows; row++) {
        row_in_chunks r = {.p = p, .stride = p->call->in->stride[p->axis], .chunks = chunks, .x = room, .y = room + bytes, .counts = (int64_t *)(room + 2 * bytes)};
        r.starts = r.counts + 256 * chunks, r.bits = (uint64_t *)r.starts + 256 * chunks;
        place_row(p, row, r.at);
        r.from = p->call->in->data + r.at[0] * sx_element_bytes(p->call->in->dtype);
        if (!(p->wide ? sort_chunks_pair(&r) : sort_chunks_word(&r)) || !sx_tiles(p->call, (p->k + CHUNK - 1) / CHUNK, deliver_task, &r)) return;
    }
}

int64_t SX_NAME(sx_scratch_sort)(const sx_call *call) {
    plan p = plan_of(call);
    if (in_chunks(&p)) return 2 * p.n * (p.wide ? 16 : 8) + (p.n + CHUNK - 1) / CHUNK * (2 * 256 + 2) * 8;
    return 2 * (p.heap ? p.k : p.n) * (p.wide ? 16 : 8);
}

int SX_NAME(sx_k_sort)(const sx_call *call) {
    plan p = plan_of(call);
    if (!p.k || !p.rows) return SX_OK;
    if (in_chunks(&p)) long_rows(&p);
    else sx_tiles(call, (p.rows + p.per - 1) / p.per, task, &p);
    return SX_OK;
}
