"""Hand-written cases of `version_cases.py`: operators whose inputs, attributes or meaning changed. One function for each, given the since_version.

`expected` stands where neither onnx.reference nor onnxruntime has that version: NumPy written from the version's document.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, defs

from .version_cases import Pair, VersionCase, made

F32, I64, BOOL, STR = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
Cases = Iterator[VersionCase]
HAND: dict[tuple[str, str], Callable[[Pair], Cases]] = {}


def cases(*operators: str, domain: str = "") -> Callable[[Callable[[Pair], Cases]], Callable[[Pair], Cases]]:
    """Decorator: the function yields cases of these operators for a pair (nothing for versions it has nothing for)."""
    def register(function: Callable[[Pair], Cases]) -> Callable[[Pair], Cases]:
        HAND.update(((domain, op), function) for op in operators)
        return function
    return register


def ramp(*shape: int, start: float = -1.0, step: float = 0.25) -> Any:
    """A float32 array start, start+step, …"""
    return (start + step * np.arange(int(np.prod(shape)))).reshape(shape).astype(np.float32)


def noise(*shape: int, seed: int = 0) -> Any:
    """A float32 array of normal numbers, the same each time."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -- arithmetic ---------------------------------------------------------------------------------------------------------------------------------

BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power, "Greater": np.greater, "Less": np.less, "Equal": np.equal,
          "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}


@cases(*BINARY)
def binary(pair: Pair) -> Cases:
    """Limited broadcasting: by `axis`, by suffix, by one element, none."""
    _, name, since = pair
    if since >= 7:
        return
    logical, kind = name in ("And", "Or", "Xor"), BOOL if name in ("And", "Or", "Xor", "Greater", "Less", "Equal") else F32
    a = noise(2, 3, 4, 5) > 0 if logical else (noise(2, 3, 4, 5) * 3).astype(np.int32) if name == "Equal" else np.abs(noise(2, 3, 4, 5)) + 1
    for attributes, index, shape in (({"broadcast": 1, "axis": 1}, (0, slice(3), slice(4), 0), (3, 4, 1)), ({"broadcast": 1, "axis": 0}, (slice(2), 0, 0, 0), (2, 1, 1, 1)),
                                     ({"broadcast": 1}, (0, 0), (4, 5)), ({"broadcast": 1, "axis": -1}, (0, 1), (4, 5)), ({"broadcast": 1}, (0, 0, 0, slice(1)), (1,)),
                                     ({}, slice(None), a.shape)):
        b = np.ascontiguousarray(a[index][..., ::-1])
        yield made(pair, [a, b], [(kind, 4)], attributes, expected=[BINARY[name](a, b.reshape(shape))], name=f"{attributes}")


@cases("PRelu")
def prelu(pair: Pair) -> Cases:
    """The slope lies along the channels."""
    if pair[2] < 7:
        x, slope = noise(2, 3, 4), np.array([0.5, 0.25, 2], np.float32)
        yield made(pair, [x, slope], [(F32, 3)], {}, expected=[np.where(x < 0, x * slope[:, None], x)])
        yield made(pair, [x, slope[:1]], [(F32, 3)], {}, expected=[np.where(x < 0, x * slope[:1], x)], name="shared")


@cases("Gemm")
def gemm(pair: Pair) -> Cases:
    """C of one row."""
    if pair[2] < 7:
        a, b, c = noise(2, 3), noise(3, 4, seed=1), noise(4, seed=2)
        yield made(pair, [a, b, c], [(F32, 2)], {"broadcast": 1, "alpha": 0.5}, expected=[0.5 * (a @ b) + c])


