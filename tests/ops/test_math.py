"""What the ONNX backend cases barely touch in elementwise, activation, logic, cast, quantize and reduce operators: known symbolic values, NaN and infinity,
empty tensors, wrapping, division by zero, strings, every pair of types, blocked scales."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sardonyx.dim import dim_max, dim_min, symbol
from sardonyx.errors import InvalidGraph
from sardonyx.graph import Graph, Value
from sardonyx.ops import lookup
from sardonyx.ops.cast import convert, saturate
from sardonyx.philox import attribute_draws
from sardonyx.plan.shapes import infer_shapes
from sardonyx.types import DType, TensorType

nan, inf = math.nan, math.inf
F = np.float32


def run(op: str, *inputs: Any, **attributes: Any) -> Any:
    """The operator's body; NumPy scalars and None pass as they are."""
    with np.errstate(all="ignore"):
        out = lookup("", op)(*(None if x is None else np.asarray(x) for x in inputs), **attributes)
    return tuple(np.asarray(v) for v in out) if isinstance(out, tuple) else np.asarray(out)


def check(actual: np.ndarray, expected: Any, dtype: Any) -> None:
    """Equal in dtype, shape and every element, NaN and the sign of zero included."""
    expected = np.asarray(expected).astype(dtype)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, (actual.dtype, actual.shape, expected.shape)
    if expected.dtype.kind not in "biuO":
        actual, expected = actual.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_array_equal(np.signbit(actual) & (actual == 0), np.signbit(expected) & (expected == 0))
    np.testing.assert_array_equal(actual, expected)


