"""How an operator is written down, once.

    @operator()
    def Concat(*inputs, axis):
        '''The inputs joined along `axis`.'''
        return np.concatenate(inputs, axis)

    @Concat.shape
    def _(*inputs, axis):
        ...
        return Spec(dtype, dims)

The function is named after the operator; positional parameters are the specification's inputs (its names; absent optional ones default to None,
a variadic input is `*inputs`), keyword-only parameters are the attributes with the specification's defaults (no default: required). Its NumPy body is the
reference, the oracle of every executor: inputs are arrays of exactly the ONNX element types, the result an array or a tuple of arrays of exactly the
output types. Do not write to inputs. Attributes arrive as int, float, str, list, ndarray (tensor attributes), `Graph`, or a ValueType.

Keyword-only parameters that are not attributes, given to a body (and, where marked, to a rule) that declares them:
- `n_outputs`: the number of outputs the node has (body and rule): Dropout's mask, Split's parts.
- `context`: `Context` with `.run(graph, inputs)` for subgraphs, `.random(seed)` for random numbers (body only).
- `infer`: a function (graph, input specs) → output specs for rules of If, Loop, Scan (rule only).
- `possible`: a function graph → whether that branch of an If can run for the shapes that are planned for (rule only).

The shape rule has the same parameters; each input is a `Spec` (dtype, shape of Dims or None for unknown rank, `value` where known) and it returns one `Spec` or a tuple.
It never fails on unknown rank: it returns Spec(dtype, None). It raises InvalidGraph (through `require`) where the node can not be right; the driver adds the node's name.
Values of small shape tensors: `@operator(symbolic=True)` says that the body itself also works on object arrays of Dims and ints (data movement, + - * //): the driver then runs
it on known values. Where the body would not do, `@Op.values` gives a function of the same signature that takes the Specs and returns the value(s) or None.
The lowering (`@Op.lower`) has the same parameters after a first one, `k` (core/lowering.py), takes Views for inputs and `out` (the Spec of the one output, or a list of Specs) and returns the
output View or a tuple of Views. It raises CannotLower, with a reason a user understands, for what has no kernels.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..dim import Dim, Shape, shape_text
from ..errors import InvalidGraph, Terminated
from ..errors import NotImplemented as NotImplementedHere
from ..narrow import asarray
from ..philox import Source, draws_of_run
from ..types import DType, TensorType, ValueType, stand_ins
from .host import HOST_ONLY

SPECIAL = ("n_outputs", "context", "infer", "possible")
#: Modules whose bodies move elements, or convert them by `narrow`: they need no arithmetic of NumPy's.
_MOVERS = ("cast", "control", "gather", "move", "sequence", "shape")
#: Values are propagated at inference for integer, bool and float tensors of at most this many elements.
MAX_KNOWN = 64


@dataclass(frozen=True, slots=True)
class Spec:
    """What is known of a value before it is computed. `value`: an ndarray of the dtype (constants), or an object array of ints, Fractions and Dims."""

    dtype: DType | None
    shape: Shape | None = None
    value: Any = None
    type: ValueType | None = None  # set for sequences, optionals, maps; then dtype and shape are None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def ints(self) -> list[Dim] | None:
        """The known value as a flat list of sizes (`axes`, `repeats`, `shape`), None where it is not known."""
        if self.value is None:
            return None
        return [v if not isinstance(v, (np.integer, np.bool_)) else int(v) for v in np.asarray(self.value).ravel().tolist()]

    @property
    def constant(self) -> Any:
        """The known value as a numeric array, None where it is unknown or symbolic."""
        if self.value is None or self.dtype is None:
            return None
        value = np.asarray(self.value)
        if value.dtype == object and self.dtype is not DType.STRING:
            try:
                return asarray(value, self.dtype)
            except TypeError:
                return None
        return value

    @property
    def as_type(self) -> ValueType:
        return self.type if self.type is not None else TensorType(self.dtype, self.shape)

    def with_shape(self, shape: Sequence[Dim] | None) -> Spec:
        return Spec(self.dtype, None if shape is None else tuple(shape))

    def __str__(self) -> str:
        return str(self.type) if self.type is not None else f"{self.dtype.text if self.dtype else '?'}{shape_text(self.shape)}"


@dataclass
class Context:
    """What an operator body may need besides its inputs."""

    run: Callable[..., list[Any]]                   # (graph, inputs) → outputs
    random: Source = field(default_factory=lambda: draws_of_run(None))  # the draw of a `seed` attribute, or the run's next one
    terminated: Callable[[], bool] = lambda: False

    def check(self) -> None:
        """Raise Terminated if the caller asked the run to stop; long loops call it."""
        if self.terminated():
            raise Terminated("the run was stopped by RunOptions.terminate")


Ints = Any
"""The annotation of an attribute that is a list of ints or absent, where the bodies' helpers take either."""

#: Annotations of attributes (as text: `from __future__ import annotations`) → what such an attribute is, in words.
_KINDS = {"int": "an int", "float": "a float", "str": "a string", "np.ndarray": "a tensor", "Graph": "a graph", "ValueType": "a type", "Clip": "a float", "Ints": "a list of ints"}
_KINDS |= {f"{many}[{one}]": f"a list of {_KINDS[one].split()[-1]}s" for many in ("list", "Sequence") for one in ("int", "float", "str")}


