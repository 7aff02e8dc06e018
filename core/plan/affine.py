"""Part of stage 3, fuse: factors of a product's columns go into its constant right-hand side.

Rule: where the first things that happen to the result of a Conv or MatMul in float are additions of and multiplications by constants, one number a feature (a BatchNormalization), the result is
acc · s + t. The weights take s, t stays as one addition, so the kernel has a bias to add and no multiplication. Products are rounded once less and weights once more: results may differ by what
one rounding of the weights makes, as in every runtime that folds a BatchNormalization. Weights that others read too are left alone.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..expr import Compute, E, Op, const, leaf, substitute
from ..graph import Tensor
from ..kernels import Kernel
from ..lowering import Axis, Buffer, KernelCall, View
from ..types import DType
from .fold import constant_array, drop_unread, nodes, source_of
from .lower import Lowered

Affine = tuple[np.ndarray, np.ndarray]


def scale_weights(lowered: Lowered) -> None:
    """Apply the rule to `lowered.calls` in place."""
    readers: dict[Buffer, int] = {}
    for call in lowered.calls:
        for view in call.inputs:
            if view is not None:
                readers[view.buffer] = readers.get(view.buffer, 0) + 1
    for call in lowered.calls:
        if call.kind in (Kernel.CONV, Kernel.MATMUL) and len(call.epilogue) == 1 and len(call.outputs) == 1 and not call.params.get("bits"):
            weights = call.inputs[1]
            if weights is not None and weights.dtype is DType.FLOAT and weights.buffer.tensor is not None and readers[weights.buffer] == 1:
                _scale(call, weights)


def _scale(call: KernelCall, weights: View) -> None:
    axis = _feature_axis(call, weights)
    features = call.outputs[0].shape[1 if call.kind is Kernel.CONV else -1]
    if axis is None or not isinstance(features, int):
        return
    root = call.epilogue[0]
    if not any(n.op in (Op.MUL, Op.DIV) for n in nodes(root)):  # nothing to scale by: seen before the search below, which takes time
        return
    if sum(a.op is Op.ACC for node in nodes(root) for a in node.args) != 1:
        return
    found: dict[int, Affine | None] = {}
    whole = max((n for n in nodes(root) if _affine(call, n, features, found) and _only_through(root, n)), key=lambda n: len(nodes(n)), default=None)
    if whole is None or not any(n.op in (Op.MUL, Op.DIV) for n in nodes(whole)):
        return
    made = found[id(whole)]
    assert made is not None
    scale, shift = made
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return
    plain = source_of(weights.buffer).numpy().reshape(weights.buffer.shape)  # type: ignore[union-attr, arg-type]
    dim = weights.axes[axis].dim
    scaled = np.multiply(plain, scale.astype(np.float32).reshape([-1 if d == dim else 1 for d in range(plain.ndim)]), dtype=np.float32)
    call.inputs[1] = replace(weights, buffer=Buffer(weights.buffer.name, weights.dtype, weights.buffer.shape, tensor=Tensor(scaled)))
    bias = Buffer(f"{call.outputs[0].buffer.name}.shift", DType.FLOAT, (features,), tensor=Tensor(shift.astype(np.float32)))
    sizes, place = call.outputs[0].shape, 1 if call.kind is Kernel.CONV else call.outputs[0].rank - 1
    call.inputs.append(View(bias, tuple(Axis(size, 0 if i == place else None) for i, size in enumerate(sizes))))
    sum_ = E(Op.ACC, Compute.F32) + leaf(len(call.inputs) - 1 - call.first_leaf, DType.FLOAT)
    call.epilogue = [substitute(root, lambda node: sum_ if node is whole else None)]
    drop_unread(call)


def _only_through(root: E, node: E) -> bool:
    """Whether nothing but the node reads the result: x · erf(x / √2), x = acc + bias, is no affine map of it, though x / √2 is one."""
    return not any(n.op is Op.ACC for n in nodes(substitute(root, lambda n: const(0.0, Compute.F32) if n is node else None)))


def _feature_axis(call: KernelCall, weights: View) -> int | None:
    """The axis of the weights that runs over the features of the result."""
    if call.kind is Kernel.MATMUL:
        whole = weights.rank == 2 and (weights.is_whole or weights.permute((1, 0)).is_whole)
        return 1 if whole and len(weights.buffer.shape) == 2 and call.outputs[0].dtype is DType.FLOAT else None
    if not weights.is_whole or call.params.get("transposed") and call.params.get("group", 1) != 1:
        return None
    return 1 if call.params.get("transposed") else 0


def _affine(call: KernelCall, node: E, features: int, found: dict[int, Affine | None]) -> Affine | None:
    """(s, t) where the node is acc · s + t with one s and t a feature."""
    if id(node) in found:
        return found[id(node)]
    made: Affine | None = None
    if node.op is Op.ACC and node.type is Compute.F32:
        made = np.ones(features), np.zeros(features)
    elif node.op in (Op.ADD, Op.SUB, Op.MUL, Op.DIV) and node.type is Compute.F32:
        for i, other in ((0, node.args[1]), (1, node.args[0])):
            inner, by = _affine(call, node.args[i], features, found), _vector(call, other, features)
            if inner is None or by is None or (node.op is Op.DIV and (i or not by.all())):
                continue
            s, t = inner
            sign = -1 if node.op is Op.SUB else 1
            made = ((s * by, t * by) if node.op is Op.MUL else (s / by, t / by) if node.op is Op.DIV else (s, t + sign * by) if i == 0 else (sign * s, by + sign * t))
    found[id(node)] = made
    return made


def _vector(call: KernelCall, node: E, features: int) -> np.ndarray | None:
    """A constant, one number a feature, in double precision."""
    if node.op is Op.CONST:
        return np.full(features, float(node.data))
    if node.op is not Op.LEAF:
        return None
    view = call.inputs[call.first_leaf + node.data]
    array = constant_array(view) if view is not None and view.dtype is DType.FLOAT and source_of(view.buffer) is not None else None
    if array is None or array.size not in (1, features) or array.shape[1 if call.kind is Kernel.CONV else -1] != array.size:
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (features,))


__all__ = ["scale_weights"]
