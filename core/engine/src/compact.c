/* compact.c: kernels whose results data count (the COMPACT record of core/kernels.py): places of non-zero elements, distinct rows, boxes that survive. The output has room for the most there
   can be; how many there are goes to `count`, what lies beyond is not written.

   How to think
   - NonZero: chunks of the row-major order are counted first, each chunk then knows where its places go. Zero is a matter of bits: all but a float's sign.
   - Unique: rows become rows of keys that order as the elements do (sx_keys.h); numbers of rows are merge-sorted by them, stable, so the first of equal rows is the first there is.
   - NonMaxSuppression: each (batch, class) is a task: a heap gives boxes by falling score, lower box first, and one is kept that overlaps no better one too much. Only as many leave the heap
     as are needed. Each class writes where it had to write at most; the gaps are closed at the end.
   - Overlaps are computed as the specification's reference does, in float, no products joined with sums: a threshold must not depend on the machine. */
#include "sx_expr.h"
#include "sx_keys.h"

#pragma clang fp contract(off)

#define CHUNK 16384

static int64_t elements(const sx_view *v) {
    int64_t n = 1;
    for (int d = 0; d < v->rank; d++) n *= v->dim[d];
    return n;
}
static int64_t *place(const sx_view *v, int64_t i) { return (int64_t *)v->data + (v->rank ? i * v->stride[0] : 0); }
static const sx_view *wanted(const sx_call *call, int output) { return output < call->n_out && call->out[output].dtype ? call->out + output : NULL; }

/* ---- NonZero ---- */

typedef struct {
    const sx_call *call;
    int64_t total, row;  /* elements; of a row: along the last axis */
    int64_t *before;     /* of each chunk: how many, then where its first goes */
    int64_t item, write;
    uint64_t mask;       /* bits that make an element non-zero */
} scan;

static inline int is_set(const char *at, int64_t item, uint64_t mask) {
    switch (item) {
    case 1: return (*(const uint8_t *)at & mask) != 0;
    case 2: return (*(const uint16_t *)at & mask) != 0;
    case 4: return (*(const uint32_t *)at & mask) != 0;
    default: return (*(const uint64_t *)at & mask) != 0;
    }
}

static void chunk(void *arg, int64_t number, int worker) {
    (void)worker;
    const scan *s = arg;
    const sx_view *x = s->call->in, *y = s->call->out;
    const int last = x->rank - 1;
    int64_t i = number * CHUNK, end = sx_min64(s->total, i + CHUNK), found = 0, to = s->before[number];
    while (i < end) { /* one row, or what of it lies in the chunk */
        int64_t at[SX_RANK] = {0}, rest = s->row ? i / s->row : 0, column = i - rest * s->row, n = sx_min64(s->row - column, end - i);
        const char *from = x->data;
        for (int d = last - 1; d >= 0; d--) at[d] = rest % x->dim[d], rest /= x->dim[d], from += at[d] * x->stride[d] * s->item;
        const int64_t step = last >= 0 ? x->stride[last] * s->item : 0;
        from += column * step;
        for (int64_t c = 0; c < n; c++) {
            if (!is_set(from + c * step, s->item, s->mask)) continue;
            if (s->write) {
                int64_t *row = (int64_t *)y->data + (to + found) * y->stride[0];
                for (int d = 0; d < last; d++) row[d * y->stride[1]] = at[d];
                if (last >= 0) row[last * y->stride[1]] = column + c;
            }
            found++;
        }
        i += n;
    }
    if (!s->write) s->before[number] = found;
}

static uint64_t set_bits(int dtype) {
    switch (dtype) {
    case SX_FLOAT16: case SX_BFLOAT16: return 0x7fff;
    case SX_FLOAT: return 0x7fffffff;
    case SX_DOUBLE: return ~((uint64_t)1 << 63);
    case 21: case 22: return 15; /* 4- and 2-bit integers */
    case 25: case 26: return 3;
    default: return ~(uint64_t)0;
    }
}