#: Operators with an input that may hold strings, by the specification's type constraints; the bodies of the others are not written for them. Domains not listed: not known.
_TAKE_STRINGS = {
    "": frozenset("""
        Cast CastLike CenterCropPad Col2Im Compress Concat ConcatFromSequence DepthToSpace Equal Expand Flatten Gather GatherElements GatherND GridSample Identity Loop NonZero
        OneHot Optional OptionalGetElement OptionalHasElement Pad RandomNormalLike RandomUniformLike RegexFullMatch Reshape Resize ReverseSequence Scan ScatterElements ScatterND
        SequenceAt SequenceConstruct SequenceErase SequenceInsert SequenceLength SequenceMap Shape Size Slice SpaceToDepth Split SplitToSequence Squeeze StringConcat
        StringNormalizer StringSplit TensorScatter TfIdfVectorizer Tile Transpose Trilu Unique Unsqueeze Where
    """.split()),  # noqa: SIM905
    "ai.onnx.ml": frozenset({"ArrayFeatureExtractor", "CastMap", "CategoryMapper", "DictVectorizer", "LabelEncoder", "OneHotEncoder"}),
}


class Operator:
    """A registered operator: the reference body (call it), its shape rule, its lowering."""

    def __init__(self, function: Callable[..., Any], domain: str, symbolic: bool, host_only: bool, random: bool) -> None:
        self.function, self.domain, self.name = function, domain, function.__name__
        self.symbolic, self.host_only, self.random = symbolic, host_only, random
        self.shape_rule: Callable[..., Any] | None = None
        self.value_rule: Callable[..., Any] | None = None
        self.lowering: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The body. NotImplemented where it would compute with stand-ins for ml_dtypes' types."""
        if stand_ins and self.function.__module__.rpartition(".")[2] not in _MOVERS:
            for x in args:
                if isinstance(x, np.ndarray) and x.dtype in stand_ins:
                    raise NotImplementedHere(f"the body of {self.name} computes with {DType.of(x).text}, which NumPy lacks; `pip install ml_dtypes` "
                                             "(in a page: await micropip.install('ml_dtypes')) adds it, before sardonyx is imported")
        return self.function(*args, **kwargs)

    def shape(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the shape rule."""
        self.shape_rule = rule
        return rule

    def values(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: known values of the outputs from the inputs' Specs, where running the body on object arrays would not do."""
        self.value_rule = rule
        return rule

    def lower(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the lowering to kernels."""
        self.lowering = rule
        return rule

    @cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function).parameters)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs; a variadic one is last."""
        return tuple(p.name for p in self._parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL))

    @cached_property
    def variadic(self) -> bool:
        return any(p.kind == p.VAR_POSITIONAL for p in self._parameters.values())

    @cached_property
    def required_inputs(self) -> int:
        return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in self._parameters.values())

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attribute name → default; `inspect.Parameter.empty` marks a required one."""
        return {p.name: p.default for p in self._parameters.values() if p.kind == p.KEYWORD_ONLY and p.name not in SPECIAL}

    @cached_property
    def takes_strings(self) -> bool:
        """Whether an input may hold strings."""
        return self.host_only or self.name in _TAKE_STRINGS.get(self.domain, (self.name,))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Attribute name → what it must be, in words, where its annotation says: "an int", "a list of floats", "a graph"."""
        said = {name: str(self._parameters[name].annotation).removesuffix(" | None") for name in self.attributes}
        return {name: _KINDS[text] for name, text in said.items() if text in _KINDS}

    @cached_property
    def wants(self) -> frozenset[str]:
        """Which of SPECIAL the body declares."""
        return frozenset(n for n in SPECIAL if n in self._parameters)

    @cached_property
    def rule_wants(self) -> frozenset[str]:
        """Which of SPECIAL the shape rule declares."""
        return frozenset() if self.shape_rule is None else frozenset(n for n in SPECIAL if n in inspect.signature(self.shape_rule).parameters)

    @cached_property
    def lowering_wants(self) -> frozenset[str]:
        """Which of SPECIAL the lowering declares."""
        return frozenset() if self.lowering is None else frozenset(n for n in SPECIAL if n in inspect.signature(self.lowering).parameters)

    def __repr__(self) -> str:
        return f"<operator {self.domain + '.' if self.domain else ''}{self.name}>"


_registered: dict[tuple[str, str], Operator] = {}


def operator(domain: str = "", *, symbolic: bool = False, random: bool = False) -> Callable[[Callable[..., Any]], Operator]:
    """Register the decorated function as the operator of its name.

    symbolic: the body works on object arrays of Dims. random: never folded or shared. What is never lowered stands in host.py.
    """
    def register(function: Callable[..., Any]) -> Operator:
        made = Operator(function, domain, symbolic, (domain, function.__name__) in HOST_ONLY, random)
        key = (domain, made.name)
        assert key not in _registered, f"operator {key} is defined twice"
        _registered[key] = made
        return made
    return register


def require(condition: Any, message: str) -> None:
    """Raise InvalidGraph with `message` unless the condition holds (rules and bodies; the caller adds the node's name)."""
    if not condition:
        raise InvalidGraph(message)
