"""Shape inference: runs every operator's shape rule over a graph, on `Dim` expressions, and propagates the values of small tensors.

Rules
1. Graph inputs start from their declared types; every constant has its type, and its value where it has at most MAX_KNOWN elements.
2. A node's rule turns input Specs into output Specs. What a rule leaves unknown (dtype, rank, one size) is filled from the type the file declared
   for that value; where both know and disagree on dtype, the model is wrong (InvalidGraph); on sizes the rule wins.
3. Values: a `values` rule if the operator has one; else the body runs, on plain arrays where every input value is numeric, on object arrays
   of Dims where the operator is `symbolic`; only where every output is known to have at most MAX_KNOWN elements and no more is made on the way.
   Values of inputs that a run gives are used too, but what follows from them is computed here only where it is integers or bools: the rest is the run's work.
4. Nested graphs: rules of If, Loop and Scan call `infer(graph, input specs)`.
5. For planning (`infer_plan`), a small integer tensor that decides a size (DECIDING_SIZES; through symbolic operators) and whose value is not known gets symbols for its elements,
   `?name[i]`, as its value: so every rule on expressions works with what data decide. Nothing is recorded in the graph then.
6. For planning, an If that asks whether a size is 1, to drop that axis (torch's squeeze(dim)), leaves a tensor of unknown rank. Where the rest of its graph is right with the axis dropped and wrong
   with the axis kept, the condition is taken as true: the Squeeze itself refuses other sizes when the program is bound.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from inspect import Parameter
from typing import Any

import numpy as np

from ..dim import MAX_BITS, Dim, Expr, Symbol, Undecidable, as_exact, fresh_scope, is_static, product, substitute, symbol, symbols
from ..errors import InvalidGraph, SardonyxError
from ..graph import Graph, Model, Node, Tensor, Value
from ..ops import Operator, Spec, lookup
from ..ops.registry import MAX_KNOWN
from ..types import DType, TensorType, ValueType

Specs = dict[Value, Spec]
_WORDS: tuple[tuple[Any, str], ...] = ((str, "a string"), ((int, np.integer), "an int"), ((float, np.floating), "a float"), ((Tensor, np.ndarray), "a tensor"),
                                       (Graph, "a graph"), (ValueType, "a type"))
_EXACT: dict[type, str] = {str: "a string", int: "an int", float: "a float", Tensor: "a tensor", Graph: "a graph"}

#: Families of operators (modules of `ops`) whose bodies work no more than their inputs and outputs are large. Others make much of little on the way (a pool with pads
#: and strides of a billion), which a file must not be able to ask for while it is opened.
_BOUNDED = frozenset({"activation", "cast", "create", "elementwise", "gather", "logic", "move", "reduce", "shape", "sort"})


#: Names of the operator inputs whose values decide sizes, and the least that they may be (None: any number).
DECIDING_SIZES: Mapping[str, int | None] = {"shape": None, "starts": None, "ends": None, "repeats": 0, "split": 0, "pads": None, "K": 0, "depth": 0, "total_sequence_length": 1, "sizes": 0, "size": 0,
                                            "output_shape": 0, "start": None, "limit": None, "delta": None, "dft_length": 0, "frame_step": 0, "frame_length": 0}
#: Operators whose `shape` may not be negative; and other inputs that decide sizes.
_SHAPES = frozenset({"Expand", "ConstantOfShape", "CenterCropPad"})
#: Operators that only move the elements of a shape tensor.
_MOVING = frozenset({"Concat", "Unsqueeze", "Squeeze", "Reshape", "Gather", "Cast", "Identity", "Slice", "Split", "Flatten", "Transpose"})
#: Operators whose integers are never negative.
_COUNTING = frozenset({"ArgMax", "ArgMin", "NonZero", "Size", "Shape", "SequenceLength"})
#: Elements a tensor may have to decide sizes.
MAX_DECIDING = 16


def deciding_values(graph: Graph) -> dict[Value, int | None]:
    """The values that decide sizes, by themselves or through symbolic operators, each with the least its elements may be (None: any number)."""
    found: dict[Value, int | None] = {}
    stack: list[tuple[Value, int | None]] = []
    for node in graph.walk():
        operator = lookup(node.domain, node.op_type)
        for value, name in zip(node.inputs, operator.inputs, strict=False):
            if value is not None and value.const is None and (name in DECIDING_SIZES or node.op_type == "ConstantOfShape"):
                stack.append((value, 0 if node.op_type in _SHAPES else DECIDING_SIZES[name]))
    while stack:
        value, least = stack.pop()
        if value.const is not None or (value in found and (found[value] is None or found[value] == least)):
            continue
        found[value] = least
        maker = value.producer
        if maker is None or maker.op_type in ("Shape", "Size"):
            continue
        operator = lookup(maker.domain, maker.op_type)
        if operator.symbolic or operator.value_rule is not None:
            stack += [(v, least if maker.op_type in _MOVING else None) for v in maker.inputs if v is not None]
    return {v: 0 if v.producer is not None and v.producer.op_type in _COUNTING else least for v, least in found.items()}


def decided_by(value: Value, known: Any) -> list[Any]:
    """The symbols of a known value that are the value's own elements (rule 5), in row-major order; none where it is known otherwise."""
    if known is None:
        return []
    array = np.asarray(known)
    flat = array.ravel().tolist() if array.dtype == object else []
    return flat if flat and str(flat[0]) == f"?{value.name}[0]" else []


