/* check_data.c: the part of sx_check for scans, scatters, resizing, sampling, sorting, recurrent cells, transforms and small matrices. */
#include "sx_internal.h"
#include "sx_expr.h"

#define REFUSE(operand, a, b) return sx_say(report, SX_E_SHAPE, SX_R_DIMS, step, operand, a, b)
#define REFUSE_TYPE(operand, a, b) return sx_say(report, SX_E_DTYPE, SX_R_TYPE, step, operand, a, b)
#define REFUSE_PARAM(number, value) return sx_say(report, SX_E_FORMAT, SX_R_PARAM, step, number, value, 0)
#define ANY (-1) /* a size that is not looked at */

static int has(const sx_call *c, int operand) { return operand < c->n_in && c->in[operand].dtype != 0; }
static int gives(const sx_call *c, int output) { return output < c->n_out && c->out[output].dtype != 0; }
static int is_float(const sx_view *v) { return v->dtype && sx_compute_of(v->dtype) >= 0 && sx_compute_of(v->dtype) <= SX_F64; }

static int fits(const sx_view *v, int rank, const int64_t *dim) {
    if (v->rank != rank) return 0;
    for (int d = 0; d < rank; d++) if (dim[d] != ANY && v->dim[d] != dim[d]) return 0;
    return 1;
}

static int same_dims(const sx_view *a, const sx_view *b) { return fits(a, b->rank, b->dim); }

static int empty(const sx_view *v) {
    for (int d = 0; d < v->rank; d++) if (!v->dim[d]) return 1;
    return 0;
}

static int finite(int64_t word, double low, double high) {
    double value = sx_param_float(word);
    return value >= low && value <= high;
}

static int check_linear_attention(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *q = c->in, *y = c->out;
    if (!has(c, 1) || !has(c, 2)) REFUSE(1, c->n_in, 6);
    const sx_view *k = c->in + 1, *v = c->in + 2;
    if (k->rank != 4 || v->rank != 4) REFUSE(1, k->rank, v->rank);
    int64_t b = k->dim[0], h = k->dim[1], t = k->dim[2], dk = k->dim[3], dv = v->dim[3];
    if (!fits(v, 4, (int64_t[]){b, h, t, dv})) REFUSE(2, v->dim[1], h);
    if (!fits(q, 4, (int64_t[]){b, ANY, t, dk}) || (h ? q->dim[1] % h : q->dim[1])) REFUSE(0, q->dim[1], h);
    if (!fits(y, 4, (int64_t[]){b, q->dim[1], t, dv})) REFUSE(0, y->dim[1], q->dim[1]);
    if (has(c, 3) && !fits(c->in + 3, 4, (int64_t[]){b, h, dk, dv})) REFUSE(3, c->in[3].rank, 4);
    if (has(c, 4) && (!fits(c->in + 4, 4, (int64_t[]){b, h, t, ANY}) || (c->in[4].dim[3] != 1 && c->in[4].dim[3] != dk))) REFUSE(4, c->in[4].rank, 4);
    if (has(c, 5) && (!fits(c->in + 5, 4, (int64_t[]){b, ANY, t, 1}) || (c->in[5].dim[1] != 1 && c->in[5].dim[1] != h))) REFUSE(5, c->in[5].rank, 4);
    if (gives(c, 1) && !fits(c->out + 1, 4, (int64_t[]){b, h, dk, dv})) REFUSE(1, c->out[1].rank, 4);
    for (int i = 0; i < c->n_in; i++) if (has(c, i) && sx_compute_of(c->in[i].dtype) != SX_F32) REFUSE_TYPE(i, c->in[i].dtype, 0);
    for (int i = 0; i < c->n_out; i++) if (gives(c, i) && sx_compute_of(c->out[i].dtype) != SX_F32) REFUSE_TYPE(i, c->out[i].dtype, 0);
    return 0;
}

static int check_scan(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    if (c->param[3] < 0 || c->param[3] > 2) REFUSE_PARAM(3, c->param[3]);
    if (c->param[3] == 2) return check_linear_attention(c, step, report);
    if (c->param[0] < 0 || c->param[0] >= x->rank) REFUSE_PARAM(0, c->param[0]);
    if (!same_dims(x, y)) REFUSE(0, x->rank, y->rank);
    if (sx_compute_of(x->dtype) < 0 || sx_compute_of(x->dtype) != sx_compute_of(y->dtype)) REFUSE_TYPE(0, x->dtype, y->dtype);
    return 0;
}

