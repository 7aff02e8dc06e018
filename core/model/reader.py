""".sdx → Model: maps the file, verifies it (format.py, verify.py), builds the Graph. Weights stay where they are; a constant is a view of the map.

Memory and time are proportional to the graph section; the tensor data are not touched before a constant is used.
"""
from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..dim import product
from ..errors import InvalidModelFile, NoSuchFile
from ..graph import Graph, Model, Node, Tensor, Value
from ..program import ABI
from ..types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType, ValueType
from .elements import from_bytes
from .format import MAX_ELEMENTS, MAX_NESTING, NUMBERS, UNKNOWN_RANK, Header, Kind, StorageKind, ValueKind, check_data_file, unpack_programs
from .packing import VERSION, Packing, packed_nbytes, problem, unpack
from .sizes import read_sizes
from .stored import Stored, StoredModel
from .verify import Columns, check_columns, damaged, open_columns

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


@dataclass(frozen=True, slots=True)
class Storage:
    """Where and how a constant lies in its file (`Tensor.storage`). `data`: its bytes as they lie there, a read-only uint8 view of the map."""

    kind: StorageKind
    packing: Packing
    packing_version: int
    group: int
    offset: int  # in the tensor data section
    data: np.ndarray


def read_model(source: Source, *, stored: bool = False) -> Model:
    """Open a .sdx: a path (mapped), bytes, a memoryview or a binary file object (read from where it stands).

    stored: give a StoredModel, whose graph is decoded when it is asked for, where the file holds programs this version runs.
    Raises NoSuchFile, or InvalidModelFile naming the section and offset. The file must not be changed in place while the model lives; write_model replaces it.
    """
    file, name = _bytes_of(source)
    try:
        header = Header.unpack(file)
        columns = open_columns(_section(file, header.graph))
        check_columns(columns, header.data[1])
        abi, words = unpack_programs(_section(file, header.programs))
        decoder = Decoder(columns)
        data = _section(_data_file(decoder.strings[columns.scalars["data_file"]], name, header) if header.external else file, header.data)
        if stored and len(words) and abi[0] == ABI[0]:
            found, interface = Stored.open(words, np.frombuffer(data, np.uint8)), decoder.interface()
            if found is not None and interface is not None:
                return StoredModel(partial(_decode, decoder, data, name), found, interface, name)
        return _decode(decoder, data, name)
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{name or 'model'}: {error}") from None


def _decode(decoder: Decoder, data: memoryview, name: str) -> Model:
    with collector_paused():
        return decoder.model(data, name)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Everything a graph is made of stays, so a garbage collection while it is built finds nothing and takes longer than the building."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_programs(source: Source) -> tuple[tuple[int, int], memoryview]:
    """(program_abi, words) of a .sdx; ((0, 0), empty) where it holds no programs. Raises as `read_model` does."""
    file, name = _bytes_of(source)
    try:
        return unpack_programs(_section(file, Header.unpack(file).programs))
    except InvalidModelFile as error:
        raise InvalidModelFile(f"{name or 'model'}: {error}") from None


def _section(file: memoryview, place: tuple[int, int]) -> memoryview:
    return file[place[0]:place[0] + place[1]]