class GivenSpecs(dict[Value, Spec]):
    """Specs for planning; they hold for the planned runs only: no type is recorded in the graph. Some inputs may have given values or shapes. `deciding`: rule 5.
    `derived`: what follows from the given values; `sizes`: the numbers of the symbols the given shapes bind."""

    def __init__(self, values: Mapping[Value, np.ndarray], shapes: Mapping[Value, tuple[int, ...]], deciding: Mapping[Value, int | None] | None = None) -> None:
        super().__init__()
        self.values_given, self.shapes_given, self.derived, self.deciding = values, shapes, set(values), deciding or {}
        self.impossible: set[int] = set()   # ids of branches that are wrong for the given shapes
        self.trying = False                 # rule 6, while it asks
        self.sizes = {str(said): size for value, shape in shapes.items() for said, size in zip(value.shape or (), shape, strict=False) if isinstance(said, Expr) and _one_symbol(said)}

    def input_spec(self, value: Value) -> Spec:
        """The Spec of a graph input."""
        spec = input_spec(value)
        if value in self.values_given:
            return Spec(spec.dtype, self.values_given[value].shape, self.values_given[value])
        return spec.with_shape(self.shapes_given[value]) if value in self.shapes_given else spec


def infer_shapes(model: Model | Graph, values: Mapping[Value, np.ndarray] | None = None, shapes: Mapping[Value, tuple[int, ...]] | None = None) -> Specs:
    """Infer and record `value.type` for every value; returns the Specs, known values included. Raises InvalidGraph naming the node.
    With given `values` (at most MAX_KNOWN elements each) or `shapes` of some inputs nothing is recorded."""
    graph = model.graph if isinstance(model, Model) else model
    specs: Specs = {} if values is None and shapes is None else GivenSpecs(values or {}, shapes or {})
    for value in graph.inputs:
        specs[value] = specs.input_spec(value) if isinstance(specs, GivenSpecs) else input_spec(value)
    _infer_graph(graph, specs)
    return specs


def infer_plan(graph: Graph, values: Mapping[Value, np.ndarray] | None = None, shapes: Mapping[Value, tuple[int, ...]] | None = None) -> Specs:
    """The Specs a graph is planned with: rule 5. The graph's own types are left as they are."""
    specs = GivenSpecs(values or {}, shapes or {}, deciding_values(graph))
    for value in graph.inputs:
        _record(value, specs.input_spec(value), specs)
    _infer_graph(graph, specs)
    return specs


def input_spec(value: Value) -> Spec:
    """The Spec of a graph input from its declared type."""
    if isinstance(value.type, TensorType):
        return Spec(value.type.dtype, value.type.shape)
    return Spec(None, None, type=value.type)


def constant_spec(tensor: Tensor) -> Spec:
    """The Spec of a constant, with its value where it is small."""
    return Spec(tensor.dtype, tensor.shape, tensor.numpy() if tensor.size <= MAX_KNOWN else None)


