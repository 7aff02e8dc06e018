/* check.c: dims, types and parameters of one bound step, so that a kernel may trust them. Views were checked to lie inside their buffers; here they are checked against each other. */
#include "sx_internal.h"
#include "sx_expr.h"

#define REFUSE(operand, a, b) return sx_say(report, SX_E_SHAPE, SX_R_DIMS, step, operand, a, b)
#define REFUSE_TYPE(operand, a, b) return sx_say(report, SX_E_DTYPE, SX_R_TYPE, step, operand, a, b)
#define REFUSE_PARAM(number, value) return sx_say(report, SX_E_FORMAT, SX_R_PARAM, step, number, value, 0)

static int same_dims(const sx_view *a, const sx_view *b) {
    if (a->rank != b->rank) return 0;
    for (int d = 0; d < a->rank; d++) if (a->dim[d] != b->dim[d]) return 0;
    return 1;
}

static int has(const sx_call *call, int operand) { return operand < call->n_in && call->in[operand].dtype != 0; }

/* Operands the expression reads with LEAF have exactly these dims (broadcasting is a matter of strides). */
static int leaves_fit(const sx_code *code, const sx_call *call, const sx_view *space, int *bad) {
    for (int j = 0; code && j < code->count; j++) {
        const int32_t *w = code->words + j * SX_WORDS;
        int operand = code->first_leaf + w[3];
        if (w[0] == SX_OP_LEAF && !same_dims(call->in + operand, space)) {
            *bad = operand;
            return 0;
        }
    }
    return 1;
}

/* An output no two positions of which share memory: threads may write them in any order. Strides, sorted, each step over all that lies below. */
static int injective(const sx_view *v) {
    int64_t reach = 0, done = 0;
    for (int d = 0; d < v->rank; d++) if (v->dim[d] == 0) return 1; /* nothing is written */
    for (int k = 0; k < v->rank; k++) {
        int best = -1;
        for (int d = 0; d < v->rank; d++) {
            if (done >> d & 1 || v->dim[d] < 2) continue;
            int64_t s = v->stride[d] < 0 ? -v->stride[d] : v->stride[d];
            if (best < 0 || s < (v->stride[best] < 0 ? -v->stride[best] : v->stride[best])) best = d;
        }
        if (best < 0) return 1;
        int64_t s = v->stride[best] < 0 ? -v->stride[best] : v->stride[best];
        if (s <= reach) return 0;
        reach += s * (v->dim[best] - 1);
        done |= (int64_t)1 << best;
    }
    return 1;
}

/* Two operands whose products are summed: both floats, both doubles, or both integers computed alike. */
static int products_fit(const sx_view *a, const sx_view *b) { return sx_compute_of(a->dtype) >= 0 && sx_compute_of(a->dtype) == sx_compute_of(b->dtype); }

static int is_byte(const sx_view *v) { return v->dtype == SX_UINT8 || v->dtype == SX_INT8; }

/* Operand i is a zero point of `v`, an integer: of its type, one for all or one for each of n. */
static int zero_fits(const sx_call *c, int i, const sx_view *v, int64_t n) {
    const sx_view *zero = c->in + i;
    if (!has(c, i) || zero->dtype != v->dtype || zero->packing || sx_compute_of(v->dtype) < SX_I32) return 0;
    return zero->rank == 0 || (zero->rank == 1 && (zero->dim[0] == 1 || zero->dim[0] == n));
}

