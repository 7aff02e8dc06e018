/* map.c: Map: a walk over positions in tiles, each given to the interpreter of expr.c.

   How to think
   - Axes are ordered by the output's strides, so that writes stream, and neighbours that every operand steps through alike become one. (Not where the expression asks for coordinates.)
   - A tile is a piece of the last axis, or several rows of it where it is short. */
#include "map_bytes.h"
#include "sx_rows.h"

#define WORK 131072 /* element operations a task should have at least */

typedef struct {
    const sx_call *call;
    const sx_code *code;
    int n_leaf, rank;                  /* rank of the merged space */
    int32_t leaf[SX_MAX_OPERANDS];     /* operands read by LEAF */
    int32_t axis[SX_RANK];             /* the axis of the iteration space a merged axis ends with */
    int64_t dim[SX_RANK];
    int64_t rows, cols, down, across, per, tiles; /* tile sizes, tiles along the last two axes, tiles a task */
    sx_bytes_form bytes;
} walk;

static int has_coordinates(const sx_code *code) {
    for (int i = 0; i < code->count; i++) if (code->words[i * SX_WORDS] == SX_OP_COORD) return 1;
    return 0;
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
    int order[SX_RANK], n = axes_by_stride(y, order);
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
    w->cols = sx_min64(cols, length);
    w->rows = sx_tile_rows(length, rows, cols);
    w->across = sx_ceil_div(cols, w->cols), w->down = sx_ceil_div(rows, w->rows);
    w->tiles = outer * w->down * w->across;
    int64_t elements = WORK / w->code->count;
    w->per = sx_ceil_div(elements < 4096 ? 4096 : elements, w->rows * w->cols);
}

static void run_task(void *arg, int64_t task, int worker) {
    (void)worker;
    const walk *w = arg;
    const sx_call *c = w->call;
    sx_tile t;
    t.call = c, t.code = w->code, t.acc.data = NULL;
    t.col_axis = w->axis[w->rank - 1], t.row_axis = w->rank > 1 ? w->axis[w->rank - 2] : -1;
    for (int d = 0; d < SX_RANK; d++) t.start[d] = 0;
    int64_t end = sx_min64(w->tiles, (task + 1) * w->per);
    for (int64_t tile = task * w->per; tile < end; tile++) {
        int64_t rest = tile / w->across, col = (tile - rest * w->across) * w->cols, outer = rest / w->down, row = (rest - outer * w->down) * w->rows;
        t.cols = sx_min64(w->cols, w->dim[w->rank - 1] - col);
        t.rows = w->rank > 1 ? sx_min64(w->rows, w->dim[w->rank - 2] - row) : 1;
        if (t.col_axis >= 0) t.start[t.col_axis] = col;
        if (t.row_axis >= 0) t.start[t.row_axis] = row;
        for (int d = w->rank - 3; d >= 0; d--) t.start[w->axis[d]] = outer % w->dim[d], outer /= w->dim[d];
        for (int i = 0; i < w->n_leaf; i++) sx_place_leaf(t.leaf + w->leaf[i], c->in + w->leaf[i], t.start, c->out->rank, t.row_axis, t.col_axis);
        for (int i = 0; i < c->n_out; i++) sx_place_leaf(t.out + i, c->out + i, t.start, c->out->rank, t.row_axis, t.col_axis);
        if (!w->bytes.form || !SX_NAME(sx_bytes_tile)(&w->bytes, &t)) sx_run_tile(&t);
    }
}

int64_t SX_NAME(sx_scratch_map)(const sx_call *call) {
    (void)call;
    return 0;
}

int SX_NAME(sx_k_map)(const sx_call *call) {
    walk w;
    w.call = call, w.code = call->epilogue, w.rank = 0;
    for (int d = 0; d < call->out->rank; d++) if (!call->out->dim[d]) return 0;
    SX_NAME(sx_bytes_form_of)(call, &w.bytes);
    w.n_leaf = sx_find_leaves(w.code, w.leaf);
    merge_axes(&w, has_coordinates(w.code));
    cut(&w);
    sx_tiles(call, sx_ceil_div(w.tiles, w.per), run_task, &w);
    return 0;
}
