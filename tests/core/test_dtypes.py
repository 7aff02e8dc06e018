"""The dtype matrix against what runs: the C engine takes exactly the types of each line, computes what the interpreter computes, and refuses the others before it runs."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.dtypes import CONTROL, MATRIX, MOVED, Row, row_of
from sardonyx.engine.binding import EngineProgram, kernels
from sardonyx.errors import InvalidModelFile, NotImplemented
from sardonyx.expr import Compute, cast, compute_type, leaf, saturate
from sardonyx.kernels import RECORDS, Kernel
from sardonyx.lowering import Lowering
from sardonyx.providers.engine import refusal
from sardonyx.types import DType

from tests.engine.one_step import OneStep

from .dtype_steps import STEPS

LINES = [(kind, row) for kind, rows in MATRIX.items() for row in rows if (kind, row.what) in STEPS]


def test_every_kind_has_its_lines() -> None:
    assert set(MATRIX) == set(RECORDS) == set(kernels()) - CONTROL
    assert {(kind, row.what) for kind, row in LINES} == set(STEPS)
    for kind, rows in MATRIX.items():
        assert row_of(kind, {}) in rows


@pytest.mark.parametrize("kind,row", LINES, ids=[f"{kind.name} {row.what}".strip() for kind, row in LINES])
def test_line(kind: Kernel, row: Row) -> None:
    for dtype in sorted(MOVED):
        one = OneStep(np.random.default_rng(0))
        try:
            STEPS[kind, row.what](one, dtype)
        except ValueError:  # there is no expression of this type
            assert dtype.is_complex and dtype not in row.loads
            continue
        if dtype not in row.loads:
            with pytest.raises((InvalidModelFile, NotImplemented)):
                program = EngineProgram(one.program, one.constants)
                program.bind([x.shape for x in one.arrays])
            continue
        for found, want in zip(one.run(), one.expected(), strict=True):
            assert found.dtype == want.dtype
            if dtype.is_complex:
                np.testing.assert_array_equal(found, want)
            else:
                np.testing.assert_allclose(found.astype(np.float64), want.astype(np.float64), rtol=1e-2, err_msg=f"{kind.name} of {dtype.text}")


def test_the_provider_takes_what_the_records_say() -> None:
    """Operands that are no data (seeds, indices, tables) have their records' types."""
    k = Lowering()
    seed, x = k.constant(np.zeros(2, np.int64)), k.constant(np.zeros((4, 4), np.float32))
    drawn, whole = k.buffer(DType.FLOAT, (4,)).whole(), k.buffer(DType.INT32, (4,)).whole()
    assert not refusal(k.call(Kernel.RANDOM, [seed], [drawn], op=0))
    assert "int32" in refusal(k.call(Kernel.RANDOM, [seed], [whole], op=0))
    assert not refusal(k.call(Kernel.GATHER, [x, seed], [k.buffer(DType.FLOAT, (2, 4)).whole()], axis=0, mode=0))
    assert "int32" in refusal(k.call(Kernel.SOFTMAX, [whole, None], [drawn], axis=0))
    assert not refusal(k.call(Kernel.COMPACT, [x], [k.buffer(DType.INT64, (16, 2)).whole(), k.buffer(DType.INT64, (1,)).whole()], op=0))


@pytest.mark.parametrize("dtype", [t for t in DType if t.is_integer])
def test_integers_wrap_or_saturate_when_stored(dtype: DType) -> None:
    """A Map stores what its compute type holds modulo the stored type's range; `saturate` clamps first."""
    wide = compute_type(dtype)
    x = np.array([0, 1, 7, 8, 127, 128, 255, 300, -1, -9, -300, 2**31 - 1, -2**31], np.int64)
    for clamp in (False, True):
        one = OneStep(np.random.default_rng(0))
        value = leaf(0, DType.INT64)
        result = cast(saturate(value, dtype), wide) if clamp else cast(value, wide)
        one.step(Kernel.MAP, [one.operand(x, broadcast=False)], [one.result(x.shape, dtype)], epilogue=[result])
        low, high = (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1) if dtype.is_signed_integer else (0, (1 << dtype.bits) - 1)
        want = [min(max(int(v), low), high) if clamp else (int(v) - low) % (1 << dtype.bits) + low for v in x]
        assert [int(v) for v in one.run()[0].astype(np.int64 if dtype is not DType.UINT64 else np.uint64)] == want


def test_compute_types() -> None:
    assert {t.text: compute_type(t).name for t in (DType.FLOAT16, DType.DOUBLE, DType.BOOL, DType.UINT32, DType.UINT64, DType.INT4)} == {
        "float16": "F32", "double": "F64", "bool": "I32", "uint32": "I64", "uint64": "U64", "int4": "I32"}
    assert {compute_type(t) for t in DType if t.is_narrow_float} == {Compute.F32}