def attribute_arguments(node: Node, operator: Operator) -> dict[str, Any]:
    """The node's attributes as keyword arguments; unknown ones, missing ones and ones of a wrong type raise InvalidGraph."""
    known = operator.attributes
    for name in node.attributes:
        if name not in known:
            raise InvalidGraph(f"{node.label}: unknown attribute '{name}'; {node.operator} has: {', '.join(known) or 'none'}")
    for name, default in known.items():
        if default is Parameter.empty and name not in node.attributes:
            raise InvalidGraph(f"{node.label}: required attribute '{name}' is missing")
    kinds = operator.kinds
    for name, value in node.attributes.items():
        kind = kinds.get(name)
        if kind is not None and _EXACT.get(type(value)) != kind and not _fits(kind, value):
            raise InvalidGraph(f"{node.label}: attribute '{name}' must be {kind}, not {_kind(value)}")
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in node.attributes.items()}


def _kind(value: Any) -> str:
    """What an attribute is, in the words of `Operator.kinds`; the elements of a list are all of one kind in every file."""
    if isinstance(value, (list, tuple)):
        return f"a list of {_kind(value[0]).split(None, 1)[1]}s" if value else "an empty list"
    return _EXACT.get(type(value)) or next((text for kind, text in _WORDS if isinstance(value, kind)), f"a {type(value).__name__}")


def _fits(kind: str, value: Any) -> bool:
    """An int may stand where a float must be."""
    found = _kind(value)
    return found == kind or (found == "an empty list" and kind.startswith("a list")) or (found, kind) in (("an int", "a float"), ("a list of ints", "a list of floats"))


def check_arity(node: Node, operator: Operator) -> None:
    """Raise InvalidGraph where the node has too few or too many inputs."""
    given = len(node.inputs)
    if given < operator.required_inputs or (not operator.variadic and given > len(operator.inputs)):
        most = "any number" if operator.variadic else len(operator.inputs)
        raise InvalidGraph(f"{node.label}: has {given} inputs; {node.operator} takes {operator.required_inputs} to {most} ({', '.join(operator.inputs)})")
    for index, name in enumerate(operator.inputs[:operator.required_inputs]):
        if node.inputs[index] is None:
            raise InvalidGraph(f"{node.label}: required input '{name}' is missing")


def _infer_graph(graph: Graph, specs: Specs) -> None:
    for i, node in enumerate(graph.nodes):
        if node.op_type == "If" and isinstance(specs, GivenSpecs) and not specs.trying:
            _settle(node, graph.nodes[i + 1:], specs)
        infer_node(node, specs)


def _settle(node: Node, rest: Sequence[Node], specs: GivenSpecs) -> None:                                 # 6
    """Record the condition of an If as true where only that is right."""
    cond = node.inputs[0]
    size = None if cond is None or spec_of(cond, specs).value is not None else _asked_for_one(cond, specs)
    if size is None or cond is None or not (_fits_rest(node, rest, size, True, specs) and not _fits_rest(node, rest, size, False, specs)):
        return
    specs[cond] = _truth_of(cond, True, specs)


def _truth_of(cond: Value, truth: bool, specs: Specs) -> Spec:
    shape = spec_of(cond, specs).shape
    return Spec(DType.BOOL, shape, np.full([int(d) for d in shape or ()], truth))  # type: ignore[arg-type]


def _asked_for_one(cond: Value, specs: Specs) -> Expr | None:
    """The size that a condition compares with 1, if it does."""
    node = cond.producer
    while node is not None and node.op_type in ("Identity", "Cast", "Squeeze", "Reshape"):
        node = node.inputs[0].producer if node.inputs[0] is not None else None
    if node is None or node.op_type != "Equal" or not is_static(spec_of(cond, specs).shape) or product(spec_of(cond, specs).shape or ()) != 1:
        return None
    sides = [np.asarray(s.value, object).ravel().tolist() if (s := spec_of(v, specs)).value is not None else [] for v in node.inputs if v is not None]
    found = [side[0] for side in sides if len(side) == 1 and isinstance(side[0], Expr)]
    return found[0] if len(found) == 1 and any(len(side) == 1 and side[0] is not found[0] and side[0] == 1 for side in sides) else None


