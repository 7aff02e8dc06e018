/* conv_int.h: what conv_int.c and depthwise_int.c share. */
#ifndef SX_CONV_INT_H
#define SX_CONV_INT_H
#include "conv.h"
#include "gemm_int.h"

enum { SX_CONV_ZERO_X = 15, SX_CONV_ZERO_W = 16 }; /* parameters */

static inline const sx_view *sx_conv_zero(const sx_conv *v, int of_weights) {
    int64_t operand = v->call->param[of_weights ? SX_CONV_ZERO_W : SX_CONV_ZERO_X];
    return operand < 0 ? 0 : v->call->in + operand;
}
static inline int64_t sx_conv_zero_step(const sx_view *zero) { return zero && zero->rank == 1 && zero->dim[0] > 1 ? zero->stride[0] : 0; }

sx_requant SX_NAME(sx_conv_int_requant)(const sx_conv *v);
/* Finished sums of output pixels [row, row + rows) (counted through all images) and features [m, m + cols). */
void SX_NAME(sx_conv_int_finish)(const sx_conv *v, const sx_requant *q, int prepared, const int32_t *block, int64_t row, int64_t rows, int64_t m, int64_t cols, int64_t ld, const char *room);

int SX_NAME(sx_depthwise_int)(const sx_conv *v);
int64_t SX_NAME(sx_depthwise_int_scratch)(const sx_conv *v);
/* winograd_int.c: weights worth transforming (as sx_conv_derives), and convolutions with such. */
int SX_NAME(sx_conv_int_derives)(const sx_call *call);
int64_t SX_NAME(sx_conv_int_derived_bytes)(const sx_call *call);
void SX_NAME(sx_conv_int_derive)(const sx_call *call, void *derived);
int SX_NAME(sx_winograd_int)(const sx_conv *v);
int64_t SX_NAME(sx_winograd_int_scratch)(const sx_conv *v);
/* depthwise_vnni.c: 1 where it has done the convolution, in the caller's scratch of at least so many bytes. */
int64_t SX_NAME(sx_depthwise_vnni_scratch)(const sx_conv *v);
int SX_NAME(sx_depthwise_vnni)(const sx_conv *v, const sx_requant *q);
#endif