/* Weights of 4 or 8 bits in blocks: A[M, K], B[N, blocks, bytes], scales [N, blocks], zeros as packed bytes [N, ⌈blocks · bits / 8⌉] or numbers [N, blocks]. */
static int check_nbits(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *a = c->in, *b = c->in + 1, *y = c->out;
    int64_t bits = c->param[2], block = c->param[3], scales = c->param[4], zeros = c->param[5];
    if (bits != 4 && bits != 8) REFUSE_PARAM(2, bits);
    if (block < 16 || block > 1 << 20 || block & (block - 1)) REFUSE_PARAM(3, block);
    if (c->param[0] != -1 || c->param[1] != -1) REFUSE_PARAM(0, c->param[0]);
    if (a->rank != 2 || b->rank != 3 || y->rank != 2 || a->dim[0] != y->dim[0] || b->dim[0] != y->dim[1]) REFUSE(1, a->rank, b->rank);
    if (b->dim[1] < 1 || b->dim[2] != block * bits / 8 || b->dim[1] != (a->dim[1] + block - 1) / block) REFUSE(1, b->dim[1], b->dim[2]);
    if (a->packing || (b->packing && b->packing != (bits == 4 ? 5 : 2))) REFUSE_PARAM(2, b->packing);
    if (sx_compute_of(a->dtype) != SX_F32 || b->dtype != SX_UINT8) REFUSE_TYPE(1, a->dtype, b->dtype);
    if (scales < 2 || scales >= c->n_in || !has(c, (int)scales)) REFUSE_PARAM(4, scales);
    const sx_view *s = c->in + scales;
    if (s->rank != 2 || s->dim[0] != b->dim[0] || s->dim[1] != b->dim[1] || (s->packing && s->packing != 6)) REFUSE((int)scales, s->rank, 2);
    if (sx_compute_of(s->dtype) != SX_F32) REFUSE_TYPE((int)scales, s->dtype, a->dtype);
    if (!zeros) return 0;
    if (zeros < 2 || zeros >= c->n_in || !has(c, (int)zeros)) REFUSE_PARAM(5, zeros);
    const sx_view *z = c->in + zeros;
    if (z->dtype != SX_UINT8 && sx_compute_of(z->dtype) != SX_F32) REFUSE_TYPE((int)zeros, z->dtype, a->dtype);
    int64_t width = z->dtype == SX_UINT8 ? (b->dim[1] * bits + 7) / 8 : b->dim[1];
    if (z->rank != 2 || z->dim[0] != b->dim[0] || z->dim[1] != width || z->packing) REFUSE((int)zeros, z->rank, 2);
    return 0;
}

static int check_matmul(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *a = c->in, *b = c->in + 1, *y = c->out;
    int r = y->rank;
    if (c->param[2]) return check_nbits(c, step, report);
    for (int i = 2; i < c->n_in; i++) if (c->in[i].packing) REFUSE_PARAM(4, i);
    if (a->rank != r || r < 2 || b->rank < 2 || (b->rank != r && b->rank != 2) || (b->packing && (b->rank != 2 || b->packing > 2))) REFUSE(0, a->rank, b->rank);
    if (a->dim[r - 2] != y->dim[r - 2] || b->dim[b->rank - 1] != y->dim[r - 1] || a->dim[r - 1] != b->dim[b->rank - 2]) REFUSE(1, a->dim[r - 1], b->dim[b->rank - 2]);
    for (int d = 0; d < r - 2; d++) if (a->dim[d] != y->dim[d] || (b->rank == r && b->dim[d] != y->dim[d])) REFUSE(d, a->dim[d], y->dim[d]);
    if (!products_fit(a, b)) REFUSE_TYPE(1, a->dtype, b->dtype);
    for (int z = 0; z < 2; z++) {
        int64_t operand = c->param[z];
        if (operand == -1) continue;
        if (operand < 2 || operand >= c->n_in || !zero_fits(c, (int)operand, z ? b : a, z ? y->dim[r - 1] : y->dim[r - 2])) REFUSE_PARAM(z, operand);
    }
    return 0;
}

static int positive(const int64_t *p, int n) {
    for (int i = 0; i < n; i++) if (p[i] < 1 || p[i] > 1 << 30) return 0;
    return 1;
}

static int bounded(const int64_t *p, int n) {
    for (int i = 0; i < n; i++) if (p[i] < -(1 << 30) || p[i] > 1 << 30) return 0;
    return 1;
}