@cases("Clip")
def clip(pair: Pair) -> Cases:
    """Bounds as attributes."""
    if pair[2] < 11:
        x = ramp(3, 4)
        yield made(pair, [x], [(F32, 2)], {"min": -0.5, "max": 0.5}, expected=[np.clip(x, -0.5, 0.5)])
        yield made(pair, [x], [(F32, 2)], {"max": 0.5}, expected=[np.minimum(x, 0.5)], name="only max")
        yield made(pair, [x.astype(np.float16)], [(TensorProto.FLOAT16, 2)], {"min": 0.25, "max": 3.4028234663852886e38}, expected=[np.maximum(x, 0.25).astype(np.float16)], name="half")


@cases("Cast")
def cast(pair: Pair) -> Cases:
    """The type by its name."""
    if pair[2] == 1:
        x = ramp(2, 3) * 4
        yield made(pair, [x], [(TensorProto.INT32, 2)], {"to": "INT32"}, expected=[x.astype(np.int32)])
        yield made(pair, [x], [(TensorProto.DOUBLE, 2)], {"to": "DOUBLE"}, expected=[x.astype(np.float64)])


@cases("Selu")
def selu(pair: Pair) -> Cases:
    """Defaults with fewer digits."""
    if pair[2] == 1:
        x = ramp(10)
        yield made(pair, [x], [(F32, 1)], {}, expected=[np.where(x > 0, x, 1.6732 * np.expm1(x)).astype(np.float32) * np.float32(1.0507)], rtol=1e-6)


@cases("Sum", "Mean", "Max", "Min")
def variadic(pair: Pair) -> Cases:
    """Without broadcasting."""
    if pair[2] < 8:
        xs = [noise(2, 3, seed=i) for i in range(3)]
        whats: dict[str, Any] = {"Sum": np.sum, "Mean": np.mean, "Max": np.max, "Min": np.min}
        yield made(pair, xs, [(F32, 2)], {}, expected=[whats[pair[1]](np.stack(xs), axis=0)])


@cases("Erf")
def erf(pair: Pair) -> Cases:
    """Integers were allowed, meaning who knows; the result is cast back."""
    if pair[2] == 9:
        yield made(pair, [np.array([-9, -1, 0, 1, 9], np.int32)], [(TensorProto.INT32, 1)], {}, expected=[np.array([-1, 0, 0, 0, 1], np.int32)], name="int")


# -- reductions ---------------------------------------------------------------------------------------------------------------------------------

REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL1": lambda x, **k: np.sum(np.abs(x), **k), "ReduceL2": lambda x, **k: np.sqrt(np.sum(x * x, **k)), "ReduceLogSum": lambda x, **k: np.log(np.sum(x, **k)),
    "ReduceLogSumExp": lambda x, **k: np.log(np.sum(np.exp(x), **k)), "ReduceMax": np.max, "ReduceMean": np.mean, "ReduceMin": np.min, "ReduceProd": np.prod, "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, **k: np.sum(x * x, **k)}


@cases(*REDUCTIONS)
def reductions(pair: Pair) -> Cases:
    """`axes` as an attribute; integers."""
    _, name, since = pair
    x = np.abs(noise(2, 3, 4)) + 0.5
    if since < (13 if name == "ReduceSum" else 18):
        for axes, keepdims in (([1], 1), ([0, 2], 0), (None, 1), (None, 0)) + ((([-1], 1),) if since >= 11 else ()):
            attributes = {"keepdims": keepdims} | ({} if axes is None else {"axes": axes})
            result = REDUCTIONS[name](x, axis=None if axes is None else tuple(axes), keepdims=bool(keepdims))
            yield made(pair, [x], [(F32, result.ndim)], attributes, expected=[np.asarray(result, np.float32)], name=f"{attributes}")
    if name in ("ReduceLogSum", "ReduceLogSumExp") and since < 28:
        n = np.array([[1, 2, 20], [3, 4, 5]], np.int32)
        result = np.asarray(REDUCTIONS[name](n.astype(np.float64), axis=None, keepdims=True)).astype(np.int32)
        yield made(pair, [n], [(TensorProto.INT32, 2)], {}, expected=[result], name="int")


