/* sample.c: GridSample, RoiAlign, MaxRoiPool. Formulas are those of core/ops/sample.py and core/ops/pool.py.

   How to think
   - GridSample and RoiAlign: for POINTS places at a time the corners (offset in X, weight) are listed once and used for all channels; each channel is read where neighbouring places lie together.
   - Places are computed in the type of the grid or the regions (halves in float), values in float for floats, else in double. Where rounding decides which element is taken, products are kept
     from being fused with sums, so that the decision is the reference's. */
#include "sx_expr.h"

#define POINTS 64
#define MOST ((int64_t)1 << 46)

enum { GRID, ALIGN, MAX_POOL };
enum { LINEAR, NEAREST, CUBIC };
enum { ZEROS, BORDER, REFLECTION };

typedef struct {
    const sx_call *call;
    int op, mode, padding, aligned, doubles, wide_places, spatial; /* doubles: values in double; wide_places: places in double */
    int64_t channels, places, tasks, corners, item;                /* places: of one image (GridSample) */
    int64_t ratio;
    double scale;
} plan;

static double value_at(const sx_view *v, int64_t at) {
    float f;
    const char *from = v->data + at * sx_element_bytes(v->dtype);
    switch (v->dtype) {
    case SX_FLOAT: return (double)*(const float *)from;
    case SX_DOUBLE: return *(const double *)from;
    case SX_INT64: return (double)*(const int64_t *)from;
    case SX_UINT64: return (double)*(const uint64_t *)from;
    case SX_UINT32: return (double)*(const uint32_t *)from;
    case SX_INT32: return (double)*(const int32_t *)from;
    case SX_FLOAT16: case SX_BFLOAT16: sx_load_row(v->dtype, SX_F32, &f, from, 1, 1); return (double)f;
    default: { int32_t i; sx_load_row(v->dtype, SX_I32, &i, from, 1, 1); return (double)i; }
    }
}

/* A result as NumPy's astype converts it: floats round, integers are cut (and wrap). */
static void put_value(const sx_view *v, int64_t at, double value) {
    char *to = v->data + at * sx_element_bytes(v->dtype);
    float f = (float)value;
    int64_t whole = value >= -0x1p63 && value < 0x1p63 ? (int64_t)value : INT64_MIN;
    int32_t narrow = (int32_t)whole;
    switch (v->dtype) {
    case SX_FLOAT: *(float *)to = f; return;
    case SX_DOUBLE: *(double *)to = value; return;
    case SX_UINT64: *(uint64_t *)to = value >= 0x1p63 && value < 0x1p64 ? (uint64_t)value : (uint64_t)whole; return;
    case SX_INT64: *(int64_t *)to = whole; return;
    case SX_UINT32: case SX_INT32: *(uint32_t *)to = (uint32_t)whole; return;
    case SX_FLOAT16: case SX_BFLOAT16: sx_store_row(v->dtype, SX_F32, to, 1, &f, 1); return;
    case SX_BOOL: *to = value != 0; return;
    default: sx_store_row(v->dtype, SX_I32, to, 1, &narrow, 1);
    }
}

/* One operation in the type places have; volatile keeps it from being fused. */
static double narrowed(const plan *p, double x) {
    volatile float f = (float)x;
    volatile double d = x;
    return p->wide_places ? d : (double)f;
}
/* Sums, products and quotients of two floats, computed in double and rounded once, are float's (Figueroa, "When is double rounding innocuous?", 1995). */
static double add(const plan *p, double a, double b) { return narrowed(p, a + b); }
static double multiply(const plan *p, double a, double b) { return narrowed(p, a * b); }
static double divide(const plan *p, double a, double b) { return narrowed(p, a / b); }

/* ---- GridSample ---- */

/* x folded back at both borders until it lies in [low, high]. */
static double reflect(const plan *p, double x, double low, double high) {
    double span = high - low, away = add(p, x, -low);
    if (span <= 0) return low;
    away = away < 0 ? -away : away;
    double turns = __builtin_floor(away / (2 * span));
    double rest = away - turns * (2 * span); /* exact enough: the quotient may be one off where it is whole */
    rest = rest < 0 ? rest + 2 * span : rest >= 2 * span ? rest - 2 * span : rest;
    rest = rest > span ? add(p, 2 * span, -rest) : rest;
    return add(p, low, rest);
}

