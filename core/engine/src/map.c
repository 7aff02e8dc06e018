/* map.c: Map, and the epilogues of other kernels (sx_finish): a walk over positions in tiles, each given to the interpreter of expr.c.

   How to think
   - Axes are ordered by the output's strides, so that writes stream, and neighbours that every operand steps through alike become one. (Not where the expression asks for coordinates.)
   - A tile is a piece of the last axis, or several rows of it where it is short. */
#include "sx_expr.h"

#define WORK 131072 /* element operations a task should have at least */
#define WIDE 128    /* columns from which one row alone is a tile */

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t magnitude(int64_t a) { return a < 0 ? -a : a; }

typedef struct {
    const sx_call *call;
    const sx_code *code;
    int n_leaf, rank;                  /* rank of the merged space */
    int32_t leaf[SX_MAX_OPERANDS];     /* operands read by LEAF */
    int32_t axis[SX_RANK];             /* the axis of the iteration space a merged axis ends with */
    int64_t dim[SX_RANK];
    int64_t rows, cols, down, across, per, tiles; /* tile sizes, tiles along the last two axes, tiles a task */
} walk;

static int find_leaves(walk *w) {
    int coordinates = 0;
    uint64_t seen = 0;
    for (int i = 0; i < w->code->count; i++) {
        const int32_t *c = w->code->words + i * SX_WORDS;
        coordinates |= c[0] == SX_OP_COORD;
        int operand = w->code->first_leaf + c[3];
        if (c[0] == SX_OP_LEAF && !(seen >> operand & 1)) seen |= (uint64_t)1 << operand, w->leaf[w->n_leaf++] = operand;
    }
    return coordinates;
}

/* Whether every operand steps from `outer` to `inner` as if they were one axis. */
static int joins(const walk *w, int outer, int inner) {
    const sx_call *c = w->call;
    int64_t n = c->out->dim[inner];
    for (int i = 0; i < c->n_out; i++) if (c->out[i].stride[outer] != c->out[i].stride[inner] * n) return 0;
    for (int i = 0; i < w->n_leaf; i++) if (c->in[w->leaf[i]].stride[outer] != c->in[w->leaf[i]].stride[inner] * n) return 0;
    return 1;
}

static void merge_axes(walk *w, int coordinates) {
    const sx_view *y = w->call->out;
    int order[SX_RANK], n = 0;
    for (int d = 0; d < y->rank; d++) if (y->dim[d] != 1) {
        int at = n++;
        for (; at > 0 && magnitude(y->stride[order[at - 1]]) < magnitude(y->stride[d]); at--) order[at] = order[at - 1];
        order[at] = d;
    }
    for (int i = 0; i < n; i++) {
        int d = order[i];
        if (i && !coordinates && joins(w, w->axis[w->rank - 1], d)) w->dim[w->rank - 1] *= y->dim[d], w->axis[w->rank - 1] = d;
        else w->dim[w->rank] = y->dim[d], w->axis[w->rank++] = d;
    }
    if (!w->rank) w->dim[0] = 1, w->axis[0] = -1, w->rank = 1;
}

static void cut(walk *w) {
    int64_t length = sx_tile_length(w->code), cols = w->dim[w->rank - 1], rows = w->rank > 1 ? w->dim[w->rank - 2] : 1, outer = 1;
    for (int d = 0; d < w->rank - 2; d++) outer *= w->dim[d];
    w->cols = min64(cols, length);
    w->rows = cols >= WIDE || cols > length ? 1 : min64(rows, length / cols);
    w->across = up(cols, w->cols), w->down = up(rows, w->rows);
    w->tiles = outer * w->down * w->across;
    int64_t elements = WORK / w->code->count;
    w->per = up(elements < 4096 ? 4096 : elements, w->rows * w->cols);
}

static int64_t stride_of(const sx_view *v, int axis) { return axis < 0 ? 0 : v->stride[axis]; }

static void place_leaf(sx_leaf *leaf, const sx_view *v, const int64_t *start, int rank, int row_axis, int col_axis) {
    int64_t at = 0;
    for (int d = 0; d < rank; d++) at += start[d] * v->stride[d];
    *leaf = (sx_leaf){v->data + at * sx_element_bytes(v->dtype), stride_of(v, row_axis), stride_of(v, col_axis), v->dtype};
}

