/* table.c: the kernels of one ISA. build.py defines SX_WITH_<family> for every family that exists. */
#include "sx_internal.h"

#define NAME_(x) #x
#define NAME(x) NAME_(x)
#define DECLARE(kind) int SX_NAME(sx_k_##kind)(const sx_call *call); int64_t SX_NAME(sx_scratch_##kind)(const sx_call *call);
#define ENTRY(kind) {SX_NAME(sx_k_##kind), SX_NAME(sx_scratch_##kind)}

DECLARE(map) DECLARE(copy)
#ifdef SX_WITH_reduce
DECLARE(reduce)
#endif
#ifdef SX_WITH_softmax
DECLARE(softmax)
#endif
#ifdef SX_WITH_norm
DECLARE(norm)
#endif
#ifdef SX_WITH_gather
DECLARE(gather)
#endif
#ifdef SX_WITH_matmul
DECLARE(matmul)
#endif
#ifdef SX_WITH_conv
DECLARE(conv)
#endif
#ifdef SX_WITH_pool
DECLARE(pool)
#endif
#ifdef SX_WITH_attention
DECLARE(attention)
#endif
#ifdef SX_WITH_scan
DECLARE(scan)
#endif
#ifdef SX_WITH_rnn
DECLARE(rnn)
#endif
#ifdef SX_WITH_scatter
DECLARE(scatter)
#endif
#ifdef SX_WITH_resize
DECLARE(resize)
#endif
#ifdef SX_WITH_sample
DECLARE(sample)
#endif
#ifdef SX_WITH_sort
DECLARE(sort)
#endif
#ifdef SX_WITH_fft
DECLARE(fft)
#endif
#ifdef SX_WITH_linalg
DECLARE(linalg)
#endif
#ifdef SX_WITH_trees
DECLARE(trees)
#endif
#ifdef SX_WITH_compact
DECLARE(compact)
#endif
#ifdef SX_WITH_random
DECLARE(random)
#endif

#ifdef SX_WITH_winograd
int SX_NAME(sx_conv_derives)(const sx_call *call);
int64_t SX_NAME(sx_conv_derived_bytes)(const sx_call *call, int packing);
void SX_NAME(sx_conv_derive)(const sx_call *call, int packing, void *derived);
#endif
#if defined(SX_WITH_gemm_bf16) && defined(__AVX512F__)
int SX_NAME(sx_bf16_used)(const sx_call *call);
int SX_NAME(sx_bf16_wanted)(const sx_call *call);
int64_t SX_NAME(sx_bf16_bytes)(const sx_call *call, int packing);
void SX_NAME(sx_bf16_derive)(const sx_call *call, int packing, void *derived);
#endif
#ifdef SX_WITH_gemm_int
int SX_NAME(sx_igemm_summed)(const sx_call *call);
void SX_NAME(sx_igemm_sums)(const sx_view *b, int32_t *to);
#endif

const sx_table SX_NAME(sx_table) = {NAME(SX_ISA), {
    [SX_MAP] = ENTRY(map), [SX_COPY] = ENTRY(copy),
#ifdef SX_WITH_reduce
    [SX_REDUCE] = ENTRY(reduce),
#endif
#ifdef SX_WITH_softmax
    [SX_SOFTMAX] = ENTRY(softmax),
#endif
#ifdef SX_WITH_norm
    [SX_NORM] = ENTRY(norm),
#endif
#ifdef SX_WITH_gather
    [SX_GATHER] = ENTRY(gather),
#endif
#ifdef SX_WITH_matmul
    [SX_MATMUL] = ENTRY(matmul),
#endif
#ifdef SX_WITH_conv
    [SX_CONV] = ENTRY(conv),
#endif
#ifdef SX_WITH_pool
    [SX_POOL] = ENTRY(pool),
#endif
#ifdef SX_WITH_attention
    [SX_ATTENTION] = ENTRY(attention),
#endif
#ifdef SX_WITH_scan
    [SX_SCAN] = ENTRY(scan),
#endif
#ifdef SX_WITH_rnn
    [SX_RNN] = ENTRY(rnn),
#endif
#ifdef SX_WITH_scatter
    [SX_SCATTER] = ENTRY(scatter),
#endif
#ifdef SX_WITH_resize
    [SX_RESIZE] = ENTRY(resize),
#endif
#ifdef SX_WITH_sample
    [SX_SAMPLE] = ENTRY(sample),
#endif
#ifdef SX_WITH_sort
    [SX_SORT] = ENTRY(sort),
#endif
#ifdef SX_WITH_fft
    [SX_FFT] = ENTRY(fft),
#endif
#ifdef SX_WITH_linalg
    [SX_LINALG] = ENTRY(linalg),
#endif
#ifdef SX_WITH_trees
    [SX_TREES] = ENTRY(trees),
#endif
#ifdef SX_WITH_compact
    [SX_COMPACT] = ENTRY(compact),
#endif
#ifdef SX_WITH_random
    [SX_RANDOM] = ENTRY(random),
#endif
},
#ifdef SX_WITH_winograd
    .derivation = {SX_NAME(sx_conv_derives), SX_NAME(sx_conv_derived_bytes), SX_NAME(sx_conv_derive)},
#endif
#ifdef SX_WITH_gemm_int
    .summing = {SX_NAME(sx_igemm_summed), SX_NAME(sx_igemm_sums)},
#endif
#if defined(SX_WITH_gemm_bf16) && defined(__AVX512F__)
    .words = {SX_NAME(sx_bf16_wanted), SX_NAME(sx_bf16_bytes), SX_NAME(sx_bf16_derive)}, .rounds = SX_NAME(sx_bf16_used),
#endif
};