EXACT: list[tuple[str, list[Any], dict[str, Any], Any]] = [
    # integers wrap and truncate
    ("Add", [np.uint8([250]), np.uint8([10])], {}, [4]),
    ("Sub", [np.uint32([0]), np.uint32([1])], {}, [2**32 - 1]),
    ("Mul", [np.int8([100]), np.int8([2])], {}, [-56]),
    ("Neg", [np.int8([-128, 5])], {}, [-128, -5]),
    ("Abs", [np.int32([-(2**31), -5])], {}, [-(2**31), 5]),
    ("Div", [np.int32([7, -7, 7, -7, 6, -6]), np.int32([2, 2, -2, -2, 3, 3])], {}, [3, -3, -3, 3, 2, -2]),
    ("Div", [np.int8([-128, -128]), np.int8([-1, 127])], {}, [-128, -1]),
    ("Div", [np.uint8([255]), np.uint8([2])], {}, [127]),
    ("Div", [np.int64([-(2**62) - 1]), np.int64([2])], {}, [-(2**61)]),
    ("Mod", [np.int32([5, -5, 5, -5]), np.int32([3, 3, -3, -3])], {}, [2, 1, -1, -2]),
    ("Mod", [np.int32([5, -5, 5, -5]), np.int32([3, 3, -3, -3])], {"fmod": 1}, [2, -2, 2, -2]),
    ("Mod", [F([0.0, -0.0, inf, 1, 1, -1, 1, nan]), F([3, 3, 2, 0, inf, inf, -inf, 1])], {}, [0.0, 0.0, nan, nan, 1, inf, -inf, nan]),
    ("Mod", [F([0.0]), F([-3])], {}, [-0.0]),
    ("Mod", [F([-5.5, 5, inf, 1, 1]), F([2, inf, 2, 0, nan])], {"fmod": 1}, [-1.5, 5, nan, nan, nan]),
    ("Pow", [np.int32([2, 1, -1, -1, 0, 3]), np.int32([-1, -5, -3, -2, 0, 4])], {}, [0, 1, -1, 1, 1, 81]),
    ("Pow", [np.int32([2, -3, 46341]), np.uint64([40, 3, 2])], {}, [0, -27, 46341**2 - 2**32]),
    ("Pow", [np.int64([3, 2]), F([0.5, 2.5])], {}, [1, 5]),
    ("Pow", [F([2, 4]), np.int64([-1, 2])], {}, [0.5, 16]),
    ("BitShift", [np.int8([-8, 4, -8, -1]), np.int8([1, 1, 8, -1])], {"direction": "RIGHT"}, [-4, 2, -1, -1]),
    ("BitShift", [np.int8([-8, 4, 65]), np.int8([8, -1, 1])], {"direction": "LEFT"}, [0, 0, -126]),
    ("BitShift", [np.uint64([2**63, 1]), np.uint64([64, 63])], {"direction": "LEFT"}, [0, 2**63]),
    # NaN, infinities, signed zeros
    ("Max", [F([nan, 1, -inf]), F([1, nan, 3])], {}, [nan, nan, 3]),
    ("Min", [np.float16([nan, 1]), np.float16([1, 0])], {}, [nan, 0]),
    ("Clip", [F([-inf, nan, inf])], {}, [np.finfo(F).min, nan, np.finfo(F).max]),
    ("Clip", [F([1, 2, 3]), F(5), F(0)], {}, [0, 0, 0]),
    ("Clip", [np.uint8([1, 200]), None, np.uint8(9)], {}, [1, 9]),
    ("Sign", [F([-2, 0, inf, nan])], {}, [-1, 0, 1, nan]),
    ("Round", [F([0.5, 1.5, -2.5, -0.3, nan, inf])], {}, [0, 2, -2, -0.0, nan, inf]),
    ("Relu", [F([nan, -inf, inf, -1])], {}, [nan, 0, inf, 0]),
    ("ThresholdedRelu", [F([nan, 1, 1.5])], {"alpha": 1.0}, [0, 0, 1.5]),
    ("Sigmoid", [F([-1000, 1000, -inf, inf, 0])], {}, [0, 1, 0, 1, 0.5]),
    ("Softplus", [F([1000, -1000, inf, -inf])], {}, [1000, 0, inf, 0]),
    ("Elu", [F([-inf, 1000, 0])], {"alpha": 2.0}, [-2, 1000, 0]),
    ("Celu", [F([-inf, 1000])], {"alpha": 2.0}, [-2, 1000]),
    ("Gelu", [F([inf, 0, nan])], {}, [inf, 0, nan]),
    ("PRelu", [np.int32([-3, 3]), np.int32([2])], {}, [-6, 3]),
    ("Shrink", [np.int32([-5, 0, 5])], {"bias": 1.5, "lambd": 0.5}, [-3, 0, 3]),
    ("Softmax", [F([[-inf, 0], [-inf, -inf], [1e30, 1e30]])], {}, [[0, 1], [nan, nan], [0.5, 0.5]]),
    ("LogSoftmax", [F([-inf, 0])], {}, [-inf, 0]),
    ("Hardmax", [F([[1, 3, 3], [5, 4, 5]])], {"axis": 1}, [[0, 1, 0], [1, 0, 0]]),
    ("Erf", [F([-inf, inf, 0, nan])], {}, [-1, 1, 0, nan]),
    # empty tensors
    ("Softmax", [np.zeros((2, 0), F)], {}, np.zeros((2, 0))),
    ("Hardmax", [np.zeros((0, 3), F)], {}, np.zeros((0, 3))),
    ("CumSum", [np.zeros((0, 3), F), np.int64(0)], {"exclusive": 1}, np.zeros((0, 3))),
    ("Trilu", [np.zeros((3, 0), F)], {}, np.zeros((3, 0))),
    ("ReduceSum", [np.zeros((0, 2), np.int32)], {"keepdims": 0}, 0),
    ("ReduceProd", [np.zeros((0, 2), F), np.int64([0])], {}, [[1, 1]]),
    ("ReduceMax", [np.zeros(0, F)], {"keepdims": 0}, -inf),
    ("ReduceMax", [np.zeros(0, np.int32)], {}, [-(2**31)]),
    ("ReduceMin", [np.zeros(0, np.uint8)], {}, [255]),
    ("ReduceMin", [np.zeros(0, np.float16)], {}, [inf]),
    ("ReduceLogSum", [np.zeros(0, F)], {}, [-inf]),
    ("ReduceLogSumExp", [np.zeros(0, F)], {}, [-inf]),
    ("ReduceL2", [np.zeros(0, F)], {}, [0]),
    ("ReduceMean", [np.zeros(0, F)], {}, [nan]),
    # reductions
    ("ReduceMax", [np.array([False, True])], {}, None),
    ("ReduceMax", [F([1, nan, 3])], {}, [nan]),
    ("ReduceMean", [np.int32([-3, -4])], {}, [-3]),
    ("ReduceMean", [np.int32([2**31 - 1, 2**31 - 1])], {}, [2**31 - 1]),
    ("ReduceSum", [np.int32([2**31 - 1, 1])], {}, [-(2**31)]),
    ("ReduceSum", [np.full(4096, 0.1, np.float16)], {}, np.float16([np.full(4096, 0.1, np.float16).astype(np.float64).sum()])),
    ("ReduceSum", [F([1e8, 1, -1e8])], {}, [1]),
    ("ReduceL1", [np.int32([-3, 4])], {}, [7]),
    ("ReduceL2", [np.int32([3, 4, 5])], {}, [7]),
    ("ReduceL2", [F([3e30, 4e30])], {}, F([5e30])),
    ("ReduceLogSumExp", [F([[-inf, -inf], [inf, 1], [1000, -inf]]), np.int64([1])], {"keepdims": 0}, [-inf, inf, 1000]),
    ("ReduceLogSum", [F([[1, 2]]), np.int64([])], {"noop_with_empty_axes": 1}, np.log(F([[1, 2]]))),
    ("ReduceSumSquare", [F([2, 3]), None], {"noop_with_empty_axes": 1}, [4, 9]),
    ("ReduceSum", [F([[1, 2]]), np.int64([])], {}, [[3]]),
    ("ArgMax", [F([1, 3, 3])], {"select_last_index": 1}, None),
    ("CumSum", [np.uint32([2**32 - 1, 1, 5]), np.int32(0)], {"reverse": 1, "exclusive": 1}, [6, 5, 0]),
    ("CumProd", [np.int32([2, 3, 4]), np.int64(-1)], {"exclusive": 1}, [1, 2, 6]),
    ("Trilu", [np.int8([[1, 2], [3, 4]]), np.int64(-(2**62))], {"upper": 0}, [[0, 0], [0, 0]]),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "expected"), EXACT, ids=[f"{i}-{case[0]}" for i, case in enumerate(EXACT)])