def softmax_2d(name: str, x: Any, axis: int) -> Any:
    """The meaning below 13: rows of the input flattened at `axis`."""
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64)
    if name == "Hardmax":
        out = np.eye(rows.shape[1])[rows.argmax(axis=1)]
    else:
        out = np.exp(rows - rows.max(axis=1, keepdims=True))
        out = out / out.sum(axis=1, keepdims=True)
    return (np.log(out) if name == "LogSoftmax" else out).reshape(x.shape).astype(x.dtype)


@cases("Softmax", "LogSoftmax", "Hardmax")
def softmax(pair: Pair) -> Cases:
    """Coerced to 2-D."""
    if pair[2] < 13:
        x = noise(2, 3, 4)
        for attributes in ({}, {"axis": 0}, {"axis": 1}, {"axis": 2}) + (({"axis": -2},) if pair[2] == 11 else ()):
            yield made(pair, [x], [(F32, 3)], attributes, expected=[softmax_2d(pair[1], x, attributes.get("axis", 1) % 3)], name=f"{attributes}")
        yield made(pair, [x.reshape(2, 12, 1, 1)], [(F32, 4)], {}, expected=[softmax_2d(pair[1], x, 1).reshape(2, 12, 1, 1)], name="ones")


@cases("TopK")
def topk(pair: Pair) -> Cases:
    """`k` as an attribute."""
    if pair[2] < 10:
        x = noise(3, 5)
        order = np.argsort(-x, axis=1, kind="stable")[:, :2]
        yield made(pair, [x], [(F32, 2), (I64, 2)], {"k": 2}, expected=[np.take_along_axis(x, order, 1), order])
        order = np.argsort(-x, axis=0, kind="stable")[:1]
        yield made(pair, [x], [(F32, 2), (I64, 2)], {"k": 1, "axis": 0}, expected=[np.take_along_axis(x, order, 0), order], name="axis 0")


@cases("DFT")
def dft(pair: Pair) -> Cases:
    """`axis` as an attribute with default 1."""
    if pair[2] == 17:
        x = noise(2, 4, 3, 1)
        for attributes, axis in (({}, 1), ({"axis": 2}, 2)):
            y = np.fft.fft(x[..., 0], axis=axis)
            yield made(pair, [x], [(F32, 4)], attributes, expected=[np.stack([y.real, y.imag], -1).astype(np.float32)], name=f"{attributes}")


# -- normalisation ---------------------------------------------------------------------------------------------------------------------------

def normalised(x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float = 1e-5) -> Any:
    """Parameters of any shape that fits after the channel axis."""
    wide = [p.reshape(p.shape + (1,) * (x.ndim - 1 - p.ndim)) for p in (scale, bias, mean, var)]
    return ((x - wide[2]) / np.sqrt(wide[3] + epsilon) * wide[0] + wide[1]).astype(np.float32)