static void run_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const walk *w = arg;
    const sx_call *c = w->call;
    sx_tile t;
    t.call = c, t.code = w->code, t.acc.data = NULL;
    t.col_axis = w->axis[w->rank - 1], t.row_axis = w->rank > 1 ? w->axis[w->rank - 2] : -1;
    for (int d = 0; d < SX_RANK; d++) t.start[d] = 0;
    int64_t end = min64(w->tiles, (task + 1) * w->per);
    for (int64_t tile = task * w->per; tile < end; tile++) {
        int64_t rest = tile / w->across, col = (tile - rest * w->across) * w->cols, outer = rest / w->down, row = (rest - outer * w->down) * w->rows;
        t.cols = min64(w->cols, w->dim[w->rank - 1] - col);
        t.rows = w->rank > 1 ? min64(w->rows, w->dim[w->rank - 2] - row) : 1;
        if (t.col_axis >= 0) t.start[t.col_axis] = col;
        if (t.row_axis >= 0) t.start[t.row_axis] = row;
        for (int d = w->rank - 3; d >= 0; d--) t.start[w->axis[d]] = outer % w->dim[d], outer /= w->dim[d];
        for (int i = 0; i < w->n_leaf; i++) place_leaf(t.leaf + w->leaf[i], c->in + w->leaf[i], t.start, c->out->rank, t.row_axis, t.col_axis);
        for (int i = 0; i < c->n_out; i++) place_leaf(t.out + i, c->out + i, t.start, c->out->rank, t.row_axis, t.col_axis);
        sx_run_tile(&t);
    }
}

int64_t SX_NAME(sx_scratch_map)(const sx_call *call) {
    (void)call;
    return 0;
}

int SX_NAME(sx_k_map)(const sx_call *call) {
    walk w = {.call = call, .code = call->epilogue};
    for (int d = 0; d < call->out->rank; d++) if (!call->out->dim[d]) return 0;
    merge_axes(&w, find_leaves(&w));
    cut(&w);
    sx_for(call, up(w.tiles, w.per), run_task, &w);
    return 0;
}

/* -- epilogues ------------------------------------------------------------------------------------------------------------------------------------------------- */

void sx_finish(const sx_call *call, const void *block, int acc_type, int64_t rows, int64_t cols, int64_t ld, const int64_t *start, int row_axis, int col_axis) {
    if (rows <= 0 || cols <= 0) return;
    const sx_view *y = call->out;
    sx_leaf out, from = {block, ld, 1, sx_native_dtype(acc_type)};
    int64_t wide = sx_compute_bytes(acc_type), item = sx_element_bytes(y->dtype);
    place_leaf(&out, y, start, y->rank, row_axis, col_axis);
    if (!call->epilogue) {
        for (int64_t r = 0; r < rows; r++)
            sx_store_row(y->dtype, acc_type, (char *)(uintptr_t)out.data + r * out.row * item, out.col, from.data + r * ld * wide, cols);
        return;
    }
    walk w = {.call = call, .code = call->epilogue};
    find_leaves(&w);
    sx_tile t;
    sx_leaf leaf[SX_MAX_OPERANDS];
    t.call = call, t.code = w.code, t.row_axis = row_axis, t.col_axis = col_axis;
    for (int d = 0; d < y->rank; d++) t.start[d] = start[d];
    for (int i = 0; i < w.n_leaf; i++) place_leaf(leaf + i, call->in + w.leaf[i], start, y->rank, row_axis, col_axis);
    int64_t length = sx_tile_length(w.code), tall = cols >= WIDE || cols > length ? 1 : min64(rows, length / cols);
    for (int64_t r = 0; r < rows; r += tall)
        for (int64_t c = 0; c < cols; c += length) {
            t.rows = min64(tall, rows - r), t.cols = min64(length, cols - c);
            if (row_axis >= 0) t.start[row_axis] = start[row_axis] + r;
            if (col_axis >= 0) t.start[col_axis] = start[col_axis] + c;
            t.acc = (sx_leaf){from.data + (r * ld + c) * wide, ld, 1, from.dtype};
            t.out[0] = (sx_leaf){out.data + (r * out.row + c * out.col) * item, out.row, out.col, y->dtype};
            for (int i = 0; i < w.n_leaf; i++)
                t.leaf[w.leaf[i]] = (sx_leaf){leaf[i].data + (r * leaf[i].row + c * leaf[i].col) * sx_element_bytes(leaf[i].dtype), leaf[i].row, leaf[i].col, leaf[i].dtype};
            sx_run_tile(&t);
        }
}