static int check_scatter(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *i = c->in + 1, *u = c->in + 2, *y = c->out;
    int64_t axis = c->param[0], mode = c->param[1], reduction = c->param[2], dim[SX_RANK];
    if (mode < 0 || mode > 1) REFUSE_PARAM(1, mode);
    if (reduction < 0 || reduction > 4) REFUSE_PARAM(2, reduction);
    if (x->dtype != y->dtype || u->dtype != y->dtype) REFUSE_TYPE(2, u->dtype, y->dtype);
    if (i->dtype != SX_INT64 && i->dtype != SX_INT32) REFUSE_TYPE(1, i->dtype, 0);
    if (reduction && (sx_compute_of(x->dtype) < 0 || x->dtype > SX_BFLOAT16)) REFUSE_TYPE(0, x->dtype, 0);
    if (!same_dims(x, y)) REFUSE(0, x->rank, y->rank);
    if (mode == 0) {
        if (axis < 0 || axis >= x->rank) REFUSE_PARAM(0, axis);
        if (i->rank != x->rank || !same_dims(i, u)) REFUSE(1, i->rank, u->rank);
        for (int d = 0; d < x->rank; d++) if (d != axis && i->dim[d] > x->dim[d]) REFUSE(1, i->dim[d], x->dim[d]);
        return 0;
    }
    int64_t tuple = i->rank ? i->dim[i->rank - 1] : -1;
    int rank = i->rank - 1 + x->rank - (int)tuple;
    if (tuple < 0 || tuple > x->rank || rank > SX_RANK) REFUSE(1, tuple, x->rank);
    for (int d = 0; d < rank; d++) dim[d] = d < i->rank - 1 ? i->dim[d] : x->dim[d - (i->rank - 1) + tuple];
    if (!fits(u, rank, dim)) REFUSE(2, u->rank, rank);
    return 0;
}

static int check_resize(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    const int64_t most[5] = {2, 5, 3, 1, 1};
    for (int i = 0; i < 5; i++) if (c->param[i] < 0 || c->param[i] > most[i]) REFUSE_PARAM(i, c->param[i]);
    for (int i = 5; i < 13; i++) if (sx_param_float(c->param[i]) != 0 && !finite(c->param[i], 1e-6, 1e9)) REFUSE_PARAM(i, c->param[i]);
    for (int i = 13; i < 30; i++) if (!finite(c->param[i], -1e9, 1e9)) REFUSE_PARAM(i, c->param[i]);
    if (x->rank != y->rank) REFUSE(0, x->rank, y->rank);
    if (x->dtype != y->dtype || (c->param[0] && (sx_compute_of(x->dtype) < 0 || x->dtype > SX_BFLOAT16))) REFUSE_TYPE(0, x->dtype, y->dtype);
    for (int d = 0; d < x->rank; d++) if ((!x->dim[d] && y->dim[d]) || x->dim[d] > 1 << 30) REFUSE(0, x->dim[d], y->dim[d]);
    return 0;
}

