/* simplify.c: bound calls in fewer axes, once a bind. A product whose right-hand side is the same for all of a batch is one product of all its rows: one reading of B instead of one each.

   The batch axes of Y join its rows where they do in A, Y and every leaf of the epilogue alike (strides continue each other, or are 0 throughout). Operands that say something about
   rows by number (zero points of A) forbid it. */
#include "sx_internal.h"
#include "sx_expr.h"

/* Whether an epilogue asks where it is. */
static int asks_place(const sx_code *code) {
    for (int i = 0; code && i < code->count; i++) {
        int op = code->words[i * SX_WORDS];
        if (op == SX_OP_COORD || op == SX_OP_LOAD) return 1;
    }
    return 0;
}

/* Step of the joined axes 0 … r - 2 of a view with Y's dims or 1; 0 in *good where they do not continue each other. */
static int64_t joined(const sx_view *v, const sx_view *y, int *good) {
    int r = y->rank;
    int64_t step = v->stride[r - 2], inner = 0;
    int any = 0;
    for (int d = r - 2; d >= 0; d--) {
        if (y->dim[d] == 1) continue;
        int64_t s = v->dim[d] == 1 ? 0 : v->stride[d];
        if (!any) step = s;
        else if (s != inner) *good = 0;
        any = 1;
        if (__builtin_mul_overflow(s, y->dim[d], &inner)) *good = 0;
    }
    return step;
}

static void join(sx_view *v, int64_t rows, int64_t step, int r) {
    *v = (sx_view){.data = v->data, .dim = {rows, v->dim[r - 1]}, .stride = {step, v->stride[r - 1]}, .rank = 2, .dtype = v->dtype, .packing = v->packing, .extent = v->extent};
}

void sx_simplify(sx_call *call) {
    if (call->kind != SX_MATMUL || call->out->rank < 3 || call->param[2]) return;
    sx_view *in = (sx_view *)(uintptr_t)call->in, *y = (sx_view *)(uintptr_t)call->out, *b = in + 1;
    int r = y->rank, good = in->rank == r && !asks_place(call->epilogue);
    int64_t rows = 1, step[SX_MAX_OPERANDS], across = joined(y, y, &good);
    for (int d = 0; d < r - 1; d++) {
        if (!y->dim[d] || __builtin_mul_overflow(rows, y->dim[d], &rows)) return;
    }
    for (int d = 0; d < b->rank - 2; d++) good &= b->dim[d] == 1 || b->stride[d] == 0;
    if (call->param[0] >= 0 && in[call->param[0]].rank && in[call->param[0]].dim[0] != 1) good = 0;
    for (int j = 0; good && j < call->n_in; j++) {
        if (j == 1 || in[j].rank != r || !in[j].dtype || j == call->param[0] || j == call->param[1]) continue;
        step[j] = joined(in + j, y, &good);
    }
    if (!good) return;
    for (int j = 0; j < call->n_in; j++) {
        if (j == 1 || in[j].rank != r || !in[j].dtype || j == call->param[0] || j == call->param[1]) continue;
        join(in + j, rows, step[j], r);
    }
    if (b->rank > 2) {
        int q = b->rank;
        *b = (sx_view){.data = b->data, .dim = {b->dim[q - 2], b->dim[q - 1]}, .stride = {b->stride[q - 2], b->stride[q - 1]}, .rank = 2, .dtype = b->dtype, .packing = b->packing, .extent = b->extent};
    }
    join(y, rows, across, r);
}
