"""Model → .sdx. Two walks over the weights: one measures (uniform? equal to another? digest), one packs and writes, so memory holds one tensor at a time."""
from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..dim import product
from ..errors import InvalidArgument, InvalidGraph, NoSuchFile
from ..graph import Graph, Model, Tensor
from ..package import Package, Place
from ..program import ABI
from ..types import DType
from .elements import is_uniform, to_bytes
from .encode import Encoder
from .flat import build_graph_section
from .format import CONSTANT, DATA_HEADER_SIZE, HEADER_SIZE, Header, StorageKind, align, alignment_of, pack_data_header, pack_programs
from .packing import VERSION, Packing, packed_nbytes, pads_sums
from .packing import pack as packed_array
from .recorded import Recorded, pack_recorded
from .roles import Role, affordable, agreed, fitted, graph_outputs, growth, role_of_use

Progress = Callable[[int, int], None]
#: Bytes of constants of its own that a package may always bring.
SMALL = 1 << 19


def write_model(model: Model, destination: str | os.PathLike[str] | BinaryIO, *, pack: bool = True, package: Package | None = None, most_extra: float | None = None, recorded: Recorded | None = None,
                external: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Write `model` as .sdx and return what was done: sizes of the sections, counts of constants by storage and packing, what stayed plain.

    destination: a path (written beside and moved into place when complete, so an open model of that name stays valid) or a binary file.
    pack: store right-hand sides of products packed (roles.py has the rule). package: the model, planned: stored in the programs section; the constants it reads lie as it reads them.
    recorded: the model for WebGPU, stored in a section of its own, with the constants it uploads.
    most_extra: the package is left out where constants only it reads would take more than this share of the other data (and SMALL bytes); the report then says "left_out": their bytes.
    external: path of a second file, in the same folder, for the tensor data. progress: called with (bytes of weights done, of all).
    Raises InvalidGraph for what no file can hold, NoSuchFile where the folder is missing.
    """
    model.graph.verify()
    uploads = [*zip(recorded.package.constants, recorded.package.forms(), strict=True), *recorded.constants] if recorded is not None else []
    left_out = 0
    plan = Plan(model.graph, pack, package)
    if package is not None and most_extra is not None:
        extra = sum(p.length for p in plan.extra)
        if extra > most_extra * (plan.length - extra) + SMALL:
            package, left_out, plan = None, extra, Plan(model.graph, pack, None)
    if recorded is not None:
        plan = Plan(model.graph, pack, package, uploads)
    encoder = Encoder(plan.number)
    data_file = _data_name(destination, external)
    records = plan.records([encoder.shape(p.shape, "constant") for p in plan.pieces])
    columns, scalars = encoder.columns(model, data_file)
    graph = build_graph_section(columns | {"constants": records}, scalars)
    lent = len(package.constants) if package is not None else 0
    words = pack_programs(package.pack(plan.places[:lent]), ABI) if package is not None else b""
    webgpu = pack_recorded(recorded, plan.places[lent:]) if recorded is not None else b""
    at_programs = align(HEADER_SIZE + len(graph))
    at_webgpu = align(at_programs + len(words))
    at_data = DATA_HEADER_SIZE if data_file else align(at_webgpu + len(webgpu))
    digest = blake2b(graph + words + webgpu + b"".join(p.digest for p in (*plan.pieces, *plan.extra)), digest_size=16).digest()
    header = Header((HEADER_SIZE, len(graph)), (at_programs, len(words)), (at_data, plan.length), digest, bool(data_file), webgpu=(at_webgpu if webgpu else 0, len(webgpu)))
    front = (header.pack() + graph).ljust(at_programs, b"\0") + words
    if webgpu:
        front = front.ljust(at_webgpu, b"\0") + webgpu
    if data_file:
        with _sink(external) as out:
            out.write(pack_data_header(plan.length, digest))
            plan.write(out, progress)
    with _sink(destination) as out:
        out.write(front)
        if not data_file:
            out.write(bytes(at_data - len(front)))
            plan.write(out, progress)
    return {"bytes": len(front) if data_file else at_data + plan.length, "graph_bytes": len(graph), "program_bytes": len(words), "webgpu_bytes": len(webgpu),
            "data_file": data_file, "id": digest.hex(), "left_out": left_out, **plan.report()}


def _data_name(destination: Any, external: Any) -> str:
    """The name the file gives its data file: a bare name, because both lie in one folder."""
    if external is None:
        return ""
    if not isinstance(destination, (str, os.PathLike)):
        raise InvalidArgument("external data needs a destination path, not a file object: the two files refer to each other by name")
    if Path(external).resolve().parent != Path(destination).resolve().parent or Path(external).resolve() == Path(destination).resolve():
        raise InvalidArgument(f"the data file '{external}' must be another file in the folder of '{destination}'")
    return Path(external).name


@contextlib.contextmanager
def _sink(destination: Any) -> Iterator[BinaryIO]:
    """The open file; a path is written under a temporary name and appears complete or not at all."""
    if not isinstance(destination, (str, os.PathLike)):
        yield destination
        return
    path = Path(destination)
    if not path.parent.is_dir():
        raise NoSuchFile(f"the folder '{path.parent}' does not exist; create it, then write '{path.name}' again")
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name + ".", delete=False) as out:
        try:
            yield out  # type: ignore[misc]
            out.close()
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(out.name, 0o666 & ~umask)
            os.replace(out.name, path)
        except BaseException:
            out.close()
            os.unlink(out.name)
            raise


@dataclass(eq=False)
class Piece:
    """One distinct content (and dtype, shape) among the model's constants."""

    tensor: Tensor
    dtype: DType
    shape: tuple[int, ...]
    kind: StorageKind
    digest: bytes
    plain_bytes: int
    roles: list[Role | None] = field(default_factory=list)
    role: Role | None = None
    offset: int = 0
    length: int = 0
    shares: Piece | None = None  # the piece whose stored bytes are also this one's
    dense: bool = False          # of a package only: as the engine reads it, elements of less than a byte one a byte

    def stored(self) -> np.ndarray:
        """The bytes that go to the file."""
        array = self.tensor.numpy()
        if self.kind is StorageKind.SPLAT:
            return to_bytes(array[(slice(0, 1),) * array.ndim], self.dtype)
        if self.dense:
            return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if self.role is None:
            return to_bytes(array, self.dtype)
        return packed_array(array, self.role.packing, self.role.group).reshape(-1).view(np.uint8)


class Plan:
    """Decides for every constant of a graph how and where it is stored."""

    def __init__(self, graph: Graph, packed: bool, package: Package | None = None, uploads: Sequence[tuple[Tensor, tuple[int, int]]] = ()) -> None:
        self.pieces: list[Piece] = []
        self.extra: list[Piece] = []    # what only a package reads
        self.places: list[Place] = []   # where each constant of the package lies, then each of `uploads`
        self._number: dict[int, int] = {}
        self._by_content: dict[Any, int] = {}
        self._outputs = graph_outputs(graph)
        for nested in graph.graphs():
            self._collect(nested)
        own = zip(package.constants, package.forms(), strict=True) if package is not None else ()
        wanted = self._wanted([*own, *uploads])
        if packed:
            decided = {number for number, _, _ in wanted if number >= 0}
            self._assign_roles(decided)
            self._share_transposes(decided)
        found = [self._found(*want) for want in wanted]
        self._place()
        self.places = [Place(p.offset, _read_bytes(p), p.dtype.bits // 8 if p.kind is StorageKind.SPLAT else 0) for p in found]

    def number(self, tensor: Tensor) -> int:
        """The number of the tensor's record."""
        return self._number[id(tensor)]

    def _collect(self, graph: Graph) -> None:
        for value in graph.constants():
            assert value.const is not None
            uses = [role_of_use(node, index, self._outputs) for node, index in value.uses]
            kept = value in self._outputs or value in graph.inputs
            self._add(value.const, value.name, [*uses, None] if kept else uses)
        for node in graph.nodes:
            for name, attribute in node.attributes.items():
                for item in attribute if isinstance(attribute, (list, tuple)) else [attribute]:
                    if isinstance(item, Tensor):
                        self._add(item, f"{node.label}: attribute '{name}'", [None])

    def _add(self, tensor: Tensor, name: str, roles: list[Role | None]) -> None:
        if id(tensor) not in self._number:
            piece = _measure(tensor, name)
            key = (piece.dtype, piece.shape, piece.kind, piece.digest)
            number = self._by_content.setdefault(key, len(self.pieces))
            if number == len(self.pieces):
                self.pieces.append(piece)
            self._number[id(tensor)] = number
        self.pieces[self._number[id(tensor)]].roles += roles

    def _wanted(self, constants: Sequence[tuple[Tensor, tuple[int, int]]]) -> list[tuple[int, Tensor, Role | None]]:
        """(number of the piece of equal content or -1, tensor, role) of constants in forms. A piece that is read packed lies so; which comes first decides."""
        made = []
        for tensor, (packing, group) in constants:
            role = Role(Packing(packing), group) if packing else None
            if id(tensor) not in self._number:
                piece = _measure(tensor, "of a program")
                self._number[id(tensor)] = self._by_content.get((piece.dtype, piece.shape, piece.kind, piece.digest), -1)
            number = self._number[id(tensor)]
            if role is not None and number >= 0 and self.pieces[number].kind is StorageKind.PLAIN:
                self.pieces[number].role, self.pieces[number].kind = role, StorageKind.PACKED
            made.append((number, tensor, role))
        return made

    def _found(self, number: int, tensor: Tensor, role: Role | None) -> Piece:
        """The piece that lies as a package reads it: the graph's, or one of its own."""
        if number >= 0:
            piece = self.pieces[number]
            as_it_is = piece.dtype.bits % 8 == 0 and (piece.kind is StorageKind.SPLAT or piece.kind is StorageKind.PLAIN)
            if role is None and as_it_is or role is not None and piece.kind is StorageKind.PACKED and piece.role == role:
                return piece
        measured = _measure(tensor, "of a program")
        if measured.kind is StorageKind.SPLAT and (measured.dtype.bits % 8 == 0 if role is None else not pads_sums(role.packing, measured.dtype.bits // 8)):
            own = measured  # packed, too: columns beyond the last one may hold anything
            own.role = role
        else:
            own = Piece(tensor, measured.dtype, measured.shape, StorageKind.PLAIN if role is None else StorageKind.PACKED, b"", tensor.numpy().nbytes, role=role, dense=role is None)
            own.digest = _digest(own.stored())
            if (twin := self._side_by_side(own)) is not None:
                return twin
        same = next((p for p in self.extra if (p.digest, p.dtype, p.shape, p.role, p.kind) == (own.digest, own.dtype, own.shape, own.role, own.kind)), None)
        if same is None:
            self.extra.append(own)
        return same or own

    def _side_by_side(self, own: Piece) -> Piece | None:
        """The graph's constant of several matrices that the planner has laid side by side (RNN weights): packed, both are the same bytes."""
        if own.role is None or own.role.packing not in (Packing.MATRIX, Packing.MATRIX_T):
            return None
        for piece in self.pieces:
            if piece.kind is StorageKind.PLAIN and len(piece.shape) == 3 and piece.dtype is own.dtype and product(piece.shape) == product(own.shape):
                for packing in (Packing.MATRICES, Packing.MATRICES_T):
                    if _digest(packed_array(piece.tensor.numpy(), packing).reshape(-1).view(np.uint8)) == own.digest:
                        piece.kind, piece.role = StorageKind.PACKED, Role(packing)
                        return piece
        return None

    def _assign_roles(self, decided: set[int]) -> None:
        """By roles.py's rule, but for the pieces a package has decided."""
        roles = {i: role for i, p in enumerate(self.pieces) if i not in decided and p.kind is StorageKind.PLAIN and (role := fitted(agreed(p.roles), p.dtype, p.shape))}
        growths = {i: growth(role, self.pieces[i].dtype, self.pieces[i].shape, self.pieces[i].plain_bytes) for i, role in roles.items()}
        for i in affordable(growths, sum(p.plain_bytes for p in self.pieces)):
            self.pieces[i].role, self.pieces[i].kind = roles[i], StorageKind.PACKED

    def _share_transposes(self, decided: set[int]) -> None:
        matrices = {(p.dtype, p.shape[::-1]): p for p in self.pieces if p.role and p.role.packing is Packing.MATRIX}
        for piece in [p for i, p in enumerate(self.pieces) if i not in decided]:
            twin = matrices.get((piece.dtype, piece.shape))
            tables = bool(piece.roles) and all(r == Role(Packing.NONE) for r in piece.roles)
            if twin is not None and tables and piece.kind is StorageKind.PLAIN and _digest(to_bytes(twin.tensor.numpy().T, piece.dtype)) == piece.digest:
                piece.kind, piece.role, piece.shares = StorageKind.PACKED, Role(Packing.MATRIX_T), twin

    def _place(self) -> None:
        self.length = 0
        for piece in (*self.pieces, *self.extra):
            if piece.shares is None:
                piece.length = _stored_bytes(piece)
                piece.offset = align(self.length, alignment_of(piece.length))
                self.length = piece.offset + piece.length
        for piece in self.pieces:
            if piece.shares is not None:
                piece.offset, piece.length = piece.shares.offset, piece.shares.length

    def records(self, shapes: list[int]) -> np.ndarray:
        """The `constants` column."""
        rows = [(p.offset, p.length, at, p.role.group if p.role else 0, len(p.shape), p.dtype, p.kind, p.role.packing if p.role else 0, VERSION if p.role else 0, 0)
                for p, at in zip(self.pieces, shapes, strict=True)]
        return np.array(rows, CONSTANT)

    def write(self, out: BinaryIO, progress: Progress | None) -> None:
        """The tensor data section."""
        position = 0
        for piece in (*self.pieces, *self.extra):
            if piece.shares is None:
                out.write(bytes(piece.offset - position))
                stored = piece.stored()
                assert stored.size == piece.length, "a tensor changed while it was written"
                out.write(stored.data)
                position = piece.offset + piece.length
                if progress is not None:
                    progress(position, self.length)

    def report(self) -> dict[str, Any]:
        """Counts and bytes, for `convert --report`."""
        packed = [p for p in self.pieces if p.role]
        by_packing: dict[str, int] = {}
        for p in packed:
            assert p.role is not None
            by_packing[p.role.packing.name.lower()] = by_packing.get(p.role.packing.name.lower(), 0) + 1
        return {"data_bytes": self.length, "program_data_bytes": sum(p.length for p in self.extra), "constants": len(self._number), "distinct": len(self.pieces),
                "splat": sum(p.kind is StorageKind.SPLAT for p in self.pieces),
                "packed": by_packing, "packed_bytes": sum(p.length for p in packed if p.shares is None),
                "padding_bytes": sum(p.length - p.plain_bytes for p in packed if p.shares is None)}


def _measure(tensor: Tensor, name: str) -> Piece:
    array = tensor.numpy()
    shape = tuple(int(d) for d in tensor.shape)
    if tensor.dtype is not DType.STRING and array.dtype != tensor.dtype.numpy or tuple(array.shape) != shape:
        raise InvalidGraph(f"constant '{name}' says {tensor.dtype.text}{list(shape)} and holds {array.dtype}{list(array.shape)}")
    kind = StorageKind.STRINGS if tensor.dtype is DType.STRING else StorageKind.SPLAT if is_uniform(array) else StorageKind.PLAIN
    piece = Piece(tensor, tensor.dtype, shape, kind, b"", tensor.dtype.nbytes(product(shape)))
    piece.digest = _digest(piece.stored())
    if kind is StorageKind.STRINGS:
        piece.plain_bytes = piece.stored().size
    return piece


def _read_bytes(piece: Piece) -> int:
    """Bytes a package's constant has in memory: a uniform one is one element in the file and all of them, as they are read, once it is open."""
    if piece.kind is not StorageKind.SPLAT:
        return _stored_bytes(piece)
    item = piece.dtype.bits // 8
    return packed_nbytes(piece.role.packing, item, piece.shape, piece.role.group) if piece.role is not None else product(piece.shape) * item


def _stored_bytes(piece: Piece) -> int:
    if piece.kind is StorageKind.SPLAT:
        return piece.dtype.nbytes(1)
    if piece.dense:
        return piece.plain_bytes
    return piece.plain_bytes + (growth(piece.role, piece.dtype, piece.shape, piece.plain_bytes) if piece.role else 0)


def _digest(data: np.ndarray) -> bytes:
    return blake2b(data.data, digest_size=16).digest()
