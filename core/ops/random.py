"""Operators that draw: RandomNormal, RandomUniform and their Like forms, Bernoulli, Multinomial, and Seed, which gives programs the run's next draw.

All numbers come from core/philox.py, in the reference as in kernels: a `seed` attribute gives the same numbers on every executor.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Shape, fresh
from ..expr import Compute, E, Op, binary, cast, compute_type, unary
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..narrow import astype
from ..philox import Draws, attribute_draws
from ..types import DType
from .maps import whole_number
from .numeric import wide
from .registry import Context, Spec, operator, require


def _double(dtype: DType) -> bool:
    require(dtype in (DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16), f"draws are of a floating-point type, not {dtype.text}")
    return dtype is DType.DOUBLE


def placed_draws(draws: Draws, normal: bool, first: float, factor: float, shape: Any, dtype: DType) -> np.ndarray:
    """first + factor · draw, in float64, rounded to float32 and on to `dtype`: what a RANDOM kernel makes."""
    double = _double(dtype)
    made = np.asarray(first + factor * (draws.normal(shape, double) if normal else draws.uniform(shape, double)))
    return made if double else astype(made.astype(np.float32), dtype)


@operator(random=True)
def RandomNormal(*, shape: list[int], dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None, context: Context) -> np.ndarray:
    """Normal draws with the given mean and standard deviation."""
    return placed_draws(context.random(seed), True, mean, scale, shape, DType(dtype))


@operator(random=True)
def RandomUniform(*, shape: list[int], dtype: int = 1, high: float = 1.0, low: float = 0.0, seed: float | None = None, context: Context) -> np.ndarray:
    """Uniform draws from [low, high)."""
    return placed_draws(context.random(seed), False, low, high - low, shape, DType(dtype))


def _random_spec(*, shape: list[int], dtype: int = 1, **_: Any) -> Spec:
    require(min(shape, default=0) >= 0, f"shape {list(shape)} has a negative size")
    return Spec(DType(dtype), tuple(shape))


@operator(random=True)
def RandomNormalLike(input: np.ndarray, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None, context: Context) -> np.ndarray:
    """Normal draws in the shape of `input`, and in its dtype unless `dtype` says otherwise."""
    return placed_draws(context.random(seed), True, mean, scale, input.shape, _dtype_like(dtype, input))


@operator(random=True)
def RandomUniformLike(input: np.ndarray, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None, context: Context) -> np.ndarray:
    """Uniform draws from [low, high) in the shape of `input`, and in its dtype unless `dtype` says otherwise."""
    return placed_draws(context.random(seed), False, low, high - low, input.shape, _dtype_like(dtype, input))


@operator(random=True)
def Bernoulli(input: np.ndarray, *, dtype: int | None = None, seed: float | None = None, context: Context) -> np.ndarray:
    """1 with the probability `input` gives, else 0."""
    return astype(context.random(seed).uniform(input.shape) < wide(input).astype(np.float64), _dtype_like(dtype, input))


def _dtype_like(dtype: int | None, input: np.ndarray) -> DType:
    return DType.of(input) if dtype is None else DType(dtype)


def _like_spec(input: Spec, *, dtype: int | None = None, **_: Any) -> Spec:
    return Spec(input.dtype if dtype is None else DType(dtype), input.shape)


for _operator, _rule in ((RandomNormal, _random_spec), (RandomUniform, _random_spec), (RandomNormalLike, _like_spec), (RandomUniformLike, _like_spec), (Bernoulli, _like_spec)):
    _operator.shape(_rule)


@operator(random=True)
def Multinomial(input: np.ndarray, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None, context: Context) -> np.ndarray:
    """For each row of unnormalized log-probabilities [batch, classes], `sample_size` classes drawn by inverting the cumulative distribution."""
    require(input.ndim == 2 and input.shape[1] > 0, f"the input must be [batch, classes] with at least one class, not {list(input.shape)}")
    logits = input.astype(np.float64)
    cumulative = np.cumsum(np.exp(logits - logits.max(1, keepdims=True)), 1)
    draws = context.random(seed).uniform((len(input), sample_size)) * cumulative[:, -1:]
    chosen = [np.searchsorted(row, draw, side="right") for row, draw in zip(cumulative, draws, strict=True)]
    return np.reshape(chosen, (len(input), sample_size)).clip(0, input.shape[1] - 1).astype(DType(dtype).numpy)


@Multinomial.shape
def _(input: Spec, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> Spec:
    require(input.shape is None or len(input.shape) == 2, f"the input must be [batch, classes], not {input}")
    return Spec(DType(dtype), (fresh() if input.shape is None else input.shape[0], sample_size))


@operator("sardonyx", random=True)
def Seed(*, context: Context) -> np.ndarray:
    """The run's next draw as int64[2], for a RANDOM kernel. Lowering rules of nodes without a `seed` put it beside their program; models have none."""
    return context.random(None).seed