static int nonzero(const sx_call *call) {
    const sx_view *x = call->in;
    scan s = {.call = call, .total = elements(x), .row = x->rank ? x->dim[x->rank - 1] : 1, .before = (int64_t *)call->scratch, .item = sx_element_bytes(x->dtype), .mask = set_bits(x->dtype)};
    int64_t chunks = sx_ceil_div(s.total, CHUNK), all = 0, *counts = s.before;
    if (!sx_tiles(call, chunks, chunk, &s)) return SX_OK;
    s.before += chunks;
    for (int64_t i = 0; i < chunks; i++) s.before[i] = all, all += counts[i];
    s.write = 1;
    if (all && !sx_tiles(call, chunks, chunk, &s)) return SX_OK;
    *place(call->out + 1, 0) = all;
    return SX_OK;
}

/* ---- Unique: rows along axis 0 ---- */

typedef struct { int64_t n, m; uint64_t *keys; int64_t *order, *other; } table;

static table table_of(const sx_call *call, char *scratch) {
    table t = {.n = call->in[0].dim[0]};
    t.m = t.n ? elements(call->in) / t.n : 0;
    t.keys = (uint64_t *)scratch;
    t.order = (int64_t *)(scratch + t.n * t.m * 8);
    t.other = t.order + t.n;
    return t;
}

static int below(const table *t, int64_t a, int64_t b) { /* -1, 0, 1 */
    const uint64_t *x = t->keys + a * t->m, *y = t->keys + b * t->m;
    for (int64_t j = 0; j < t->m; j++) if (x[j] != y[j]) return x[j] < y[j] ? -1 : 1;
    return 0;
}

/* Keys of the rows, one line along the last axis at a time: loaded into the front half of its place, widened from the end. */
static void fill_keys(const sx_call *call, table *t) {
    const sx_view *x = call->in;
    const int last = x->rank - 1, dtype = x->dtype, wide = sx_element_bytes(dtype) == 8 || dtype == SX_UINT32, real = dtype == SX_FLOAT || dtype == SX_FLOAT16 || dtype == SX_BFLOAT16;
    const int type = dtype == SX_DOUBLE ? SX_F64 : dtype == SX_UINT64 ? SX_U64 : wide ? SX_I64 : real ? SX_F32 : SX_I32;
    const int64_t line = x->dim[last], lines = t->n * t->m ? t->n * t->m / line : 0;
    for (int64_t i = 0; i < lines && !sx_stopped(call); i++) {
        int64_t rest = i, at = 0;
        for (int d = last - 1; d >= 0; d--) at += rest % x->dim[d] * x->stride[d], rest /= x->dim[d];
        uint64_t *to = t->keys + i * line;
        sx_load_row(dtype, type, to, x->data + at * sx_element_bytes(dtype), x->stride[last], line);
        if (type == SX_F64) for (int64_t c = 0; c < line; c++) to[c] = sx_double_key(to[c]);
        else if (wide) for (int64_t c = 0; c < line; c++) to[c] ^= dtype == SX_UINT64 ? 0 : (uint64_t)1 << 63;
        else for (int64_t c = line - 1; c >= 0; c--) {
            uint32_t raw = ((const uint32_t *)to)[c];
            to[c] = real ? sx_float_key(raw) : raw ^ 0x80000000u;
        }
    }
}