static int check_sample(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *at = c->in + 1, *y = c->out;
    int64_t op = c->param[0], dim[SX_RANK];
    if (op < 0 || op > 2) REFUSE_PARAM(0, op);
    if (c->param[1] < 0 || c->param[1] > (op ? 1 : 2)) REFUSE_PARAM(1, c->param[1]);
    if (c->param[2] < 0 || c->param[2] > 2) REFUSE_PARAM(2, c->param[2]);
    if (c->param[5] > 1 << 20) REFUSE_PARAM(5, c->param[5]);
    if (!is_float(at)) REFUSE_TYPE(1, at->dtype, 0);
    if (x->dtype != y->dtype || (op ? !is_float(x) : sx_compute_of(x->dtype) < 0 || x->dtype > SX_BFLOAT16)) REFUSE_TYPE(0, x->dtype, y->dtype);
    if (x->rank < 3 || (op && x->rank != 4)) REFUSE(0, x->rank, 4);
    if (op == 0) {
        int r = x->rank - 2;
        if (y->rank != x->rank || at->rank != x->rank || at->dim[0] != x->dim[0] || at->dim[at->rank - 1] != r) REFUSE(1, at->rank, x->rank);
        dim[0] = x->dim[0], dim[1] = x->dim[1];
        for (int d = 0; d < r; d++) dim[2 + d] = at->dim[1 + d];
        if (!fits(y, x->rank, dim)) REFUSE(0, y->rank, x->rank);
    } else {
        if (at->rank != 2 || at->dim[1] != (op == 1 ? 4 : 5)) REFUSE(1, at->rank, 2);
        if (!fits(y, 4, (int64_t[]){at->dim[0], x->dim[1], ANY, ANY})) REFUSE(0, y->rank, 4);
        if (op == 1) {
            if (!has(c, 2) || !fits(c->in + 2, 1, at->dim)) REFUSE(2, at->dim[0], 0);
            if (c->in[2].dtype != SX_INT64) REFUSE_TYPE(2, c->in[2].dtype, SX_INT64);
        }
    }
    if (!empty(y)) for (int d = 2; d < x->rank; d++) if (!x->dim[d] && op < 2) REFUSE(0, 0, d);
    return 0;
}

static int check_sort(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    int64_t axis = c->param[0];
    if (axis < 0 || axis >= x->rank) REFUSE_PARAM(0, axis);
    if (x->rank != y->rank) REFUSE(0, x->rank, y->rank);
    for (int d = 0; d < x->rank; d++) if (d == axis ? y->dim[d] > x->dim[d] : y->dim[d] != x->dim[d]) REFUSE(0, y->dim[d], x->dim[d]);
    if (x->dim[axis] > (int64_t)1 << 32) REFUSE(0, x->dim[axis], (int64_t)1 << 32);
    if (x->dtype != y->dtype || sx_compute_of(x->dtype) < 0) REFUSE_TYPE(0, x->dtype, y->dtype);
    if (gives(c, 1) && c->out[1].dtype != SX_INT64) REFUSE_TYPE(1, c->out[1].dtype, SX_INT64);
    if (gives(c, 1) && !same_dims(y, c->out + 1)) REFUSE(1, y->rank, c->out[1].rank);
    return 0;
}

static int check_rnn(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *w = c->in + 1, *r = c->in + 2;
    int64_t kind = c->param[0], both = c->param[1] == 2 ? 2 : 1, gates = kind == 0 ? 4 : kind == 1 ? 3 : 1;
    if (kind < 0 || kind > 2) REFUSE_PARAM(0, kind);
    if (c->param[1] < 0 || c->param[1] > 2) REFUSE_PARAM(1, c->param[1]);
    for (int i = 5; i < 11; i++) if (c->param[i] < 0 || c->param[i] > 10) REFUSE_PARAM(i, c->param[i]);
    int bytes = has(c, 8) && has(c, 9);
    if (x->rank != 3 || r->rank != (bytes ? 2 : 3)) REFUSE(0, x->rank, r->rank);
    if (has(c, 8) != has(c, 9) || (bytes && kind)) REFUSE(8, kind, 0);
    int64_t t = x->dim[0], b = x->dim[1], h = r->dim[bytes ? 0 : 2], columns = (h + 15) / 16 * 16 * gates * both;
    if (has(c, 1) && !fits(w, 3, (int64_t[]){both, gates * h, x->dim[2]})) REFUSE(1, w->dim[1], gates * h);
    if (!has(c, 1) && x->dim[2] != both * gates * h) REFUSE(0, x->dim[2], both * gates * h);
    if (bytes) {
        if (r->dim[1] != columns || (r->packing && r->packing != 1)) REFUSE(2, r->dim[1], columns);
        if (r->dtype != SX_INT8 && r->dtype != SX_UINT8) REFUSE_TYPE(2, r->dtype, SX_INT8);
        if (!fits(c->in + 8, 1, &columns) || c->in[8].dtype != SX_FLOAT || c->in[8].stride[0] != 1) REFUSE(8, c->in[8].rank, 1);
        if (!fits(c->in + 9, 1, &columns) || c->in[9].dtype != r->dtype || c->in[9].stride[0] != 1) REFUSE(9, c->in[9].rank, 1);
        if (x->dtype == SX_DOUBLE || has(c, 1)) REFUSE(1, x->dtype, 0);
    } else {
        if (r->packing) REFUSE(2, r->packing, 0);
        if (!fits(r, 3, (int64_t[]){both, gates * h, h})) REFUSE(2, r->dim[1], gates * h);
    }
    const int64_t dims[8][3] = {{0}, {0}, {0}, {both, 2 * gates * h}, {b}, {both, b, h}, {both, b, h}, {both, 3 * h}};
    const int ranks[8] = {3, 3, 3, 2, 1, 3, 3, 2};
    for (int i = 3; i < 8; i++) if (has(c, i) && !fits(c->in + i, ranks[i], dims[i])) REFUSE(i, c->in[i].rank, ranks[i]);
    if (gives(c, 0) && !fits(c->out, 4, (int64_t[]){t, both, b, h})) REFUSE(0, c->out->rank, 4);
    for (int i = 1; i < 3; i++) if (gives(c, i) && !fits(c->out + i, 3, dims[5])) REFUSE(i, c->out[i].rank, 3);
    if (gives(c, 2) && kind) REFUSE(2, kind, 0);
    if (has(c, 4) && c->in[4].dtype != SX_INT32) REFUSE_TYPE(4, c->in[4].dtype, SX_INT32);
    int type = sx_compute_of(x->dtype);
    if (!is_float(x)) REFUSE_TYPE(0, x->dtype, 0);
    for (int i = 1; i < 8; i++) if (i != 4 && !(i == 2 && bytes) && has(c, i) && sx_compute_of(c->in[i].dtype) != type) REFUSE_TYPE(i, c->in[i].dtype, x->dtype);
    for (int i = 0; i < 3; i++) if (gives(c, i) && sx_compute_of(c->out[i].dtype) != type) REFUSE_TYPE(i, c->out[i].dtype, x->dtype);
    return 0;
}

