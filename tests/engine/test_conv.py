"""CONV in C against NumPy: ranks 1 to 3, groups, strides, dilations, pads, transposed, depthwise, storage types, every ISA of the machine, one and two threads."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from sardonyx.model.packing import Packing

from .float_harness import derived, machine_isas, packed, run, with_epilogue

ISAS = machine_isas()
rng = np.random.default_rng(11)


def values(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (rng.integers(-4, 5, shape) / 4).astype(dtype)  # sums are exact: results are compared bit for bit


def channels_last(x: np.ndarray, extra: int = 0) -> np.ndarray:
    """The same values with channel stride 1; `extra` unused channels lie between pixels."""
    n, c, *space = x.shape
    store = np.zeros((n, *space, c + extra), x.dtype)
    store[..., :c] = np.moveaxis(x, 1, -1)
    return np.moveaxis(store[..., :c], -1, 1)


def padded3(numbers: Sequence[int], fill: int) -> list[int]:
    return [*numbers, *[fill] * (3 - len(numbers))]


def convolve(x: np.ndarray, w: np.ndarray, group: int, strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """The definition, in float64."""
    m = w.shape[0]
    need = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, strides, dilations, w.shape[2:], strict=True)]
    wide = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *[(p, max(n - i - p, 0)) for p, n, i in zip(pads, need, x.shape[2:], strict=True)]])
    total = np.zeros((x.shape[0], m, *out))
    for tap in np.ndindex(*w.shape[2:]):
        window = wide[(slice(None), slice(None), *(slice(t * d, t * d + max((o - 1) * s + 1, 0), s) for t, d, o, s in zip(tap, dilations, out, strides, strict=True)))]
        split = window.reshape(x.shape[0], group, x.shape[1] // group, *out)
        total += np.einsum("ngc...,gmc->ngm...", split, w[(slice(None), slice(None), *tap)].astype(np.float64).reshape(group, m // group, w.shape[1])).reshape(total.shape)
    return total


def convolve_transposed(x: np.ndarray, w: np.ndarray, group: int, strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """w [C, M/group, kernel]: every input pixel adds its stamp."""
    m = w.shape[1] * group
    full = [max((i - 1) * s + d * (k - 1) + 1, p + o) for i, s, d, k, p, o in zip(x.shape[2:], strides, dilations, w.shape[2:], pads, out, strict=True)]
    total = np.zeros((x.shape[0], m, *full))
    split = x.astype(np.float64).reshape(x.shape[0], group, x.shape[1] // group, *x.shape[2:])
    for tap in np.ndindex(*w.shape[2:]):
        taps = w[(slice(None), slice(None), *tap)].astype(np.float64).reshape(group, x.shape[1] // group, w.shape[1])
        stamp = np.einsum("ngc...,gcm->ngm...", split, taps).reshape(x.shape[0], m, *x.shape[2:])
        total[(slice(None), slice(None), *(slice(t * d, t * d + (i - 1) * s + 1, s) for t, d, i, s in zip(tap, dilations, x.shape[2:], strides, strict=True)))] += stamp
    return total[(slice(None), slice(None), *(slice(p, p + o) for p, o in zip(pads, out, strict=True)))]


def check(isa: str, x: np.ndarray, w: np.ndarray, group: int = 1, strides: Sequence[int] = (), dilations: Sequence[int] = (), pads: Sequence[int] = (), ends: Sequence[int] = (),
          transposed: bool = False, epilogue: bool = False, form: str = "packed", extra: int = 0, dtype: Any = np.float32, out_last: bool = True) -> None:
    n = x.ndim - 2
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * n
    ends = ends or pads
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
    if transposed:
        out = [(i - 1) * s + r - p - e for i, s, r, p, e in zip(x.shape[2:], strides, reach, pads, ends, strict=True)]
    else:
        out = [(i + p + e - r) // s + 1 for i, s, r, p, e in zip(x.shape[2:], strides, reach, pads, ends, strict=True)]
    if min(out) < 0:
        return
    expected = (convolve_transposed if transposed else convolve)(x, w, group, strides, dilations, pads, out)
    expected = with_epilogue(expected) if epilogue else expected
    depthwise = w.shape[1] == 1 and group > 1
    given = packed(w, Packing.DEPTHWISE if depthwise else Packing.CONV, 1 if depthwise else group) if form == "packed" and w.size and not transposed else w
    params = [n, group, *padded3(w.shape[2:], 1), *padded3(strides, 1), *padded3(dilations, 1), *padded3(pads, 0), int(transposed), -1, -1]
    results = []
    for threads in (1, 2):
        y = np.full(expected.shape, 77, dtype)
        y = channels_last(y, extra) if out_last else y
        run("conv", isa, [channels_last(x, extra), given], [y], params, epilogue, threads)
        results.append(np.ascontiguousarray(y))
    np.testing.assert_array_equal(results[0], expected.astype(dtype))
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["packed", "plain"])
def test_random(isa: str, form: str) -> None:
    for index in range(80):
        spatial = int(rng.integers(1, 4))
        group = int(rng.choice([1, 1, 2, 3]))
        c, m = group * int(rng.integers(1, 20)), group * int(rng.integers(1, 40))
        kernel = rng.integers(1, 5, spatial).tolist()
        space = rng.integers(1, 14 if spatial < 3 else 7, spatial).tolist()
        strides, dilations, pads, ends = (rng.integers(low, high, spatial).tolist() for low, high in ((1, 4), (1, 3), (0, 3), (0, 3)))
        transposed = index % 5 == 4
        w = values(c, m // group, *kernel) if transposed else values(m, c // group, *kernel)
        check(isa, values(int(rng.integers(1, 3)), c, *space), w, group, strides, dilations, pads, ends, transposed, bool(rng.integers(2)), form,
              int(rng.integers(0, 2)), out_last=bool(rng.integers(2)))


@pytest.mark.parametrize("isa", ISAS)
def test_shapes_of_real_models(isa: str) -> None:
    check(isa, values(1, 3, 33, 31), values(20, 3, 7, 7), strides=[2, 2], pads=[3, 3], epilogue=True)
    check(isa, values(2, 64, 15, 15), values(70, 64, 3, 3), pads=[1, 1], epilogue=True)
    check(isa, values(1, 96, 17, 19), values(24, 96, 1, 1))
    check(isa, values(2, 30, 7, 7), values(200, 30, 1, 1), epilogue=True)
    check(isa, values(1, 40, 14, 14), values(24, 40, 1, 1), strides=[2, 2])
    check(isa, values(1, 32, 12, 12), values(64, 4, 3, 3), 8, pads=[1, 1])
    check(isa, values(1, 20, 100), values(33, 20, 5), dilations=[2], pads=[4])
    check(isa, values(1, 16, 9, 9), values(16, 12, 4, 4), strides=[2, 2], pads=[1, 1], transposed=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["packed", "plain"])
def test_lines_copied_for_all_tasks(isa: str, form: str) -> None:
    """Small images of many channels, cut into tasks by features: what windows need is copied once, before all of them; rows a power of two apart too."""
    check(isa, values(1, 1024, 7, 5), values(256, 1024, 1, 1), form=form)
    check(isa, values(2, 1024, 6, 6), values(130, 1024, 1, 1), form=form, epilogue=True)
    check(isa, values(2, 512, 7, 7), values(192, 512, 1, 1), strides=[2, 2], form=form)
    check(isa, values(1, 1024, 9, 8), values(300, 1024, 1, 1), strides=[2, 2], form=form, epilogue=True, extra=3)
    check(isa, values(1, 160, 7, 7), values(200, 160, 3, 3), pads=[1, 1], form=form)
    check(isa, values(2, 128, 9, 11), values(260, 128, 3, 3), strides=[2, 2], pads=[1, 0], form=form, epilogue=True)
    check(isa, values(1, 256, 5, 5, dtype=np.float16), values(192, 256, 1, 1), strides=[2, 1], form=form)
    check(isa, values(2, 64, 3, 5, 5), values(192, 64, 2, 3, 3), pads=[0, 1, 1], form=form)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["packed", "plain"])
def test_depthwise(isa: str, form: str) -> None:
    for width in (3, 5, 7, 2):
        for stride in (1, 2, 3):
            for size in (6, 7, 14, 23, 40):
                for c in (3, 16, 37):
                    check(isa, values(1, c, size, size + 1), values(c, 1, width, width), c, [stride] * 2, [], [width // 2] * 2, epilogue=bool(rng.integers(2)), form=form, extra=int(rng.integers(2)))
    check(isa, values(2, 18, 21), values(18, 1, 3), 18, pads=[2], ends=[0], form=form)
    check(isa, values(1, 9, 6, 7, 13), values(9, 1, 2, 3, 3), 9, pads=[1, 1, 1], form=form)
    check(isa, values(1, 9, 13, 12), values(9, 1, 3, 3), 9, dilations=[2, 2], pads=[2, 2], form=form)
    check(isa, values(1, 6, 13, 12), values(18, 1, 3, 3), 6, pads=[1, 1], epilogue=True, form=form)
    check(isa, values(1, 8, 7, 7), values(8, 1, 3, 3), 8, strides=[2, 2], pads=[1, 1], transposed=True)
    check(isa, values(1, 8, 7, 7), values(8, 3, 3, 3), 8, strides=[2, 2], pads=[1, 1], transposed=True)


@pytest.mark.parametrize("isa", ISAS)
def test_half_storage(isa: str) -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for form in ("packed", "plain"):
            check(isa, values(1, 20, 9, 9, dtype=dtype), values(18, 20, 3, 3, dtype=dtype), pads=[1, 1], form=form)
            check(isa, values(1, 20, 9, 9, dtype=dtype), values(18, 20, 1, 1), form=form)
            check(isa, values(1, 20, 9, 9, dtype=dtype), values(20, 1, 3, 3, dtype=dtype), 20, pads=[1, 1], form=form)
            check(isa, values(1, 20, 9, 9), values(20, 1, 3, 3, dtype=dtype), 20, pads=[1, 1], form=form)
    check(isa, values(1, 8, 9, 9, dtype=np.float16), values(18, 8, 3, 3, dtype=np.float16), dtype=np.float16)


@pytest.mark.parametrize("isa", ISAS)
def test_double(isa: str) -> None:
    for group in (1, 2):
        check(isa, values(2, 6, 9, 20, dtype=np.float64), values(70, 6 // group, 3, 2, dtype=np.float64), group, [1, 2], [2, 1], [1, 1], epilogue=True, form="plain", dtype=np.float64)
    check(isa, values(1, 3, 5, 6, 7, dtype=np.float64), values(4, 3, 3, 2, 2, dtype=np.float64), form="plain", dtype=np.float64)


@pytest.mark.parametrize("isa", ISAS)
def test_empty(isa: str) -> None:
    check(isa, values(0, 3, 5, 5), values(4, 3, 3, 3))
    check(isa, values(1, 3, 2, 5), values(4, 3, 3, 3), form="plain")
    check(isa, values(1, 0, 5, 5), values(4, 0, 3, 3), form="plain", epilogue=True)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity(isa: str) -> None:
    x, w, d = values(1, 20, 12, 12), np.abs(values(30, 20, 3, 3)) + 1, np.abs(values(20, 1, 3, 3)) + 1
    x[0, 3, 5, 5], x[0, 4, 0, 11] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        check(isa, x, w, pads=[1, 1])
        check(isa, x, d, 20, pads=[1, 1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [2, 4])
def test_winograd_within_1e_4_of_scale(isa: str, size: int) -> None:
    worst = 0.0
    for n, c, m, h, w, pad in ((1, 64, 64, 56, 56, 1), (1, 16, 20, 5, 7, 1), (2, 33, 50, 13, 9, 0), (1, 128, 300, 14, 14, 1), (1, 256, 32, 7, 7, 1), (1, 20, 16, 40, 150, 2), (3, 17, 16, 1, 3, 1)):
        for extra, epilogue, dtype in ((0, False, np.float32), (3, False, np.float32), (0, True, np.float32), (0, False, np.float16)):
            x, weights = rng.standard_normal((n, c, h, w)).astype(dtype), rng.standard_normal((m, c, 3, 3)).astype(np.float32)
            out = [h + 2 * pad - 2, w + 2 * pad - 2]
            if min(out) < 1:
                continue
            expected = convolve(x, weights, 1, [1, 1], [1, 1], [pad, pad], out)
            scale = np.abs(expected).max()
            expected = with_epilogue(expected) if epilogue else expected
            params = [2, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, pad, pad, 0, 0, -1, -1]
            given = channels_last(x, extra)
            results = []
            for threads in (1, 2):
                y = channels_last(np.full(expected.shape, 77, np.float32), extra)
                run("conv", isa, [given, derived(isa, given, packed(weights, Packing.CONV), y, params, 64 + size)], [y], params, epilogue, threads)
                results.append(np.ascontiguousarray(y))
            worst = max(worst, float(np.abs(results[0] - expected).max() / scale / (2 if epilogue else 1)))
            assert results[0].tobytes() == results[1].tobytes()
    assert worst < 2e-5, worst


def test_winograd_is_chosen_by_shape() -> None:
    for c, size, kernel, stride, chosen in ((64, 56, 3, 1, 68), (64, 14, 3, 1, 66), (512, 7, 3, 1, 0), (64, 56, 3, 2, 0), (64, 56, 1, 1, 0), (3, 56, 3, 1, 0)):
        x, y = channels_last(values(1, c, size, size)), channels_last(values(1, 32, size, size))
        params = [2, 1, kernel, kernel, 1, stride, stride, 1, 1, 1, 1, 1, 1, 0, 0, -1, -1]
        given = derived(ISAS[0], x, packed(values(32, c, kernel, kernel), Packing.CONV), y, params)
        assert (given.packing if given else 0) == chosen