def test_exact(op: str, inputs: list[Any], attributes: dict[str, Any], expected: Any) -> None:
    out = run(op, *inputs, **attributes)
    if expected is None:
        check(out, [True] if op == "ReduceMax" else [2], bool if op == "ReduceMax" else np.int64)
    else:
        check(out, expected, inputs[0].dtype)


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_integer_division_by_zero_is_an_error_that_says_where(op: str) -> None:
    with pytest.raises(InvalidGraph, match=r"by zero: B is 0 at index \[1\]"):
        run(op, np.int32([1, 2]), np.int32([1, 0]))
    check(run("Div", F([1, -1, 0]), F([0, 0, 0])), [inf, -inf, nan], F)


#: Softmax is not here: in a narrow float its function body rounds at every step, and so does the reference.
HALF_SAFE = [
    "Sqrt", "Exp", "Log", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Tanh",
    "Asinh", "Atanh", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Neg", "Abs", "Relu", "LeakyRelu", "Elu", "Selu",
    "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Softplus", "Softsign", "ThresholdedRelu", "LogSoftmax", "Hardmax",
]


@pytest.mark.parametrize("op", HALF_SAFE)
@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_half_types_round_once(op: str, dtype: DType) -> None:
    """A half-width result is the float32 result rounded; the type and a 0-d shape are kept."""
    x = np.linspace(-0.9, 0.9, 16).astype(dtype.numpy)
    out = run(op, x)
    expected = run(op, x.astype(F)).astype(dtype.numpy)
    assert out.dtype == dtype.numpy
    np.testing.assert_array_equal(out.astype(F), expected.astype(F))
    if "max" not in op:
        assert run(op, x[3]).dtype == dtype.numpy and run(op, x[3]).shape == ()


def test_bfloat16_sums_do_not_stall() -> None:
    """bfloat16 has 8 bits: a sum kept in it stops at 256."""
    ones = np.ones((1, 1000), DType.BFLOAT16.numpy)
    assert float(run("ReduceSum", ones)[0, 0]) == 1000
    np.testing.assert_allclose(run("Softmax", ones).astype(F), 1e-3, rtol=0.01)


def test_erf_and_gelu_against_the_c_library() -> None:
    x = np.concatenate([np.linspace(-7, 7, 2001), [0.46875, 4.0, -4.0, 30, 1e-300]])
    np.testing.assert_allclose(run("Erf", x), [math.erf(v) for v in x], rtol=1e-15, atol=0)
    np.testing.assert_allclose(run("Gelu", x), [0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x], rtol=5e-15, atol=1e-300)