static int check_fft(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    int64_t axis = c->param[0], length = c->param[1], inverse = c->param[2], half = c->param[3];
    if (x->rank < 2 || x->rank != y->rank) REFUSE(0, x->rank, y->rank);
    if (axis < 0 || axis >= x->rank - 1) REFUSE_PARAM(0, axis);
    if (length < 1 || length > (int64_t)1 << 32) REFUSE_PARAM(1, length);
    int64_t parts = x->dim[x->rank - 1];
    if (parts < 1 || parts > 2 || (half && !inverse && parts != 1)) REFUSE(0, parts, 1);
    for (int d = 0; d < x->rank; d++) {
        int64_t want = d == x->rank - 1 ? (half && inverse ? 1 : 2) : d == axis ? (half && !inverse ? length / 2 + 1 : length) : x->dim[d];
        if (y->dim[d] != want) REFUSE(0, y->dim[d], want);
    }
    if (!is_float(x) || sx_compute_of(x->dtype) != sx_compute_of(y->dtype)) REFUSE_TYPE(0, x->dtype, y->dtype);
    return 0;
}

static int check_linalg(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    int64_t op = c->param[0];
    if (op < 0 || op > 1) REFUSE_PARAM(0, op);
    if (x->rank < 2 || x->dim[x->rank - 1] != x->dim[x->rank - 2]) REFUSE(0, x->rank, 2);
    if (!fits(y, x->rank - (op ? 0 : 2), x->dim)) REFUSE(0, y->rank, x->rank);
    if (!is_float(x) || sx_compute_of(x->dtype) != sx_compute_of(y->dtype)) REFUSE_TYPE(0, x->dtype, y->dtype);
    return 0;
}

/* A constant table: dense, of this type. */
static int is_table(const sx_view *v, int dtype, int rank) {
    if (v->rank != rank || v->dtype != dtype || v->packing) return 0;
    for (int64_t d = rank - 1, step = 1; d >= 0; step *= v->dim[d--]) if (v->dim[d] > 1 && v->stride[d] != step) return 0;
    return empty(v) || v->data;
}

