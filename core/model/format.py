"""The frame of a .sdx file: magic, header, the columns of the graph section, limits. FORMAT.md is the prose.

The dtypes here are sdx.fbs's structs as NumPy records; a test compares both, so that the schema has one truth.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ..errors import InvalidModelFile

#: As PNG's: a byte above 127, the name, line ends and Ctrl-Z, so that a transfer in text mode shows.
SDX_MAGIC = b"\x89SDX\r\n\x1a\n"
DATA_MAGIC = b"\x89SDD\r\n\x1a\n"
PROGRAM_MAGIC = b"SDXP"
GRAPH_IDENTIFIER = b"SDXG"
MAJOR, MINOR = 1, 2  # 1.1: packings 7 and 8; 1.2: the WebGPU section
#: What to do about a file of another major version.
REMEDY = "make it again from the original model: `sardonyx convert model.onnx`"

FLAG_EXTERNAL = 1
ALIGNMENT = 64
MAX_RANK = 32           # NumPy 1's limit
MAX_ELEMENTS = 1 << 48  # of one tensor; more can not be addressed by any executor
MAX_NESTING = 32        # graphs within graphs, types within types, sizes within sizes
MAX_SIZE_WEIGHT = 1 << 12        # characters one size expression takes when printed, about
MAX_ALL_SIZES_WEIGHT = 1 << 21   # the same for all of a file's
MAX_ALL_DIMS = 1 << 20           # sizes in all types and constants of a file


class Kind(IntEnum):
    """What an attribute holds."""

    INT = 1
    FLOAT = 2
    STRING = 3
    BYTES = 4
    TENSOR = 5
    GRAPH = 6
    TYPE = 7


class ValueKind(IntEnum):
    """The variants of ValueType."""

    TENSOR = 1
    SPARSE_TENSOR = 2
    SEQUENCE = 3
    OPTIONAL = 4
    MAP = 5


class StorageKind(IntEnum):
    """How a constant's elements lie in the tensor data. F16 and blockwise INT8, INT4 are reserved: written by no version yet."""

    PLAIN = 0
    SPLAT = 1
    STRINGS = 2
    PACKED = 3
    F16 = 4
    INT8 = 5
    INT4 = 6


class SizeOp(IntEnum):
    """First word of an entry of `size_words`."""

    SYMBOL = 0
    FLOORDIV = 1
    MOD = 2
    MIN = 3
    MAX = 4
    POLYNOMIAL = 5


#: Attribute.number → dtype of the numbers.
NUMBERS = tuple(np.dtype(d) for d in ("<i1", "<i2", "<i4", "<i8", "<f4", "<f8"))

_U4 = np.dtype("<u4")
_PAIR = np.dtype([("first", "<u4"), ("second", "<u4")])
CONSTANT = np.dtype([("offset", "<u8"), ("length", "<u8"), ("shape", "<u4"), ("group", "<u4"), ("rank", "<u2"), ("dtype", "u1"), ("storage", "u1"),
                     ("packing", "u1"), ("packing_version", "u1"), ("reserved", "<u2")])