def test_dropout() -> None:
    class Draw:
        random = staticmethod(lambda seed: attribute_draws(7))
    x = np.ones(1000, F)
    out, mask = run("Dropout", x, F(0.25), np.array(True), context=Draw)
    assert 0.7 < mask.mean() < 0.8
    check(out, mask * F(1 / 0.75), F)
    out, mask = run("Dropout", x, F(0.25), context=Draw)
    assert mask.all() and (out == 1).all()


# -- types ------------------------------------------------------------------------------------------------------------------------------------

NUMBERS = [t for t in DType if t is not DType.STRING and not t.is_complex]


@pytest.mark.parametrize("source", NUMBERS, ids=lambda t: t.text)
def test_cast_between_all_number_types(source: DType) -> None:
    """Every pair is there, keeps 1 (which all types have), gives the right dtype, and makes a bool of it."""
    x = np.array([1, 1], F).astype(source.numpy)
    for target in NUMBERS:
        out = run("Cast", x, to=int(target))
        assert out.dtype == target.numpy, target
        # A signed two-bit 1 and every other 1 survive.
        np.testing.assert_array_equal(out.astype(F), [1, 1], err_msg=target.text)
    assert run("Cast", x, to=int(DType.STRING)).tolist() == ["1", "1"]


CASTS: list[tuple[Any, DType, Any, dict[str, Any]]] = [
    (np.int16([200, -1]), DType.INT8, [-56, -1], {}),
    (np.int64([-1, 17]), DType.UINT4, [15, 1], {}),
    (np.int8([7, -8, 8]), DType.INT4, [7, -8, -8], {}),
    (F([2.7, -2.7]), DType.INT32, [2, -2], {}),
    (F([0, -0.0, nan, 0.1]), DType.BOOL, [False, False, True, True], {}),
    (F([1e6]), DType.FLOAT16, [inf], {}),
    (F([500, -500, inf, nan, 464]), DType.FLOAT8E4M3FN, [448, -448, 448, nan, 448], {}),
    (F([500, -500, inf, nan]), DType.FLOAT8E4M3FN, [nan, nan, nan, nan], {"saturate": 0}),
    (F([1e6, -1e6, inf]), DType.FLOAT8E5M2, [57344, -57344, 57344], {}),
    (F([1e6, -1e6, -inf]), DType.FLOAT8E5M2, [inf, -inf, -inf], {"saturate": 0}),
    (np.int64([1000]), DType.FLOAT8E4M3FN, [448], {}),
    (F([0.3, 1e9]), DType.FLOAT6E2M3, [0.25, 7.5], {}),
    (F([0, 1.1, 2, inf, nan, 1e-45, 3]), DType.FLOAT8E8M0, [2.0**-127, 2, 2, 2.0**127, nan, 2.0**-127, 4], {}),
    (F([0, 1.49, 1.5, inf, 3e38]), DType.FLOAT8E8M0, [nan, 1, 2, nan, nan], {"saturate": 0, "round_mode": "nearest"}),
    (F([1.9, 2]), DType.FLOAT8E8M0, [1, 2], {"round_mode": "down"}),
    (np.array(["1.5", " 2", "1e-5", "INF", "-inf", "NaN", "+7", "0x10"], object), DType.FLOAT, [1.5, 2, F(1e-5), inf, -inf, nan, 7, 16], {}),
    (np.array(["100.5", "-3", "300"], object), DType.INT8, [100, -3, 44], {}),
    (np.array(["18446744073709551615", "0"], object), DType.UINT64, [2**64 - 1, 0], {}),
    (np.array(["1", "0", "-2"], object), DType.BOOL, [True, False, True], {}),
    (np.array(["9"], object), DType.INT4, [-7], {}),
]


@pytest.mark.parametrize(("x", "to", "expected", "attributes"), CASTS, ids=[f"{i}-{c[1].text}" for i, c in enumerate(CASTS)])
def test_cast(x: np.ndarray, to: DType, expected: Any, attributes: dict[str, Any]) -> None:
    check(run("Cast", x, to=int(to), **attributes), np.array(expected, np.uint64) if to is DType.UINT64 else expected, to.numpy)