/* Every node leads on to later nodes, or is a leaf that names weights. Returns the number of a wrong one, -1 where there is none. */
static int64_t bad_node(const sx_call *c, int wide, int shift, int64_t used, int64_t entries) {
    const int64_t n = c->in[1].dim[0], members = has(c, 6) ? c->in[6].dim[0] : 0;
    for (int64_t i = 0; i < n; i++) {
        uint64_t value, word, child, feature, mode = 0;
        if (wide) {
            value = ((const uint64_t *)c->in[1].data)[2 * i], word = ((const uint64_t *)c->in[1].data)[2 * i + 1];
            child = word & 0xffffffffu, feature = word >> 36, mode = word >> 32 & 15;
        } else {
            value = ((const uint32_t *)c->in[1].data)[2 * i], word = ((const uint32_t *)c->in[1].data)[2 * i + 1];
            if (c->param[2]) word &= 0x7fffffffu;
            child = word & (((uint64_t)1 << shift) - 1), feature = word >> shift;
        }
        if (feature == (uint64_t)used) {
            uint64_t base = (uint64_t)1 << (wide ? 61 : 29);
            if (child != (uint64_t)i || mode || value < base || value - base >= (uint64_t)entries) return i;
            continue;
        }
        if (feature > (uint64_t)used || child <= (uint64_t)i || child + 1 >= (uint64_t)n || (mode && !c->param[2]) || mode > 7) return i;
        if (mode >> 1 == 3 && (value & 0xffffffffu) + (value >> 32) > (uint64_t)members) return i;
    }
    return -1;
}

static int check_trees(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *in = c->in, *y = c->out;
    int wide = in[1].dtype == SX_INT64, sparse = has(c, 5), shift = (int)c->param[1];
    if (c->param[0] < 0 || c->param[0] > 3) REFUSE_PARAM(0, c->param[0]);
    if (wide ? c->param[1] != 0 : c->param[1] < 1 || c->param[1] > 30) REFUSE_PARAM(1, c->param[1]);
    if (in[0].rank != 2 || y->rank != 2 || in[0].dim[0] != y->dim[0]) REFUSE(0, in[0].rank, 2);
    if (sx_compute_of(in[0].dtype) != (wide ? SX_F64 : SX_F32)) REFUSE_TYPE(0, in[0].dtype, in[1].dtype);
    if (y->dtype != in[4].dtype || (y->dtype != SX_FLOAT && y->dtype != SX_DOUBLE)) REFUSE_TYPE(4, in[4].dtype, y->dtype);
    if (gives(c, 1) && (c->out[1].dtype != SX_BOOL || !same_dims(y, c->out + 1))) REFUSE(1, c->out[1].rank, c->out[1].dtype);
    if (!is_table(in + 1, wide ? SX_INT64 : SX_INT32, 2) || in[1].dim[1] != 2 || in[1].dim[0] > 1 << 30) REFUSE(1, in[1].rank, 2);
    if (!is_table(in + 2, SX_INT32, 2) || in[2].dim[1] != 2) REFUSE(2, in[2].rank, 2);
    if (!is_table(in + 3, SX_INT32, 1) || in[3].dim[0] >= (wide ? 1 << 27 : 1 << 29)) REFUSE(3, in[3].rank, 1);
    if (!is_table(in + 4, y->dtype, sparse ? 1 : 2) || in[4].dim[0] > 1 << 29 || (!sparse && in[4].dim[1] != y->dim[1])) REFUSE(4, in[4].rank, 2);
    if (sparse && (!is_table(in + 5, SX_INT32, 1) || in[5].dim[0] != in[4].dim[0])) REFUSE(5, in[5].rank, 1);
    if (has(c, 6) && (!is_table(in + 6, SX_DOUBLE, 1) || in[6].dim[0] > 0x7fffffff)) REFUSE(6, in[6].rank, 1);
    const int64_t used = in[3].dim[0], entries = in[4].dim[0];
    for (int64_t t = 0; t < in[2].dim[0]; t++) {
        const int32_t *root = (const int32_t *)in[2].data + 2 * t;
        if (root[0] < 0 || root[0] >= in[1].dim[0] || root[1] < 0 || root[1] > 1 << 16) REFUSE(2, root[0], root[1]);
    }
    for (int64_t f = 0; f < used; f++) {
        int32_t column = ((const int32_t *)in[3].data)[f];
        if (column < 0 || column >= in[0].dim[1]) REFUSE(3, column, in[0].dim[1]);
    }
    for (int64_t e = 0; sparse && e < entries; e++) {
        int32_t t = ((const int32_t *)in[5].data)[e];
        if ((t < 0 ? ~t : t) > y->dim[1] || (e == entries - 1 && t >= 0)) REFUSE(5, t, y->dim[1]);
    }
    int64_t bad = bad_node(c, wide, shift, used, entries);
    if (bad >= 0) REFUSE(1, bad, in[1].dim[0]);
    return 0;
}

