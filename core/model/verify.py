"""The graph section, verified: every byte a reader will follow is checked before it is followed.

`open_columns` walks the FlatBuffer's frame (root, vtable, vectors) and gives each column as a NumPy view. `check_columns` then checks all cross-references,
a column at a time: numbers below the length of what they refer to, slices that do not run backwards, enumerations, ranks, places of weights.
What is left to the reader is what needs the order of the graph: definition before use, nesting.
"""
from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..errors import InvalidModelFile
from .format import (
    COLUMNS,
    GRAPH_IDENTIFIER,
    MAX_ALL_DIMS,
    MAX_RANK,
    NUMBERS,
    REMEDY,
    SCALARS,
    UNKNOWN_RANK,
    Kind,
    StorageKind,
    ValueKind,
)

_U16, _U32, _I32 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<i")


class Columns:
    """The columns and scalars of a graph section, and where each lies, for messages."""

    def __init__(self, section: memoryview) -> None:
        self.section = section
        self.at: dict[str, int] = {}
        self.columns: dict[str, np.ndarray] = {}
        self.scalars: dict[str, int] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def error(self, name: str, index: int, text: str) -> InvalidModelFile:
        """The error to raise about record `index` of column `name`."""
        return damaged(self.at[name] + index * COLUMNS[name].itemsize, f"{name}[{index}]: {text}")

    def require(self, good: np.ndarray, name: str, text: str) -> None:
        """Raise about the first record where `good` is false."""
        if not good.all():
            raise self.error(name, int(np.argmin(good)), text)


def damaged(offset: int, text: str) -> InvalidModelFile:
    """The error about an offset of the graph section."""
    return InvalidModelFile(f"graph section, offset {offset}: {text}; the file is damaged, copy or download it again, or {REMEDY}")


def open_columns(section: memoryview) -> Columns:
    """Check the FlatBuffer's frame and view its columns. Fields of newer minor versions (further slots) are not looked at."""
    found = Columns(section)
    size = len(section)
    if size < 16 or size >= 1 << 31:
        raise damaged(0, f"{size} bytes can not be a graph")
    if bytes(section[4:8]) != GRAPH_IDENTIFIER:
        raise damaged(4, f"the identifier is {bytes(section[4:8])!r} and not {GRAPH_IDENTIFIER!r}")
    table = _U32.unpack_from(section, 0)[0]
    if table % 4 or table < 8 or table + 4 > size:
        raise damaged(0, f"the root table would lie at {table}")
    vtable = table - _I32.unpack_from(section, table)[0]
    if vtable % 2 or vtable < 8 or vtable + 4 > size:
        raise damaged(table, f"the vtable would lie at {vtable}")
    vtable_size, table_size = _U16.unpack_from(section, vtable)[0], _U16.unpack_from(section, vtable + 2)[0]
    if vtable_size < 4 or vtable_size % 2 or vtable + vtable_size > size or table_size < 4 or table + table_size > size:
        raise damaged(vtable, f"a vtable of {vtable_size} bytes for a table of {table_size} does not fit")
    for slot, (name, dtype) in enumerate([*COLUMNS.items(), *SCALARS.items()]):
        field = _U16.unpack_from(section, vtable + 4 + 2 * slot)[0] if 4 + 2 * slot < vtable_size else 0
        width = 4 if name in COLUMNS else dtype.itemsize
        if field and (field < 4 or field + width > table_size or (table + field) % width):
            raise damaged(vtable + 4 + 2 * slot, f"field '{name}' would lie at {field} of a table of {table_size} bytes")
        if name in SCALARS:
            found.scalars[name] = int(np.frombuffer(section, dtype, 1, table + field)[0]) if field else 0
        else:
            found.at[name], found.columns[name] = _vector(section, table + field, name, dtype) if field else (table, np.empty(0, dtype))
    _check_apart(found)
    return found