static void merge_sort(const sx_call *call, table *t) {
    for (int64_t i = 0; i < t->n; i++) t->order[i] = i;
    for (int64_t width = 1; width < t->n; width *= 2) {
        for (int64_t from = 0; from < t->n && !sx_stopped(call); from += 2 * width) {
            int64_t a = from, middle = sx_min64(from + width, t->n), b = middle, end = sx_min64(from + 2 * width, t->n), to = from;
            if (middle == end || below(t, t->order[middle - 1], t->order[middle]) <= 0) { /* in order already */
                for (; a < end; a++) t->other[a] = t->order[a];
                continue;
            }
            while (a < middle && b < end) t->other[to++] = below(t, t->order[b], t->order[a]) < 0 ? t->order[b++] : t->order[a++];
            while (a < middle) t->other[to++] = t->order[a++];
            while (b < end) t->other[to++] = t->order[b++];
        }
        int64_t *swap = t->order;
        t->order = t->other, t->other = swap;
    }
}

static int unique(const sx_call *call) {
    table t = table_of(call, call->scratch);
    const sx_view *first = call->out, *inverse = wanted(call, 2), *counts = wanted(call, 3);
    const int sorted = call->param[1] != 0;
    fill_keys(call, &t);
    merge_sort(call, &t);
    if (sx_stopped(call)) return SX_OK;
    int64_t groups = 0, *group = t.other, *renamed = t.order; /* group[i]: of row i */
    for (int64_t i = 0; i < t.n; i++) {
        groups += i == 0 || below(&t, t.order[i - 1], t.order[i]) != 0;
        group[t.order[i]] = groups - 1;
    }
    for (int64_t g = 0; g < groups; g++) renamed[g] = -1; /* the order is not needed any more */
    for (int64_t i = 0, next = 0; i < t.n; i++) {
        int64_t g = group[i];
        if (renamed[g] < 0) { /* its first row */
            renamed[g] = sorted ? g : next++;
            *place(first, renamed[g]) = i;
            if (counts) *place(counts, renamed[g]) = 0;
        }
        if (counts) ++*place(counts, renamed[g]);
        if (inverse) *place(inverse, i) = renamed[g];
    }
    *place(call->out + 1, 0) = groups;
    return SX_OK;
}

/* ---- NonMaxSuppression ---- */

typedef struct { float low[2], high[2], area; } box;

typedef struct {
    const sx_call *call;
    int64_t classes, boxes, room, limit; /* room: of one class in the output */
    float overlap, threshold;
    int thresholded;
} pick;

static float least(float a, float b) { return a < b || a != a ? a : b; }
static float most(float a, float b) { return a > b || a != a ? a : b; }

static box corners(const pick *p, int64_t batch, int64_t number) {
    const sx_view *v = p->call->in;
    const float *from = (const float *)v->data + batch * v->stride[0] + number * v->stride[1];
    box made;
    for (int i = 0; i < 2; i++) {
        float first = from[i * v->stride[2]], second = from[(i + 2) * v->stride[2]];
        if (p->call->param[2]) made.low[i] = first - second / 2, made.high[i] = first + second / 2;
        else made.low[i] = least(first, second), made.high[i] = most(first, second);
    }
    made.area = (made.high[0] - made.low[0]) * (made.high[1] - made.low[1]);
    return made;
}

static int overlaps(const pick *p, const box *a, const box *b) {
    float side0 = least(a->high[0], b->high[0]) - most(a->low[0], b->low[0]), side1 = least(a->high[1], b->high[1]) - most(a->low[1], b->low[1]);
    if (!(side0 > 0 && side1 > 0)) return 0;
    float common = side0 * side1, all = a->area + b->area, together = all - common;
    return common > 0 && a->area > 0 && b->area > 0 && together > 0 && common / together > p->overlap;
}

