"""`--fp16`: float32 constants and computation become float16.

How to think: every float32 value of a graph has at most two forms, the float32 one and the float16 one, and a Cast between them is made where a consumer needs the form that
is not there (once a graph). Graph inputs and outputs, also those of branches and loop bodies, stay float32, so the model's interface and the types of control flow do not change.
"""
from __future__ import annotations

import numpy as np
from sardonyx.graph import Graph, Model, Node, Tensor, Value
from sardonyx.ops.registry import Spec
from sardonyx.plan.shapes import infer_node
from sardonyx.types import DType, TensorType

from .passes import CleanMoves, CommonSubexpressions, DeadCode, NoOps, Pass

#: Operators that stay float32 with all their float inputs and outputs: those without a float16 form, and those whose result would lose its meaning (positions, counts).
KEEP_FLOAT32 = frozenset((
    "Adagrad", "Adam", "CumProd", "CumSum", "DynamicQuantizeLinear", "Gradient", "If", "ImageDecoder", "Loop", "MelWeightMatrix", "Momentum", "NonMaxSuppression", "QLinearConv",
    "QLinearMatMul", "Range", "Scan", "SequenceMap", "TfIdfVectorizer", "ConcatFromSequence", "Optional", "OptionalGetElement", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
    "SequenceErase", "SequenceInsert", "SplitToSequence", "Multinomial", "Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "StringSplit"))
#: Inputs that are float32 by the specification (or lose too much: scales of quantisation) while the rest of the operator becomes float16.
KEEP_INPUTS = {"Resize": (1, 2), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}
#: Attributes that name the element type of the output.
_TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "HannWindow": "output_datatype", "HammingWindow": "output_datatype", "BlackmanWindow": "output_datatype"}
#: Operators by which exporters mask: in them a huge finite number stands for infinity.
MASKING = frozenset(("Add", "Clip", "Max", "Min", "Mul", "Pad", "Sub", "Where"))
_INFINITE, _STANDS_FOR_INFINITY = 1e8, 3e4
_LARGEST, _SMALLEST = 65504.0, 2.0 ** -25  # beyond the first float16 is infinite, at and below the second it is 0


class Float16(Pass):
    """1. Operators compute in float16 and their constants are float16, except those of KEEP_FLOAT32, other domains, inputs of KEEP_INPUTS, and 2. operators with a constant beyond
    float16's range, or with a one-element constant that would become 0 (an epsilon): these stay float32, with a remark.  3. Magnitudes from 1e8 up in an operator of MASKING stand for
    infinity (the -1e9 or -3.4e38 of a mask): they become ±30000, of which float16 can add two, with a remark.

    Rounding: to float16, everywhere. Constants of several elements lose what is below 2⁻²⁵.
    """

    name = "float16"

    def run(self, model: Model) -> int:
        return sum(self._convert(graph) for graph in list(model.graph.graphs()))

    def _convert(self, graph: Graph) -> int:
        self._graph = graph
        self._half: dict[Value, Value] = {}     # float32 value → its float16 form
        self._single: dict[Value, Value] = {}   # float16 value → its float32 form
        count = 0
        for node in list(graph.nodes):
            if any(v is not None and self._is_float(v) for v in (*node.inputs, *node.outputs)):
                count += self._narrow(node) if self._may_narrow(node) else self._keep(node)
        graph.outputs = [self._output(v) for v in graph.outputs]
        return count

    def _is_float(self, value: Value) -> bool:
        return value.dtype in (DType.FLOAT, DType.FLOAT16)

    def _may_narrow(self, node: Node) -> bool:
        if node.domain or node.op_type in KEEP_FLOAT32:
            return False
        for index, value in enumerate(node.inputs):
            if value is None or value.const is None or value.const.dtype is not DType.FLOAT or index in KEEP_INPUTS.get(node.op_type, ()):
                continue
            why, masks = _out_of_range(value.const)
            if masks and node.op_type in MASKING:                                                                                       # 3
                self.notes.append(f"{node.label}: its constant '{value.name}' {why}; it is taken for infinity and becomes {_STANDS_FOR_INFINITY:.0f}")
            elif why:                                                                                                                   # 2
                self.notes.append(f"{node.label} stays float32: its constant '{value.name}' {why}")
                return False
        return True

    def _keep(self, node: Node) -> int:
        """The node works on float32: what became float16 is cast back."""
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype is DType.FLOAT16 and value in self._single:
                node.set_input(index, self._widened(value, node))
        return 0

    def _narrow(self, node: Node) -> int:
        kept = KEEP_INPUTS.get(node.op_type, ())
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if index in kept:
                if value in self._single:
                    node.set_input(index, self._widened(value, node))
            elif value.dtype is DType.FLOAT:
                node.set_input(index, self._narrowed(value, node))
        self._set_types(node)
        before = [v.dtype if v is not None else None for v in node.outputs]
        for value in node.outputs:
            if value is not None and isinstance(value.type, TensorType):
                value.type = TensorType(None, value.type.shape)
        self.specs.update({v: self._fresh(v) for v in node.inputs if v is not None})
        infer_node(node, self.specs)
        made = [v for v, dtype in zip(node.outputs, before, strict=True) if v is not None and dtype is DType.FLOAT and v.dtype is DType.FLOAT16]
        self._single.update((v, v) for v in made)
        return int(bool(made))

    def _fresh(self, value: Value) -> Spec:
        """The value's Spec with the element type it has now."""
        spec = self.spec(value)
        dtype = value.dtype or spec.dtype
        return spec if spec.dtype == dtype else type(spec)(dtype, spec.shape)

    def _set_types(self, node: Node) -> None:
        name = _TYPE_ATTRIBUTES.get(node.op_type)
        if name is not None and node.attributes.get(name, 1) == DType.FLOAT and (name in node.attributes or node.op_type != "EyeLike"):
            node.attributes[name] = int(DType.FLOAT16)
        if node.op_type == "ConstantOfShape":
            given = node.attributes.get("value")
            if given is None or given.dtype is DType.FLOAT:
                node.attributes["value"] = Tensor(np.asarray(0 if given is None else given.numpy(), np.float16).reshape(1))
        if node.op_type == "DequantizeLinear" and not node.attributes.get("output_dtype", 0):
            node.attributes["output_dtype"] = int(DType.FLOAT16)

    # -- the two forms of a value ------------------------------------------------------------------------------------------------------------
    def _narrowed(self, value: Value, node: Node) -> Value:
        if value not in self._half:
            if value.const is not None:
                self._half[value] = Value(value.name, None, _to_half(value.const))
            else:
                self._half[value] = made = self._cast(value, DType.FLOAT16, node)
                self._single[made] = value
        return self._half[value]

    def _widened(self, value: Value, node: Node | None) -> Value:
        if self._single.get(value, value) is value:
            self._single[value] = self._cast(value, DType.FLOAT, node)
            self._half[self._single[value]] = value
        return self._single[value]

    def _cast(self, value: Value, dtype: DType, node: Node | None) -> Value:
        origin = (value.producer or node).origin if value.producer or node else ()  # type: ignore[union-attr]
        made = Value(self._graph.unique_name(f"{value.name}_{'half' if dtype is DType.FLOAT16 else 'single'}"), TensorType(dtype, value.shape))
        cast = Node("Cast", [value], [made], {"to": int(dtype)}, origin=origin)
        self._graph.nodes.insert(self._graph.nodes.index(node) if node is not None else len(self._graph.nodes), cast)
        return made

    def _output(self, value: Value) -> Value:
        """A graph output keeps its name and float32."""
        if value not in self._single:
            return value
        made = self._widened(value, None)
        if made not in self._graph.outputs:
            value.name, made.name = f"{value.name}_half", value.name
        return made


def _out_of_range(tensor: Tensor) -> tuple[str, bool]:
    """(why a constant can not be float16, empty where it can; whether what is beyond the range may stand for infinity)."""
    array = tensor.numpy()[(slice(0, 1),) * len(tensor.shape)] if tensor.is_splat else tensor.numpy()
    sizes = np.abs(array[np.isfinite(array)])
    beyond = sizes[sizes > _LARGEST]
    if beyond.size:
        return f"has elements of magnitude {float(beyond.max()):.3g}, beyond float16's {_LARGEST:.0f}", bool((beyond >= _INFINITE).all())
    if array.size == 1 and sizes.size and 0 < float(sizes[0]) <= _SMALLEST:
        return f"is {float(sizes[0]):.3g}, which float16 rounds to 0", False
    return "", False


def _to_half(tensor: Tensor) -> Tensor:
    array = tensor.numpy()[(slice(0, 1),) * len(tensor.shape)] if tensor.is_splat else tensor.numpy()
    huge = np.isfinite(array) & (np.abs(array) >= _INFINITE)
    half = np.where(huge, np.sign(array) * _STANDS_FOR_INFINITY, array).astype(np.float16) if huge.any() else array.astype(np.float16)
    return Tensor.splat(half.reshape(-1)[0], DType.FLOAT16, tensor.shape) if tensor.is_splat else Tensor(half)


def float16_passes() -> list[Pass]:
    """The conversion, and the clean-up of Casts that cancel."""
    return [Float16(), CleanMoves(), NoOps(), CommonSubexpressions(), DeadCode()]
