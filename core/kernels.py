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
from dataclasses import dataclass


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
    #                  (21 is not used again: quantisation is Maps, alone or as prologues and epilogues of what makes and reads the numbers)
    TREES = 22       # TreeEnsemble and its older forms
    IF = 23          # choose a nested program by a scalar
    LOOP = 24        # Loop, Scan, SequenceMap over tensors: run a nested program, carry values, stack outputs
    CALL = 25        # run a nested program once (shared bodies)


#: Version of each kind's argument record in a stored program. A reader runs equal versions only.
VERSIONS: dict[Kernel, int] = {kind: 1 for kind in Kernel} | {Kernel.ATTENTION: 2}

#: There may be at most this many kinds (two levels, operators and kernels, and only two).
LIMIT = 28


@dataclass(frozen=True)
class Record:
    """What one kind is given: operand roles, then integer or float parameters in this order. A trailing `*` role takes any number (leaves of the epilogue).

    A parameter named with a count (`kernel[3]`) takes that many words; unused trailing ones are 1 (kernel, strides, dilations) or 0 (pads)."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...] = ()


#: Parameters that are floating-point numbers, stored as the bits of a double.
FLOATS = frozenset({"scale", "epsilon", "softcap", "p", "scales", "roi", "a", "extrapolation", "spatial_scale", "clip", "alpha", "beta"})


#: The records of the kinds in use. Dims of every operand are the logical ones, outputs broadcast nothing. Floats are stored as the bits of a double.
RECORDS: dict[Kernel, Record] = {
    # outputs have the iteration space's dims; each input view broadcasts to it; `epilogue` holds the expression, one result per output.
    Kernel.MAP: Record(("x*",), ("y*",)),
    # X[dims], Y has X's rank with 1 on reduced axes; op: 0 sum 1 product 2 min 3 max 4 argmin 5 argmax (Y int64) 6 mean. prologue: leaves → value; epilogue: acc → y.
    # `axes` is a bit mask. `last`: argmin/argmax prefer the last of equals. An empty reduction gives the identity.
    Kernel.REDUCE: Record(("x", "leaves*"), ("y",), ("op", "axes", "last")),
    # out[..., M, N] = sum over K of A[..., M, K] * B[..., K, N]; batch dims broadcast (stride 0). B plain or packed (then rank 2, [K, N]). Integer A and B accumulate in I32.
    # zero_a, zero_b: index among inputs of the zero points (scalars or per row of A / per column of B), -1 where absent. Epilogue leaves follow.
    # bits 4 or 8 (0: not so): weights in blocks. a[M, K]; b[N, blocks, bytes] holds K's elements in `bits` bits, low bits first, `block` of them with a scale and a zero point each.
    # block_scales: index among inputs of [N, blocks]; block_zeros: of uint8 [N, ⌈blocks · bits / 8⌉], packed as b, or of floats [N, blocks]; 0: absent, 2^(bits - 1) for all.
    # out = a · ((b - zero) · scale)ᵀ. level 4: each block of a may be rounded to 8 bits with a scale of its own. zero_a and zero_b are -1.
    Kernel.MATMUL: Record(("a", "b", "leaves*"), ("y",), ("zero_a", "zero_b", "bits", "block", "block_scales", "block_zeros", "level")),
    # X[N, C, spatial…] with channel stride 1, W packed (kh, kw, ci order) for [M, C/group, kernel…], Y[N, M, spatial…] with channel stride 1.
    Kernel.CONV: Record(("x", "w", "leaves*"), ("y",), ("spatial", "group", "kernel[3]", "strides[3]", "dilations[3]", "pads[3]", "transposed", "zero_x", "zero_w")),
    # X[N, C, spatial…], channel stride 1. op: 0 max 1 average 2 lp. count_include_pad as ONNX; end padding follows from Y's dims and `pads_end`.
    Kernel.POOL: Record(("x",), ("y", "indices?"), ("spatial", "op", "kernel[3]", "strides[3]", "dilations[3]", "pads[3]", "pads_end[3]", "count_include_pad", "p", "storage_order")),
    # Y = softmax over `axis` of (scale * X + mask); mode 0 softmax, 1 log-softmax, 2 hardmax. Mask broadcasts to X.
    Kernel.SOFTMAX: Record(("x", "mask?"), ("y",), ("axis", "mode", "scale")),
    # mode 0 layer norm (mean and variance over dims axis…), 1 RMS norm, 2 variance only per (N, group) for group/instance norm (`groups`). scale, bias broadcast to X. `skip`: X + skip is
    # normalised (and written to `sum` where wanted).
    Kernel.NORM: Record(("x", "scale?", "bias?", "skip?"), ("y", "mean?", "inverse?", "sum?"), ("mode", "axis", "groups", "epsilon")),
    # Q[B, H, S, D], K[B, Hk, T, D], V[B, Hk, T, Dv], Y[B, H, S, Dv]; mask[B, H, S, T] (bool: keep; float: added). causal: query s sees keys ≤ s + offset.
    # With past_k[B, Hk, P, D] and past_v[B, Hk, P, Dv] (both or none, of k's and v's types) keys and values are those and k's and v's behind them, T in all: present_k and present_v hold them.
    Kernel.ATTENTION: Record(("q", "k", "v", "mask?", "past_k?", "past_v?"), ("y", "present_k?", "present_v?"), ("scale", "softcap", "causal", "offset")),
    # Y = X[.., indices, ..] along `axis`; X[a…, n, b…], indices[i…], Y[a…, i…, b…]. Negative indices count from the end;
    # outside is an error. mode 0 Gather, 1 GatherElements, 2 GatherND (batch_dims in axis).
    Kernel.GATHER: Record(("x", "indices"), ("y",), ("axis", "mode")),
    # Y[i] = X[i - begin] inside, else by mode: 0 no padding (dims equal), 1 constant (`value` operand, absent: zero), 2 reflect, 3 edge, 4 wrap.
    Kernel.COPY: Record(("x", "value?"), ("y",), ("mode", "begin[8]")),
    # Running sums (op 0) or products (op 1) along `axis`, accumulated in the compute type of X; exclusive: without the element itself (the first is the identity); reverse: from the end.
    # op 2, linear attention: X is the queries [B, Hq, T, Dk], k [B, H, T, Dk], v [B, H, T, Dv], state [B, H, Dk, Dv] (absent: zero), decay [B, H, T, 1 or Dk], beta [B, 1 or H, T, 1]; Hq is a
    # multiple of H, consecutive query heads share one state S. In F32, for each t: S = S * exp(decay_t) (down the rows); u = v_t, with beta u = beta_t * (v_t - k_t S); S = S + k_t (outer) u;
    # y_t = scale * q_t S. Y [B, Hq, T, Dv], last [B, H, Dk, Dv] is the last S. axis 2, exclusive and reverse 0.
    Kernel.SCAN: Record(("x", "k?", "v?", "state?", "decay?", "beta?"), ("y", "last?"), ("axis", "exclusive", "reverse", "op", "scale")),
    # Y = X, then for every position of `updates`, in row-major order: Y[place] = updates, or combined with what is there. reduction: 0 none (the last of equal places wins) 1 add 2 multiply
    # 3 max 4 min. mode 0 (ScatterElements): indices and updates have equal dims; place is the position itself with its coordinate along `axis` replaced by the index. mode 1 (ScatterND): the
    # last axis of `indices` [i…, n] holds tuples for the first n axes of Y; updates [i…, Y's other dims]. Negative indices count from the end; outside is an error. X and Y may be the same memory.
    Kernel.SCATTER: Record(("x", "indices", "updates"), ("y",), ("axis", "mode", "reduction")),
    # Y is X sampled on another grid, axis by axis; axes of equal size with scales[i] 1 stay. mode 0 nearest 1 linear 2 cubic (coefficient `a`). coordinates: 0 half_pixel 1 half_pixel_symmetric
    # 2 pytorch_half_pixel 3 align_corners 4 asymmetric 5 tf_crop_and_resize. nearest: 0 round_prefer_floor 1 round_prefer_ceil 2 floor 3 ceil, asked in F32. scales[i] 0 means Y's size / X's.
    # roi: starts of the axes, then ends; used by coordinates 5, where positions outside X give `extrapolation`. Integers are rounded to even and saturate. Formulas: core/ops/resize.py.
    Kernel.RESIZE: Record(("x",), ("y",), ("mode", "coordinates", "nearest", "antialias", "exclude_outside", "scales[8]", "roi[16]", "a", "extrapolation")),
    # op 0 GridSample: X[N, C, in…], at grid[N, out…, spatial] (last axis x, y(, z) in [-1, 1]), Y[N, C, out…]. mode 0 linear 1 nearest 2 cubic; padding 0 zeros 1 border 2 reflection.
    # op 1 RoiAlign: at = rois[R, 4], batch = images[R] (int64), Y[R, C, h, w]; mode 0 average 1 maximum; coordinates 0 half_pixel 1 output_half_pixel; sampling_ratio 0: adaptive.
    # op 2 MaxRoiPool: at = rois[R, 5] (image first), Y[R, C, h, w]. Formulas: core/ops/sample.py, core/ops/pool.py.
    Kernel.SAMPLE: Record(("x", "at", "batch?"), ("y",), ("op", "mode", "padding", "align_corners", "coordinates", "sampling_ratio", "spatial_scale")),
    # The first Y.dim[axis] elements along `axis` in descending (largest 1) or ascending order, and where they were (int64); of equal ones the lower index first. NaN counts as largest.
    Kernel.SORT: Record(("x",), ("y", "indices"), ("axis", "largest")),
    # X[T, B, I], W[D, g*H, I], R[D, g*H, H], b[D, 2*g*H], lens[B] (int32), h[D, B, H], c[D, B, H], peephole[D, 3*H]; Y[T, D, B, H], last_h[D, B, H], last_c[D, B, H] (cell 0 only; absent otherwise).
    # cell 0 LSTM (gates i o f c) 1 GRU (z r h) 2 RNN; direction 0 forward 1 reverse 2 both (D = 2). activations: three (LSTM), two (GRU), one (RNN) for each direction, numbered as ACTIVATIONS,
    # with alpha and beta; clip 0: none. Where lens ends before T, Y is 0 from there on. Without w, X[T, B, D*g*H] holds the input's share of the gates already.
    # r_scale, r_zero [D*g*H'], H' = H rounded up to 16: cell 0 without w; R is then 8-bit [H, D*g*H'], each gate's columns padded to H'; the state of all sequences meets it quantised to uint8
    # (DynamicQuantizeLinear) at every step.
    Kernel.RNN: Record(("x", "w?", "r", "b?", "lens?", "h?", "c?", "peephole?", "r_scale?", "r_zero?"), ("y", "last_h", "last_c?"),
                       ("cell", "direction", "linear_before_reset", "input_forget", "clip", "activations[6]", "alpha[6]", "beta[6]")),
    # DFT along `axis` (not the last, which holds the real part, or real and imaginary). The signal is cut or zero-padded to `length`. inverse: divided by length. onesided: forward, of a real signal:
    # the first length // 2 + 1 bins; inverse: from such a half spectrum to a real signal (Y's last axis is 1).
    Kernel.FFT: Record(("x",), ("y",), ("axis", "length", "inverse", "onesided")),
    # Of square matrices X[…, n, n]. op 0: determinants, Y[…]. op 1: inverses, Y[…, n, n].
    Kernel.LINALG: Record(("x",), ("y",), ("op",)),
    # Y = alpha + beta * draw in F64 (F16, BF16, F32 outputs are rounded to F32 first). seed: int64[2], key and stream. Block b of four words is Philox4x32-10 of counter (b, stream) and key
    # (core/philox.py). Outputs up to F32: op 0 uniform, element i: (word i) >> 8, times 2^-24. op 1 normal, pair p of elements: words u = 2p, a = 2p + 1, both times 2^-32:
    # sqrt(-2 log(1 - u)) times cos and sin of 2 pi a. DOUBLE: in place of a word the upper 53 bits of two, first the high ones, times 2^-53.
    Kernel.RANDOM: Record(("seed",), ("y",), ("op", "alpha", "beta")),
    # What data count: Y has room for the most there can be, `count` (int64, one element) says how many there are, what lies beyond is not written. All outputs are int64.
    # op 0 NonZero: Y[elements of X, rank of X], places in row-major order. op 1 Unique: the rows X[i, …]; Y[n]: where each distinct row stands first, inverse[n]: of each row its place among them,
    # counts[n]: how often each occurs; in ascending order (`sorted`; NaN last, all NaN equal) or as they come. op 2 NonMaxSuppression: boxes X[B, N, 4], scores [B, C, N], limit (int64),
    # iou and threshold (float) of one element; Y[B * C * room, 3] of (batch, class, box), room ≥ min(N, limit); formulas: core/ops/sort.py; center: the operator's center_point_box.
    Kernel.COMPACT: Record(("x", "scores?", "limit?", "iou?", "threshold?"), ("y", "count", "inverse?", "counts?"), ("op", "sorted", "center")),
    # Each row of X[N, F] walks every tree to a leaf; Y[N, K] gathers the leaves' weights for K targets: aggregate 0 average 1 sum 2 min 3 max, tree by tree in Y's type; a target no leaf spoke
    # for is 0, and `has` (bool [N, K]) says which were spoken for. All operands but X are constants, checked when the program is bound.
    # nodes: int32 [n, 2] (X computed in F32) or int64 [n, 2] (F64): (bits of a float of that width, word). A node's test of x passes to node `child`, else to child + 1; child > the node's own number.
    # int32: x <= value; word = feature << shift | child, and with `general` bit 31: NaN passes. int64: word = feature << 36 | mode << 33 | nan << 32 | child; shift 0; without `general` mode and nan
    # are 0; mode 0: x <= value, 1: x == value, 2: x != value, 3: x is among `members` (float64, ascending) first … first + count - 1, the value's bits being count << 32 | first. nan: NaN passes.
    # feature: a place in `features` [U], which has columns of X; a leaf's is U, its child itself, its value's bits LEAF_BITS plus a number l. roots [T, 2]: first node, and levels below it (a hint).
    # Without `targets` the leaf's weights are weights[l] of [L, K]; with them (int32 [E], ~target ends a run) weights[E] and targets from l to the run's end; target K counts for nothing.
    Kernel.TREES: Record(("x", "nodes", "roots", "features", "weights", "targets?", "members?"), ("y", "has?"), ("aggregate", "shift", "general")),
}

#: What the value's bits of a leaf (TREES) hold above the leaf's number, for nodes of int32 and int64: so that they are the bits of a normal number.
LEAF_BITS = (1 << 29, 1 << 61)

#: Activation functions of RNN, by the number `activations` gives; alpha and beta as ONNX defines them.
ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus")
