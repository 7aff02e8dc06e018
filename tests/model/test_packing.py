"""Packing: the arrangements element by element, and pack then unpack is the identity on ragged sizes."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sardonyx.graph import Graph, Model
from sardonyx.model.packing import Packing, pack, packed_nbytes, packed_shape, problem, unpack
from sardonyx.model.roles import Role, affordable, agreed, fitted
from sardonyx.types import DType

SIZE = st.integers(1, 40)
DTYPES = st.sampled_from(["float32", "float16", "int8", "uint8"])


def numbered(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.arange(1, int(np.prod(shape)) + 1).reshape(shape).astype(dtype)


def round_trip(array: np.ndarray, packing: Packing, group: int = 1) -> np.ndarray:
    assert not problem(packing, array.dtype.itemsize, array.shape, group)
    packed = pack(array, packing, group)
    assert packed.shape == packed_shape(packing, array.dtype.itemsize, array.shape, group)
    assert packed.nbytes == packed_nbytes(packing, array.dtype.itemsize, array.shape, group)
    plain = unpack(packed.reshape(-1).view(np.uint8), packing, array.dtype, array.shape, group)
    assert plain.dtype == array.dtype and plain.shape == array.shape and plain.tobytes() == np.ascontiguousarray(array).tobytes()
    return packed


@settings(deadline=None, max_examples=60)
@given(SIZE, SIZE, DTYPES)
def test_matrix(k: int, n: int, dtype: str) -> None:
    array = numbered((k, n), dtype)
    packed = round_trip(array, Packing.MATRIX)
    assert packed.tobytes() == round_trip(array.T, Packing.MATRIX_T).tobytes()
    bits = array.view(packed.dtype)
    for i, j in [(0, 0), (k - 1, n - 1), (k // 2, n // 3)]:
        place = (0, j // 16, i // 4, j % 16, i % 4) if array.itemsize == 1 else (0, j // 16, i, j % 16)
        assert packed[place] == bits[i, j]
    assert np.count_nonzero(packed) == np.count_nonzero(bits)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), SIZE, SIZE, DTYPES)
def test_matrices(groups: int, k: int, n: int, dtype: str) -> None:
    """Each as it is packed alone; side by side, whole panels of columns are the same bytes."""
    array = numbered((groups, k, n), dtype)
    packed = round_trip(array, Packing.MATRICES)
    assert packed.tobytes() == b"".join(pack(m, Packing.MATRIX).tobytes() for m in array) == round_trip(array.swapaxes(1, 2), Packing.MATRICES_T).tobytes()
    if n % 16 == 0:
        assert packed.tobytes() == pack(np.concatenate(list(array), 1), Packing.MATRIX).tobytes()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), SIZE, st.integers(1, 5), st.lists(st.integers(1, 3), min_size=1, max_size=3), DTYPES)
def test_convolution(groups: int, n: int, channels: int, kernel: list[int], dtype: str) -> None:
    array = numbered((groups * n, channels, *kernel), dtype)
    packed = round_trip(array, Packing.CONV, groups)
    last = np.moveaxis(array, 1, -1).reshape(groups, n, -1)
    single = np.stack([pack(last[g], Packing.MATRIX_T)[0] for g in range(groups)])
    assert packed.tobytes() == single.tobytes()


@settings(deadline=None, max_examples=30)
@given(SIZE, st.lists(st.integers(1, 4), min_size=1, max_size=3), DTYPES)
def test_depthwise(channels: int, kernel: list[int], dtype: str) -> None:
    array = numbered((channels, 1, *kernel), dtype)
    packed = round_trip(array, Packing.DEPTHWISE)
    assert packed.shape == (int(np.prod(kernel)), channels) and packed.nbytes == array.nbytes
    assert packed[-1, 0] == array.view(packed.dtype)[(0, 0, *(k - 1 for k in kernel))]


@settings(deadline=None, max_examples=30)
@given(SIZE, st.integers(1, 4), st.sampled_from([8, 16, 64]))
def test_nibbles_and_scales(n: int, blocks: int, size: int) -> None:
    array = np.random.default_rng(n).integers(0, 256, (n, blocks, size)).astype(np.uint8)
    packed = round_trip(array, Packing.NIBBLES)
    words = array.reshape(n, -1).view("<u4")
    assert packed[0, (n - 1) // 16, -1, (n - 1) % 16] == words[-1, -1]
    scales = numbered((n * blocks,), "float32")
    packed = round_trip(scales, Packing.SCALES, n)
    assert packed.view(np.float32)[0, 0, blocks - 1, 0] == scales[blocks - 1]
    assert round_trip(scales.reshape(n, blocks), Packing.SCALES, n).tobytes() == packed.tobytes()


def test_strided_arrays_and_refusals() -> None:
    array = numbered((20, 30), "float32")
    round_trip(array[::2, ::3], Packing.MATRIX)
    round_trip(np.broadcast_to(np.float32(3), (5, 6)), Packing.MATRIX_T)
    for packing, shape, group in ((Packing.MATRIX, (3,), 1), (Packing.MATRIX, (2, 2), 2), (Packing.CONV, (5, 2, 3), 2), (Packing.CONV, (4, 2), 1), (Packing.DEPTHWISE, (4, 2, 3), 1),
                                  (Packing.SCALES, (7,), 2), (Packing.SCALES, (8,), 0), (Packing.MATRIX, (0, 4), 1)):
        assert problem(packing, 4, shape, group)
    assert problem(Packing.MATRIX, 8, (4, 4), 1) and problem(Packing.NIBBLES, 1, (4, 1, 6), 1)


def test_roles() -> None:
    matrix, conv = Role(Packing.MATRIX), Role(Packing.CONV, 4)
    neutral = Role(Packing.NONE)
    assert agreed([matrix, neutral, matrix]) == matrix
    assert agreed([matrix, Role(Packing.MATRIX_T)]) is None and agreed([matrix, None]) is None and agreed([]) is None
    assert fitted(conv, DType.FLOAT, (8, 1, 3, 3)) == Role(Packing.DEPTHWISE)
    assert fitted(matrix, DType.DOUBLE, (4, 4)) is None and fitted(matrix, DType.FLOAT, (2, 4, 4)) is None
    assert affordable({0: 40000, 1: 10, 2: 20000}, 0) == {1, 2}
    assert affordable({0: 40000}, 128 * 40000) == {0}


@pytest.mark.parametrize(("attributes", "expected"), [({}, "matrix"), ({"transB": 1}, "matrix_t")])
def test_rule_through_dequantize(attributes: dict, expected: str) -> None:
    import io

    from sardonyx.model import write_model
    graph = Graph("g")
    weights = graph.constant(numbered((32, 32), "int8"), "w")
    value = graph.node("DequantizeLinear", [weights, graph.constant(np.float32(1).reshape(()))]).outputs[0]
    graph.outputs = [graph.node("Gemm", [graph.constant(np.eye(32, dtype=np.float32)), value], **attributes).outputs[0]]
    assert write_model(Model(graph), io.BytesIO())["packed"] == {expected: 1}
    graph.outputs.append(value)
    assert write_model(Model(graph), io.BytesIO())["packed"] == {}
