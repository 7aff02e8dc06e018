"""Stage 5, pack: constant right-hand sides of MatMul and Conv are read packed (core/model/packing.py), as they are stored in a `.sdx`.

Rules
1. MatMul: a constant B of rank 2, whole or transposed, becomes MATRIX or MATRIX_T. The view's dims stay the logical [K, N].
2. Conv: constant whole weights become DEPTHWISE (one input channel a group) or CONV; a transposed convolution's stay plain.
3. Weights in blocks (MatMul with `bits`) become NIBBLES or MATRIX_T, their scales SCALES.
4. RNN: an 8-bit constant R becomes MATRIX.
5. A constant right-hand side that is no whole buffer (one element repeated, a slice) is written out first, if it is not large; so is a number an epilogue of floats adds to
   every feature: kernels add vectors.
6. The packed constant is a buffer of its own: other readers of the same constant keep the plain one. Element types: f32, f16, bf16, and 8-bit integers for integer products.
"""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..dim import product
from ..graph import Tensor
from ..kernels import Kernel
from ..lowering import Axis, Buffer, KernelCall, View
from ..model.packing import Packing, problem
from ..types import DType
from .fold import constant_array, source_of
from .lower import Lowered

PACKED_TYPES = frozenset({DType.FLOAT, DType.FLOAT16, DType.BFLOAT16})
WRITTEN_OUT = 1 << 28  # elements rule 5 makes at most
BYTES = frozenset({DType.INT8, DType.UINT8})


def pack_constants(lowered: Lowered) -> None:
    """Give the constants packed buffers."""
    made: dict[tuple[Buffer, Packing, int], Buffer] = {}
    for call in lowered.calls:
        if call.kind is Kernel.MATMUL and call.params.get("bits"):                                        # 3
            _pack_blocks(call)
            continue
        _write_out(call)                                                                                  # 5
        packing = choose(call)
        if packing is Packing.NONE:
            continue
        at = 2 if call.kind is Kernel.RNN else 1
        view = call.inputs[at]
        assert view is not None
        key = (view.buffer, packing, call.params.get("group", 1))
        if key not in made:
            made[key] = Buffer(view.buffer.name, view.dtype, view.buffer.shape, tensor=view.buffer.tensor)
            made[key].packing = int(packing)
        call.inputs[at] = replace(view, buffer=made[key])


def _write_out(call: KernelCall) -> None:                                                                 # 5
    if call.kind not in (Kernel.MATMUL, Kernel.CONV) or call.params.get("transposed"):
        return
    view = call.inputs[1]
    if view is not None and view.dtype in PACKED_TYPES and source_of(view.buffer) is not None and not view.is_whole and _matrix(view) is Packing.NONE and (call.kind is Kernel.CONV or view.rank == 2):
        array = constant_array(view)
        if array is not None and all(isinstance(d, int) for d in view.shape) and product(view.shape) <= WRITTEN_OUT:
            call.inputs[1] = _constant(view, np.broadcast_to(array, view.shape))  # type: ignore[arg-type]
    place = 1 if call.kind is Kernel.CONV else call.outputs[0].rank - 1
    features = call.outputs[0].shape[place]
    of_floats = call.inputs[0] is not None and call.inputs[0].dtype in PACKED_TYPES   # requantising wants its numbers as numbers
    for i in range(call.first_leaf, len(call.inputs) if call.epilogue and of_floats else 0):
        view = call.inputs[i]
        if view is None or view.rank != call.outputs[0].rank or view.axes[place].dim is not None or not isinstance(features, int) or features > 1 << 16 or source_of(view.buffer) is None:
            continue
        if all(a.dim is None or a.size == 1 for a in view.axes) and (array := constant_array(view)) is not None:
            made = _constant(view, np.full((features,), array.reshape(-1)[0], array.dtype))
            call.inputs[i] = replace(made, axes=tuple(Axis(size, 0 if axis == place else None) for axis, size in enumerate(view.shape)))


def _constant(view: View, array: np.ndarray) -> View:
    return Buffer(view.buffer.name, view.dtype, array.shape, tensor=Tensor(np.ascontiguousarray(array), dtype=view.dtype)).whole()


def _pack_blocks(call: KernelCall) -> None:
    """Rule 3. The views keep their dims: [N, blocks, bytes] and [N, blocks]."""
    columns = call.inputs[1].shape[0]  # type: ignore[union-attr]
    for i, packing, group in ((1, Packing.NIBBLES if call.params["bits"] == 4 else Packing.MATRIX_T, 1), (call.params["block_scales"], Packing.SCALES, columns)):
        view = call.inputs[i]
        assert view is not None
        tensor = view.buffer.tensor
        entire = view.is_whole or (len(view.buffer.shape) == 1 and view.axes == view.buffer.whole().split(0, *view.shape).axes)
        if tensor is not None and entire and not problem(packing, view.dtype.numpy.itemsize, tensor.shape, int(group)):  # type: ignore[arg-type]
            made = Buffer(view.buffer.name, view.dtype, view.buffer.shape, tensor=tensor)
            made.packing = int(packing)
            call.inputs[i] = replace(view, buffer=made)


def choose(call: KernelCall) -> Packing:
    """How the call's constant operand is packed."""
    if call.kind is Kernel.RNN:                                                                           # 4
        r = call.inputs[2]
        bytes_ = r is not None and r.buffer.tensor is not None and r.dtype in BYTES and r.is_whole and not problem(Packing.MATRIX, 1, r.buffer.tensor.shape, 1)
        return Packing.MATRIX if bytes_ else Packing.NONE
    if call.kind not in (Kernel.MATMUL, Kernel.CONV) or call.params.get("transposed"):
        return Packing.NONE
    view = call.inputs[1]
    if view is None or view.buffer.tensor is None or not _alike(call.inputs[0].dtype, view.dtype):  # type: ignore[union-attr]
        return Packing.NONE
    tensor = view.buffer.tensor
    group = call.params.get("group", 1) if call.kind is Kernel.CONV else 1
    packing = _matrix(view) if call.kind is Kernel.MATMUL else _weights(view, group)
    fits = packing is not Packing.NONE and not problem(packing, view.dtype.numpy.itemsize, tensor.shape, group if packing is Packing.CONV else 1)
    return packing if fits else Packing.NONE


def _alike(left: DType, right: DType) -> bool:
    return left in BYTES and right in BYTES or left is right and right in PACKED_TYPES


def _matrix(view: View) -> Packing:                                                                       # 1
    if view.rank != 2 or len(view.buffer.shape) != 2:
        return Packing.NONE
    return Packing.MATRIX if view.is_whole else Packing.MATRIX_T if view.permute((1, 0)).is_whole else Packing.NONE


def _weights(view: View, group: int) -> Packing:                                                          # 2
    if not view.is_whole:
        return Packing.NONE
    return Packing.DEPTHWISE if view.shape[1] == 1 and group > 1 else Packing.CONV