/* The element of an axis at place x (whole); *inside: whether it counts. */
static int64_t element(const plan *p, double x, int64_t size, double low, double high, int *inside) {
    if (p->padding == ZEROS && !(x >= 0 && x < (double)size)) *inside = 0;
    if (p->padding == REFLECTION) x = __builtin_trunc(reflect(p, x, low, high));
    if (!(x > 0)) return 0; /* NaN too */
    return x >= (double)(size - 1) ? size - 1 : (int64_t)x;
}

/* Keys' cubic (IEEE TASSP 29, 1981). */
static double near_weight(double d) { return ((-0.75 + 2) * d - (-0.75 + 3)) * d * d + 1; }
static double far_weight(double d) { return ((-0.75 * d - 5 * -0.75) * d + 8 * -0.75) * d - 4 * -0.75; }

/* The taps of one axis at normalized place n: offsets and weights (0 outside). How many. */
static int taps_of(const plan *p, double n, int64_t size, int64_t stride, int64_t *offset, double *weight) {
    double last = (double)(size - 1), low = p->aligned ? 0 : -0.5, high = p->aligned ? last : last + 0.5, x;
    if (p->aligned) x = multiply(p, divide(p, add(p, n, 1), 2), last);
    else x = divide(p, add(p, multiply(p, add(p, n, 1), (double)size), -1), 2);
    if (p->mode == NEAREST) x = __builtin_rint(x);
    if (p->padding == BORDER && p->mode != CUBIC) x = x < 0 ? 0 : x > last ? last : x;
    else if (p->padding == REFLECTION) x = reflect(p, x, low, high);
    int count = p->mode == NEAREST ? 1 : p->mode == LINEAR ? 2 : 4, first = p->mode == CUBIC ? -1 : 0;
    double floor = p->mode == NEAREST ? __builtin_trunc(x) : __builtin_floor(x), t = add(p, x, -floor);
    for (int k = 0; k < count; k++) {
        int inside = 1;
        offset[k] = element(p, floor + first + k, size, low, high, &inside) * stride;
        double w = p->mode == NEAREST ? 1 : p->mode == LINEAR ? (k ? t : 1 - t) : k == 0 ? far_weight(t + 1) : k == 1 ? near_weight(t) : k == 2 ? near_weight(1 - t) : far_weight(2 - t);
        weight[k] = inside ? w : 0;
    }
    return count;
}

/* The corners of one place, corner c at [c · POINTS]: their product over the axes. */
static void corners_of(const plan *p, int64_t image, int64_t place, int64_t *offset, double *weight) {
    const sx_view *x = p->call->in, *grid = p->call->in + 1;
    int64_t at = image * grid->stride[0], count = 1;
    for (int d = p->spatial; d > 0; d--) at += place % grid->dim[d] * grid->stride[d], place /= grid->dim[d];
    offset[0] = 0, weight[0] = 1;
    for (int i = 0; i < p->spatial; i++) { /* the grid names the innermost axis first */
        int64_t o[4];
        double w[4];
        int taps = taps_of(p, value_at(grid, at + (p->spatial - 1 - i) * grid->stride[p->spatial + 1]), x->dim[2 + i], x->stride[2 + i], o, w);
        for (int64_t c = count - 1; c >= 0; c--)
            for (int k = taps - 1; k >= 0; k--) {
                int64_t made = (c * taps + k) * POINTS;
                offset[made] = offset[c * POINTS] + o[k], weight[made] = weight[c * POINTS] * w[k];
            }
        count *= taps;
    }
}

/* Σ weight · X[base + offset] over `n` corners. */
static double summed(const sx_view *v, int64_t base, const int64_t *offset, const double *weight, int64_t n) {
    double s[4] = {0};
    int64_t i = 0;
    if (v->dtype == SX_FLOAT) {
        const float *x = (const float *)v->data + base;
        for (; i + 4 <= n; i += 4) for (int k = 0; k < 4; k++) s[k] += weight[i + k] * (double)x[offset[i + k]];
    }
    for (; i < n; i++) s[0] += weight[i] * value_at(v, base + offset[i]);
    return (s[0] + s[1]) + (s[2] + s[3]);
}

