/* sort.c: the first k elements along an axis in order, and where they were. Equal ones keep their order; NaN counts as largest.

   How to think
   - An element becomes an unsigned key that orders as wanted: the sign of floats and integers is folded, descending order complements it, every NaN is one key. (key, index) pairs are all
     different, so any sorting method gives the stable order.
   - Few of many (k ≤ n / 8): a heap of the best k, its worst on top; blocks in which no key beats it are skipped by a vector comparison. k = 1 is the same with a heap of one.
   - Otherwise: short rows by merging, long ones by radix on the bytes of the key that differ, least first.
   - Keys of up to 32 bits and the index make one 64-bit word; longer keys make a pair. */
#include "sx_expr.h"
#include "sx_keys.h"

#define WORK 16384
#define SHORT 1024   /* up to here merging is faster than radix */
#define SKIP 64      /* keys compared at once with the heap's top */

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

typedef struct { uint64_t key, index; } pair;

typedef struct {
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
            int64_t end = min64(n, start + run); \
            for (int64_t i = start + 1; i < end; i++) { \
                E e = x[i]; \
                int64_t j = i; \
                for (; j > start && BEFORE(e, x[j - 1]); j--) x[j] = x[j - 1]; \
                x[j] = e; } } \
        E *from = x, *to = room; \
        for (int64_t width = run; width < n; width *= 2) { \
            for (int64_t start = 0; start < n; start += 2 * width) { \
                int64_t a = start, mid = min64(n, start + width), b = mid, end = min64(n, start + 2 * width), at = start; \
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
            int64_t m = min64(SKIP, p->k - at); \
            KEYS(p, from + at * stride * item, stride, m, key); \
            fill_##S(x + at, key, m, at); } \
        for (int64_t i = p->k / 2 - 1; i >= 0; i--) sift_##S(x, p->k, i); \
        for (at = p->k; at < p->n; at += SKIP) { \
            int64_t m = min64(SKIP, p->n - at); \
            KEYS(p, from + at * stride * item, stride, m, key); \
            KEYTYPE top = KEY(x[0]); \
            int found = 0; \
            for (int64_t i = 0; i < m; i++) found |= key[i] < top; /* an equal key comes later: it does not beat it */ \
            for (int64_t i = 0; found && i < m; i++) \
                if (key[i] < KEY(x[0])) x[0] = MAKE(key[i], at + i), sift_##S(x, p->k, 0); } }

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

static void sort_row(const plan *p, const int64_t *at, char *room) {
    const sx_call *c = p->call;
    const sx_view *x = c->in, *y = c->out, *where = c->n_out > 1 && c->out[1].dtype ? c->out + 1 : NULL;
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
    for (int64_t i = 0; i < p->k; i++) {
        int64_t index = p->wide ? (int64_t)((const pair *)room)[i].index : (int64_t)(uint32_t)((const uint64_t *)room)[i];
        move(y->data + (at[1] + i * y->stride[p->axis]) * item, from + index * stride * item, item);
        if (where) ((int64_t *)where->data)[at[2] + i * where->stride[p->axis]] = index;
    }
}

static void task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    const sx_call *c = p->call;
    int64_t end = min64(p->rows, (number + 1) * p->per);
    for (int64_t row = number * p->per; row < end; row++) {
        int64_t rest = row, at[3] = {0};
        for (int d = c->out->rank - 1; d >= 0; d--) {
            if (d == p->axis) continue;
            int64_t i = rest % c->out->dim[d];
            rest /= c->out->dim[d];
            at[0] += i * c->in->stride[d], at[1] += i * c->out->stride[d];
            if (c->n_out > 1 && c->out[1].dtype) at[2] += i * c->out[1].stride[d];
        }
        sort_row(p, at, c->scratch + worker * c->scratch_bytes);
    }
}

static plan plan_of(const sx_call *call) {
    const sx_view *x = call->in, *y = call->out;
    plan p = {.call = call, .axis = (int)call->param[0], .descending = call->param[1] != 0, .wide = sx_element_bytes(x->dtype) == 8, .rows = 1};
    p.n = x->dim[p.axis], p.k = y->dim[p.axis];
    p.heap = p.k <= p.n / 8;
    for (int d = 0; d < y->rank; d++) if (d != p.axis) p.rows *= y->dim[d];
    p.per = max64(1, WORK / max64(p.n, 1));
    return p;
}

int64_t SX_NAME(sx_scratch_sort)(const sx_call *call) {
    plan p = plan_of(call);
    return 2 * (p.heap ? p.k : p.n) * (p.wide ? 16 : 8);
}

int SX_NAME(sx_k_sort)(const sx_call *call) {
    plan p = plan_of(call);
    if (!p.k || !p.rows) return SX_OK;
    sx_for(call, (p.rows + p.per - 1) / p.per, task, &p);
    return SX_OK;
}
