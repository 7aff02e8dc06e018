"""Attention that is spelled out: a product, its Softmax and the product with the values become one ATTENTION call. Part of stage 3, run on what its other rules left.

MatMul(Softmax(MatMul(q, kᵀ) ∘ epilogue), v) in float, rank 3 or 4, nothing else reading what lies between, where the epilogue is

1. nothing, or factors that are constants (or divisors);
2. and then a float mask added; or a bool mask that selects between the scores and -inf;
3. or the mask is added by a Map of its own, because its length is another symbol than the keys' (a cache's "total" beside "past + sequence"). The values then say that both are one
   number: bind checks that the mask is as long as the keys.

Then, of any ATTENTION: where keys and values are copies that repeat each head for a group of query heads, and nobody else reads them, it reads the heads they were made of (Hk < H).

Rounding: the scores' factor goes to q. Where a mask of -inf hides every key of a query, the spelled form gives NaN and ATTENTION 0.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..expr import E, Op
from ..kernels import Kernel
from ..lowering import Buffer, KernelCall, View, is_alias
from ..types import DType
from .lower import Lowered


@dataclass
class _Scores:
    """What an epilogue does to a product: acc · factor, then the mask (a leaf's number), kept or added."""

    factor: float = 1.0
    mask: int | None = None


def recognise_attention(lowered: Lowered) -> None:
    """Rewrite `lowered.calls` in place."""
    writers = {v.buffer: c for c in lowered.calls for v in c.outputs}
    readers: dict[Buffer, int] = {}
    for call in lowered.calls:
        for view in call.inputs:
            if view is not None:
                readers[view.buffer] = readers.get(view.buffer, 0) + 1
    kept = {v.buffer for v in lowered.outputs}

    def made_by(view: View | None, kind: Kernel, whole: bool = True) -> KernelCall | None:
        """The call of that kind which makes exactly this, for this reader only."""
        if view is None or whole and not view.is_whole or view.buffer in kept or readers[view.buffer] != 1:
            return None
        found = writers.get(view.buffer)
        return found if found is not None and found.kind is kind and len(found.outputs) == 1 and found.outputs[0].is_whole else None
    for call in list(lowered.calls):
        if call.kind is not Kernel.MATMUL or call.epilogue or not _plain(call):
            continue
        softmax = made_by(call.inputs[0], Kernel.SOFTMAX)
        if softmax is None or softmax.params["mode"] or len(softmax.inputs) > 1 and softmax.inputs[1] is not None or softmax.params["axis"] != call.outputs[0].rank - 1:
            continue
        between: list[KernelCall] = [softmax]
        product, mask = made_by(softmax.inputs[0], Kernel.MATMUL), None
        added = made_by(softmax.inputs[0], Kernel.MAP)
        if added is not None:                                                                             # 3
            for number in _summands(added):
                product = product or (made_by(added.inputs[number], Kernel.MATMUL, whole=False) if _in_order(added.inputs[number]) else None)
                mask = added.inputs[1 - number] if product is not None and mask is None else mask
            between.append(added)
        if product is None or not _plain(product):
            continue
        found = _attention(product, float(softmax.params["scale"]), call, mask)
        if found is None:
            continue
        found.origin = tuple(dict.fromkeys(name for c in (product, *reversed(between), call) for name in c.origin))
        lowered.calls[lowered.calls.index(call)] = found
        for gone in (product, *between):
            lowered.calls.remove(gone)


def _summands(call: KernelCall) -> tuple[int, ...]:
    """The operands of a Map that is the sum of two floats."""
    e = call.epilogue[0]
    if e.op is Op.ADD and len(call.inputs) == 2 and sorted(a.data for a in e.args if a.op is Op.LEAF) == [0, 1] and all(v is not None and v.dtype is DType.FLOAT for v in call.inputs):
        return (0, 1)
    return ()


def _in_order(view: View | None) -> bool:
    """Whether a view is its buffer's dims in order from the start, some perhaps repeated to a size the run decides."""
    return view is not None and not view.fixed and len(view.axes) == len(view.buffer.shape) and all(a.dim == i and a.start == 0 for i, a in enumerate(view.axes))


def _plain(call: KernelCall) -> bool:
    """A float product of two operands that both have all the batch axes."""
    a, b = call.inputs[:2]
    if a is None or b is None or call.params.get("bits") or {a.dtype, b.dtype, call.outputs[0].dtype} != {DType.FLOAT}:
        return False
    return a.rank == b.rank == call.outputs[0].rank and a.rank in (3, 4) and a.shape[:-2] == b.shape[:-2] == call.outputs[0].shape[:-2]


def _attention(product: KernelCall, scale: float, values: KernelCall, mask: View | None) -> KernelCall | None:
    q, kt = product.inputs[:2]
    v, y = values.inputs[1], values.outputs[0]
    assert q is not None and kt is not None and v is not None
    scores = _scores(product, product.epilogue[0]) if product.epilogue else _Scores()
    if scores is None:
        return None
    factor = scores.factor * scale
    if scores.mask is not None:
        if mask is not None:
            return None
        mask = product.inputs[product.first_leaf + scores.mask]
    if not (math.isfinite(factor) and factor > 0) or mask is not None and mask.dtype not in (DType.FLOAT, DType.BOOL):
        return None
    if scale != 1 and mask is not None:
        return None
    swapped = kt.permute((*range(kt.rank - 2), kt.rank - 1, kt.rank - 2))
    operands: list[View | None] = [view.unsqueeze(0) if view is not None and view.rank == 3 else view for view in (q, swapped, v, mask)]
    return KernelCall(Kernel.ATTENTION, operands, [y.unsqueeze(0) if y.rank == 3 else y], {"scale": factor, "softcap": 0.0, "causal": 0, "offset": 0})


def _scores(product: KernelCall, e: E) -> _Scores | None:
    """The epilogue as factors and a mask; None where it is something else."""
    if e.op is Op.ACC:
        return _Scores()
    if e.op in (Op.MUL, Op.DIV):
        for of, by in ((0, 1), (1, 0)) if e.op is Op.MUL else ((0, 1),):                                  # 1
            number, inner = _number(product, e.args[by]), _scores(product, e.args[of]) if _has_acc(e.args[of]) else None
            if number and inner is not None and inner.mask is None:
                return _Scores(inner.factor * number if e.op is Op.MUL else inner.factor / number)
        return None
    if e.op is Op.ADD:                                                                                    # 2
        for of, by in ((0, 1), (1, 0)):
            inner = _scores(product, e.args[of]) if _has_acc(e.args[of]) else None
            if inner is not None and inner.mask is None and e.args[by].op is Op.LEAF and _leaf(product, e.args[by]).dtype is DType.FLOAT:
                return _Scores(inner.factor, e.args[by].data)
        return None
    if e.op is Op.SELECT and _number(product, e.args[2]) == -math.inf:
        kept, inner = e.args[0], _scores(product, e.args[1])
        if kept.op is Op.NE and _number(product, kept.args[1]) == 0:
            kept = kept.args[0]
        if inner is not None and inner.mask is None and kept.op is Op.LEAF and _leaf(product, kept).dtype is DType.BOOL:
            return _Scores(inner.factor, kept.data)
    return None


def _leaf(product: KernelCall, e: E) -> View:
    found = product.inputs[product.first_leaf + e.data]
    assert found is not None
    return found


def _has_acc(e: E) -> bool:
    return e.op is Op.ACC or any(map(_has_acc, e.args))


def _number(product: KernelCall, e: E) -> float | None:
    """The constant an expression is; None where it is none."""
    if e.op is Op.CONST:
        return float(e.data)
    if e.op is not Op.LEAF:
        return None
    tensor = _leaf(product, e).buffer.tensor
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def share_heads(lowered: Lowered) -> None:
    """Let ATTENTION read heads that were repeated for it. Rewrites `lowered.calls` in place."""
    for call in list(lowered.calls):
        if call.kind is not Kernel.ATTENTION or len(call.inputs) > 4:
            continue
        keys, values = (_repeated(lowered, call, i) for i in (1, 2))
        if keys is None or values is None or keys.source.shape[1] != values.source.shape[1]:
            continue
        for i, found in ((1, keys), (2, values)):
            call.inputs[i] = found.source
            call.origin = tuple(dict.fromkeys((*found.copy.origin, *call.origin)))
            lowered.calls.remove(found.copy)
            lowered.calls.remove(found.alias)


@dataclass
class _Repeated:
    """`copy` repeats the heads of `source` [B, Hk, T, D], `alias` makes [B, H, T, D] of [B, Hk, H / Hk, T, D]."""

    source: View
    copy: KernelCall
    alias: KernelCall


def _repeated(lowered: Lowered, call: KernelCall, operand: int) -> _Repeated | None:
    view = call.inputs[operand]
    assert view is not None
    heads, five = view.buffer, view.buffer.alias
    if five is None or len(five.shape) != 5 or len(heads.shape) != 4 or view.fixed:
        return None
    if sorted(a.dim if a.dim is not None else -1 for a in view.axes) != [0, 1, 2, 3] or (view.axes[0].dim, view.axes[1].dim) != (0, 1):
        return None
    if (five.shape[0], *five.shape[3:]) != (heads.shape[0], *heads.shape[2:]) or any(a.start != 0 or a.step != 1 or a.size != heads.shape[a.dim or 0] for a in view.axes):
        return None
    kept = {v.buffer for v in lowered.outputs}
    writers = [c for c in lowered.calls if any(v.buffer is five for v in c.outputs)]
    aliases = [c for c in lowered.calls if any(v is not None and v.buffer is five for v in c.inputs)]
    readers = [v for c in lowered.calls for v in c.inputs if v is not None and v.buffer is heads]
    if len(writers) != 1 or len(aliases) != 1 or len(readers) != 1 or {five, heads} & kept or not is_alias(aliases[0]):
        return None
    copy = writers[0]
    source = copy.inputs[0] if copy.kind is Kernel.COPY and not copy.params.get("mode") and copy.outputs[0].is_whole else None
    if source is None or source.axes[2].dim is not None:
        return None
    order = [0, 1, *(a.dim + 1 for a in view.axes[2:] if a.dim is not None)]
    return _Repeated(replace(source, axes=tuple(source.axes[i] for i in order), value=None), copy, aliases[0])