static int check_conv(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *w = c->in + 1, *y = c->out;
    const int64_t *p = c->param;
    int64_t spatial = p[0], group = p[1], transposed = p[14];
    if (spatial < 1 || spatial > 3) REFUSE_PARAM(0, spatial);
    if (!positive(p + 1, 10) || !bounded(p + 11, 3)) REFUSE_PARAM(1, group);
    if (x->rank != spatial + 2 || w->rank != spatial + 2 || y->rank != spatial + 2) REFUSE(1, x->rank, w->rank);
    if (x->dim[0] != y->dim[0]) REFUSE(0, x->dim[0], y->dim[0]);
    /* W is [M, C/group, kernel…]; transposed: [C, M/group, kernel…] */
    if (transposed ? w->dim[0] != x->dim[1] || w->dim[1] * group != y->dim[1] || x->dim[1] % group : w->dim[0] != y->dim[1] || w->dim[1] * group != x->dim[1] || y->dim[1] % group)
        REFUSE(1, w->dim[0], w->dim[1]);
    for (int i = 0; i < spatial; i++) if (w->dim[2 + i] != p[2 + i]) REFUSE(1, w->dim[2 + i], p[2 + i]);
    if (!products_fit(x, w) || (sx_compute_of(x->dtype) >= SX_I32 && !(is_byte(x) && is_byte(w)))) REFUSE_TYPE(1, x->dtype, w->dtype);
    for (int z = 0; z < 2; z++) {
        int64_t operand = p[15 + z];
        if (operand == -1) continue;
        if (operand < 2 || operand >= c->n_in || !zero_fits(c, (int)operand, z ? w : x, z && !transposed ? w->dim[0] : 1)) REFUSE_PARAM(15 + z, operand);
    }
    return 0;
}

static int check_pool(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    const int64_t *p = c->param;
    if (p[0] < 1 || p[0] > 3) REFUSE_PARAM(0, p[0]);
    if (p[1] < 0 || p[1] > 2) REFUSE_PARAM(1, p[1]);
    if (!positive(p + 2, 9) || !bounded(p + 11, 6)) REFUSE_PARAM(2, p[2]);
    if (x->rank != p[0] + 2 || y->rank != x->rank || x->dim[0] != y->dim[0] || x->dim[1] != y->dim[1]) REFUSE(0, x->rank, y->rank);
    int real = x->dtype == SX_FLOAT || x->dtype == SX_FLOAT16 || x->dtype == SX_BFLOAT16;
    if (x->dtype != y->dtype || (!real && (p[1] || !is_byte(x)))) REFUSE_TYPE(0, x->dtype, y->dtype);
    if (c->n_out > 1 && c->out[1].dtype && (!same_dims(y, c->out + 1) || c->out[1].dtype != SX_INT64)) REFUSE(1, c->out[1].rank, c->out[1].dtype);
    return 0;
}

static int check_reduce(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    int64_t op = c->param[0], axes = c->param[1];
    if (op < 0 || op > 6) REFUSE_PARAM(0, op);
    if (axes < 0 || axes >> x->rank) REFUSE_PARAM(1, axes);
    if (x->rank != y->rank) REFUSE(0, x->rank, y->rank);
    for (int d = 0; d < x->rank; d++) if (y->dim[d] != (axes >> d & 1 ? 1 : x->dim[d])) REFUSE(0, x->dim[d], y->dim[d]);
    if (op == 4 || op == 5) {
        if (!axes || axes & (axes - 1)) REFUSE_PARAM(1, axes);
        for (int d = 0; d < x->rank; d++) if (axes >> d & 1 && !x->dim[d]) REFUSE(0, 0, op);
    }
    int bad = 0, type = sx_compute_of(x->dtype);
    if (!leaves_fit(c->prologue, c, x, &bad)) REFUSE(bad, x->rank, 0);
    if (type < 0) REFUSE_TYPE(0, x->dtype, 0);
    if (!c->epilogue && sx_reduced_type(type, op) != sx_compute_of(y->dtype) && !c->prologue) REFUSE_TYPE(0, x->dtype, y->dtype);
    return 0;
}

