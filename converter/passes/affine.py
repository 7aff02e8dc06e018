"""Affine maps per channel (BatchNormalization, and Mul/Add/Sub/Div by constants) folded into the linear operator beside them.

How to think: an `Affine` is y = factor · x + shift along the channel axis, in float64. A `_Linear` is a Conv, ConvTranspose, Gemm or MatMul with constant weights; it
knows how its outputs are scaled and shifted (`after`) and its inputs (`before`).
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sardonyx.graph import Graph, Model, Node, Tensor, Value, merge_origins
from sardonyx.types import DType

from .base import Pass, constant_of, input_of, is_op, tensor_of, uniform

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MOST_SPELLED_OUT = 4096  # bytes
_BLOCK = 1 << 16          # elements scaled at a time
_FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE)


@dataclass(frozen=True)
class Affine:
    """y = factor · x + shift; each of one element or one per channel, float64."""

    factor: np.ndarray
    shift: np.ndarray

    @property
    def steps(self) -> int:
        """How many operators it takes: a Mul, an Add, both or none."""
        return int((self.factor != 1).any()) + int(self.shift.any())

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.factor).all() and np.isfinite(self.shift).all())


def _squeezed(array: np.ndarray) -> np.ndarray:
    """A per-channel array, with one element where all are equal."""
    flat = array.ravel()
    return flat[:1] if flat.size > 1 and (flat == flat[0]).all() else flat


class FoldBatchNorm(Pass):
    """1. An affine map after a Conv, ConvTranspose, Gemm or MatMul with constant weights used once is folded into its weights and bias: BatchNormalization in
    inference form, or Mul, Div, Add, Sub by a constant per channel. (A MatMul of matrices becomes a Gemm where it needs a bias.)
    2. The same where a constant Add stands between: the map goes into the weights and the Add.
    3. Mul and Div by a constant per input channel before Conv, Gemm or MatMul are folded into the weights; Add and Sub into the bias where there is no padding.
    4. A BatchNormalization standing alone becomes Mul and Add per channel (float and double).  5. Chains of affine maps standing alone become one Mul and Add.

    Rounding: weights and biases are computed in float64 and rounded once to their type; 4 computes x·a + b for (x − mean)·a + B. Uniform weights stay uniform where the
    result is, and large ones are not folded into where it is not; maps that are not finite are left alone.
    """

    name = "batch normalization and affine folding"

    def run(self, model: Model) -> int:
        return sum(self._fold(graph, node) for graph in model.graph.graphs() for node in list(graph.nodes))

    def _fold(self, graph: Graph, node: Node) -> int:
        if is_op(node, *_LINEAR):
            return self._before(graph, node)                                                                                                # 3
        if not is_op(node, "BatchNormalization", "Mul", "Div", "Add", "Sub") or node.outputs[0] is None:
            return 0
        if self._after(graph, node) or self._between(graph, node):                                                                          # 1, 2
            return 1
        return int(self._alone(graph, node) if node.op_type == "BatchNormalization" else self._chained(graph, node))                        # 4, 5

    # -- what is an affine map -------------------------------------------------------------------------------------------------------------
    def _source(self, node: Node) -> Value | None:
        """The input that is not a constant, None where there is no such one input."""
        if node.op_type == "BatchNormalization":
            return node.inputs[0]
        variable = [v for v in node.inputs if v is not None and v.const is None]
        return variable[0] if len(variable) == 1 and len(node.inputs) == 2 else None

    def _affine(self, node: Node, source: Value, axis_from_end: int | None = None) -> Affine | None:
        """The node as a map of `source` along its channel axis: axis 1, or counted from the end where given."""
        result = node.outputs[0]
        rank = len(self.shape(source) or ())
        if result is None or rank < 2 or self.dtype(source) not in _FLOATS:
            return None
        if node.op_type == "BatchNormalization":
            return self._normalization(node) if axis_from_end is None or rank - axis_from_end == 1 else None
        if self.shape(result) != self.shape(source):
            return None
        constant = next(v for v in node.inputs if v is not source)
        array = self._per_channel(constant, rank, 1 if axis_from_end is None else rank - axis_from_end)
        if array is None:
            return None
        one, zero = np.ones(1), np.zeros(1)
        first = node.inputs[0] is source
        with np.errstate(all="ignore"):
            found = {"Mul": Affine(array, zero), "Div": Affine(1 / array, zero), "Add": Affine(one, array), "Sub": Affine(one, -array) if first else Affine(-one, array)}[node.op_type]
        return found if found.finite and (first or node.op_type != "Div") else None

    def _normalization(self, node: Node) -> Affine | None:
        if node.attributes.get("training_mode", 0) or len(node.outputs) > 1:
            return None
        tensors = [v.const for v in node.inputs[1:] if v is not None]
        if any(t is None for t in tensors):
            return None
        scale, bias, mean, var = (np.asarray(uniform(t) if t.is_splat else t.numpy()).astype(np.float64).reshape(-1) for t in tensors if t is not None)
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(var + np.float64(np.float32(node.attributes.get("epsilon", 1e-5))))
            found = Affine(_squeezed(factor), _squeezed(bias - mean * factor))
        return found if found.finite else None

    def _per_channel(self, constant: Value | None, rank: int, axis: int) -> np.ndarray | None:
        """A constant that varies along `axis` of a tensor of `rank` alone, as a float64 vector."""
        array = constant_of(constant)
        if array is None or array.size == 0 or array.ndim > rank:
            return None
        shape = (1,) * (rank - array.ndim) + array.shape
        if any(d != 1 for i, d in enumerate(shape) if i != axis):
            return None
        return _squeezed(array.astype(np.float64))

    # -- after a linear operator -----------------------------------------------------------------------------------------------------------
    def _after(self, graph: Graph, node: Node) -> bool:
        source = self._source(node)
        linear = source.producer if source is not None else None
        if source is None or linear is None or not is_op(linear, *_LINEAR) or not self.only_use(source) or linear not in graph.nodes:
            return False
        affine = self._affine(node, source, _channels_from_end(linear))
        if affine is None or not self._scale_outputs(graph, linear, affine, node):
            return False
        self._absorb(graph, node, linear)
        return True

    def _absorb(self, graph: Graph, node: Node, into: Node) -> None:
        """`into` makes the node's output from now on."""
        result, made = node.outputs[0], into.outputs[0]
        assert result is not None and made is not None
        into.origin = merge_origins([into, node])
        self.replace(graph, result, made)
        graph.remove(node)

    def _scale_outputs(self, graph: Graph, linear: Node, affine: Affine, node: Node) -> bool:
        weights, bias = linear.inputs[1], input_of(linear, 2)
        if weights is None or weights.const is None or (bias is not None and bias.const is None):
            return False
        scaled = not (affine.factor == 1).all()
        if scaled and (not self.only_use(weights) or _spells_out(weights.const, affine.factor)):
            return False
        shifted = bool(affine.shift.any())
        if linear.op_type == "MatMul" and (len(weights.const.shape) != 2 or (shifted and len(self.shape(linear.inputs[0]) or ()) != 2)):  # type: ignore[arg-type]
            return False
        channels = _output_channels(linear, weights.const)
        new_bias = self._new_bias(linear, bias, affine, channels) if bias is not None or shifted else None
        new_weights = _scaled(weights.const, affine.factor, _output_view(linear, weights.const)) if scaled else None
        if new_bias is not None and not np.isfinite(new_bias.numpy()).all():
            return False
        if new_weights is not None:
            linear.set_input(1, Value(weights.name, None, new_weights))
        if new_bias is not None:
            if linear.op_type == "MatMul":
                linear.op_type = "Gemm"
            name = bias.name if bias is not None else graph.unique_name(f"{weights.name}_bias")
            linear.set_input(2, Value(name, None, new_bias))
        return True

    def _new_bias(self, linear: Node, bias: Value | None, affine: Affine, channels: int) -> Tensor:
        weights = linear.inputs[1]
        assert weights is not None and weights.const is not None
        beta = float(linear.attributes.get("beta", 1.0)) if linear.op_type == "Gemm" else 1.0
        if bias is None or bias.const is None or beta == 0:
            if linear.op_type == "Gemm":
                linear.attributes.pop("beta", None)
            return tensor_of(affine.shift, weights.const.dtype, (channels,))
        old = bias.const.numpy() if not bias.const.is_splat else np.asarray(uniform(bias.const)).reshape(-1)
        made = old.astype(np.float64) * affine.factor + affine.shift / beta
        shape = (channels,) if made.ndim < 2 or linear.op_type != "Gemm" else np.broadcast_shapes(bias.const.shape, made.shape)
        return tensor_of(np.broadcast_to(made, shape) if made.size > 1 else made, bias.const.dtype, shape)

    # -- an Add between --------------------------------------------------------------------------------------------------------------------
    def _between(self, graph: Graph, node: Node) -> bool:
        source = self._source(node)
        add = source.producer if source is not None else None
        if source is None or not is_op(add, "Add") or add is None or not self.only_use(source) or add not in graph.nodes:
            return False
        inner = self._source(add)
        linear = inner.producer if inner is not None else None
        if inner is None or linear is None or not is_op(linear, "MatMul", "Gemm") or not self.only_use(inner) or linear not in graph.nodes:
            return False
        affine, plus = self._affine(node, source, 1), self._affine(add, inner, 1)
        if affine is None or plus is None or (affine.factor == 1).all():
            return False
        index = 1 if add.inputs[0] is inner else 0
        constant = add.inputs[index]
        assert constant is not None and constant.const is not None
        if not self._scale_outputs(graph, linear, Affine(affine.factor, np.zeros(1)), node):
            return False
        shift = plus.shift * affine.factor + affine.shift
        shape = constant.const.shape if shift.size == 1 or constant.const.size == shift.size else (shift.size,)
        add.set_input(index, Value(graph.unique_name(constant.name), None, tensor_of(shift, constant.const.dtype, shape)))
        self._absorb(graph, node, add)
        return True

    # -- before a linear operator ----------------------------------------------------------------------------------------------------------
    def _before(self, graph: Graph, linear: Node) -> int:
        count = 0
        while self._before_once(graph, linear):
            count += 1
        return count

    def _before_once(self, graph: Graph, linear: Node) -> bool:
        given, weights, bias = linear.inputs[0], linear.inputs[1], input_of(linear, 2)
        node = given.producer if given is not None else None
        if given is None or node is None or not is_op(node, "Mul", "Div", "Add", "Sub", "BatchNormalization") or not self.only_use(given) or node not in graph.nodes:
            return False
        if weights is None or weights.const is None or not self.only_use(weights) or (bias is not None and bias.const is None) or self.dtype(given) is not weights.const.dtype:
            return False
        if linear.op_type == "ConvTranspose" or linear.attributes.get("transA", 0) or (linear.op_type == "MatMul" and len(weights.const.shape) != 2):
            return False
        source = self._source(node)
        affine = self._affine(node, source, None if linear.op_type == "Conv" else 1) if source is not None else None
        if source is None or affine is None:
            return False
        shifted = bool(affine.shift.any())
        if _spells_out(weights.const, affine.factor):
            return False
        if shifted and (linear.op_type == "MatMul" or (linear.op_type == "Conv" and _padded(linear))):
            return False
        view = _input_view(linear, weights.const)
        if shifted:
            new_bias = self._new_bias(linear, bias, Affine(np.ones(1), _shift_through(linear, weights.const, affine.shift)), _output_channels(linear, weights.const))
            linear.set_input(2, Value(bias.name if bias is not None else graph.unique_name(f"{weights.name}_bias"), None, new_bias))
        if not (affine.factor == 1).all():
            linear.set_input(1, Value(weights.name, None, _scaled(weights.const, affine.factor, view)))
        linear.set_input(0, source)
        linear.origin = merge_origins([node, linear])
        graph.remove(node)
        return True

    # -- alone -----------------------------------------------------------------------------------------------------------------------------
    def _alone(self, graph: Graph, node: Node) -> bool:
        source, scale = node.inputs[0], node.inputs[1]
        affine = self._affine(node, source) if source is not None and self.dtype(source) in (DType.FLOAT, DType.DOUBLE) else None
        if source is None or affine is None or scale is None or scale.const is None:
            return False
        made = self._spelled(graph, node, source, affine, scale.const.shape[0], None, node.origin)
        if made.producer is not None and made.producer is not source.producer:
            self._chained(graph, made.producer)
        return True

    def _chained(self, graph: Graph, node: Node) -> bool:
        return self._chained_along(graph, node, None) or self._chained_along(graph, node, 1)

    def _chained_along(self, graph: Graph, node: Node, axis_from_end: int | None) -> bool:
        chain: list[Node] = []
        factor, shift = np.ones(1), np.zeros(1)  # of the part of the chain from the node up
        above: Value | None = node.outputs[0]
        while above is not None and is_op(above.producer, "Mul", "Div", "Add", "Sub") and (not chain or self.only_use(above)):
            current = above.producer
            source = self._source(current) if current is not None and current in graph.nodes else None
            affine = self._affine(current, source, axis_from_end) if source is not None and current is not None else None
            if affine is None or current is None:
                break
            shift = shift + factor * affine.shift
            factor = factor * affine.factor
            chain.append(current)
            above = source
        whole = Affine(factor, shift)
        if above is None or len(chain) <= whole.steps or not whole.finite or self.dtype(above) not in (DType.FLOAT, DType.DOUBLE):
            return False
        self._spelled(graph, node, above, whole, max(factor.size, shift.size), axis_from_end, merge_origins(reversed(chain)))
        return True

    def _spelled(self, graph: Graph, node: Node, source: Value, affine: Affine, channels: int, axis_from_end: int | None, origin: tuple[str, ...]) -> Value:
        """Mul and Add, where needed, in the place of `node`; the new value."""
        result, dtype, rank = node.outputs[0], self.dtype(source), len(self.shape(source))
        assert result is not None and dtype is not None
        shape = (channels, *[1] * (rank - 2 if axis_from_end is None else axis_from_end - 1))
        made = source
        for op_type, array, neutral in (("Mul", affine.factor, 1), ("Add", affine.shift, 0)):
            if (array != neutral).any():
                constant = Value(graph.unique_name(f"{result.name}_{op_type.lower()}"), None, tensor_of(array, dtype, shape if array.size > 1 else ()))
                made = self.add(graph, op_type, [made, constant], node, origin)
        self.replace(graph, result, made)
        self.prune(graph, node)
        return made


