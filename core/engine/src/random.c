/* random.c: uniform and normal draws by Philox4x32-10 (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the RANDOM record of core/kernels.py).

   How to think
   - Element i's words follow from i alone, so tiles are made in any order by any worker and are the same numbers.
   - A tile's blocks are mixed side by side (the compiler makes vectors of them), become doubles, and are stored row by row in the output's type.
   - The arithmetic is that of core/philox.py, in double, no products joined with sums; logarithm and angles are the engine's own, right to the last bits of a double. */
#include "sx_expr.h"
#include "sx_math.h"

#pragma clang fp contract(off)

#define BLOCKS 256               /* of four words, a tile */
#define MOST (4 * BLOCKS)        /* elements a tile may have */

typedef struct {
    const sx_call *call;
    int normal, wide;            /* wide: two words an element */
    int64_t total, per;
    double first, factor;
    uint32_t key[2], stream[2];
} plan;

/* The words of BLOCKS blocks from block `from` on. */
static void mix(const plan *p, int64_t from, uint32_t words[BLOCKS][4]) {
    uint32_t c[4][BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        uint64_t number = (uint64_t)from + (uint64_t)i;
        c[0][i] = (uint32_t)number, c[1][i] = (uint32_t)(number >> 32), c[2][i] = p->stream[0], c[3][i] = p->stream[1];
    }
    uint32_t k0 = p->key[0], k1 = p->key[1];
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < BLOCKS; i++) {
            uint64_t first = (uint64_t)0xD2511F53u * c[0][i], second = (uint64_t)0xCD9E8D57u * c[2][i];
            uint32_t c0 = (uint32_t)(second >> 32) ^ c[1][i] ^ k0, c2 = (uint32_t)(first >> 32) ^ c[3][i] ^ k1;
            c[0][i] = c0, c[1][i] = (uint32_t)second, c[2][i] = c2, c[3][i] = (uint32_t)first;
        }
    for (int i = 0; i < BLOCKS; i++) for (int j = 0; j < 4; j++) words[i][j] = c[j][i];
}

static double fraction(const uint32_t *w) { return (double)(((uint64_t)w[0] << 32 | w[1]) >> 11) * 0x1p-53; }

static void pair(double u, double turn, double *to) {
    double radius = __builtin_sqrt(-2 * sx_log_f64(1 - u)), angle = 2 * 3.14159265358979323846 * turn;
    to[0] = radius * sx_angle_near_f64(1, angle), to[1] = radius * sx_angle_near_f64(0, angle);
}

static void store(const plan *p, int64_t from, int64_t n, const double *made) {
    const sx_view *y = p->call->out;
    const int last = y->rank - 1;
    const int64_t row = y->rank ? y->dim[last] : 1, item = sx_element_bytes(y->dtype);
    float narrow[MOST];
    if (!p->wide) for (int64_t i = 0; i < n; i++) narrow[i] = (float)made[i];
    for (int64_t done = 0; done < n;) {
        int64_t rest = (from + done) / row, column = (from + done) % row, count = sx_min64(row - column, n - done), at = y->rank ? column * y->stride[last] : 0;
        for (int d = last - 1; d >= 0; d--) at += rest % y->dim[d] * y->stride[d], rest /= y->dim[d];
        sx_store_row(y->dtype, p->wide ? SX_F64 : SX_F32, y->data + at * item, y->rank ? y->stride[last] : 1, p->wide ? (const void *)(made + done) : (const void *)(narrow + done), count);
        done += count;
    }
}

static void task(void *arg, int64_t number, int worker) {
    (void)worker;
    const plan *p = arg;
    uint32_t words[BLOCKS][4];
    double made[MOST];
    const uint32_t *w = words[0];
    int64_t from = number * p->per, n = sx_min64(p->per, p->total - from);
    mix(p, number * BLOCKS, words);
    if (p->normal && p->wide) for (int64_t i = 0; i < n; i += 2) pair(fraction(w + 2 * i), fraction(w + 2 * i + 2), made + i);
    else if (p->normal) for (int64_t i = 0; i < n; i += 2) pair((double)w[i] * 0x1p-32, (double)w[i + 1] * 0x1p-32, made + i);
    else if (p->wide) for (int64_t i = 0; i < n; i++) made[i] = fraction(w + 2 * i);
    else for (int64_t i = 0; i < n; i++) made[i] = (double)(w[i] >> 8) * 0x1p-24;
    for (int64_t i = 0; i < n; i++) made[i] = p->first + p->factor * made[i];
    store(p, from, n, made);
}

int64_t SX_NAME(sx_scratch_random)(const sx_call *call) {
    (void)call;
    return 0;
}

int SX_NAME(sx_k_random)(const sx_call *call) {
    const sx_view *y = call->out, *seed = call->in;
    plan p = {.call = call, .normal = call->param[0] == 1, .wide = y->dtype == SX_DOUBLE, .total = 1, .first = sx_param_float(call->param[1]), .factor = sx_param_float(call->param[2])};
    uint64_t key = ((const uint64_t *)seed->data)[0], stream = ((const uint64_t *)seed->data)[seed->stride[0]];
    p.key[0] = (uint32_t)key, p.key[1] = (uint32_t)(key >> 32), p.stream[0] = (uint32_t)stream, p.stream[1] = (uint32_t)(stream >> 32);
    for (int d = 0; d < y->rank; d++) p.total *= y->dim[d];
    p.per = p.wide ? MOST / 2 : MOST;
    if (p.total) sx_tiles(call, (p.total + p.per - 1) / p.per, task, &p);
    return SX_OK;
}