static int check_softmax(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    if (c->param[0] < 0 || c->param[0] >= x->rank) REFUSE_PARAM(0, c->param[0]);
    if (c->param[1] < 0 || c->param[1] > 2) REFUSE_PARAM(1, c->param[1]);
    if (!same_dims(x, y) || (has(c, 1) && !same_dims(x, c->in + 1))) REFUSE(1, x->rank, y->rank);
    int type = sx_compute_of(x->dtype);
    if (type > SX_F64 || type < 0 || sx_compute_of(y->dtype) != type) REFUSE_TYPE(0, x->dtype, y->dtype);
    if (has(c, 1) && sx_compute_of(c->in[1].dtype) != type) REFUSE_TYPE(1, c->in[1].dtype, x->dtype);
    return 0;
}

static int check_norm(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in;
    int64_t mode = c->param[0], axis = c->param[1], groups = c->param[2];
    int type = sx_compute_of(x->dtype);
    if (mode < 0 || mode > 2) REFUSE_PARAM(0, mode);
    if (mode < 2 && (axis < 0 || axis >= x->rank)) REFUSE_PARAM(1, axis);
    if (mode == 2 && (x->rank < 2 || groups < 1 || x->dim[1] % groups)) REFUSE_PARAM(2, groups);
    if (type < 0 || type > SX_F64) REFUSE_TYPE(0, x->dtype, 0);
    for (int i = 1; i < 4; i++) {
        if (has(c, i) && !same_dims(x, c->in + i)) REFUSE(i, x->rank, c->in[i].rank);
        if (has(c, i) && sx_compute_of(c->in[i].dtype) != type) REFUSE_TYPE(i, c->in[i].dtype, x->dtype);
    }
    for (int i = 0; i < c->n_out; i++) {
        const sx_view *y = c->out + i;
        if (!y->dtype) continue;
        if (sx_compute_of(y->dtype) != type) REFUSE_TYPE(i, y->dtype, x->dtype);
        if (y->rank != x->rank) REFUSE(i, x->rank, y->rank);
        int statistic = i == 1 || i == 2;
        if (statistic && mode == 2) REFUSE(i, mode, 0);
        for (int d = 0; d < x->rank; d++) if (y->dim[d] != (statistic && d >= axis ? 1 : x->dim[d])) REFUSE(i, x->dim[d], y->dim[d]);
    }
    return 0;
}

/* Keys or values: what is new, what was there before and what is kept, one behind the other along axis 2. */
static int pieces_fit(const sx_call *c, int now, int past, int present) {
    const sx_view *v = c->in + now, *p = has(c, past) ? c->in + past : 0, *to = present < c->n_out && c->out[present].dtype ? c->out + present : 0;
    if (p && (p->rank != 4 || p->dtype != v->dtype || p->dim[0] != v->dim[0] || p->dim[1] != v->dim[1] || p->dim[3] != v->dim[3])) return 0;
    if (to && (to->rank != 4 || to->dtype != v->dtype || to->dim[0] != v->dim[0] || to->dim[1] != v->dim[1] || to->dim[3] != v->dim[3])) return 0;
    return !to || to->dim[2] == v->dim[2] + (p ? p->dim[2] : 0);
}

