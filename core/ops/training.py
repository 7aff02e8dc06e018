"""ai.onnx.preview.training: Adagrad, Adam, Momentum, Gradient."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import NotImplemented as NotImplementedHere
from ..expr import Compute, E, Op, binary, cast, compute_type, const, select, unary
from ..lowering import Lowering, View
from ..types import DType
from .registry import Spec, operator, require


def _parts(inputs: Sequence[Any], kinds: int) -> list[Sequence[Any]]:
    """The variadic input as `kinds` lists: all tensors, all gradients, all accumulators …"""
    require(inputs and len(inputs) % kinds == 0, f"{len(inputs)} optimizer inputs are not {kinds} for each optimized tensor")
    n = len(inputs) // kinds
    return [inputs[i * n:(i + 1) * n] for i in range(kinds)]


def _rearranged(results: Sequence[Sequence[np.ndarray]], tensors: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """[(x, state …) for each tensor] → all x, then all of each state, in the tensors' types."""
    return tuple(value.astype(x.dtype, copy=False) for group in zip(*results, strict=True) for value, x in zip(group, tensors, strict=True))


def _states_shape(inputs: Sequence[Spec], kinds: int) -> tuple[Spec, ...]:
    """Outputs are the tensors and their accumulators: every kind but the gradients."""
    tensors, _, *states = _parts(inputs, kinds)
    return tuple(Spec(s.dtype, s.shape) for group in (tensors, *states) for s in group)


@operator("ai.onnx.preview.training")
def Adagrad(R: Any, T: Any, *inputs: Any, decay_factor: float = 0.0, epsilon: float = 1e-6, norm_coefficient: float = 0.0) -> Any:
    """One ADAGRAD step; inputs X…, gradients…, squared sums… → new X…, new squared sums…"""
    X, G, H = _parts(inputs, 3)
    rate = R / (1 + T * decay_factor)
    results = []
    for x, g, h in zip(X, G, H, strict=True):
        g = norm_coefficient * x + g
        h = h + g * g
        results.append((x - rate * g / (np.sqrt(h) + epsilon), h))
    return _rearranged(results, X)


@Adagrad.shape
def _(R: Spec, T: Spec, *inputs: Spec, decay_factor: float = 0.0, epsilon: float = 1e-6, norm_coefficient: float = 0.0) -> Any:
    return _states_shape(inputs, 3)


@operator("ai.onnx.preview.training")
def Adam(R: Any, T: Any, *inputs: Any, alpha: float = 0.9, beta: float = 0.999, epsilon: float = 1e-6, norm_coefficient: float = 0.0, norm_coefficient_post: float = 0.0) -> Any:
    """One Adam step; inputs X…, gradients…, momenta…, squared averages… → new X…, new momenta…, new squared averages…"""
    X, G, V, H = _parts(inputs, 4)
    count = int(np.asarray(T).reshape(()))
    rate = R * np.sqrt(1 - beta ** count) / (1 - alpha ** count) if count > 0 else R
    results = []
    for x, g, v, h in zip(X, G, V, H, strict=True):
        g = norm_coefficient * x + g
        v = alpha * v + (1 - alpha) * g
        h = beta * h + (1 - beta) * g * g
        results.append(((1 - norm_coefficient_post) * (x - rate * v / (np.sqrt(h) + epsilon)), v, h))
    return _rearranged(results, X)


@Adam.shape
def _(R: Spec, T: Spec, *inputs: Spec, alpha: float = 0.9, beta: float = 0.999, epsilon: float = 1e-6, norm_coefficient: float = 0.0, norm_coefficient_post: float = 0.0) -> Any:
    return _states_shape(inputs, 4)


@operator("ai.onnx.preview.training")
def Momentum(R: Any, T: Any, *inputs: Any, alpha: float, beta: float, mode: str, norm_coefficient: float) -> Any:
    """One step of gradient descent with (Nesterov) momentum; inputs X…, gradients…, momenta… → new X…, new momenta…"""
    require(mode in ("standard", "nesterov"), f"mode '{mode}' is not standard or nesterov")
    X, G, V = _parts(inputs, 3)
    share = beta if int(np.asarray(T).reshape(())) > 0 else 1
    results = []
    for x, g, v in zip(X, G, V, strict=True):
        g = norm_coefficient * x + g
        v = alpha * v + share * g
        results.append((x - R * (v if mode == "standard" else g + alpha * v), v))
    return _rearranged(results, X)


@Momentum.shape
def _(R: Spec, T: Spec, *inputs: Spec, alpha: float, beta: float, mode: str, norm_coefficient: float) -> Any:
    return _states_shape(inputs, 3)