def test_cast_to_string_prints_as_onnxruntime() -> None:
    x = F([1e10, nan, inf, -inf, 300.7, -1.5, 1 / 3, 1e-5, 123456789, 1, -0.0, 0.1, 16777216])
    words = ["1e+10", "NaN", "INF", "-INF", "300.70001", "-1.5", "0.33333334", "9.9999997e-06", "1.2345679e+08", "1", "-0", "0.1", "16777216"]
    assert run("Cast", x, to=int(DType.STRING)).tolist() == words
    assert run("Cast", np.array([[True, False]]), to=int(DType.STRING)).tolist() == [["1", "0"]]
    assert run("Cast", np.uint64([2**64 - 1]), to=int(DType.STRING)).tolist() == [str(2**64 - 1)]


@pytest.mark.parametrize("to", [DType.FLOAT, DType.INT64, DType.BOOL])
def test_cast_of_text_that_is_no_number(to: DType) -> None:
    with pytest.raises(InvalidGraph, match="'Hello World!'"):
        run("Cast", np.array(["Hello World!"], object), to=int(to))


def test_bitcast() -> None:
    check(run("BitCast", F([1, -0.0]), to=int(DType.INT32)), [0x3F800000, -(2**31)], np.int32)
    check(run("BitCast", np.array([15, 7], np.int8).astype(DType.UINT4.numpy), to=int(DType.INT4)), [-1, 7], DType.INT4.numpy)
    check(run("BitCast", np.array([-1], np.int8).astype(DType.INT2.numpy), to=int(DType.UINT2)), [3], DType.UINT2.numpy)
    assert run("BitCast", np.float64(1), to=int(DType.UINT64)).shape == ()
    with pytest.raises(InvalidGraph, match="widths"):
        run("BitCast", F([1]), to=int(DType.INT64))


@pytest.mark.parametrize(("x", "dtype", "expected"), [
    (F([nan, 1e20, -1e20, 0.5, 1.5, inf]), DType.INT8, [-128, 127, -128, 0, 2, 127]),
    (F([nan, 1e30, -1e30, 2.5]), DType.INT64, [-(2**63), 2**63 - 1, -(2**63), 2]),
    (F([1e30, -5, 3]), DType.UINT64, [2**64 - 1, 0, 3]),
    (np.int64([300, -300]), DType.UINT8, [255, 0]),
    (np.int8([5, -5]), DType.UINT4, [5, 0]),
    (np.float16([70, -70]), DType.INT4, [7, -8]),
])
def test_saturate(x: np.ndarray, dtype: DType, expected: list[int]) -> None:
    out = saturate(x, dtype)
    assert out.dtype == dtype.numpy and [int(v) for v in out] == expected


def test_equal_on_strings() -> None:
    check(run("Equal", np.array(["a", "b"], object), np.array(["a"], object)), [True, False], bool)
    check(run("Where", np.array([True, False]), np.array(["a"], object), np.array(["b", "c"], object)), ["a", "c"], object)


# -- quantisation -----------------------------------------------------------------------------------------------------------------------------


def test_quantize_blocks_with_a_remainder() -> None:
    x = np.arange(10, dtype=F).reshape(2, 5)
    scale = F([[1, 2, 4], [0.5, 1, 2]])
    q = run("QuantizeLinear", x, scale, np.int8([[0, 1, 2], [3, 4, 5]]), axis=1, block_size=2)
    check(q, [[0, 1, 2, 3, 3], [13, 15, 11, 12, 9]], np.int8)  # 3/2 and 9/2 are ties: 2 and 4
    y = run("DequantizeLinear", q, scale, np.int8([[0, 1, 2], [3, 4, 5]]), axis=1, block_size=2)
    check(y, [[0, 1, 2, 4, 4], [5, 6, 7, 8, 8]], F)
    with pytest.raises(InvalidGraph, match="block_size 3"):
        run("QuantizeLinear", x, scale, axis=1, block_size=3)
    with pytest.raises(InvalidGraph, match="axis 1"):
        run("QuantizeLinear", x, F([1, 2, 3]))


def test_quantize_rounds_before_the_zero_point() -> None:
    check(run("QuantizeLinear", F([0.5, 1.5, nan, inf, -inf, 1e30]), F(1), np.uint8(1)), [1, 3, 0, 255, 0, 255], np.uint8)
    check(run("QuantizeLinear", F([1.0]), np.array(2.0, F), output_dtype=int(DType.INT4)), [0], DType.INT4.numpy)
    check(run("QuantizeLinear", F([30000]), F(1), np.uint16(65000)), [65535], np.uint16)
    check(run("QuantizeLinear", F([5, 6]), np.ones(1, DType.FLOAT8E8M0.numpy), np.uint8([0])), [5, 6], np.uint8)