@cases("BatchNormalization")
def batch_normalization(pair: Pair) -> Cases:
    """Test mode, training mode with all outputs, parameters for each position."""
    since = pair[2]
    if since >= 14:
        return
    old: dict[str, Any] = {} if since >= 7 else {"is_test": 0}
    more: dict[str, Any] = {"consumed_inputs": [0, 0, 0, 1, 1]} if since == 1 else {}
    x, scale, bias, mean, var = noise(3, 2, 4), noise(2, seed=1), noise(2, seed=2), noise(2, seed=3), np.abs(noise(2, seed=4)) + 0.5
    if since < 9:
        yield made(pair, [x, scale, bias, mean, var], [(F32, 3)], {**more, **({"is_test": 1} if since < 7 else {})}, expected=[normalised(x, scale, bias, mean, var)], name="test")
    own_mean, own_var = x.mean(axis=(0, 2)), x.var(axis=(0, 2))
    expected = [normalised(x, scale, bias, own_mean, own_var), mean * 0.75 + own_mean * 0.25, var * 0.75 + own_var * 0.25, own_mean, own_var]
    yield made(pair, [x, scale, bias, mean, var], [(F32, 3), *[(F32, 1)] * 4], {**more, **old, "momentum": 0.75}, expected=expected, name="training")
    yield made(pair, [x, scale, bias, mean, var], [(F32, 3), *[(F32, 1)] * 2, (0, 0), (F32, 1)], {**more, **old, "momentum": 0.75}, expected=expected[:3] + expected[4:], name="some outputs")
    if since < 9:
        wide = [noise(2, 4, seed=5), noise(2, 4, seed=6), noise(2, 4, seed=7), np.abs(noise(2, 4, seed=8)) + 0.5]
        yield made(pair, [x, *wide], [(F32, 3)], {**more, "spatial": 0, **({"is_test": 1} if since < 7 else {})}, expected=[normalised(x, *wide)], name="not spatial")
        own_mean, own_var = x.mean(axis=0), x.var(axis=0)
        expected = [normalised(x, wide[0], wide[1], own_mean, own_var), wide[2] * 0.5 + own_mean * 0.5, wide[3] * 0.5 + own_var * 0.5, own_mean, own_var]
        yield made(pair, [x, *wide], [(F32, 3), *[(F32, 2)] * 4], {**more, **old, "spatial": 0, "momentum": 0.5}, expected=expected, name="not spatial, training")


@cases("Dropout")
def dropout(pair: Pair) -> Cases:
    """Test mode; the mask in the type of the data; training."""
    since = pair[2]
    if since >= 12:
        return
    x = noise(20, 50)
    test = {"is_test": 1} if since < 7 else {}
    yield made(pair, [x], [(F32, 2)], {"ratio": 0.25, **test}, expected=[x])
    yield made(pair, [x], [(F32, 2), (BOOL if since == 10 else F32, 2)], test, expected=[x, np.ones(x.shape, bool if since == 10 else np.float32)], name="mask")
    if since < 7:
        def scaled(outputs: list[Any]) -> None:
            y, mask = outputs
            assert mask.dtype == np.float32 and 0.7 < mask.mean() < 0.8
            np.testing.assert_allclose(y, x * mask / 0.75, rtol=1e-5)
        yield made(pair, [x], [(F32, 2), (F32, 2)], {"ratio": 0.25}, check=scaled, name="training")


@cases("GroupNormalization")
def group_normalization(pair: Pair) -> Cases:
    """Parameters for each group."""
    if pair[2] == 18:
        x, scale, bias = noise(2, 6, 3), noise(2, seed=1), noise(2, seed=2)
        g = x.reshape(2, 2, -1)
        g = (g - g.mean(axis=2, keepdims=True)) / np.sqrt(g.var(axis=2, keepdims=True) + 1e-5) * scale[:, None] + bias[:, None]
        yield made(pair, [x, scale, bias], [(F32, 3)], {"num_groups": 2}, expected=[g.reshape(x.shape)])


@cases("MeanVarianceNormalization")
def mean_variance(pair: Pair) -> Cases:
    """Other axes than the default."""
    x = noise(2, 3, 4, 5)
    axes = (1, 2)
    yield made(pair, [x], [(F32, 4)], {"axes": [1, 2]}, expected=[(x - x.mean(axis=axes, keepdims=True)) / (x.std(axis=axes, keepdims=True) + 1e-9)])


# -- shaping ------------------------------------------------------------------------------------------------------------------------------------

@cases("Reshape")
def reshape(pair: Pair) -> Cases:
    """`shape` as an attribute."""
    if pair[2] == 1:
        x = ramp(2, 3, 4)
        yield made(pair, [x], [(F32, 2)], {"shape": [0, -1]}, expected=[x.reshape(2, 12)])