def _vector(section: memoryview, field: int, name: str, dtype: np.dtype) -> tuple[int, np.ndarray]:
    at = field + _U32.unpack_from(section, field)[0]
    if at % 4 or at + 4 > len(section):
        raise damaged(field, f"column '{name}' would lie at {at}")
    count = _U32.unpack_from(section, at)[0]
    widest = dtype.itemsize if dtype.fields is None else max(f[0].itemsize for f in dtype.fields.values())
    if (at + 4) % widest or at + 4 + count * dtype.itemsize > len(section):
        raise damaged(at, f"column '{name}' with {count} records of {dtype.itemsize} bytes does not fit the section's {len(section)}")
    return at + 4, np.frombuffer(section, dtype, count, at + 4)


def _check_apart(c: Columns) -> None:
    spans = sorted((c.at[name], c.at[name] + data.nbytes, name) for name, data in c.columns.items() if len(data))
    for (_, end, name), (begin, _, other) in zip(spans, spans[1:], strict=False):
        if end > begin:
            raise damaged(begin, f"columns '{name}' and '{other}' overlap")


def check_columns(c: Columns, data_length: int) -> None:
    """Check every cross-reference that does not depend on the order of nodes."""
    _ends(c, "string_ends", None, "string_bytes")
    _ends(c, "size_ends", None, "size_words")
    if not len(c["string_ends"]):
        raise damaged(c.at["string_ends"], "there are no strings")
    strings, sizes, values, types = (len(c[n]) for n in ("string_ends", "size_ends", "values", "types"))
    for name, field in (("values", "name"), ("nodes", "op"), ("nodes", "domain"), ("nodes", "name"), ("attributes", "name"), ("graphs", "name"), ("graphs", "doc"),
                        ("origins", None), ("value_docs", "second"), ("opsets", "first"), ("metadata", "first"), ("metadata", "second"), ("symbols", "name")):
        _below(c, name, field, strings, "strings")
    for name in ("producer_name", "producer_version", "domain", "doc", "data_file"):
        if c.scalars[name] >= strings:
            raise damaged(0, f"{name} is string {c.scalars[name]} of {strings}")
    c.require(c["dims"] >= -sizes, "dims", f"refers to none of {sizes} size expressions")
    _check_types(c, types)
    _below(c, "values", "type", types + 1, "types")
    _below(c, "values", "constant", len(c["constants"]) + 1, "constants")
    _below(c, "value_docs", "first", values, "values")
    for name, limit in (("node_inputs", values + 1), ("node_outputs", values + 1), ("graph_inputs", values), ("graph_outputs", values)):
        _below(c, name, None, limit, "values")
    for field, pool in (("origins_end", "origins"), ("inputs_end", "node_inputs"), ("outputs_end", "node_outputs"), ("attributes_end", "attributes")):
        _ends(c, "nodes", field, pool)
    for field, pool in (("inputs_end", "graph_inputs"), ("outputs_end", "graph_outputs"), ("nodes_end", "nodes")):
        _ends(c, "graphs", field, pool)
    if not len(c["graphs"]):
        raise damaged(c.at["graphs"], "there is no graph")
    _check_attributes(c)
    _check_constants(c, data_length)


def _check_types(c: Columns, count: int) -> None:
    records = c["types"]
    kind, rank, at = records["kind"], records["rank"].astype(np.int64), records["at"].astype(np.int64)
    tensor = (kind == ValueKind.TENSOR) | (kind == ValueKind.SPARSE_TENSOR)
    c.require((kind >= min(ValueKind)) & (kind <= max(ValueKind)), "types", "unknown kind of type")
    c.require(records["dtype"] <= _LAST_DTYPE, "types", "unknown element type")
    c.require((records["dtype"] > 0) | (kind != ValueKind.SPARSE_TENSOR) & (kind != ValueKind.MAP), "types", "a sparse tensor or a map without an element type")
    c.require(~tensor | (rank == UNKNOWN_RANK) | (rank <= MAX_RANK) & (at + rank <= len(c["dims"])), "types", f"sizes beyond the {len(c['dims'])} there are, or a rank above {MAX_RANK}")
    c.require(tensor | (at < np.arange(count)), "types", "an element type that is not an earlier type")
    _check_dims(c, int(rank[tensor & (rank != UNKNOWN_RANK)].sum()))


