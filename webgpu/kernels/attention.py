"""Attention as three dispatches over one block of scores: Q times K transposed (scaled, capped, masked), a softmax of rows, times V."""
from __future__ import annotations

from ...dim import Dim
from ...expr import Compute, E, Op, binary, const, coord, leaf, select, unary
from ...kernels import Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.shader import Built, Context
from ..wgsl.space import Operand, Temporary
from .base import Step, kernel
from .map import temporary_map
from .matmul import matmul
from .rows import softmax_of


@kernel(Kernel.ATTENTION)
def attention(step: Step, context: Context) -> list[Built]:
    """See the ATTENTION record. Query heads are split in (key heads, repeats), so that grouped queries are a broadcast."""
    q, k, v, mask, out = step.there(0), step.there(1), step.there(2), step.input(3), step.output()
    heads, shared = q.dims[1], k.dims[1]
    if not isinstance(heads, int) or not isinstance(shared, int):
        raise CannotLower("attention whose number of heads only the run knows")
    if any(o.dtype is not DType.FLOAT and not o.dtype.is_float for o in (q, k, v)):
        raise CannotLower("attention of integers")
    repeat = heads // shared
    scores = Temporary.operand(DType.FLOAT, (q.dims[0], heads, q.dims[2], k.dims[2]))
    grouped = scores.split(1, shared, repeat)
    keys = _repeated(k)
    keys = keys.pick([0, 1, 2, 4, 3])
    product = Step(Kernel.MATMUL, [q.split(1, shared, repeat), keys], [grouped], {"zero_a": -1, "zero_b": -1}, None, [], 2, step.label)
    built = matmul(product, context)
    built += temporary_map(_masked(step, mask), [scores, *([mask] if mask is not None else [])], (masked := Temporary.operand(DType.FLOAT, scores.dims)), context, step.label)
    built.append(softmax_of(context, masked, None, masked, 3, 0, 1.0, guarded=True))
    values = Step(Kernel.MATMUL, [masked.split(1, shared, repeat), _repeated(v)], [out.split(1, shared, repeat)], {"zero_a": -1, "zero_b": -1}, None, [], 2, step.label)
    return built + matmul(values, context)


def _repeated(operand: Operand) -> Operand:
    """[B, Hk, T, D] as [B, Hk, 1, T, D]."""
    return Operand(operand.buffer, operand.dtype, (*operand.dims[:2], 1, *operand.dims[2:]), (*operand.strides[:2], 0, *operand.strides[2:]), operand.start, operand.extent, operand.packed)


def _masked(step: Step, mask: Operand | None) -> E:
    """scale, softcap, mask and causality of one score."""
    root: E = leaf(0, DType.FLOAT) * step.params["scale"]
    if step.params["softcap"]:
        root = unary(Op.TANH, root / step.params["softcap"]) * step.params["softcap"]
    nothing = const(float("-inf"), Compute.F32)
    if mask is not None:
        root = select(leaf(1, mask.dtype), root, nothing) if mask.dtype is DType.BOOL else root + leaf(1, mask.dtype)
    if step.whole("causal"):
        offset: Dim = step.whole("offset")
        root = select(binary(Op.LE, coord(3), coord(2) + const(offset, Compute.I64)), root, nothing)
    return root
