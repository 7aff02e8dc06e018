"""The kernel kinds: everything an executor may be asked to do. Frozen at format version 1; a new kind needs a reason and a new number.

How to think
- An operator is lowered **once**, to these kinds; executors (C engine, WGSL, the NumPy interpreter of Programs) implement kinds, never operators.
- A kind is device-neutral: no layout, tile size or weight packing is part of it. A device may run one kernel as several dispatches.
- A kernel has n inputs and n outputs, each a strided view of a buffer (so Concat, Split and Transpose often vanish), and may carry an *epilogue*:
  an elementwise expression run on a finished block while it is hot.
- The number is what a stored program says; (number, version) is checked when a program is opened. Numbers are never re-used.
"""
from __future__ import annotations

import enum


class Kernel(enum.IntEnum):
    """A kernel kind; the comment says which operators become it."""

    MAP = 1          # one fused elementwise expression over strided/broadcast views, with coord(axis) and bounds-checked load(buffer, index):
    #                  all arithmetic, activations, comparisons, Cast, Where, Range, EyeLike, Trilu, OneHot, index arithmetic
    REDUCE = 2       # sum, product, min, max, argmin/argmax, sum of squares, log-sum-exp over any axes, with prologue and epilogue expressions
    SCAN = 3         # CumSum, CumProd, linear recurrences (LinearAttention, CausalConvWithState)
    MATMUL = 4       # MatMul, Gemm, Einsum contractions, MatMulInteger, MatMulNBits, QLinearMatMul: batched, broadcast, packed right-hand side
    CONV = 5         # Conv, ConvTranspose, ConvInteger, QLinearConv; 1-D to 3-D, grouped, depthwise, dilated; Col2Im as its transpose
    POOL = 6         # MaxPool (with indices), AveragePool, LpPool, their global forms, MaxUnpool
    SOFTMAX = 7      # Softmax, LogSoftmax, Hardmax, with scale and mask as prologue
    NORM = 8         # LayerNormalization, RMSNormalization, GroupNormalization, InstanceNormalization, LpNormalization, LRN, the Skip… forms
    ATTENTION = 9    # Attention, MultiHeadAttention, GroupQueryAttention, FlexAttention; KV cache appended in place
    RNN = 10         # LSTM, GRU, RNN, DynamicQuantizeLSTM
    GATHER = 11      # Gather, GatherElements, GatherND, embedding look-up (block-quantised tables included)
    SCATTER = 12     # ScatterElements, ScatterND, TensorScatter, with a reduction
    COPY = 13        # strided move: Transpose, Slice, Pad, Concat, Split, Expand, Tile, DepthToSpace, layout changes
    RESIZE = 14      # Resize, all modes
    SAMPLE = 15      # GridSample, RoiAlign, MaxRoiPool, DeformConv's sampling, AffineGrid
    SORT = 16        # TopK, sorting for Unique
    COMPACT = 17     # NonZero, Compress, Unique, NonMaxSuppression: data plus a count that binds a new size
    RANDOM = 18      # RandomNormal/Uniform(Like), Bernoulli, Multinomial: Philox counters
    FFT = 19         # DFT, STFT
    LINALG = 20      # Det
    QUANTIZE = 21    # QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, per tensor, axis or block
    TREES = 22       # TreeEnsemble and its older forms, SVM kernels' support-vector sums
    IF = 23          # choose a nested program by a scalar
    LOOP = 24        # Loop, Scan, SequenceMap over tensors: run a nested program, carry values, stack outputs
    CALL = 25        # run a nested program once (shared bodies)


#: Version of each kind's argument record in a stored program. A reader runs equal versions only.
VERSIONS: dict[Kernel, int] = {kind: 1 for kind in Kernel}

#: There may be at most this many kinds (DESIGN.md, "Two levels, and only two").
LIMIT = 28