def _bytes_of(source: Source) -> tuple[memoryview, str]:
    """(contents, path or "")."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return _map(path), path
    data = source if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
    return memoryview(data).cast("B").toreadonly(), ""


def _map(path: str) -> memoryview:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except FileNotFoundError:
        raise NoSuchFile(f"the file '{path}' does not exist") from None
    except (OSError, ValueError) as error:
        raise InvalidModelFile(f"'{path}' can not be read ({error}); give the path of a .sdx file") from None


def _data_file(name: str, model: str, header: Header) -> memoryview:
    """The mapped data file. Its name is a bare one: a model must not reach into other folders."""
    if not name or name in (".", "..") or any(c in name for c in "/\\:\0"):
        raise InvalidModelFile(f"graph section, offset 0: the data file's name {name!r} is not a plain file name; a model's data lie in its own folder")
    if not model:
        raise InvalidModelFile(f"the weights lie in '{name}' beside the model, which bytes do not have; open the model by its path")
    path = Path(model).parent / name
    if not path.is_file():
        raise NoSuchFile(f"the data file '{path}' of model '{model}' does not exist; put it beside the model")
    data = _map(str(path))
    check_data_file(data, header, name)
    return data


class Decoder:
    """Builds a Model from verified columns."""

    def __init__(self, c: Columns) -> None:
        self.c = c
        self.strings = _texts(c)
        self._sizes = read_sizes(c["size_words"].tolist(), c["size_ends"].tolist(), self.strings, partial(c.error, "size_ends"))
        self._dims = c["dims"].tolist()
        self._shapes: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._types = self._read_types()

    def model(self, data: memoryview, path: str) -> Model:
        """The whole model; `data` is the tensor data section."""
        c, strings = self.c, self.strings
        self._tensors = self._read_constants(np.frombuffer(data, np.uint8))
        self._values = [Value(strings[name], self._types[kind - 1] if kind else None, self._tensors[const - 1] if const else None)
                        for name, kind, const in c["values"].tolist()]
        for number, text in c["value_docs"].tolist():
            self._values[number].doc = strings[text]
        graph = GraphBuilder(self, self._values, self._tensors, self._types).model_graph()
        model = Model(graph, opsets={strings[d]: v for d, v in c["opsets"].tolist()}, metadata={strings[k]: strings[v] for k, v in c["metadata"].tolist()}, path=path, optimized=True)
        for name in ("producer_name", "producer_version", "domain", "doc"):
            setattr(model, name, strings[c.scalars[name]])
        model.ir_version, model.model_version = c.scalars["ir_version"], c.scalars["model_version"]
        model.symbols = {strings[name]: (lower, upper if has else None) for lower, upper, name, has in c["symbols"].tolist()}
        return model

    def interface(self) -> tuple[list[Value], list[Value]] | None:
        """The inputs and outputs of the model by themselves; None where one of them is a constant."""
        docs = dict(self.c["value_docs"].tolist())
        _, _, inputs, outputs, _ = self.c["graphs"][0].tolist()
        made = {n: (*self.c["values"][n].tolist(), docs.get(n, 0)) for n in {*self.c["graph_inputs"][:inputs].tolist(), *self.c["graph_outputs"][:outputs].tolist()}}
        if any(const for _, _, const, _ in made.values()):
            return None
        values = {n: Value(self.strings[name], self._types[kind - 1] if kind else None) for n, (name, kind, _, _) in made.items()}
        for n, value in values.items():
            value.doc = self.strings[made[n][3]]
        return [values[n] for n in self.c["graph_inputs"][:inputs].tolist()], [values[n] for n in self.c["graph_outputs"][:outputs].tolist()]

    def _shape(self, at: int, rank: int) -> tuple[Any, ...]:
        found = self._shapes.get((at, rank))
        if found is None:
            found = self._shapes[at, rank] = tuple(d if d >= 0 else self._size(~d, at) for d in self._dims[at:at + rank])
        return found

    def _size(self, entry: int, at: int) -> Any:
        size = self._sizes[entry]
        if not hasattr(size, "terms"):
            raise self.c.error("dims", at, f"size entry {entry} is not a symbolic size")
        return size

    def _read_types(self) -> list[ValueType]:
        types: list[ValueType] = []
        depths: list[int] = []
        for i, (kind, dtype, rank, at) in enumerate(self.c["types"].tolist()):
            depths.append(0 if kind in (ValueKind.TENSOR, ValueKind.SPARSE_TENSOR) else depths[at] + 1)
            if depths[i] > MAX_NESTING:
                raise self.c.error("types", i, f"a type nested deeper than {MAX_NESTING}")
            types.append(self._read_type(kind, dtype, rank, at, types))
        return types

    def _read_type(self, kind: int, dtype: int, rank: int, at: int, types: list[ValueType]) -> ValueType:
        if kind == ValueKind.TENSOR:
            return TensorType(DType(dtype) if dtype else None, None if rank == UNKNOWN_RANK else self._shape(at, rank))
        if kind == ValueKind.SPARSE_TENSOR:
            return SparseTensorType(DType(dtype), None if rank == UNKNOWN_RANK else self._shape(at, rank))
        if kind == ValueKind.MAP:
            return MapType(DType(dtype), types[at])
        return SequenceType(types[at]) if kind == ValueKind.SEQUENCE else OptionalType(types[at])

    def _read_constants(self, data: np.ndarray) -> list[Tensor]:
        return [self._constant(i, row, data) for i, row in enumerate(self.c["constants"].tolist())]

    def _constant(self, i: int, row: tuple[int, ...], data: np.ndarray) -> Tensor:
        offset, length, at, group, rank, code, kind, packing, version, _ = row
        shape, dtype = self._shape(at, rank), DType(code)
        if not all(isinstance(d, int) for d in shape):
            raise self.c.error("constants", i, "a constant with a symbolic size")
        count = product(shape)
        wanted = self._stored_bytes(i, kind, dtype, shape, count, (packing, version, group))
        if wanted != length if kind != StorageKind.STRINGS else wanted > length:
            raise self.c.error("constants", i, f"{dtype.text}{list(shape)} stored as {StorageKind(kind).name} takes {wanted} bytes and has {length}")
        storage = Storage(StorageKind(kind), Packing(packing), version, group, offset, data[offset:offset + length])
        if kind == StorageKind.PLAIN and dtype in _DIRECT:
            return Tensor(storage.data.view(dtype.numpy).reshape(shape), dtype=dtype, storage=storage)
        if kind == StorageKind.SPLAT and dtype in _DIRECT:
            return Tensor(np.broadcast_to(storage.data.view(dtype.numpy), shape), dtype=dtype, storage=storage)
        return Tensor(dtype=dtype, shape=shape, load=partial(_load, storage, dtype, shape), storage=storage)

    def _stored_bytes(self, i: int, kind: int, dtype: DType, shape: tuple[int, ...], count: int, packing: tuple[int, int, int]) -> int:
        """How many bytes a constant must have (strings: at least); everything its record claims is checked on the way."""
        if kind > StorageKind.PACKED:
            raise self.c.error("constants", i, f"storage {StorageKind(kind).name} is not known here; it takes a newer sardonyx")
        if product(d for d in shape if d) > MAX_ELEMENTS:  # an empty tensor's other sizes count too: NumPy multiplies them
            raise self.c.error("constants", i, f"{list(shape)} elements, more than any tensor can have ({MAX_ELEMENTS})")
        if (dtype is DType.STRING) != (kind == StorageKind.STRINGS):
            raise self.c.error("constants", i, f"{dtype.text} elements stored as {StorageKind(kind).name}")
        if kind == StorageKind.PACKED:
            which, version, group = packing
            if which not in _PACKINGS or version != VERSION:
                raise self.c.error("constants", i, f"packing {which} version {version} is not known here; it takes a newer sardonyx")
            if text := problem(Packing(which), dtype.bits // 8 if dtype.bits >= 8 else 0, shape, group):
                raise self.c.error("constants", i, f"{dtype.text}{list(shape)} can not be packed as {Packing(which).name}: {text}")
            return packed_nbytes(Packing(which), dtype.bits // 8, shape, group)
        if packing != (0, 0, 0):
            raise self.c.error("constants", i, f"a packing for a constant stored as {StorageKind(kind).name}")
        if kind == StorageKind.PLAIN:
            return dtype.nbytes(count)
        if kind == StorageKind.SPLAT and count > 1:
            return dtype.nbytes(1)
        if kind == StorageKind.STRINGS:
            return 8 * (count + 1)
        raise self.c.error("constants", i, f"{count} elements stored as SPLAT")


class GraphBuilder:
    """Builds graphs in order, checking as it goes that every value is made once and before it is used, and every nested graph is held once."""

    def __init__(self, decoder: Decoder, values: list[Value], tensors: list[Tensor], types: list[ValueType]) -> None:
        c = self.c = decoder.c
        self.strings, self.values, self.tensors, self.types = decoder.strings, values, tensors, types
        self.visible = bytearray(v.const is not None for v in values)
        self.made = bytearray(len(values))
        self.held = bytearray(len(c["graphs"]))
        self.nodes = c["nodes"].tolist()
        self.graphs = c["graphs"].tolist()
        self.attributes = c["attributes"].tolist()
        self.pools = {name: c[name].tolist() for name in ("origins", "node_inputs", "node_outputs", "graph_inputs", "graph_outputs")}
        self.numbers = c["numbers"]
        widths = np.array([d.itemsize for d in NUMBERS])[c["attributes"]["number"]] * c["attributes"]["count"]
        self.number_ends = np.cumsum(widths, dtype=np.int64).tolist()

    def model_graph(self) -> Graph:
        """Graph 0 with all it holds."""
        self.held[0] = 1
        graph = self.graph(0, 0)
        if 0 in self.held:
            raise self.c.error("graphs", self.held.index(0), "a nested graph that no node holds")
        return graph

    def graph(self, number: int, depth: int) -> Graph:
        """The graph of that number; its values are visible to it and to what it holds."""
        if depth > MAX_NESTING:
            raise self.c.error("graphs", number, f"nested deeper than {MAX_NESTING}")
        name, doc, inputs_end, outputs_end, nodes_end = self.graphs[number]
        inputs_start, outputs_start, nodes_start = self.graphs[number - 1][2:] if number else (0, 0, 0)
        graph = Graph(self.strings[name])
        graph.doc = self.strings[doc]
        own: list[int] = []
        for v in self.pools["graph_inputs"][inputs_start:inputs_end]:
            self._make(v, "graphs", number)
            own.append(v)
            graph.inputs.append(self.values[v])
        for i in range(nodes_start, nodes_end):
            graph.nodes.append(self._node(i, number, own, depth))
        for v in self.pools["graph_outputs"][outputs_start:outputs_end]:
            if not self.visible[v]:
                raise self.c.error("graphs", number, f"output '{self.values[v].name}' is never made")
            graph.outputs.append(self.values[v])
        for v in own:
            self.visible[v] = self.values[v].const is not None
        return graph

    def _make(self, v: int, column: str, index: int) -> None:
        if self.made[v]:
            raise self.c.error(column, index, f"value '{self.values[v].name}' is made twice")
        self.made[v] = self.visible[v] = 1

    def _node(self, i: int, graph: int, own: list[int], depth: int) -> Node:
        op, domain, name, origins_end, inputs_end, outputs_end, attributes_end = self.nodes[i]
        origins_start, inputs_start, outputs_start, attributes_start = self.nodes[i - 1][3:] if i else (0, 0, 0, 0)
        strings, values, visible = self.strings, self.values, self.visible
        inputs: list[Value | None] = []
        for v in self.pools["node_inputs"][inputs_start:inputs_end]:
            if v and not visible[v - 1]:
                raise self.c.error("nodes", i, f"input '{values[v - 1].name}' is not made before it is used")
            inputs.append(values[v - 1] if v else None)
        attributes = {}
        for a in range(attributes_start, attributes_end):
            attributes[strings[self.attributes[a][0]]] = self._attribute(a, graph, depth)
        if len(attributes) != attributes_end - attributes_start:
            raise self.c.error("nodes", i, "an attribute is given twice")
        outputs: list[Value | None] = []
        for v in self.pools["node_outputs"][outputs_start:outputs_end]:
            if v:
                if values[v - 1].const is not None:
                    raise self.c.error("nodes", i, f"output '{values[v - 1].name}' is a constant")
                self._make(v - 1, "nodes", i)
                own.append(v - 1)
            outputs.append(values[v - 1] if v else None)
        origin = tuple(strings[o] for o in self.pools["origins"][origins_start:origins_end])
        return Node(strings[op], inputs, outputs, attributes, domain=strings[domain], name=strings[name], origin=origin)

    def _attribute(self, a: int, graph: int, depth: int) -> Any:
        _, count, kind, number, is_list, _ = self.attributes[a]
        end, dtype = self.number_ends[a], NUMBERS[number]
        start = end - count * dtype.itemsize
        items = np.frombuffer(self.numbers[start:end], dtype).tolist() if count else []
        if kind not in (Kind.INT, Kind.FLOAT):
            items = [self._refer(a, kind, n, graph, depth) for n in items]
        return items if is_list else items[0]

    def _refer(self, a: int, kind: int, number: int, graph: int, depth: int) -> Any:
        pool: Any = {Kind.STRING: self.strings, Kind.BYTES: self.strings, Kind.TENSOR: self.tensors, Kind.GRAPH: self.graphs, Kind.TYPE: self.types}[Kind(kind)]
        if not 0 <= number < len(pool):
            raise self.c.error("attributes", a, f"refers to {Kind(kind).name.lower()} {number} of {len(pool)}")
        if kind == Kind.BYTES:
            return self.strings[number].encode("utf-8", "surrogateescape")
        if kind != Kind.GRAPH:
            return pool[number]
        if number <= graph or self.held[number]:
            raise self.c.error("attributes", a, f"graph {number} is held twice, or holds itself")
        self.held[number] = 1
        return self.graph(number, depth + 1)


_DIRECT = frozenset({DType.FLOAT, DType.UINT8, DType.INT8, DType.UINT16, DType.INT16, DType.INT32, DType.INT64, DType.FLOAT16, DType.DOUBLE, DType.UINT32, DType.UINT64,
                     DType.COMPLEX64, DType.COMPLEX128})
_PACKINGS = frozenset(p for p in Packing if p is not Packing.NONE)


def _load(storage: Storage, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """The plain form of a constant that is not a plain view."""
    if storage.kind is StorageKind.PACKED:
        return unpack(storage.data, storage.packing, dtype.numpy, shape, storage.group)
    if storage.kind is StorageKind.SPLAT:
        return np.broadcast_to(from_bytes(storage.data, dtype, (1,)), shape)
    return from_bytes(storage.data, dtype, shape)


def _texts(c: Columns) -> list[str]:
    blob = c["string_bytes"].tobytes()
    out: list[str] = []
    start = 0
    for end in c["string_ends"].tolist():
        out.append(blob[start:end].decode("utf-8", "surrogateescape"))
        start = end
    if out[0]:
        raise damaged(c.at["string_ends"], "string 0 is not empty")
    return out