def _check_dims(c: Columns, used: int) -> None:
    used += int(c["constants"]["rank"].sum(dtype=np.int64))
    if used > MAX_ALL_DIMS:
        raise damaged(c.at["types"], f"types and constants have {used} sizes, more than {MAX_ALL_DIMS}")


def _check_attributes(c: Columns) -> None:
    records = c["attributes"]
    kind, number = records["kind"], records["number"]
    c.require((kind >= min(Kind)) & (kind <= max(Kind)), "attributes", "unknown kind of attribute")
    c.require(number < len(NUMBERS), "attributes", "unknown kind of number")
    c.require((number >= _FIRST_FLOAT) == (kind == Kind.FLOAT), "attributes", "numbers of the wrong kind")
    c.require((records["is_list"] == 1) | (records["is_list"] == 0) & (records["count"] == 1), "attributes", "not a list, and not one number")
    needed = int((records["count"].astype(np.int64) * _WIDTHS[number]).sum())
    if needed != len(c["numbers"]):
        raise damaged(c.at["attributes"], f"attributes hold {needed} bytes of numbers and the file {len(c['numbers'])}")


def _check_constants(c: Columns, data_length: int) -> None:
    records = c["constants"]
    offset, length = records["offset"], records["length"]
    c.require((records["dtype"] > 0) & (records["dtype"] <= _LAST_DTYPE), "constants", "unknown element type")
    c.require(records["storage"] <= max(StorageKind), "constants", f"unknown storage; {REMEDY}")
    c.require((records["rank"] <= MAX_RANK) & (records["shape"].astype(np.int64) + records["rank"] <= len(c["dims"])), "constants", f"a shape beyond the {len(c['dims'])} sizes there are")
    total = np.uint64(data_length)
    c.require((length <= total) & (offset <= total - np.minimum(length, total)), "constants", f"its bytes lie beyond the {data_length} of the tensor data section")
    c.require(offset % np.where(length >= 64, np.uint64(64), np.uint64(16)) == 0, "constants", "its bytes are not aligned")
    order = np.lexsort((length, offset))
    starts, ends = offset[order], (offset + length)[order]
    same = (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1])
    apart = same | (starts[1:] >= ends[:-1])
    if not apart.all():
        raise c.error("constants", int(order[int(np.argmin(apart)) + 1]), "its bytes overlap another constant's")


def _below(c: Columns, name: str, field: str | None, limit: int, what: str) -> None:
    numbers: Any = c[name] if field is None else c[name][field]
    if len(numbers) and int(numbers.max()) >= limit:
        first = int(np.argmax(numbers >= limit))
        raise c.error(name, first, f"{field + ' ' if field else ''}is {int(numbers[first])}, beyond the {what} there are")


def _ends(c: Columns, name: str, field: str | None, pool: str) -> None:
    ends: Any = c[name] if field is None else c[name][field]
    if len(ends) > 1:
        c.require(np.concatenate([[True], ends[1:] >= ends[:-1]]), name, f"its slice of {pool} runs backwards")
    last = int(ends[-1]) if len(ends) else 0
    if last != len(c[pool]):
        raise c.error(name, max(len(ends) - 1, 0), f"slices of {pool} end at {last}, there are {len(c[pool])}")


_LAST_DTYPE = 28
_FIRST_FLOAT = next(i for i, d in enumerate(NUMBERS) if d.kind == "f")
_WIDTHS = np.array([d.itemsize for d in NUMBERS], np.int64)