def _fits_rest(node: Node, rest: Sequence[Node], size: Expr, truth: bool, specs: GivenSpecs) -> bool:
    """Whether an If and what follows it are right with the condition taken so; with it true also whether the branch drops an axis of that size. Nothing stays recorded."""
    before = dict(specs), set(specs.derived), set(specs.impossible)
    specs.trying = True
    assert node.inputs[0] is not None
    specs[node.inputs[0]] = _truth_of(node.inputs[0], truth, specs)
    try:
        for one in (node, *rest):
            infer_node(one, specs)
        return not truth or any(_drops(n, size, specs) for n in node.attributes["then_branch"].walk())
    except InvalidGraph:
        return False
    finally:
        specs.trying = False
        specs.clear()
        specs.update(before[0])
        specs.derived, specs.impossible = before[1:]


def _drops(node: Node, size: Expr, specs: Specs) -> bool:
    if node.op_type != "Squeeze" or node.inputs[0] is None or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    shape, axes = spec_of(node.inputs[0], specs).shape, spec_of(node.inputs[1], specs).ints
    return shape is not None and axes is not None and any(isinstance(a, int) and -len(shape) <= a < len(shape) and shape[a] == size for a in axes)


def spec_of(value: Value, specs: Specs) -> Spec:
    """The Spec of a value: recorded, or of its constant."""
    found = specs.get(value)
    if found is None:
        found = specs[value] = constant_spec(value.const) if value.const is not None else input_spec(value)
    return found


def infer_node(node: Node, specs: Specs) -> None:
    """Run one node's rule; records Specs and types of its outputs."""
    operator = lookup(node.domain, node.op_type)
    check_arity(node, operator)
    arguments = attribute_arguments(node, operator)
    inputs = [None if v is None else spec_of(v, specs) for v in node.inputs]
    outputs = _run_rule(node, operator, inputs, arguments, specs)
    if isinstance(specs, GivenSpecs):
        outputs = _named(node, inputs, outputs)
    outputs = [_merge_declared(node, value, spec, isinstance(specs, GivenSpecs)) for value, spec in zip(node.outputs, outputs, strict=True)]
    values = _known_values(node, operator, inputs, arguments, outputs)
    run_decides = isinstance(specs, GivenSpecs) and any(v in specs.derived for v in node.inputs)
    for i, (value, spec) in enumerate(zip(node.outputs, outputs, strict=True)):
        if value is None:
            continue
        if values is not None and values[i] is not None and not (run_decides and spec.dtype is not None and spec.dtype.is_float):
            spec = Spec(spec.dtype, spec.shape, values[i])
            if run_decides:
                specs.derived.add(value)  # type: ignore[attr-defined]
        _record(value, spec, specs)


def _record(value: Value, spec: Spec, specs: Specs) -> None:
    if not isinstance(specs, GivenSpecs):
        value.type = spec.as_type
    elif specs.sizes and spec.shape is not None:  # declared types speak of symbols that are numbers here
        spec = Spec(spec.dtype, tuple(substitute(d, specs.sizes) for d in spec.shape), spec.value)
    if isinstance(specs, GivenSpecs) and value in specs.deciding and spec.value is None and value.const is None and spec.dtype in (DType.INT64, DType.INT32) and is_static(spec.shape):
        count = product(spec.shape or ())
        if 0 < count <= MAX_DECIDING:                                                                     # 5
            made = np.empty(count, object)
            made[:] = [symbol(f"?{value.name}[{i}]", specs.deciding[value]) for i in range(count)]
            spec = Spec(spec.dtype, spec.shape, made.reshape(spec.shape))
    specs[value] = spec


def rule_specs(node: Node, specs: Specs) -> list[Spec]:
    """What the operator's rule alone says of a node's outputs, without the types the file declares for them."""
    operator = lookup(node.domain, node.op_type)
    return _run_rule(node, operator, [None if v is None else spec_of(v, specs) for v in node.inputs], attribute_arguments(node, operator), specs)


def run_rule(node: Node, operator: Operator, inputs: Sequence[Spec | None], arguments: dict[str, Any]) -> list[Spec]:
    """What the rule of a node without nested graphs says of its outputs for inputs with these Specs. Raises InvalidGraph naming the node."""
    return _run_rule(node, operator, inputs, arguments, {})