static void take(const plan *p, int64_t from, int64_t to, int inside) {
    const sx_view *x = p->call->in, *y = p->call->out;
    const char zero[8] = {0};
    __builtin_memcpy(y->data + to * p->item, inside ? x->data + from * p->item : zero, (uint64_t)p->item);
}

static void lists(const plan *p, int worker, int64_t **offset, double **weight) {
    *offset = (int64_t *)(p->call->scratch + worker * p->call->scratch_bytes);
    *weight = (double *)(*offset + POINTS * p->corners);
}

/* One channel of `n` places of a float image: the weights in float, too. */
static void float_channel(const plan *p, const float *x, const int64_t *offset, const float *weight, int64_t n, float *y, const int64_t *to, int side_by_side) {
    float sum[POINTS] = {0};
    for (int64_t c = 0; c < p->corners; c++)
        for (int64_t i = 0; i < n; i++) sum[i] += weight[c * POINTS + i] * x[offset[c * POINTS + i]];
    if (side_by_side) for (int64_t i = 0; i < n; i++) y[to[0] + i] = sum[i];
    else for (int64_t i = 0; i < n; i++) y[to[i]] = sum[i];
}

static void grid_task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    const sx_view *x = p->call->in, *y = p->call->out;
    int64_t blocks = sx_ceil_div(p->places, POINTS), image = number / blocks, first = number % blocks * POINTS, n = sx_min64(POINTS, p->places - first), to[POINTS], *offset;
    double *weight;
    lists(p, worker, &offset, &weight);
    for (int64_t i = 0; i < n; i++) {
        int64_t rest = first + i;
        corners_of(p, image, rest, offset + i, weight + i);
        to[i] = image * y->stride[0];
        for (int d = p->spatial; d > 0; d--) to[i] += rest % y->dim[1 + d] * y->stride[1 + d], rest /= y->dim[1 + d];
    }
    int floats = x->dtype == SX_FLOAT && p->mode != NEAREST, side_by_side = 1;
    for (int64_t i = 0; i < n; i++) side_by_side &= to[i] == to[0] + i;
    float *narrow = (float *)weight; /* in place: number i is read before it is overwritten */
    for (int64_t i = 0; floats && i < p->corners * POINTS; i++) {
        float w = (float)weight[i];
        __builtin_memcpy(narrow + i, &w, 4);
    }
    for (int64_t c = 0; c < p->channels; c++) {
        int64_t base = image * x->stride[0] + c * x->stride[1], out = c * y->stride[1];
        if (floats) {
            float_channel(p, (const float *)x->data + base, offset, narrow, n, (float *)y->data + out, to, side_by_side);
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            double sum = 0;
            if (p->mode == NEAREST) take(p, base + offset[i], to[i] + out, weight[i] != 0);
            else {
                for (int64_t k = 0; k < p->corners; k++) sum += weight[k * POINTS + i] * value_at(x, base + offset[k * POINTS + i]);
                put_value(y, to[i] + out, sum);
            }
        }
    }
}

/* ---- RoiAlign ---- */

/* Sampling point y of an axis: its two neighbours and their weights; 0 where it does not count. */
static void neighbours(double y, int64_t size, int64_t *low, double *weight) {
    int counts = y >= -1 && y <= (double)size;
    y = y < 0 ? 0 : y > (double)(size - 1) ? (double)(size - 1) : y;
    low[0] = y == y ? sx_min64((int64_t)y, size - 1) : 0, low[1] = sx_min64(low[0] + 1, size - 1);
    double t = y - (double)low[0];
    weight[0] = counts ? 1 - t : 0, weight[1] = counts ? t : 0;
}

typedef struct { double start, step; int64_t grid; } axis_line;