@cases("Concat")
def concat(pair: Pair) -> Cases:
    """Axis 1 by default."""
    if pair[2] == 1:
        yield made(pair, [ramp(2, 3), ramp(2, 1)], [(F32, 2)], {}, expected=[np.concatenate([ramp(2, 3), ramp(2, 1)], axis=1)])
        yield made(pair, [ramp(2, 3), ramp(1, 3)], [(F32, 2)], {"axis": 0}, expected=[np.concatenate([ramp(2, 3), ramp(1, 3)])], name="axis 0")


@cases("Pad")
def pad(pair: Pair) -> Cases:
    """`pads` (once `paddings`) and `value` as attributes."""
    if pair[2] < 11:
        x, name = ramp(3, 4), "paddings" if pair[2] == 1 else "pads"
        yield made(pair, [x], [(F32, 2)], {name: [1, 0, 0, 2], "value": 1.5}, expected=[np.pad(x, ((1, 0), (0, 2)), constant_values=1.5)])
        yield made(pair, [x], [(F32, 2)], {name: [1, 2, 0, 1], "mode": "reflect"}, expected=[np.pad(x, ((1, 0), (2, 1)), mode="reflect")], name="reflect")


@cases("Slice")
def slice_(pair: Pair) -> Cases:
    """Bounds as attributes."""
    if pair[2] == 1:
        x = ramp(3, 4, 5)
        yield made(pair, [x], [(F32, 3)], {"starts": [0, -2], "ends": [2, 1000], "axes": [0, 2]}, expected=[x[:2, :, -2:]])
        yield made(pair, [x], [(F32, 3)], {"starts": [1, 0], "ends": [-1, 3]}, expected=[x[1:-1, :3]], name="first axes")


@cases("Squeeze", "Unsqueeze")
def squeeze(pair: Pair) -> Cases:
    """`axes` as an attribute."""
    if pair[2] < 13:
        x = ramp(1, 3, 1, 2)
        if pair[1] == "Squeeze":
            yield made(pair, [x], [(F32, 3)], {"axes": [2]}, expected=[x.reshape(1, 3, 2)])
            yield made(pair, [x], [(F32, 2)], {}, expected=[x.reshape(3, 2)], name="all")
        else:
            yield made(pair, [x], [(F32, 6)], {"axes": [4, 0]}, expected=[x.reshape(1, 1, 3, 1, 1, 2)])
        if pair[2] == 11:
            yield made(pair, [x], [(F32, 3 if pair[1] == "Squeeze" else 5)], {"axes": [-2]}, expected=[x.reshape((1, 3, 2) if pair[1] == "Squeeze" else (1, 3, 1, 1, 2))], name="negative")


@cases("Split")
def split(pair: Pair) -> Cases:
    """Lengths as an attribute, in version 1 also as an input of the data's type."""
    if pair[2] < 13:
        x = ramp(2, 6)
        yield made(pair, [x], [(F32, 2)] * 2, {"axis": 1, "split": [2, 4]}, expected=[x[:, :2], x[:, 2:]])
        yield made(pair, [x], [(F32, 2)] * 3, {"axis": 1}, expected=[x[:, :2], x[:, 2:4], x[:, 4:]], name="equal")
    if pair[2] == 1:
        yield made(pair, [x, np.array([2, 4], np.float32)], [(F32, 2)] * 2, {"axis": 1}, expected=[x[:, :2], x[:, 2:]], name="input")


@cases("Tile")
def tile(pair: Pair) -> Cases:
    """One axis, scalar inputs of the data's type."""
    if pair[2] == 1:
        x = ramp(2, 3)
        for axis, repeats in ((0, (2, 1)), (1, (1, 2))):
            yield made(pair, [x, np.array(2, np.float32), np.array(axis, np.float32)], [(F32, 2)], {}, expected=[np.tile(x, repeats)], name=f"axis {axis}")


