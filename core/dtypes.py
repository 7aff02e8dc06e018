"""The dtype matrix: for every kind, which element types its data may have, what they are computed in, how results are stored and what is out of range becomes. DTYPES.md is written from it
(`make generate`), providers ask it, and tests/core/test_dtypes.py asks the C engine and the interpreter about every line.

How to think
- Storage and computing are apart: a kernel loads a storage type into its compute type (core/expr.py), works there, and converts when it stores.
- Data are the first `DATA` operands of a kind (one where it is not listed). What else a kind takes (indices, tables, leaves of expressions) has the types its record says, or any computed one.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .expr import compute_type
from .kernels import Kernel
from .types import DType

FLOATS = frozenset({DType.FLOAT, DType.FLOAT16, DType.BFLOAT16})
REALS = FLOATS | {DType.DOUBLE}
BYTES = frozenset({DType.INT8, DType.UINT8})
#: What is computed with everywhere; 4- and 2-bit integers take a byte each.
COMPUTED = REALS | {DType.BOOL} | {t for t in DType if t.is_integer}
#: Without the integers of fewer than 8 bits.
WHOLE_BYTES = frozenset(t for t in COMPUTED if t.bits >= 8)
#: Maps also convert floats of 8 bits and fewer.
MAPPED = COMPUTED | {t for t in DType if t.is_narrow_float}
#: Whatever has a fixed size can be moved.
MOVED = frozenset(set(DType) - {DType.STRING})


@dataclass(frozen=True)
class Row:
    """One line of the matrix. `holds`: whether it speaks of a kernel with these parameters."""

    loads: frozenset[DType]
    computed: str
    stored: str
    beyond: str
    what: str = ""
    holds: Callable[[Mapping[str, Any]], bool] = lambda params: True


_SAME, _WRAPS, _ROUNDS = "the data's type", "integers wrap", "floats round to nearest even"
_MOVED = ("nothing", _SAME, "nothing: bytes are moved")
#: Kernel → its rows; the first that holds counts.
MATRIX: dict[Kernel, tuple[Row, ...]] = {
    Kernel.MAP: (Row(MAPPED, "the types its expression says", "any of these types", f"{_WRAPS} at the stored type, or saturate where the expression says so; {_ROUNDS}"),),
    Kernel.REDUCE: (Row(COMPUTED, "the compute type; integer sums and products in I64 (U64 stays)", "the data's type, argmin and argmax int64, or what the epilogue makes", _WRAPS),),
    Kernel.SCAN: (Row(FLOATS, "F32", _SAME, _ROUNDS, "linear attention", lambda p: p.get("op") == 2), Row(COMPUTED, "the compute type", _SAME, _WRAPS, "sums, products")),
    Kernel.MATMUL: (Row(COMPUTED, "F32, F64; integers exactly in I32, I64 or U64, which wrap", "the compute type's own type, or what the epilogue makes", _WRAPS),),
    Kernel.CONV: (Row(REALS | BYTES, "F32, F64; bytes exactly in I32", "the data's type, int32, or what the epilogue makes", _WRAPS),),
    Kernel.POOL: (Row(FLOATS | BYTES, "comparisons of the data", _SAME, "nothing", "maximum", lambda p: p.get("op", 0) == 0), Row(FLOATS, "F32", _SAME, _ROUNDS, "average")),
    Kernel.SOFTMAX: (Row(REALS, "F32, F64; of 16-bit floats every step is rounded to them", _SAME, _ROUNDS),),
    Kernel.NORM: (Row(REALS, "F32, F64", _SAME, _ROUNDS),),
    Kernel.ATTENTION: (Row(FLOATS, "F32", _SAME, _ROUNDS),),
    Kernel.RNN: (Row(REALS, "F32, F64", _SAME, _ROUNDS),),
    Kernel.GATHER: (Row(MOVED, *_MOVED),),
    Kernel.SCATTER: (Row(MOVED, *_MOVED, "none", lambda p: not p.get("reduction")), Row(WHOLE_BYTES, "the compute type", _SAME, _WRAPS, "with a reduction")),
    Kernel.COPY: (Row(MOVED, *_MOVED),),
    Kernel.RESIZE: (Row(MOVED, *_MOVED, "nearest", lambda p: not p.get("mode")), Row(WHOLE_BYTES, "F32; F64 for double and integers", _SAME, "integers round to even and saturate",
                                                                                     "linear, cubic")),
    Kernel.SAMPLE: (Row(WHOLE_BYTES, "F32; F64 for double and integers", _SAME, "as the operator's formulas say"),),
    Kernel.SORT: (Row(COMPUTED, "comparisons; NaN is the greatest", "the data's type; places int64", "nothing"),),
    Kernel.COMPACT: (Row(COMPUTED, "comparisons", "int64", "nothing"),),
    Kernel.RANDOM: (Row(REALS, "F64", "the output's type, by way of F32 for 16 bits", _ROUNDS),),
    Kernel.FFT: (Row(REALS, "F64", _SAME, _ROUNDS),),
    Kernel.LINALG: (Row(REALS, "F64", _SAME, _ROUNDS),),
    Kernel.TREES: (Row(REALS, "comparisons in F32, F64; sums in the weights' type (float, double)", "the weights' type", _ROUNDS),),
}
#: How many of the first operands are data, where it is not one; with none, the results have the types.
DATA: dict[Kernel, int] = {Kernel.MATMUL: 2, Kernel.CONV: 2, Kernel.ATTENTION: 3, Kernel.RANDOM: 0}
#: Kinds whose program is chosen and run by the loader: no elements.
CONTROL = frozenset({Kernel.IF, Kernel.LOOP, Kernel.CALL})


def row_of(kind: Kernel, params: Mapping[str, Any]) -> Row:
    """The line that speaks of a kernel."""
    return next(row for row in MATRIX[kind] if row.holds(params))


def data_operands(kind: Kernel) -> int:
    """How many of the first operands are data."""
    return DATA.get(kind, 1)


def moves(kind: Kernel, params: Mapping[str, Any]) -> bool:
    """Whether a kernel only moves elements, so that it takes every type."""
    return row_of(kind, params).loads == MOVED


def _names(types: frozenset[DType]) -> str:
    for known, name in ((MOVED, "every type but string"), (MAPPED, "all numbers and bool"), (COMPUTED, "all but floats of 8 bits and fewer, and complex"),
                        (WHOLE_BYTES, "float, double, float16, bfloat16, bool, integers of 8 bits and more")):
        if types == known:
            return name
    return ", ".join(t.text for t in DType if t in types)


def document() -> str:
    """DTYPES.md."""
    lines = ["# Element types", "", "Written by `make generate` from core/dtypes.py; tests/core/test_dtypes.py asks the engine and the interpreter about every line.", "",
             "## What each type is computed in", "", "| type | bytes in memory | compute type |", "|---|--:|---|"]
    for dtype in DType:
        if dtype is not DType.STRING:
            item = {DType.COMPLEX64: 8, DType.COMPLEX128: 16}.get(dtype, max(dtype.bits // 8, 1))
            lines.append(f"| {dtype.text} | {item} | {'moved only' if dtype.is_complex else compute_type(dtype).name} |")
    lines += ["", "Strings, sequences, optionals and maps are the host's.", "", "## What each kind takes", "",
              "| kind | | data | computed in | stored as | out of range |", "|---|---|---|---|---|---|"]
    for kind, rows in MATRIX.items():
        lines += [f"| {kind.name} | {row.what} | {_names(row.loads)} | {row.computed} | {row.stored} | {row.beyond} |" for row in rows]
    lines += ["", "Quantisation has no kind: it is Maps, alone or as prologues and epilogues of the kinds above. IF, LOOP and CALL run programs.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    from pathlib import Path
    Path(__file__).resolve().with_name("DTYPES.md").write_text(document())