def test_quantize_precision_is_where_the_division_happens() -> None:
    x, scale = F([2049]), np.float16(1)
    check(run("QuantizeLinear", x, scale, np.uint16(0)), [2048], np.uint16)  # 2049 is no float16
    check(run("QuantizeLinear", x, scale, np.uint16(0), precision=int(DType.FLOAT)), [2049], np.uint16)


def test_dequantize_types() -> None:
    check(run("DequantizeLinear", np.int32([100000]), np.float16(0.001)), [100.0625], np.float16)  # 0.001 is 0.0010004 in float16; the product is rounded once
    check(run("DequantizeLinear", np.uint8([0, 255]), F([0.5]), np.uint8([128])), [-64, 63.5], F)
    e8 = np.array([2.0], F).astype(DType.FLOAT8E8M0.numpy)
    check(run("DequantizeLinear", np.int8([3]), e8, output_dtype=int(DType.BFLOAT16)), [6], DType.BFLOAT16.numpy)


def test_dynamic_quantize_of_zeros_and_nothing() -> None:
    for x in (np.zeros(3, F), np.zeros(0, F)):
        y, scale, zero = run("DynamicQuantizeLinear", x)
        check(y, np.zeros(x.shape), np.uint8)
        check(scale, 1, F)
        check(zero, 0, np.uint8)


def test_integer_matmul_is_exact_and_wraps() -> None:
    a = np.full((1, 70000), 255, np.uint8)
    check(run("MatMulInteger", a, a.T), [[(255 * 255 * 70000 + 2**31) % 2**32 - 2**31]], np.int32)
    rows = run("MatMulInteger", np.uint8([[1, 2], [3, 4]]), np.int8([[1, 0], [0, 1]]), np.uint8([1, 3]), np.int8([0, 1]))
    check(rows, np.array([[0, 1], [0, 1]]) @ np.array([[1, -1], [0, 0]]), np.int32)  # each row, each column has its own zero point


# -- known values -----------------------------------------------------------------------------------------------------------------------------

n, m = symbol("n"), symbol("m", 1)


def known(build: Any, dtype: DType = DType.INT64) -> list[Any]:
    """The known value that inference finds for the output of nodes on the sizes [n, m] of an input x."""
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT, (n, m)))])
    shape = graph.node("Shape", [graph.inputs[0]]).outputs[0]
    out = build(graph, shape)
    graph.outputs = [out]
    spec = infer_shapes(graph)[out]
    assert spec.dtype is dtype, spec
    return None if spec.value is None else np.asarray(spec.value).ravel().tolist()


def chain(*steps: tuple[Any, ...]) -> Any:
    """A builder: each step is (operator, further constant inputs…, {attributes})."""
    def build(graph: Graph, value: Value) -> Value:
        for op, *rest in steps:
            attributes = rest.pop() if rest and isinstance(rest[-1], dict) else {}
            value = graph.node(op, [value, *(graph.constant(np.asarray(c)) for c in rest)], **attributes).outputs[0]
        return value
    return build