static int check_attention(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *q = c->in, *k = c->in + 1, *v = c->in + 2, *y = c->out;
    if (q->rank != 4 || k->rank != 4 || v->rank != 4 || y->rank != 4) REFUSE(0, q->rank, k->rank);
    if (k->dim[1] < 1 || q->dim[1] % k->dim[1] || k->dim[0] != q->dim[0] || k->dim[3] != q->dim[3]) REFUSE(1, q->dim[1], k->dim[1]);
    if (v->dim[0] != k->dim[0] || v->dim[1] != k->dim[1] || v->dim[2] != k->dim[2]) REFUSE(2, v->dim[2], k->dim[2]);
    if (y->dim[0] != q->dim[0] || y->dim[1] != q->dim[1] || y->dim[2] != q->dim[2] || y->dim[3] != v->dim[3]) REFUSE(0, y->dim[2], q->dim[2]);
    for (int i = 0; i < 3; i++) if (sx_compute_of(c->in[i].dtype) != SX_F32) REFUSE_TYPE(i, c->in[i].dtype, y->dtype);
    if (sx_compute_of(y->dtype) != SX_F32) REFUSE_TYPE(0, q->dtype, y->dtype);
    if (has(c, 4) != has(c, 5) || !pieces_fit(c, 1, 4, 1)) REFUSE(4, k->dim[1], k->dim[2]);
    if (!pieces_fit(c, 2, 5, 2) || (has(c, 4) && c->in[4].dim[2] != c->in[5].dim[2])) REFUSE(5, v->dim[1], v->dim[2]);
    int64_t keys = k->dim[2] + (has(c, 4) ? c->in[4].dim[2] : 0);
    if (has(c, 3) && (c->in[3].rank != 4 || c->in[3].dim[0] != q->dim[0] || c->in[3].dim[1] != q->dim[1] || c->in[3].dim[2] != q->dim[2] || c->in[3].dim[3] != keys)) REFUSE(3, c->in[3].rank, keys);
    return 0;
}

static int check_gather(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *i = c->in + 1, *y = c->out;
    int64_t axis = c->param[0], mode = c->param[1];
    if (mode < 0 || mode > 2) REFUSE_PARAM(1, mode);
    if (axis < 0 || axis >= x->rank) REFUSE_PARAM(0, axis);
    if (x->dtype != y->dtype) REFUSE_TYPE(0, x->dtype, y->dtype);
    if (i->dtype != SX_INT64 && i->dtype != SX_INT32) REFUSE_TYPE(1, i->dtype, 0);
    if (mode == 0) {
        if (y->rank != x->rank - 1 + i->rank) REFUSE(0, y->rank, x->rank);
        for (int d = 0; d < y->rank; d++) {
            int64_t want = d < axis ? x->dim[d] : d < axis + i->rank ? i->dim[d - axis] : x->dim[d - i->rank + 1];
            if (y->dim[d] != want) REFUSE(0, y->dim[d], want);
        }
    } else if (mode == 1) {
        if (!same_dims(i, y) || x->rank != y->rank) REFUSE(1, i->rank, y->rank);
        for (int d = 0; d < y->rank; d++) if (d != axis && y->dim[d] > x->dim[d]) REFUSE(0, y->dim[d], x->dim[d]);
    } else { /* batch dims `axis`, tuples in the last axis of the indices */
        if (i->rank < 1 || axis >= i->rank) REFUSE(1, i->rank, axis);
        int64_t tuple = i->dim[i->rank - 1];
        if (axis + tuple > x->rank || y->rank != i->rank - 1 + x->rank - axis - tuple) REFUSE(1, tuple, y->rank);
        for (int d = 0; d < axis; d++) if (x->dim[d] != i->dim[d]) REFUSE(1, x->dim[d], i->dim[d]);
        for (int d = 0; d < y->rank; d++) {
            int64_t want = d < i->rank - 1 ? i->dim[d] : x->dim[d - (i->rank - 1) + axis + tuple];
            if (y->dim[d] != want) REFUSE(0, y->dim[d], want);
        }
    }
    return 0;
}