static int is_one(const sx_call *c, int i, int dtype) { return !has(c, i) || (c->in[i].dtype == dtype && (c->in[i].rank == 0 || (c->in[i].rank == 1 && c->in[i].dim[0] == 1))); }

static int check_compact(const sx_call *c, int64_t step, sx_report *report) {
    const sx_view *x = c->in, *y = c->out;
    int64_t op = c->param[0], n = 1;
    if (op < 0 || op > 2) REFUSE_PARAM(0, op);
    for (int i = 0; i < c->n_out; i++) if (gives(c, i) && c->out[i].dtype != SX_INT64) REFUSE_TYPE(i, c->out[i].dtype, SX_INT64);
    if (c->out[1].rank > 1 || (c->out[1].rank && c->out[1].dim[0] != 1)) REFUSE(1, c->out[1].rank, 0);
    if (op < 2 && (sx_compute_of(x->dtype) < 0)) REFUSE_TYPE(0, x->dtype, 0);
    if (op == 0) {
        for (int d = 0; d < x->rank; d++) n *= x->dim[d];
        if (!fits(y, 2, (int64_t[]){n, x->rank})) REFUSE(0, y->dim[0], n);
    } else if (op == 1) {
        if (x->rank < 1 || !fits(y, 1, x->dim)) REFUSE(0, y->rank, 1);
        for (int i = 2; i < 4; i++) if (gives(c, i) && !fits(c->out + i, 1, x->dim)) REFUSE(i, c->out[i].rank, 1);
    } else {
        if (!has(c, 1) || x->rank != 3 || c->in[1].rank != 3) REFUSE(1, x->rank, 3);
        const sx_view *s = c->in + 1;
        if (x->dim[0] != s->dim[0] || x->dim[1] != s->dim[2] || x->dim[2] != 4 || s->dim[2] > 0xffffffff) REFUSE(1, x->dim[1], s->dim[2]);
        if (x->dtype != SX_FLOAT || s->dtype != SX_FLOAT) REFUSE_TYPE(0, x->dtype, s->dtype);
        if (!is_one(c, 2, SX_INT64) || !is_one(c, 3, SX_FLOAT) || !is_one(c, 4, SX_FLOAT)) REFUSE_TYPE(2, 0, 0);
        n = s->dim[0] * s->dim[1];
        if (y->rank != 2 || y->dim[1] != 3 || (n ? y->dim[0] % n : y->dim[0])) REFUSE(0, y->dim[0], n);
    }
    return 0;
}

static int check_random(const sx_call *c, int64_t step, sx_report *report) {
    if (c->param[0] < 0 || c->param[0] > 1) REFUSE_PARAM(0, c->param[0]);
    if (c->in[0].dtype != SX_INT64 || !fits(c->in, 1, (int64_t[]){2})) REFUSE(0, c->in[0].rank, 1);
    if (!is_float(c->out)) REFUSE_TYPE(0, c->out->dtype, SX_FLOAT);
    return 0;
}

int sx_check_data(const sx_call *c, int64_t step, sx_report *report) {
    switch (c->kind) {
    case SX_SCAN: return check_scan(c, step, report);
    case SX_SCATTER: return check_scatter(c, step, report);
    case SX_RESIZE: return check_resize(c, step, report);
    case SX_SAMPLE: return check_sample(c, step, report);
    case SX_SORT: return check_sort(c, step, report);
    case SX_RNN: return check_rnn(c, step, report);
    case SX_FFT: return check_fft(c, step, report);
    case SX_LINALG: return check_linalg(c, step, report);
    case SX_RANDOM: return check_random(c, step, report);
    case SX_COMPACT: return check_compact(c, step, report);
    case SX_TREES: return check_trees(c, step, report);
    default: return sx_say(report, SX_E_UNSUPPORTED, SX_R_KERNEL, step, -1, c->kind, 0);
    }
}