I64 = np.int64
TO_FLOAT, TO_INT = ("Cast", {"to": 1}), ("Cast", {"to": 7})
KNOWN: list[tuple[str, Any, list[Any]]] = [
    ("resize down", chain(TO_FLOAT, ("Mul", F(0.5)), ("Floor",), TO_INT), [n // 2, m // 2]),
    ("resize by division", chain(TO_FLOAT, ("Div", F(3)), ("Ceil",), TO_INT), [(n + 2) // 3, (m + 2) // 3]),
    ("resize up", chain(TO_FLOAT, ("Mul", F(2)), TO_INT), [n * 2, m * 2]),
    ("resize by a tenth", chain(TO_FLOAT, ("Mul", F(0.1)), TO_INT), [n // 10, m // 10]),
    ("integer division", chain(("Div", I64(2))), [n // 2, m // 2]),
    ("division of what may be negative", chain(("Sub", I64([1, 1])), ("Div", I64(2))), [dim_max((n - 1) // 2, 0), (m - 1) // 2]),
    ("exact division", chain(("Mul", I64(6)), ("Div", I64(3))), [n * 2, m * 2]),
    ("modulo", chain(("Mod", I64(4))), [n % 4, m % 4]),
    ("sum", chain(("Add", I64([1, 2])), ("Sum", I64([3, 3]), I64([1, 1]))), [n + 5, m + 6]),
    ("difference to itself", chain(("Mul", I64([0, 0])), ("Add", I64(3))), [3, 3]),
    ("max", chain(("Max", I64(0))), [n, m]),
    ("min and clip", chain(("Min", I64(8)), ("Clip", I64(0))), [dim_min(n, 8), dim_min(m, 8)]),
    ("neg and abs", chain(("Neg",), ("Abs",)), [n, m]),
    ("power", chain(("Pow", I64(2))), [n * n, m * m]),
    ("product", chain(("ReduceProd", {"keepdims": 0})), [n * m]),
    ("reduced sum", chain(("ReduceSum", I64([0]))), [n + m]),
    ("reduced max", chain(("ReduceMax",)), [dim_max(n, m)]),
    ("running sums", chain(("CumSum", I64(0), {"exclusive": 1})), [0, n]),
    ("identity", chain(("Identity",)), [n, m]),
]


@pytest.mark.parametrize(("build", "expected"), [c[1:] for c in KNOWN], ids=[c[0] for c in KNOWN])
def test_known_sizes(build: Any, expected: list[Any]) -> None:
    assert known(build) == expected


def test_known_bools() -> None:
    """n ≥ 0 and m ≥ 1 decide some comparisons; what they do not decide stays unknown."""
    assert known(chain(("Equal", I64(-1))), DType.BOOL) == [False, False]
    assert known(chain(("GreaterOrEqual", I64([0, 1]))), DType.BOOL) == [True, True]
    assert known(chain(("Less", I64(0)), ("Not",)), DType.BOOL) == [True, True]
    assert known(chain(("Equal", I64(4))), DType.BOOL) is None
    assert known(chain(("Cast", {"to": 9})), DType.BOOL) is None


def test_known_where() -> None:
    """The Expand pattern: Where(Equal(shape, -1), 1, shape)."""
    def build(graph: Graph, shape: Value) -> Value:
        unset = graph.node("Equal", [shape, graph.constant(I64(-1))]).outputs[0]
        return graph.node("Where", [unset, graph.constant(I64([1, 1])), shape]).outputs[0]
    assert known(build) == [n, m]


def test_division_by_a_known_zero_is_left_to_the_run() -> None:
    assert known(chain(("Div", I64(0)))) is None


def test_reduction_by_unknown_axes_keeps_the_rank() -> None:
    axes = Value("axes", TensorType(DType.INT64, (1,)))
    graph = Graph("g", [Value("x", TensorType(DType.FLOAT, (n, 1, m))), axes])
    kept = graph.node("ReduceSum", graph.inputs).outputs[0]
    dropped = graph.node("ReduceSum", graph.inputs, keepdims=0).outputs[0]
    infer_shapes(graph)
    assert len(kept.shape) == 3 and kept.shape[1] == 1 and len(dropped.shape) == 2


@pytest.mark.parametrize(("op", "shapes", "attributes", "message"), [
    ("Add", [(2, 3), (4,)], {}, "do not broadcast"),
    ("Softmax", [(2, 3)], {"axis": 2}, "out of range"),
    ("ArgMax", [(2, 3)], {"axis": -3}, "out of range"),
    ("PRelu", [(3,), (2, 3)], {}, "more axes"),
    ("SwiGLU", [(2, 3), (1, 3)], {}, "equal shapes"),
    ("DequantizeLinear", [(2, 3), (2,)], {}, "each index of axis 1"),
])
def test_wrong_shapes_are_named(op: str, shapes: list[Any], attributes: dict[str, Any], message: str) -> None:
    graph = Graph("g", [Value(f"v{i}", TensorType(DType.FLOAT, s)) for i, s in enumerate(shapes)])
    graph.node(op, graph.inputs, name="here", **attributes)
    with pytest.raises(InvalidGraph, match=f"{op} 'here'.*({message})"):
        infer_shapes(graph)


def test_convert_is_identity_for_the_same_type() -> None:
    x = F([1])
    assert convert(x, DType.FLOAT) is x


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_softmax_in_half_types_rounds_each_step_and_sums_in_float(dtype: DType) -> None:
    (made,) = run("Softmax", np.zeros((1, 1000), dtype.numpy)),
    assert made.dtype == dtype.numpy
    np.testing.assert_allclose(made.astype(np.float32), 0.001, rtol=2 ** -7)  # a bfloat16 running sum would stop at 256