/* A heap of (key of the negated score, box): the least on top. */
static void sift(uint64_t *heap, int64_t n, int64_t at) {
    uint64_t moving = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (moving <= heap[child]) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void suppress(void *arg, int64_t number, int worker) {
    const pick *p = arg;
    const sx_view *scores = p->call->in + 1, *y = p->call->out;
    char *scratch = p->call->scratch + worker * p->call->scratch_bytes;
    uint64_t *heap = (uint64_t *)scratch;
    box *kept = (box *)(scratch + p->boxes * 8);
    int64_t batch = number / p->classes, kind = number % p->classes, n = 0, found = 0;
    const char *from = scores->data + (batch * scores->stride[0] + kind * scores->stride[1]) * 4;
    for (int64_t i = 0; i < p->boxes; i++) {
        float score = *(const float *)(from + i * scores->stride[2] * 4);
        uint32_t bits;
        if (p->thresholded && !(score > p->threshold)) continue;
        __builtin_memcpy(&bits, &score, 4);
        heap[n++] = (uint64_t)sx_float_key(bits ^ 0x80000000u) << 32 | (uint64_t)i;
    }
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift(heap, n, i);
    while (n && found < p->limit) {
        int64_t best = (int64_t)(heap[0] & 0xffffffffu);
        heap[0] = heap[--n];
        if (n) sift(heap, n, 0);
        box made = corners(p, batch, best);
        int dropped = 0;
        for (int64_t k = 0; k < found && !dropped; k++) dropped = overlaps(p, kept + k, &made);
        if (dropped) continue;
        kept[found] = made;
        int64_t *row = (int64_t *)y->data + (number * p->room + found++) * y->stride[0];
        row[0] = batch, row[y->stride[1]] = kind, row[2 * y->stride[1]] = best;
    }
    if (found < p->room) ((int64_t *)y->data)[(number * p->room + found) * y->stride[0]] = -1; /* here the class ends */
}

static int nms(const sx_call *call) {
    const sx_view *in = call->in, *y = call->out;
    const sx_view *limit = call->n_in > 2 && in[2].dtype ? in + 2 : NULL, *overlap = call->n_in > 3 && in[3].dtype ? in + 3 : NULL, *threshold = call->n_in > 4 && in[4].dtype ? in + 4 : NULL;
    pick p = {.call = call, .classes = in[1].dim[1], .boxes = in[1].dim[2], .thresholded = threshold != NULL};
    int64_t tasks = in[1].dim[0] * p.classes, all = 0;
    p.room = tasks ? y->dim[0] / tasks : 0;
    p.limit = limit ? sx_min64(*(const int64_t *)limit->data, p.boxes) : 0;
    p.overlap = overlap ? *(const float *)overlap->data : 0;
    p.threshold = threshold ? *(const float *)threshold->data : 0;
    if (!(p.overlap >= 0 && p.overlap <= 1)) return sx_fail(call, SX_E_INDEX, 3, (int64_t)(p.overlap * 1000), 1000);
    *place(call->out + 1, 0) = 0;
    if (!tasks || p.limit <= 0 || !p.boxes) return SX_OK;
    if (p.limit > p.room) return sx_fail(call, SX_E_INDEX, 2, p.limit, p.room);
    if (!sx_tiles(call, tasks, suppress, &p)) return SX_OK;
    for (int64_t t = 0; t < tasks; t++)
        for (int64_t k = 0; k < p.room; k++) {
            const int64_t *row = (const int64_t *)y->data + (t * p.room + k) * y->stride[0];
            int64_t *to = (int64_t *)y->data + all * y->stride[0];
            if (row[0] < 0) break;
            for (int i = 0; i < 3; i++) to[i * y->stride[1]] = row[i * y->stride[1]];
            all++;
        }
    *place(call->out + 1, 0) = all;
    return SX_OK;
}

int64_t SX_NAME(sx_scratch_compact)(const sx_call *call) {
    switch (call->param[0]) {
    case 0: return 16 * (sx_ceil_div(elements(call->in), CHUNK) + 1);
    case 1: return 8 * (elements(call->in) + 2 * call->in[0].dim[0]);
    default: return call->in[1].dim[2] * (8 + (int64_t)sizeof(box));
    }
}

int SX_NAME(sx_k_compact)(const sx_call *call) { return call->param[0] == 0 ? nonzero(call) : call->param[0] == 1 ? unique(call) : nms(call); }