#: Vector fields of the FlatBuffer's Model: slot order of sdx.fbs.
COLUMNS: dict[str, np.dtype] = {
    "string_ends": _U4,
    "string_bytes": np.dtype("u1"),
    "size_ends": _U4,
    "size_words": np.dtype("<i8"),
    "dims": np.dtype("<i8"),
    "types": np.dtype([("kind", "u1"), ("dtype", "u1"), ("rank", "<u2"), ("at", "<u4")]),
    "constants": CONSTANT,
    "values": np.dtype([("name", "<u4"), ("type", "<u4"), ("constant", "<u4")]),
    "nodes": np.dtype([(f, "<u4") for f in ("op", "domain", "name", "origins_end", "inputs_end", "outputs_end", "attributes_end")]),
    "origins": _U4,
    "node_inputs": _U4,
    "node_outputs": _U4,
    "attributes": np.dtype([("name", "<u4"), ("count", "<u4"), ("kind", "u1"), ("number", "u1"), ("is_list", "u1"), ("reserved", "u1")]),
    "numbers": np.dtype("u1"),
    "graphs": np.dtype([(f, "<u4") for f in ("name", "doc", "inputs_end", "outputs_end", "nodes_end")]),
    "graph_inputs": _U4,
    "graph_outputs": _U4,
    "value_docs": _PAIR,
    "opsets": _PAIR,
    "metadata": _PAIR,
    "symbols": np.dtype([("lower", "<i8"), ("upper", "<i8"), ("name", "<u4"), ("has_upper", "<u4")]),
}
#: Scalar fields of Model, in slot order after the columns.
SCALARS: dict[str, np.dtype] = {name: _U4 for name in ("producer_name", "producer_version", "domain", "doc", "data_file")} | {
    "ir_version": np.dtype("<i8"), "model_version": np.dtype("<i8")}
UNKNOWN_RANK = 0xFFFF

_HEADER = struct.Struct("<8sHHIQQQQQQ16sQQ")
HEADER_SIZE = 128
_DATA_HEADER = struct.Struct("<8sHHIQ16s")
DATA_HEADER_SIZE = 64
_PROGRAM_HEADER = struct.Struct("<4sHHQ")
PROGRAM_HEADER_SIZE = _PROGRAM_HEADER.size


def is_sdx(first_bytes: bytes | memoryview) -> bool:
    """Whether a file that begins with these bytes (8 are enough) is a .sdx file."""
    return bytes(first_bytes[:len(SDX_MAGIC)]) == SDX_MAGIC