def _run_rule(node: Node, operator: Operator, inputs: Sequence[Spec | None], arguments: dict[str, Any], specs: Specs) -> list[Spec]:
    count = len(node.outputs)
    if not operator.takes_strings:
        for spec in inputs:
            if spec is not None and spec.dtype is DType.STRING:
                raise InvalidGraph(f"{node.label}: an input is {spec}, and {node.operator} takes no strings; make numbers of them first (Cast, LabelEncoder)")
    if operator.shape_rule is None:
        return [Spec(None)] * count
    special: dict[str, Any] = {}
    if "n_outputs" in operator.rule_wants:
        special["n_outputs"] = count
    if "infer" in operator.rule_wants:
        special["infer"] = lambda graph, given: _infer_nested(graph, given, specs)
    if "possible" in operator.rule_wants:
        special["possible"] = lambda graph: _possible(graph, specs)
    prefix = next((v.name for v in node.outputs if v is not None), node.name)
    try:
        with fresh_scope(prefix):
            made = operator.shape_rule(*inputs, **arguments, **special)
    except Undecidable:
        return [Spec(None)] * count
    except InvalidGraph as error:
        shown = ", ".join(map(str, inputs))
        raise InvalidGraph(f"{node.label}: {error} (inputs: {shown})" if node.label not in str(error) else str(error)) from None
    except SardonyxError:
        raise
    except RecursionError:
        raise InvalidGraph(f"{node.label}: graphs are nested too deeply") from None
    except Exception as error:
        raise InvalidGraph(f"{node.label}: attributes or inputs are not valid for {node.operator} ({type(error).__name__}: {error}; inputs: {', '.join(map(str, inputs))})") from error
    outputs = list(made) if isinstance(made, tuple) else [made]
    if count > len(outputs):
        raise InvalidGraph(f"{node.label}: has {count} outputs; {node.operator} makes {len(outputs)}")
    for spec in outputs:
        if spec.shape is not None and not all(isinstance(d, (int, Expr)) for d in spec.shape):
            raise InvalidGraph(f"{node.label}: its attributes or inputs give the shape {list(spec.shape)}; sizes are whole numbers (inputs: {', '.join(map(str, inputs))})")
    return outputs[:count]


def _possible(graph: Graph, specs: Specs) -> bool:
    """Whether a branch can run at all. With given shapes it may be one that a condition keeps for others, and be wrong for these."""
    if not isinstance(specs, GivenSpecs) or not specs.shapes_given:
        return True
    try:
        _infer_nested(graph, [], specs)
    except InvalidGraph:
        specs.impossible.add(id(graph))
        return False
    return True


def _infer_nested(graph: Graph, given: Sequence[Spec], specs: Specs) -> list[Spec]:
    """Output Specs of a nested graph whose inputs have the given Specs (fewer than declared: the rest as declared)."""
    for i, value in enumerate(graph.inputs):
        spec = given[i] if i < len(given) and given[i] is not None else input_spec(value)
        _record(value, spec, specs)
    _infer_graph(graph, specs)
    return [spec_of(v, specs) for v in graph.outputs]


def _named(node: Node, inputs: Sequence[Spec | None], outputs: Sequence[Spec]) -> list[Spec]:
    """For planning: anonymous sizes that the node makes under the names the file declares for them, the same name wherever the size stands. A size that an input speaks of already keeps its
    name: nothing would bind another."""
    dims = [d for spec in inputs if spec is not None for d in (*(spec.shape or ()), *(spec.ints or () if spec.value is not None else ()))]
    old = {s for d in dims if isinstance(d, Expr) for s in symbols(d)}
    names: dict[str, Dim] = {}
    for value, spec in zip(node.outputs, outputs, strict=True):
        declared = value.shape if value is not None else None
        if declared is not None and spec.shape is not None and len(declared) == len(spec.shape):
            for size, name in zip(spec.shape, declared, strict=True):
                if _anonymous(size) and isinstance(name, Expr) and _one_symbol(name) and not _anonymous(name) and not symbols(size) & old:
                    names.setdefault(str(size), name)
    if not names:
        return list(outputs)
    return [replace(spec, shape=None if spec.shape is None else tuple(substitute(d, names) for d in spec.shape)) for spec in outputs]