static int check_copy(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    int64_t mode = c->param[0];
    if (mode < 0 || mode > 4) REFUSE_PARAM(0, mode);
    if (x->dtype != y->dtype || (has(c, 1) && c->in[1].dtype != x->dtype)) REFUSE_TYPE(0, x->dtype, y->dtype);
    if (has(c, 1)) for (int d = 0; d < c->in[1].rank; d++) if (c->in[1].dim[d] != 1) REFUSE(1, c->in[1].dim[d], 1);
    if (x->rank != y->rank || (mode == 0 && !same_dims(x, y))) REFUSE(0, x->rank, y->rank);
    for (int d = 0; d < x->rank; d++) {
        if (c->param[1 + d] < -((int64_t)1 << 46) || c->param[1 + d] > (int64_t)1 << 46) REFUSE_PARAM(1 + d, c->param[1 + d]);
        if (mode > 1 && !x->dim[d] && y->dim[d]) REFUSE(0, 0, y->dim[d]);
    }
    return 0;
}

int sx_check(const sx_call *c, int64_t step, sx_report *report) {
    for (int i = 0; i < c->n_out; i++)
        if (c->out[i].dtype && !injective(c->out + i)) return sx_say(report, SX_E_FORMAT, SX_R_STRIDE, step, i, 0, 0);
    int bad = 0;
    if (c->epilogue && !leaves_fit(c->epilogue, c, c->out, &bad)) REFUSE(bad, c->in[bad].rank, c->out->rank);
    switch (c->kind) {
    case SX_MAP:
        for (int i = 1; i < c->n_out; i++) if (!same_dims(c->out, c->out + i)) REFUSE(i, c->out->rank, c->out[i].rank);
        return 0;
    case SX_REDUCE: return check_reduce(c, step, report);
    case SX_MATMUL: return check_matmul(c, step, report);
    case SX_CONV: return check_conv(c, step, report);
    case SX_POOL: return check_pool(c, step, report);
    case SX_SOFTMAX: return check_softmax(c, step, report);
    case SX_NORM: return check_norm(c, step, report);
    case SX_ATTENTION: return check_attention(c, step, report);
    case SX_GATHER: return check_gather(c, step, report);
    case SX_COPY: return check_copy(c, step, report);
    default: return sx_check_data(c, step, report);
    }
}

/* The sizes core/model/packing.py computes: panels of 16 columns; one-byte elements in words of four along K; depthwise dense. */
int64_t sx_packed_bytes(int64_t packing, int item, const int64_t *dim, int rank, int64_t group) {
    if (rank < 1 || group < 1) return -1;
    int64_t all = 1, n, k;
    for (int d = 0; d < rank; d++) {
        if (dim[d] < 1 || __builtin_mul_overflow(all, dim[d], &all)) return -1;
    }
    switch (packing) {
    case 1: /* MATRIX: the view is [K, N] */
    case 2: /* MATRIX_T: the rows lie as columns; the view's dims are still the logical [K, N] */
        if (group != 1 || (rank != 2 && (rank != 3 || packing != 2))) return -1;
        k = dim[0], n = dim[1];
        if (rank == 3) n = dim[0], k = all / n; /* weights of 8 bits in blocks: [N, blocks, bytes] */
        break;
    case 5: /* NIBBLES: [N, blocks, bytes], words of four bytes */
        if (rank != 3 || group != 1 || item != 1 || (all / dim[0]) % 4) return -1;
        n = dim[0], k = all / n / 4, item = 4;
        break;
    case 6: /* SCALES: [N, blocks] */
        if (rank != 2 || group != 1) return -1;
        n = dim[0], k = dim[1];
        break;
    case 3:
        if (dim[0] % group) return -1;
        n = dim[0] / group, k = all / dim[0];
        break;
    case 4: return all * item;
    default: return -1;
    }
    if (k > (int64_t)1 << 46 || n > (int64_t)1 << 46) return -1;
    int64_t panels = (n + 15) / 16, depth = item == 1 ? (k + 3) / 4 * 4 : k, bytes;
    if (__builtin_mul_overflow(panels * 16, depth, &bytes) || __builtin_mul_overflow(bytes, group * item, &bytes)) return -1;
    return bytes;
}