@operator("ai.onnx.preview.training")
def Gradient(*Inputs: Any, xs: Any, y: str, zs: Any = None) -> Any:
    """Partial derivatives of the tensor named `y`; sardonyx runs models and does not differentiate them."""
    raise NotImplementedHere(f"Gradient needs the derivatives of the graph that makes '{y}'; sardonyx runs inference only: "
                             f"differentiate the model in the training framework and export the result")


@Gradient.shape
def _(*Inputs: Spec, xs: Any, y: str, zs: Any = None) -> Any:
    require(len(Inputs) == len(xs) + len(zs or ()), f"Gradient has {len(Inputs)} inputs; xs and zs name {len(xs) + len(zs or ())}")
    return tuple(Spec(s.dtype, s.shape) for s in Inputs[:len(xs)])


# -- lowering: a Map for each result ------------------------------------------------------------------------------------------------------------

def _number(k: Lowering, view: View) -> View:
    return k.reshape(view, ())


def _made(k: Lowering, body: Any, views: Sequence[View], dtype: DType, wide: Compute) -> View:
    """body(leaves in `wide`), stored as `dtype`, in the shape of the first view."""
    return k.map(lambda *leaves: cast(body(*(cast(x, wide) for x in leaves)), compute_type(dtype)), *views, dtype=dtype, shape=views[0].shape)


def _by_kind(results: Sequence[Sequence[View]]) -> tuple[View, ...]:
    return tuple(v for group in zip(*results, strict=True) for v in group)


@Adagrad.lower
def _(k: Lowering, R: View, T: View, *inputs: View, decay_factor: float = 0.0, epsilon: float = 1e-6, norm_coefficient: float = 0.0, out: Any) -> tuple[View, ...]:
    rate = k.map(lambda r, t: cast(r, Compute.F64) / (cast(t, Compute.F64) * decay_factor + 1), _number(k, R), _number(k, T), dtype=DType.DOUBLE)
    results = []
    for x, g, h in zip(*_parts(inputs, 3), strict=True):
        squares = _made(k, lambda x, g, h: h + (x * norm_coefficient + g) * (x * norm_coefficient + g), (x, g, h), x.dtype, Compute.F64)
        new = _made(k, lambda x, g, h, r: x - r * (x * norm_coefficient + g) / (unary(Op.SQRT, h) + epsilon), (x, g, squares, rate), x.dtype, Compute.F64)
        results.append((new, squares))
    return _by_kind(results)


@Adam.lower
def _(k: Lowering, R: View, T: View, *inputs: View, alpha: float = 0.9, beta: float = 0.999, epsilon: float = 1e-6, norm_coefficient: float = 0.0, norm_coefficient_post: float = 0.0,
      out: Any) -> tuple[View, ...]:
    def corrected(r: E, t: E) -> E:
        r, t = cast(r, Compute.F64), cast(t, Compute.F64)
        left = [1 - binary(Op.POW, const(share, Compute.F64), t) for share in (alpha, beta)]
        return select(binary(Op.GT, t, 0), r * unary(Op.SQRT, left[1]) / left[0], r)
    rate = k.map(corrected, _number(k, R), _number(k, T), dtype=DType.DOUBLE)
    results = []
    for x, g, v, h in zip(*_parts(inputs, 4), strict=True):
        momentum = _made(k, lambda x, g, v: v * alpha + (x * norm_coefficient + g) * (1 - alpha), (x, g, v), x.dtype, Compute.F64)
        squares = _made(k, lambda x, g, h: h * beta + (x * norm_coefficient + g) * (x * norm_coefficient + g) * (1 - beta), (x, g, h), x.dtype, Compute.F64)
        new = _made(k, lambda x, v, h, r: (x - r * v / (unary(Op.SQRT, h) + epsilon)) * (1 - norm_coefficient_post), (x, momentum, squares, rate), x.dtype, Compute.F64)
        results.append((new, momentum, squares))
    return _by_kind(results)


@Momentum.lower
def _(k: Lowering, R: View, T: View, *inputs: View, alpha: float, beta: float, mode: str, norm_coefficient: float, out: Any) -> tuple[View, ...]:
    require(mode in ("standard", "nesterov"), f"mode '{mode}' is not standard or nesterov")
    rate, count = _number(k, R), _number(k, T)
    results = []
    for x, g, v in zip(*_parts(inputs, 3), strict=True):
        wide = compute_type(x.dtype)
        momentum = _made(k, lambda x, g, v, t: v * alpha + (x * norm_coefficient + g) * select(binary(Op.GT, t, 0), const(beta, t.type), const(1, t.type)), (x, g, v, count), x.dtype, wide)

        def stepped(x: E, g: E, v: E, r: E) -> E:
            return x - r * (v if mode == "standard" else x * norm_coefficient + g + v * alpha)
        results.append((_made(k, stepped, (x, g, momentum, rate), x.dtype, wide), momentum))
    return _by_kind(results)