def _merge_declared(node: Node, value: Value | None, spec: Spec, keep_names: bool) -> Spec:
    if value is None or value.type is None or spec.type is not None:
        return spec
    declared = value.type
    if not isinstance(declared, TensorType):
        if spec.dtype is not None:
            raise InvalidGraph(f"{node.label}: output '{value.name}' is declared {declared} but is {spec}")
        return Spec(None, None, type=declared)
    if spec.dtype is not None and declared.dtype is not None and spec.dtype != declared.dtype:
        raise InvalidGraph(f"{node.label}: output '{value.name}' is declared {declared.describe()} but the operator makes {spec}")
    dtype = spec.dtype or declared.dtype
    if spec.shape is None:
        return Spec(dtype, declared.shape, spec.value)
    if declared.shape is None or len(declared.shape) != len(spec.shape):
        return Spec(dtype, spec.shape, spec.value)
    shape = tuple(d if _anonymous(s) and (isinstance(d, int) or not (_anonymous(d) or keep_names)) else s for s, d in zip(spec.shape, declared.shape, strict=True))
    return Spec(dtype, shape, spec.value)


def _anonymous(size: Any) -> bool:
    """True for a size that is nothing but one anonymous symbol."""
    return isinstance(size, Expr) and _one_symbol(size) and str(size).startswith("?")


def _one_symbol(size: Expr) -> bool:
    return len(size.terms) == 1 and len(size.terms[0][0]) == 1 and size.terms[0][1] == 1 and isinstance(size.terms[0][0][0], Symbol)


def _known_values(node: Node, operator: Operator, inputs: Sequence[Spec | None], arguments: dict[str, Any], outputs: Sequence[Spec]) -> list[Any] | None:
    if operator.value_rule is not None:
        try:
            made = operator.value_rule(*inputs, **arguments)
        except Exception:  # as below
            return None
        if made is not None:
            made = made if isinstance(made, tuple) else (made,)
            return [_small(v, s.dtype) for v, s in zip(made, outputs, strict=False)] + [None] * len(outputs)
    if operator.random or operator.host_only or operator.wants or not inputs or any(s is not None and s.value is None for s in inputs):
        return None
    if not operator.symbolic and operator.function.__module__.rpartition(".")[2] not in _BOUNDED:
        return None
    for spec in outputs:
        if spec.dtype in (None, DType.STRING) or spec.shape is None or any(isinstance(d, Expr) for d in spec.shape) or product(spec.shape) > MAX_KNOWN:
            return None
    numeric = all(s is None or np.asarray(s.value).dtype != object for s in inputs)
    if not numeric and not operator.symbolic:
        return None
    given = [None if s is None else np.asarray(s.value) if numeric else _as_objects(np.asarray(s.value)) for s in inputs]
    try:
        with np.errstate(all="ignore"):
            made = operator(*given, **arguments)
    except Exception:  # a body that object arrays or these values do not suit: the value is simply not known
        return None
    values = [np.asarray(v) for v in (made if isinstance(made, tuple) else (made,))]
    if numeric:
        return [v if s.dtype is not None and v.dtype == s.dtype.numpy else None for v, s in zip(values, outputs, strict=False)]
    return [_small(v, s.dtype) for v, s in zip(values, outputs, strict=False)]


def _as_objects(array: np.ndarray) -> np.ndarray:
    """Numbers as Python ints and Fractions, so that arithmetic with Dims stays exact; Dims stay."""
    out = np.empty(array.shape, object)
    flat = array.ravel()
    for i, item in enumerate(flat.tolist()):
        out.reshape(-1)[i] = as_exact(item) if isinstance(item, float) else item
    return out


def _small(value: Any, dtype: DType | None) -> Any:
    """A known value if it is small enough to carry; in its own dtype where no symbol is left in it, so that every body can run on it."""
    if value is None:
        return None
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.size > MAX_KNOWN:
        return None
    if array.dtype == object and dtype not in (None, DType.STRING) and not any(isinstance(v, Expr) for v in array.ravel().tolist()):
        try:
            return array.astype(dtype.numpy)
        except (OverflowError, ValueError):  # beyond the type: left to the run
            return None
    return array if array.dtype != object or dtype is DType.STRING or all(map(_plausible, array.ravel().tolist())) else None


def _plausible(number: Any) -> bool:
    """False for numbers no element type holds, which a chain of exact products would only make longer."""
    return isinstance(number, Expr) or (abs(number.numerator) < 1 << MAX_BITS and number.denominator < 1 << MAX_BITS if isinstance(number, Fraction) else -(1 << 63) <= number < 1 << 64)