static int line_of(const plan *p, double low, double high, int64_t bins, axis_line *l) {
    int half = p->call->param[4] == 0;
    double extent = add(p, high, -low);
    if (!half && !(extent >= 1) && extent == extent) extent = 1;
    l->start = low, l->step = divide(p, extent, (double)bins);
    double grid = p->ratio > 0 ? (double)p->ratio : __builtin_ceil(l->step);
    if (!(grid <= 1 << 20)) return 0; /* NaN, or a region of absurd size */
    l->grid = grid > 0 ? (int64_t)grid : 0;
    return 1;
}

static double point_of(const plan *p, const axis_line *l, int64_t bin, int64_t i) {
    double fine = divide(p, multiply(p, add(p, (double)i, 0.5), l->step), (double)sx_max64(l->grid, 1));
    return add(p, add(p, l->start, multiply(p, (double)bin, l->step)), fine);
}

/* All sampling points of one bin for all channels: POINTS at a time; `total` has a number for each channel. */
static void align_bin(const plan *p, int64_t image, const axis_line *rows, const axis_line *cols, int64_t by, int64_t bx, int64_t *offset, double *weight, double *total) {
    const sx_view *x = p->call->in;
    int64_t n = 0, points = rows->grid * cols->grid;
    int started = 0;
    for (int64_t c = 0; c < p->channels; c++) total[c] = 0;
    for (int64_t point = 0; point < points; point++) {
        int64_t y[2], z[2];
        double wy[2], wx[2];
        neighbours(point_of(p, rows, by, point / cols->grid), x->dim[2], y, wy);
        neighbours(point_of(p, cols, bx, point % cols->grid), x->dim[3], z, wx);
        for (int k = 0; k < 4; k++) offset[4 * n + k] = y[k / 2] * x->stride[2] + z[k % 2] * x->stride[3], weight[4 * n + k] = wy[k / 2] * wx[k % 2];
        if (++n < POINTS && point + 1 < points) continue;
        for (int64_t c = 0; c < p->channels; c++) {
            int64_t base = image * x->stride[0] + c * x->stride[1];
            if (p->mode == 0) total[c] += summed(x, base, offset, weight, 4 * n);
            else for (int64_t i = 0; i < 4 * n; i++) {
                double v = weight[i] * value_at(x, base + offset[i]);
                if ((!started && !i) || v > total[c] || v != v) total[c] = v;
            }
        }
        n = 0, started = 1;
    }
    if (p->mode == 0) for (int64_t c = 0; c < p->channels; c++) total[c] /= (double)sx_max64(points, 1);
}

static void align_task(void *arg, int64_t number, int worker) {
    const plan *p = arg;
    const sx_call *call = p->call;
    const sx_view *x = call->in, *at = call->in + 1, *images = call->in + 2, *y = call->out;
    int64_t by = number % y->dim[2], r = number / y->dim[2], image = ((const int64_t *)images->data)[r * images->stride[0]], *offset;
    double *weight, corner[4];
    if (image < 0 || image >= x->dim[0]) {
        sx_fail(call, SX_E_INDEX, 2, image, x->dim[0]);
        return;
    }
    lists(p, worker, &offset, &weight);
    double *total = weight + POINTS * p->corners;
    for (int k = 0; k < 4; k++) corner[k] = add(p, multiply(p, value_at(at, r * at->stride[0] + k * at->stride[1]), narrowed(p, p->scale)), call->param[4] == 0 ? -0.5 : 0);
    axis_line rows, cols;
    if (!line_of(p, corner[1], corner[3], y->dim[2], &rows) || !line_of(p, corner[0], corner[2], y->dim[3], &cols)) {
        sx_fail(call, SX_E_INDEX, 1, r, 1 << 20);
        return;
    }
    for (int64_t bx = 0; bx < y->dim[3]; bx++) {
        align_bin(p, image, &rows, &cols, by, bx, offset, weight, total);
        for (int64_t c = 0; c < p->channels; c++) put_value(y, r * y->stride[0] + c * y->stride[1] + by * y->stride[2] + bx * y->stride[3], total[c]);
    }
}

/* ---- MaxRoiPool ---- */

/* C's round. */
static double round_away(double x) { double r = __builtin_floor((x < 0 ? -x : x) + 0.5); return x < 0 ? -r : r; }