@Seed.shape
def _() -> Spec:
    return Spec(DType.INT64, (2,))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def drawn(k: Lowering, seed: float | None, normal: bool, first: float, factor: float, shape: Shape, dtype: DType) -> View:
    """first + factor · (a uniform or normal draw): [shape] of `dtype`."""
    _double(dtype)
    made = k.buffer(dtype, shape).whole()
    names = k.constant(attribute_draws(seed).seed) if seed is not None else k.hosted("sardonyx", "Seed", DType.INT64, (2,))
    k.call(Kernel.RANDOM, [names], [made], op=int(normal), alpha=float(first), beta=float(factor))
    return made


@RandomNormal.lower
def _(k: Lowering, *, shape: list[int], dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float | None = None, out: Spec) -> View:
    return drawn(k, seed, True, mean, scale, tuple(shape), DType(dtype))


@RandomUniform.lower
def _(k: Lowering, *, shape: list[int], dtype: int = 1, high: float = 1.0, low: float = 0.0, seed: float | None = None, out: Spec) -> View:
    return drawn(k, seed, False, low, high - low, tuple(shape), DType(dtype))


@RandomNormalLike.lower
def _(k: Lowering, input: View, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None, out: Spec) -> View:
    assert out.dtype is not None
    return drawn(k, seed, True, mean, scale, input.shape, out.dtype)


@RandomUniformLike.lower
def _(k: Lowering, input: View, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float | None = None, out: Spec) -> View:
    assert out.dtype is not None
    return drawn(k, seed, False, low, high - low, input.shape, out.dtype)


@Bernoulli.lower
def _(k: Lowering, input: View, *, dtype: int | None = None, seed: float | None = None, out: Spec) -> View:
    assert out.dtype is not None
    draws, wide = drawn(k, seed, False, 0.0, 1.0, input.shape, DType.DOUBLE), compute_type(out.dtype)
    return k.map(lambda p, u: cast(binary(Op.LT, u, cast(p, Compute.F64)), wide), input, draws, dtype=out.dtype)


@Multinomial.lower
def _(k: Lowering, input: View, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None, out: Spec) -> View:
    rows, classes = input.shape
    top = k.reduce(3, input, (1,), DType.DOUBLE, epilogue=lambda most: cast(most, Compute.F64))
    weights = k.map(lambda x, most: unary(Op.EXP, cast(x, Compute.F64) - most), input, top, dtype=DType.DOUBLE)
    cumulative = k.buffer(DType.DOUBLE, input.shape).whole()
    k.call(Kernel.SCAN, [weights], [cumulative], axis=1, exclusive=0, reverse=0, op=0)
    draws = drawn(k, seed, False, 0.0, 1.0, (rows, sample_size), DType.DOUBLE)
    placed = k.map(lambda u, total: u * total, draws, cumulative.slice(1, classes - 1, 1), dtype=DType.DOUBLE)

    def passed(total: E, place: E) -> E:
        return binary(Op.LE, total, place)
    wide = cumulative.unsqueeze(1).expand((rows, sample_size, classes))
    last = whole_number(classes, "the number of classes") - 1
    return k.reduce(0, wide, (2,), DType(dtype), prologue=passed, leaves=[placed.unsqueeze(2)], epilogue=lambda n: binary(Op.MIN, n, last)).squeeze(2)