@cases("Scatter")
def scatter(pair: Pair) -> Cases:
    """The old name."""
    x, indices, updates = np.zeros((3, 3), np.float32), np.array([[1, 0, 2], [0, 2, 1]]), ramp(2, 3)
    expected = x.copy()
    np.put_along_axis(expected, indices, updates, axis=0)
    yield made(pair, [x, indices, updates], [(F32, 2)], {}, expected=[expected])


@cases("OneHot")
def one_hot(pair: Pair) -> Cases:
    """A middle axis."""
    yield made(pair, [np.array([[1, 9], [2, 4]]), np.array(10), np.array([2, 5], np.float32)], [(F32, 3)], {"axis": 1})


@cases("DepthToSpace", "SpaceToDepth")
def depth_to_space(pair: Pair) -> Cases:
    """Without a mode."""
    x = ramp(1, 8, 2, 4)
    if pair[1] == "DepthToSpace":
        expected = x.reshape(1, 2, 2, 2, 2, 4).transpose(0, 3, 4, 1, 5, 2).reshape(1, 2, 4, 8)
    else:
        expected = x.reshape(1, 8, 1, 2, 2, 2).transpose(0, 3, 5, 1, 2, 4).reshape(1, 32, 1, 2)
    yield made(pair, [x], [(F32, 4)], {"blocksize": 2}, expected=[expected])


# -- sampling -----------------------------------------------------------------------------------------------------------------------------------

@cases("Upsample")
def upsample(pair: Pair) -> Cases:
    """Factors as two attributes, as one, as an input."""
    x, scales = ramp(1, 2, 2, 3), np.array([1, 1, 2, 3], np.float32)
    nearest = x.repeat(2, 2).repeat(3, 3)
    if pair[2] == 1:
        yield made(pair, [x], [(F32, 4)], {"height_scale": 2.0, "width_scale": 3.0, "mode": "nearest"}, expected=[nearest])
        yield made(pair, [x], [(F32, 4)], {"height_scale": 2.0, "width_scale": 2.0, "mode": "bilinear"}, expected=[_linear(x, 2, 2)], name="bilinear")
    elif pair[2] == 7:
        yield made(pair, [x], [(F32, 4)], {"scales": [1.0, 1.0, 2.0, 3.0]}, expected=[nearest])
        yield made(pair, [x], [(F32, 4)], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, expected=[_linear(x, 2, 2)], name="linear")
    else:
        yield made(pair, [x, scales], [(F32, 4)], {}, expected=[nearest], constants=(1,))
        yield made(pair, [x, scales], [(F32, 4)], {}, expected=[nearest], name="scales at run time")
        yield made(pair, [x, scales], [(F32, 4)], {"mode": "linear"}, expected=[_linear(x, 2, 3)], constants=(1,), name="linear")


def _linear(x: Any, *factors: int) -> Any:
    """Linear interpolation of the last axes with coordinates x/scale, the edge repeated."""
    for axis, factor in zip(range(-len(factors), 0), factors, strict=True):
        n = x.shape[axis]
        at = np.arange(n * factor) / factor
        low = np.minimum(np.floor(at).astype(int), n - 1)
        high = np.minimum(low + 1, n - 1)
        weight = (at - np.floor(at)).reshape([-1] + [1] * (-axis - 1))
        x = x.take(low, axis) * (1 - weight) + x.take(high, axis) * weight
    return x.astype(np.float32)


