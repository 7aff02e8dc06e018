"""The special forms of CONV in C: channels-first images, few features, transposed kernels that are their stride, strided 1×1; against NumPy bit for bit, and whole models against the NumPy bodies."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.dim import symbol
from sardonyx.model.packing import Packing
from sardonyx.plan.shapes import infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.reference import ReferenceExecutor

from .float_harness import packed, run, with_epilogue
from .models import Build
from .test_conv import ISAS, check, convolve, padded3, values

rng = np.random.default_rng(12)


@pytest.mark.parametrize("isa", ISAS)
def test_channels_first(isa: str) -> None:
    for index in range(60):
        depthwise, epilogue = bool(index % 2), bool(index // 2 % 2)
        spatial = int(rng.integers(1, 3))
        n, c = int(rng.integers(1, 4)), int(rng.integers(2, 40))
        space = rng.integers(1 if spatial == 1 else 2, 40, spatial).tolist()
        kernel = rng.integers(1, 6, spatial).tolist() if depthwise and index % 3 else [3 if depthwise else 1] * spatial
        pads = [int(rng.integers(0, k)) for k in kernel] if depthwise else [0] * spatial
        out = [i + 2 * p - k + 1 for i, p, k in zip(space, pads, kernel, strict=True)]
        if min(out) < 1 or np.prod(space) == 1 or np.prod(out) == 1:
            continue
        m = c if depthwise else int(rng.integers(1, 40))
        x, w = values(n, c, *space), values(m, 1 if depthwise else c, *kernel)
        expected = convolve(x, w, c if depthwise else 1, [1] * spatial, [1] * spatial, pads, out)
        expected = (with_epilogue(expected) if epilogue else expected).astype(np.float32)
        params = [spatial, c if depthwise else 1, *padded3(kernel, 1), 1, 1, 1, 1, 1, 1, *padded3(pads, 0), 0, -1, -1]
        for threads in (1, 2):
            y = np.full(expected.shape, 77, np.float32)
            run("conv", isa, [x, packed(w, Packing.DEPTHWISE if depthwise else Packing.CONV)], [y], params, epilogue, threads)
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_few_features(isa: str) -> None:
    for index in range(40):
        group = int(rng.choice([1, 1, 2]))
        c, m = group * int(rng.integers(3, 40)), group * int(rng.integers(1, 6))
        kernel = [[1, 1], [3, 3], [5, 7], [1, 40], [2, 2]][index % 5]
        space = rng.integers(10, 24, 2).tolist()
        transposed = index % 5 == 4
        strides = [2, 2] if transposed else [1, int(rng.integers(1, 3))]
        pads = [0, 0] if transposed else [k // 2 for k in kernel]
        w = values(c, m // group, *kernel) if transposed else values(m, c // group, *kernel)
        check(isa, values(2, c, *space), w, group, strides, [1, 1], pads, pads, transposed, bool(index % 2), extra=index % 3, out_last=bool(index // 2 % 2))


@pytest.mark.parametrize("isa", ISAS)
def test_transposed_by_its_stride(isa: str) -> None:
    for index in range(24):
        group = int(rng.choice([1, 1, 3]))
        c, m = group * int(rng.integers(1, 30)), group * int(rng.integers(1, 50))
        kernel = rng.integers(1, 5, 1 + index % 2).tolist()
        check(isa, values(int(rng.integers(1, 3)), c, *rng.integers(1, 20, len(kernel)).tolist()), values(c, m // group, *kernel), group, kernel, [1] * len(kernel), [0] * len(kernel),
              [0] * len(kernel), True, bool(index // 2 % 2), out_last=bool(index // 4 % 2))


@pytest.mark.parametrize("isa", ISAS)
def test_strided_windows(isa: str) -> None:
    """Pixels a power of two apart, kernels of one line or column: only what is read is copied."""
    for index in range(20):
        c, kernel = int(rng.choice([16, 128, 256])), [[1, 1], [1, 3], [3, 1]][index % 3]
        strides = rng.integers(1, 4, 2).tolist()
        check(isa, values(1, c, *rng.integers(5, 20, 2).tolist()), values(int(rng.integers(17, 60)), c, *kernel), 1, strides, [1, 1], [k // 2 for k in kernel], [k // 2 for k in kernel],
              False, bool(index % 2))


def layers(kind: str) -> Any:
    b = Build()
    x = b.input("x", (symbol("n"), 20, 13, 17))

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.2).astype("f4")
    depthwise = {"group": 20, "pads": [1, 1, 1, 1]}
    made = {
        "depthwise": lambda: b.Conv(x, weight(20, 1, 3, 3), weight(20), **depthwise),
        "depthwise clip": lambda: b.Clip(b.Conv(x, weight(20, 1, 3, 3), weight(20), **depthwise), np.float32(0), np.float32(0.5)),
        "depthwise residual": lambda: b.Add(b.Conv(x, weight(20, 1, 3, 3), weight(20), **depthwise), x), "depthwise sigmoid": lambda: b.Sigmoid(b.Conv(x, weight(20, 1, 3, 3), **depthwise)),
        "pointwise": lambda: b.Conv(x, weight(24, 20, 1, 1), weight(24)), "pointwise relu": lambda: b.Relu(b.Conv(x, weight(24, 20, 1, 1), weight(24))),
        "pointwise residual": lambda: b.Relu(b.Add(b.Conv(x, weight(20, 20, 1, 1), weight(20)), x)), "pointwise tanh": lambda: b.Tanh(b.Conv(x, weight(7, 20, 1, 1))),
        "block": lambda: b.Add(b.Conv(y := b.Relu(b.Conv(x, weight(32, 20, 3, 3), weight(32), pads=[1, 1, 1, 1])), weight(32, 32, 3, 3), weight(32), pads=[1, 1, 1, 1]), y),
        "one feature": lambda: b.Sigmoid(b.ConvTranspose(b.Relu(b.ConvTranspose(x, weight(20, 20, 2, 2), weight(20), strides=[2, 2])), weight(20, 1, 2, 2), weight(1), strides=[2, 2])),
        "shuffle": lambda: b.Conv(b.Reshape(b.Transpose(b.Reshape(b.Conv(x, weight(20, 20, 3, 3)), np.array([0, 4, 5, 11, 15])), perm=[0, 2, 1, 3, 4]), np.array([0, 20, 11, 15])),
                                  weight(8, 20, 3, 3)),
        "flattened": lambda: b.MatMul(b.Softmax(b.Reshape(b.Conv(x, weight(20, 20, 3, 3)), np.array([0, 20, -1])), axis=-1), weight(165, 6)),
        "strided": lambda: b.Relu(b.Add(b.Conv(x, weight(40, 20, 1, 1), weight(40), strides=[2, 2]), b.Conv(x, weight(40, 20, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]))),
        "depthwise strided": lambda: b.Clip(b.Conv(x, weight(20, 1, 5, 5), weight(20), strides=[2, 2], group=20, pads=[2, 2, 2, 2]), np.float32(0), np.float32(6)),
    }
    return b.model(made[kind]()) if kind else list(made)


@pytest.mark.parametrize("kind", layers(""))
def test_models(kind: str) -> None:
    model = layers(kind)
    infer_shapes(model)
    for n in (1, 3):
        x = rng.standard_normal((n, 20, 13, 17)).astype(np.float32)
        want = ReferenceExecutor(model).run([x], [0], RunContext())[0]
        runs = [EngineExecutor(model, threads=threads, strict=True).run([x], [0], RunContext())[0] for threads in (1, 2)]
        np.testing.assert_allclose(runs[0], want, rtol=1e-4, atol=2e-5)
        np.testing.assert_array_equal(runs[0], runs[1])