# -- the geometry of weights: how channels lie in them ------------------------------------------------------------------------------------------

def _channels_from_end(linear: Node) -> int | None:
    """Where an output's channels are, counted from the end; None: axis 1."""
    return 1 if linear.op_type in ("Gemm", "MatMul") else None


def _output_channels(linear: Node, weights: Tensor) -> int:
    if linear.op_type == "Conv":
        return weights.shape[0]
    if linear.op_type == "ConvTranspose":
        return weights.shape[1] * int(linear.attributes.get("group", 1))
    return weights.shape[0] if linear.attributes.get("transB", 0) else weights.shape[-1]


def _output_view(linear: Node, weights: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(shape to see the weights in, shape of the output channels' vector so that it broadcasts to that)."""
    shape = weights.shape
    if linear.op_type == "ConvTranspose":
        group = int(linear.attributes.get("group", 1))
        return (group, shape[0] // group, *shape[1:]), (group, 1, shape[1], *[1] * (len(shape) - 2))
    first = linear.op_type == "Conv" or linear.attributes.get("transB", 0)
    return shape, (shape[0], *[1] * (len(shape) - 1)) if first else (shape[-1],)


def _input_view(linear: Node, weights: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """As `_output_view`, for the input channels."""
    shape = weights.shape
    if linear.op_type == "Conv":
        group = int(linear.attributes.get("group", 1))
        return (group, shape[0] // group, *shape[1:]), (group, 1, shape[1], *[1] * (len(shape) - 2))
    return shape, (shape[1],) if linear.attributes.get("transB", 0) else (shape[0], 1)


def _spells_out(weights: Tensor, factor: np.ndarray) -> bool:
    """Whether scaling would turn a large uniform tensor, one number in the file, into as many numbers as it has elements."""
    return weights.nbytes > _MOST_SPELLED_OUT and factor.size > 1 and uniform(weights) is not None


def _scaled(weights: Tensor, factor: np.ndarray, view: tuple[tuple[int, ...], tuple[int, ...]]) -> Tensor:
    """weights · factor along the channels of the view; uniform where both are."""
    seen, vector = view
    same = uniform(weights)
    if same is not None and factor.size == 1:
        return tensor_of(np.float64(same) * factor, weights.dtype, weights.shape)
    # In float64 and back: a product of two float32 is exact there, so this rounds once; a block of rows at a time keeps the copy small.
    array = weights.numpy().reshape(seen)
    out = np.empty(seen, weights.dtype.numpy)
    along = np.broadcast_to(factor if factor.size == 1 else factor.reshape(vector), (1,) * (len(seen) - len(vector)) + vector)
    rows = max(1, seen[0] * _BLOCK // max(array.size, 1))
    for i in range(0, seen[0], rows):
        out[i:i + rows] = array[i:i + rows].astype(np.float64) * (along[i:i + rows] if along.shape[0] > 1 else along)
    return Tensor(out.reshape(weights.shape), dtype=weights.dtype)


def _shift_through(linear: Node, weights: Tensor, shift: np.ndarray) -> np.ndarray:
    """What a shift of the inputs adds to each output channel: Σ weights · shift."""
    seen, vector = _input_view(linear, weights)
    product = weights.numpy().reshape(seen).astype(np.float64) * (shift if shift.size == 1 else shift.reshape(vector))
    if linear.op_type == "Conv":
        return product.sum(tuple(range(2, product.ndim))).ravel()
    return product.sum(1 if linear.attributes.get("transB", 0) else 0) * float(linear.attributes.get("alpha", 1.0))


def _padded(linear: Node) -> bool:
    mode = linear.attributes.get("auto_pad", "NOTSET")
    return mode not in ("NOTSET", "VALID") or (mode == "NOTSET" and any(linear.attributes.get("pads", ())))
