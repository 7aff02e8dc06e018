"""A source and SessionOptions → a Model ready for a provider: read by magic bytes, shared initializers put in, sizes bound, shapes inferred."""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..dim import substitute
from ..errors import InvalidArgument, InvalidGraph, NoSuchFile
from ..graph import Graph, Model, Tensor, Value
from ..model import StoredModel, is_sdx, read_model
from ..types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType, ValueType
from .environment import logger
from .exceptions import InvalidType, ModelLoadCanceled
from .nodes import NodeArg, node_arg
from .options import SessionOptions
from .providers import part
from .values import OrtValue


@dataclass
class Loaded:
    """A model with its interface as the caller sees it. `inputs` are those a caller must give, `overridable` the ones that have a default."""

    model: Model
    inputs: list[NodeArg]
    overridable: list[NodeArg]
    outputs: list[NodeArg]


def load(source: Any, options: SessionOptions) -> Loaded:
    """Read and prepare a model. Raises what the readers raise, InvalidGraph, and InvalidArgument for unfit shared initializers."""
    if options._cancelled:
        raise ModelLoadCanceled("loading was cancelled: set_load_cancellation_flag(True) is set in the session's options")
    model = read(source, stored=not options._initializers and not options._sizes_by_name)
    if isinstance(model, StoredModel):
        model.prepare = _infer_shapes
        inputs, outputs = model.interface
        return Loaded(model, [node_arg(v, v.type) for v in inputs], [], [node_arg(v, v.type) for v in outputs])
    if options._initializers:
        _share_initializers(model.graph, options._initializers)
    if options._sizes_by_name:
        bind_sizes(model, options._sizes_by_name)
    for value in model.graph.inputs:
        if not _is_complete(value.type):
            raise InvalidGraph(f"the model's input '{value.name}' has no element type ({value.type}); every input must declare one")
    declared = {value: value.type for value in [*model.graph.inputs, *model.graph.outputs]}
    _infer_shapes(model)
    def arg(value: Value) -> NodeArg:
        return node_arg(value, declared[value])
    inputs = model.graph.inputs
    return Loaded(model, [arg(v) for v in inputs if v.const is None], [arg(v) for v in inputs if v.const is not None], [arg(v) for v in model.graph.outputs])


def _infer_shapes(model: Model) -> None:
    """Comes when it is needed: a file with programs opens without it."""
    from ..plan.shapes import infer_shapes
    infer_shapes(model)


def _is_complete(kind: ValueType | None) -> bool:
    """Whether a type says which elements a value has: what a feed is checked against."""
    if isinstance(kind, (SequenceType, OptionalType)):
        return _is_complete(kind.element)
    if isinstance(kind, MapType):
        return _is_complete(kind.value)
    return kind is not None and kind.dtype is not None


def read(source: Any, stored: bool = False) -> Model:
    """The Model of a `.sdx` or `.onnx` path, bytes or binary file, told apart by its first bytes. `stored`: see read_model."""
    if callable(getattr(source, "read", None)):
        source = source.read()
        if isinstance(source, str):
            raise InvalidType("the file object gives text; open the model in binary mode ('rb')")
    if isinstance(source, (bytes, bytearray, memoryview)):
        head = bytes(source[:16])
    elif isinstance(source, (str, os.PathLike)):
        head = _head(os.fspath(source))
    elif callable(getattr(source, "SerializeToString", None)):
        head = b""
    else:
        raise InvalidType(f"Unable to load from type '{type(source)}'; a model is given as a path, bytes or a binary file object")
    return read_model(source, stored=stored) if is_sdx(head) else part("onnx").load_model(source)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except IsADirectoryError:
        raise InvalidArgument(f"Load model from {path} failed: it is a folder; give the path of the model file in it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise NoSuchFile(f"Load model from {path} failed: File doesn't exist (current folder: {os.getcwd()})") from None
    except (OSError, ValueError) as error:
        raise NoSuchFile(f"Load model from {path[:300]!r} failed: {getattr(error, 'strerror', None) or error}") from None


def _share_initializers(graph: Graph, shared: Mapping[str, OrtValue]) -> None:
    """Replace constants by the caller's arrays, without copying them."""
    unused = set(shared)
    for value in dict.fromkeys(v for g in graph.graphs() for v in g.constants()):
        if value.name in shared and value.const is not None:
            array = shared[value.name]._array()
            if DType.of(array) is not value.const.dtype or array.shape != value.const.shape:
                raise InvalidArgument(f"initializer '{value.name}' is {TensorType(value.const.dtype, value.const.shape).describe()}; "
                                      f"the OrtValue given for it is {TensorType(DType.of(array), array.shape).describe()}")
            value.const = Tensor(array)
            unused.discard(value.name)
    for name in sorted(unused):
        logger.warning("the model has no initializer '%s'; the OrtValue given for it is not used", name)


def bind_sizes(model: Model, sizes: Mapping[str, int]) -> None:
    """Give symbolic sizes numbers, in every declared type."""
    for graph in model.graph.graphs():
        for value in _values(graph):
            if value.type is not None:
                value.type = _bound(value.type, sizes)
    model.symbols = {name: limits for name, limits in model.symbols.items() if name not in sizes}


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from (v for v in node.outputs if v is not None)


def _bound(kind: ValueType, sizes: Mapping[str, int]) -> ValueType:
    if isinstance(kind, TensorType) and kind.shape is not None:
        return TensorType(kind.dtype, tuple(substitute(d, sizes) for d in kind.shape))
    if isinstance(kind, SparseTensorType) and kind.shape is not None:
        return SparseTensorType(kind.dtype, tuple(substitute(d, sizes) for d in kind.shape))
    if isinstance(kind, SequenceType):
        return SequenceType(_bound(kind.element, sizes))
    return OptionalType(_bound(kind.element, sizes)) if isinstance(kind, OptionalType) else kind