def align(offset: int, to: int = ALIGNMENT) -> int:
    """The next multiple of `to`."""
    return -(-offset // to) * to


def alignment_of(length: int) -> int:
    """What the offset of a constant of `length` bytes in the tensor data is a multiple of: 64, for small ones 16."""
    return ALIGNMENT if length >= ALIGNMENT else 16


@dataclass(frozen=True, slots=True)
class Header:
    """The first 128 bytes. Sections are (offset, length), (0, 0) where there is none; with `external`, the data section lies in the data file. `id` is a digest of the content."""

    graph: tuple[int, int]
    programs: tuple[int, int]
    data: tuple[int, int]
    id: bytes
    external: bool = False
    version: tuple[int, int] = (MAJOR, MINOR)
    webgpu: tuple[int, int] = (0, 0)

    def pack(self) -> bytes:
        packed = _HEADER.pack(SDX_MAGIC, *self.version, FLAG_EXTERNAL if self.external else 0, *self.graph, *self.programs, *self.data, self.id, *self.webgpu)
        return packed.ljust(HEADER_SIZE, b"\0")

    @classmethod
    def unpack(cls, file: memoryview) -> Header:
        """Read and check the header: version known, sections within the file (its length is len(file)), aligned, apart from each other."""
        if not is_sdx(file[:8]):
            raise InvalidModelFile(f"header, offset 0: not a .sdx file (it begins with {bytes(file[:8])!r}); {REMEDY}")
        if len(file) < HEADER_SIZE:
            raise InvalidModelFile(f"header, offset {len(file)}: the file ends within the header ({HEADER_SIZE} bytes); copy or download it again")
        _, major, minor, flags, *numbers, digest, at_webgpu, webgpu = _HEADER.unpack_from(file)
        if major != MAJOR:
            raise InvalidModelFile(f"header, offset 8: the file has format {major}.{minor}, this sardonyx reads {MAJOR}.x; {REMEDY}, or install the sardonyx that wrote it")
        if flags & ~FLAG_EXTERNAL and minor <= MINOR:
            raise InvalidModelFile(f"header, offset 12: unknown flags {flags:#x}; {REMEDY}")
        sections = {"graph": tuple(numbers[0:2]), "programs": tuple(numbers[2:4]), "data": tuple(numbers[4:6])}
        header = cls(**sections, id=digest, external=bool(flags & FLAG_EXTERNAL), version=(major, minor), webgpu=(at_webgpu, webgpu))
        header._check(len(file))
        return header

    def _check(self, size: int) -> None:
        here = {"graph": self.graph, "programs": self.programs} | ({} if self.external else {"data": self.data}) | ({"WebGPU": self.webgpu} if self.webgpu[1] else {})
        for i, (name, (offset, length)) in enumerate(here.items()):
            place = 80 if name == "WebGPU" else 16 + 16 * i
            if offset + length > size:
                raise InvalidModelFile(f"header, offset {place}: the {name} section is [{offset}, {offset + length}) and the file has {size} bytes: "
                                       "it is truncated; copy or download it again")
            if offset % ALIGNMENT or offset < HEADER_SIZE:
                raise InvalidModelFile(f"header, offset {place}: the {name} section begins at {offset}, which is not a multiple of {ALIGNMENT} after the header; {REMEDY}")
        filled = sorted((offset, length, name) for name, (offset, length) in here.items() if length)
        for (offset, length, name), (begin, _, other) in zip(filled, filled[1:], strict=False):
            if offset + length > begin:
                raise InvalidModelFile(f"header, offset 16: sections {name} and {other} overlap at {begin}; {REMEDY}")


def pack_data_header(length: int, digest: bytes) -> bytes:
    """The first 64 bytes of a data file: the tensor data of the .sdx whose id it repeats follow."""
    return _DATA_HEADER.pack(DATA_MAGIC, MAJOR, MINOR, 0, length, digest).ljust(DATA_HEADER_SIZE, b"\0")


def check_data_file(file: memoryview, header: Header, name: str) -> None:
    """Raise InvalidModelFile unless `file` is the data file that belongs to `header`."""
    if len(file) < DATA_HEADER_SIZE or bytes(file[:8]) != DATA_MAGIC:
        raise InvalidModelFile(f"data file '{name}', offset 0: not a sardonyx data file; put the one written with the model beside it")
    _, major, _, _, length, digest = _DATA_HEADER.unpack_from(file)
    if major != MAJOR:
        raise InvalidModelFile(f"data file '{name}', offset 8: format {major}, this sardonyx reads {MAJOR}; {REMEDY}")
    if digest != header.id:
        raise InvalidModelFile(f"data file '{name}', offset 24: belongs to another model (id {digest.hex()}, not {header.id.hex()}); put the one written with the model beside it")
    if header.data[0] != DATA_HEADER_SIZE or length != header.data[1] or len(file) < DATA_HEADER_SIZE + length:
        raise InvalidModelFile(f"data file '{name}', offset 16: has {len(file) - DATA_HEADER_SIZE} bytes of tensor data, the model needs {header.data[1]}; "
                               "copy or download it again")


def pack_programs(words: bytes, abi: tuple[int, int]) -> bytes:
    """The programs section: nothing, or a 16-byte header with `program_abi` and the words."""
    return _PROGRAM_HEADER.pack(PROGRAM_MAGIC, *abi, len(words)) + words if words else b""


def unpack_programs(section: memoryview) -> tuple[tuple[int, int], memoryview]:
    """(program_abi, words) of a programs section; ((0, 0), empty) where there is none."""
    if not len(section):
        return (0, 0), section
    if len(section) < PROGRAM_HEADER_SIZE or bytes(section[:4]) != PROGRAM_MAGIC:
        raise InvalidModelFile(f"programs section, offset 0: no program header; {REMEDY}")
    _, major, minor, length = _PROGRAM_HEADER.unpack_from(section)
    if PROGRAM_HEADER_SIZE + length != len(section):
        raise InvalidModelFile(f"programs section, offset 8: {length} bytes of programs in a section of {len(section)}; {REMEDY}")
    return (major, minor), section[PROGRAM_HEADER_SIZE:]