@cases("Resize")
def resize(pair: Pair) -> Cases:
    """Version 10: asymmetric; nearest rounds down where it enlarges and up where it shrinks. Version 11: empty tensors for what is not given, tf_half_pixel_for_nn."""
    x = ramp(1, 1, 4, 6)
    if pair[2] == 10:
        for scales in ([1, 1, 2, 3], [1, 1, 0.6, 0.5], [1, 1, 0.5, 2.5], [1, 1, 1, 1]):
            for constants in ((), (1,)):
                yield made(pair, [x, np.array(scales, np.float32)], [(F32, 4)], {}, constants=constants, name=f"nearest {scales} {constants}")
                yield made(pair, [x, np.array(scales, np.float32)], [(F32, 4)], {"mode": "linear"}, constants=constants, name=f"linear {scales} {constants}")
    if pair[2] == 11:
        empty, sizes = np.zeros(0, np.float32), np.array([1, 1, 3, 9])
        yield made(pair, [x, empty, np.array([1, 1, 2, 0.7], np.float32)], [(F32, 4)], {"mode": "linear"}, constants=(1, 2))
        yield made(pair, [x, empty, empty, sizes], [(F32, 4)], {"mode": "linear"}, constants=(1, 2), name="sizes")
        yield made(pair, [x, empty, empty, sizes], [(F32, 4)], {}, name="nothing constant")
        for nearest in ("floor", "round_prefer_floor"):
            yield made(pair, [x, empty, empty, sizes], [(F32, 4)], {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": nearest}, constants=(1, 2, 3), name=nearest)
        roi = np.array([0, 0, 0.25, 0.1, 1, 1, 0.75, 0.9], np.float32)
        yield made(pair, [x, roi, empty, sizes], [(F32, 4)], {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}, name="crop")


@cases("GridSample")
def grid_sample(pair: Pair) -> Cases:
    """Modes by their old names."""
    if pair[2] == 16:
        x, grid = noise(1, 2, 4, 5), np.tanh(noise(1, 3, 3, 2, seed=1))
        for mode in ("bilinear", "nearest", "bicubic"):
            yield made(pair, [x, grid], [(F32, 4)], {"mode": mode}, name=mode)


@cases("RoiAlign")
def roi_align(pair: Pair) -> Cases:
    """Without the half-pixel shift, once the only way."""
    rois = np.array([[0, 0, 3, 3], [1, 0, 2.5, 3.5]], np.float32)
    attributes = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    yield made(pair, [noise(1, 2, 5, 5), rois, np.array([0, 0])], [(F32, 4)], attributes)


@cases("LpPool")
def lp_pool(pair: Pair) -> Cases:
    """`p` as a float, a fractional one included."""
    x = noise(1, 2, 5)
    for p in (2, 3) + ((1.5,) if pair[2] == 1 else ()):
        y = np.stack([np.sum(np.abs(x[..., i:i + 2]) ** p, axis=-1) for i in range(4)], -1) ** (1 / p)
        yield made(pair, [x], [(F32, 3)], {"kernel_shape": [2], "p": float(p) if pair[2] == 1 else p}, expected=[y], name=f"p {p}")


@cases("GlobalLpPool")
def global_lp_pool(pair: Pair) -> Cases:
    """`p` as a float, a fractional one included."""
    x = noise(2, 3, 4, 2)
    for p in (2, 3) + ((1.5,) if pair[2] == 1 else ()):
        y = np.sum(np.abs(x) ** p, axis=(2, 3), keepdims=True) ** (1 / p)
        yield made(pair, [x], [(F32, 4)], {"p": float(p) if pair[2] == 1 else p}, expected=[y], name=f"p {p}")


@cases("MaxRoiPool")
def max_roi_pool(pair: Pair) -> Cases:
    """Two regions."""
    x, rois = noise(1, 2, 6, 6), np.array([[0, 0, 0, 3, 3], [0, 2, 1, 5, 4]], np.float32)
    parts = [x[0, :, a:a + 4, b:b + 4].reshape(2, 2, 2, 2, 2).max(axis=(2, 4)) for a, b in ((0, 0), (1, 2))]  # both corners belong to a region: 4 by 4
    yield made(pair, [x, rois], [(F32, 4)], {"pooled_shape": [2, 2]}, expected=[np.stack(parts)])


@cases("AveragePool", "MaxPool")
def pool(pair: Pair) -> Cases:
    """Windows at a padded edge, ceil_mode, automatic padding."""
    x, known = noise(1, 2, 6, 7), defs.get_schema(pair[1], pair[2]).attributes
    base = {"kernel_shape": [3, 2], "strides": [2, 2]}
    for more in ({"pads": [1, 1, 1, 0]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}, {"ceil_mode": 1}, {"ceil_mode": 1, "pads": [1, 0, 1, 1]},
                 {"pads": [1, 1, 1, 0], "count_include_pad": 1}, {"dilations": [2, 1]}):
        if all(k in known for k in more):
            expected = [_average(x, *more.values())] if pair[1:] == ("AveragePool", 1) else None  # neither peer has that one right
            yield made(pair, [x], [(F32, 4)], {**base, **more}, name=f"{more}", expected=expected)


def _average(x: Any, padding: Any) -> Any:
    """Windows 3 × 2 at every second place, averaged over what is not padding."""
    top, left, bottom, right = {"SAME_UPPER": (0, 0, 1, 1), "SAME_LOWER": (1, 1, 0, 0), "VALID": (0, 0, 0, 0)}.get(str(padding)) or padding
    wide = np.pad(np.stack([x, np.ones_like(x)]), ((0, 0), (0, 0), (0, 0), (top, bottom), (left, right)))
    sums = np.lib.stride_tricks.sliding_window_view(wide, (3, 2), axis=(3, 4))[:, :, :, ::2, ::2].sum(axis=(-1, -2))
    return sums[0] / sums[1]


# -- generators: the distribution is checked ------------------------------------------------------------------------------------------------------

@cases("RandomNormal", "RandomUniform")
def random(pair: Pair) -> Cases:
    """Shape, type and moments."""
    yield made(pair, [], [(F32, 2)], {"shape": [50, 60], "seed": 1.0}, check=_moments(pair[1], (50, 60), np.float32))
    yield made(pair, [], [(TensorProto.DOUBLE, 2)], {"shape": [50, 60], "dtype": TensorProto.DOUBLE}, check=_moments(pair[1], (50, 60), np.float64), name="double")


@cases("RandomNormalLike", "RandomUniformLike")
def random_like(pair: Pair) -> Cases:
    """Shape, type and moments."""
    yield made(pair, [ramp(50, 60)], [(F32, 2)], {}, check=_moments(pair[1], (50, 60), np.float32))


def _moments(name: str, shape: tuple[int, ...], dtype: Any) -> Callable[[list[Any]], None]:
    mean, deviation = (0.0, 1.0) if "Normal" in name else (0.5, 12 ** -0.5)

    def check(outputs: list[Any]) -> None:
        (y,) = outputs
        assert y.shape == shape and y.dtype == dtype
        assert abs(y.mean() - mean) < 0.08 and abs(y.std() - deviation) < 0.08
    return check


@cases("Multinomial")
def multinomial(pair: Pair) -> Cases:
    """Frequencies of three classes."""
    def check(outputs: list[Any]) -> None:
        (y,) = outputs
        assert y.shape == (1, 3000) and y.dtype == np.int32
        np.testing.assert_allclose(np.bincount(y[0], minlength=3) / 3000, [0.2, 0.3, 0.5], atol=0.05)
    yield made(pair, [np.log(np.array([[0.2, 0.3, 0.5]], np.float32))], [(TensorProto.INT32, 2)], {"sample_size": 3000, "seed": 2.0}, check=check)


@cases("Bernoulli")
def bernoulli(pair: Pair) -> Cases:
    """Frequency of ones."""
    def check(outputs: list[Any]) -> None:
        (y,) = outputs
        assert set(np.unique(y)) == {0, 1} and y.dtype == np.float32
        assert abs(y.mean() - 0.3) < 0.05
    yield made(pair, [np.full((50, 60), 0.3, np.float32)], [(F32, 2)], {"seed": 2.0}, check=check)