/* Elements of bin i of [start, stop], cut to the axis. */
static void bin_of(int64_t start, int64_t stop, int64_t bins, int64_t i, int64_t size, int64_t *low, int64_t *high) {
    volatile float width = (float)sx_max64(stop - start + 1, 1) / (float)bins, first = (float)i * width, last = (float)(i + 1) * width;
    *low = sx_max64(0, sx_min64(size, (int64_t)__builtin_floorf(first) + start)), *high = sx_max64(0, sx_min64(size, (int64_t)__builtin_ceilf(last) + start));
}

static void pool_task(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    const sx_call *call = p->call;
    const sx_view *x = call->in, *at = call->in + 1, *y = call->out;
    int64_t c = number % p->channels, r = number / p->channels, corner[4];
    double image = value_at(at, r * at->stride[0]);
    if (!(image > -1 && image < (double)x->dim[0])) {
        sx_fail(call, SX_E_INDEX, 1, image == image && image < 0x1p62 && image > -0x1p62 ? (int64_t)image : INT64_MIN, x->dim[0]);
        return;
    }
    for (int k = 0; k < 4; k++) {
        double v = multiply(p, value_at(at, r * at->stride[0] + (k + 1) * at->stride[1]), (double)(float)p->scale);
        v = round_away(p->wide_places ? v : (double)(float)v);
        if (!(v > -0x1p40 && v < 0x1p40)) {
            sx_fail(call, SX_E_INDEX, 1, r, (int64_t)1 << 40);
            return;
        }
        corner[k] = (int64_t)v;
    }
    for (int64_t by = 0; by < y->dim[2]; by++)
        for (int64_t bx = 0; bx < y->dim[3]; bx++) {
            int64_t y0, y1, x0, x1;
            bin_of(corner[1], corner[3], y->dim[2], by, x->dim[2], &y0, &y1);
            bin_of(corner[0], corner[2], y->dim[3], bx, x->dim[3], &x0, &x1);
            double best = 0;
            int any = 0;
            for (int64_t i = y0; i < y1; i++)
                for (int64_t j = x0; j < x1; j++) {
                    double v = value_at(x, (int64_t)image * x->stride[0] + c * x->stride[1] + i * x->stride[2] + j * x->stride[3]);
                    best = !any || v > best || v != v ? v : best, any = 1;
                    if (v != v) i = y1, j = x1;
                }
            put_value(y, r * y->stride[0] + c * y->stride[1] + by * y->stride[2] + bx * y->stride[3], best);
        }
}

/* ---- */

static plan plan_of(const sx_call *call) {
    const sx_view *x = call->in, *at = call->in + 1, *y = call->out;
    plan p = {.call = call, .op = (int)call->param[0], .mode = (int)call->param[1], .padding = (int)call->param[2], .aligned = call->param[3] != 0, .wide_places = at->dtype == SX_DOUBLE,
              .spatial = x->rank - 2, .channels = x->dim[1], .places = 1, .corners = 4, .item = sx_element_bytes(x->dtype), .ratio = call->param[5], .scale = sx_param_float(call->param[6])};
    if (p.op == GRID) {
        p.corners = 1;
        for (int i = 0; i < p.spatial; i++) p.corners *= p.mode == NEAREST ? 1 : p.mode == LINEAR ? 2 : 4, p.places *= y->dim[2 + i];
        p.tasks = x->dim[0] * sx_ceil_div(p.places, POINTS);
    } else p.tasks = at->dim[0] * (p.op == ALIGN ? y->dim[2] : p.channels);
    return p;
}

int64_t SX_NAME(sx_scratch_sample)(const sx_call *call) {
    plan p = plan_of(call);
    return POINTS * p.corners * 16 + (p.op == ALIGN ? sx_min64(p.channels, MOST / 16) * 8 : 0);
}

int SX_NAME(sx_k_sample)(const sx_call *call) {
    for (int d = 0; d < call->out->rank; d++) if (!call->out->dim[d]) return SX_OK;
    plan p = plan_of(call);
    sx_tiles(call, p.tasks, p.op == GRID ? grid_task : p.op == ALIGN ? align_task : pool_task, &p);
    return SX_OK;
}
