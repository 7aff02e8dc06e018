"""Map, Copy, Reduce, Scan, Softmax, Norm, Gather, Scatter, Sort, Fft, Linalg."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import RuntimeException
from ...expr import evaluate
from ...kernels import LEAF_BITS, Kernel
from ...ops import lookup
from ...ops.random import placed_draws
from ...philox import Draws
from .call import Call, decode, kernel

_DFT, _TOPK, _NMS, _UNIQUE = (lookup("", name) for name in ("DFT", "TopK", "NonMaxSuppression", "Unique"))


@kernel(Kernel.MAP)
def _map(call: Call) -> None:
    code, first = call.memory.program.codes[call.step.epilogue]
    operands = call.inputs()[first:]
    values = [evaluate(result, operands, call.shape(i)).copy() for i, result in enumerate(decode(code))]
    for i, value in enumerate(values):
        call.put(value, i)


@kernel(Kernel.COPY)
def _copy(call: Call) -> None:
    given, value, out, p = call.input(0), call.input(1), call.memory.view(call.step.outputs[0]), call.params
    assert given is not None and out is not None
    if p["mode"] == 0:
        out[...] = given.copy()
        return
    begin = p["begin"][:out.ndim]
    index = [np.arange(n) - b for n, b in zip(out.shape, begin, strict=True)]
    if p["mode"] == 1:
        out[...] = value.reshape(()) if value is not None else np.zeros((), out.dtype)
        keep = [np.flatnonzero((i >= 0) & (i < n)) for i, n in zip(index, given.shape, strict=True)]
        out[np.ix_(*keep)] = given[np.ix_(*(i[k] for i, k in zip(index, keep, strict=True)))]
        return
    if out.size:
        out[...] = given[np.ix_(*(_pad_index(i, n, p["mode"]) for i, n in zip(index, given.shape, strict=True)))]


def _pad_index(index: np.ndarray, n: int, mode: int) -> np.ndarray:
    if mode == 3:
        return np.clip(index, 0, n - 1)
    if mode == 4:
        return index % n
    period = max(2 * (n - 1), 1)
    folded = index % period
    return np.where(folded >= n, period - folded, folded)


@kernel(Kernel.REDUCE)
def _reduce(call: Call) -> None:
    given, p = call.input(0), call.params
    assert given is not None
    x = call.prologue(given.shape)
    axes = tuple(i for i in range(x.ndim) if p["axes"] >> i & 1)
    call.finish(np.asarray(_REDUCE[p["op"]](x, axes, bool(p["last"]))).reshape(call.shape()))


def _arg(pick: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def run(x: np.ndarray, axes: tuple[int, ...], last: bool) -> np.ndarray:
        axis = axes[0]
        found: np.ndarray = x.shape[axis] - 1 - pick(np.flip(x, axis), axis) if last else pick(x, axis)
        return found
    return run


def _highest(x: np.ndarray) -> Any:
    return np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).max


def _lowest(x: np.ndarray) -> Any:
    return -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min


_REDUCE: dict[int, Callable[..., Any]] = {
    0: lambda x, axes, last: x.sum(axes, dtype=x.dtype), 1: lambda x, axes, last: x.prod(axes, dtype=x.dtype), 2: lambda x, axes, last: x.min(axes, initial=_highest(x)),
    3: lambda x, axes, last: x.max(axes, initial=_lowest(x)), 4: _arg(np.argmin), 5: _arg(np.argmax), 6: lambda x, axes, last: x.mean(axes),
}


@kernel(Kernel.SCAN)
def _scan(call: Call) -> None:
    x, p = call.wide(0), call.params
    if p["op"] == 2:
        return _linear_attention(call, x)
    axis = p["axis"]
    x = np.flip(x, axis) if p["reverse"] else x
    y = (np.add if p["op"] == 0 else np.multiply).accumulate(x, axis, dtype=x.dtype)
    if p["exclusive"] and x.shape[axis]:
        y = np.concatenate([np.full_like(y.take([0], axis), p["op"]), y.take(range(x.shape[axis] - 1), axis)], axis)
    call.put(np.flip(y, axis) if p["reverse"] else y)
    return None


def _linear_attention(call: Call, q: np.ndarray) -> None:
    k, v, given, decay, beta = call.wide(1), call.wide(2), call.wide_or_none(3), call.wide_or_none(4), call.wide_or_none(5)
    batch, heads, steps, depth = k.shape
    state = np.zeros((batch, heads, depth, v.shape[3]), np.float32) if given is None else given
    queries = q.reshape(batch, heads, q.shape[1] // heads, steps, depth)
    out = np.empty((*queries.shape[:4], v.shape[3]), np.float32)
    for t in range(steps):
        state = state if decay is None else state * np.exp(decay[:, :, t, :, None])
        new = v[:, :, t]
        if beta is not None:
            new = beta[:, :, t] * (new - np.matmul(k[:, :, t, None], state)[:, :, 0])
        state = state + k[:, :, t, :, None] * new[:, :, None]
        out[:, :, :, t] = np.matmul(queries[:, :, :, t], state)
    call.put((np.float32(call.params["scale"]) * out).reshape(call.shape()))
    call.put(state, 1)


@kernel(Kernel.SOFTMAX)
def _softmax(call: Call) -> None:
    given, x, mask, p = call.input(0), call.wide(0), call.wide_or_none(1), call.params
    assert given is not None
    axis = p["axis"]
    if not x.size:
        return
    z = x * x.dtype.type(p["scale"])
    z = z if mask is None else z + mask
    if p["mode"] == 2:
        place = np.arange(x.shape[axis]).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        call.put((place == np.expand_dims(z.argmax(axis), axis)).astype(x.dtype))
        return
    top = z.max(axis, keepdims=True)
    if given.dtype.itemsize < 4 and p["mode"] == 0:  # narrow floats round at every step, as the specification's function body does
        e = np.exp((z - top).astype(given.dtype).astype(np.float32)).astype(given.dtype).astype(np.float32)
        call.put(e / e.sum(axis, keepdims=True).astype(given.dtype).astype(np.float32))
        return
    e = np.exp(z - top)
    total = e.sum(axis, keepdims=True)
    call.put(e / total if p["mode"] == 0 else z - top - np.log(total))


@kernel(Kernel.NORM)
def _norm(call: Call) -> None:
    x, scale, bias, skip, p = call.wide(0), call.wide_or_none(1), call.wide_or_none(2), call.wide_or_none(3), call.params
    x = x if skip is None else x + skip
    z = x.reshape(x.shape[0], p["groups"], -1) if p["mode"] == 2 else x
    axes = (2,) if p["mode"] == 2 else tuple(range(p["axis"], x.ndim))
    mean = z.mean(axes, keepdims=True)
    centred = z if p["mode"] == 1 else z - mean
    inverse = 1 / np.sqrt((centred * centred).mean(axes, keepdims=True) + z.dtype.type(p["epsilon"]))
    y = (centred * inverse).reshape(x.shape)
    y = y if scale is None else y * scale
    call.put(y if bias is None else y + bias)
    if p["mode"] != 2:
        call.put(mean, 1)
        call.put(inverse, 2)
    call.put(x, 3)


def _checked(index: np.ndarray, size: int) -> np.ndarray:
    if index.size and (index.min() < -size or index.max() >= size):
        raise RuntimeException(f"index outside -{size} … {size - 1}")
    return index.astype(np.int64)


def _coordinates(shape: tuple[int, ...]) -> list[np.ndarray]:
    return [np.arange(n).reshape([-1 if i == a else 1 for i in range(len(shape))]) for a, n in enumerate(shape)]


@kernel(Kernel.GATHER)
def _gather(call: Call) -> None:
    x, index, p = call.input(0), call.input(1), call.params
    assert x is not None and index is not None
    axis = p["axis"]
    if p["mode"] == 0:
        call.put(np.take(x, _checked(index, x.shape[axis]), axis))
        return
    at: list[Any] = _coordinates(index.shape if p["mode"] == 1 else index.shape[:-1])
    if p["mode"] == 1:
        at[axis] = _checked(index, x.shape[axis])
    else:
        at = at[:axis] + [_checked(index[..., i], x.shape[axis + i]) for i in range(index.shape[-1])]
    call.put(x[tuple(at)].reshape(call.shape()))


@kernel(Kernel.SCATTER)
def _scatter(call: Call) -> None:
    given, index, updates, out, p = call.input(0), call.input(1), call.input(2), call.memory.view(call.step.outputs[0]), call.params
    assert given is not None and index is not None and updates is not None and out is not None
    made = given.copy()
    if p["mode"] == 0:
        at: list[Any] = _coordinates(index.shape)
        at[p["axis"]] = _checked(index, given.shape[p["axis"]])
    else:
        at = [_checked(index[..., i], given.shape[i]) for i in range(index.shape[-1])]
    if p["reduction"] == 0:
        made[tuple(at)] = updates
    else:
        (np.add, np.multiply, np.maximum, np.minimum)[p["reduction"] - 1].at(made, tuple(at), updates)
    out[...] = made


@kernel(Kernel.SORT)
def _sort(call: Call) -> None:
    x, p = call.input(0), call.params
    assert x is not None
    values, indices = _TOPK(x, np.array([call.shape()[p["axis"]]]), axis=p["axis"], largest=p["largest"])
    call.put(values)
    call.put(indices, 1)


@kernel(Kernel.FFT)
def _fft(call: Call) -> None:
    p = call.params
    call.put(_DFT(call.wide(0), np.array(p["length"]), np.array(p["axis"]), inverse=p["inverse"], onesided=p["onesided"]))


@kernel(Kernel.LINALG)
def _linalg(call: Call) -> None:
    x = call.wide(0)
    call.put(np.linalg.det(x) if call.params["op"] == 0 else np.linalg.inv(x))


@kernel(Kernel.RANDOM)
def _random(call: Call) -> None:
    seed, p, dtype = call.input(0), call.params, call.dtype(call.step.outputs[0])
    assert seed is not None
    call.put(placed_draws(Draws.of(seed), bool(p["op"]), p["alpha"], p["beta"], call.shape(), dtype))


@kernel(Kernel.COMPACT)
def _compact(call: Call) -> None:
    x, p = call.input(0), call.params
    assert x is not None
    if p["op"] == 2:
        made: list[np.ndarray] = [_NMS(x, *(call.input(i) for i in range(1, 5)), center_point_box=p["center"])]
    elif p["op"] == 1:
        _, *made = _UNIQUE(x, axis=0, sorted=p["sorted"])
    else:
        made = [np.argwhere(x != 0) if x.ndim else np.zeros((int(x != 0), 0), np.int64)]
    count = len(made[0])
    call.put(np.asarray(count), 1)
    for output, value in zip((0, 2, 3), made, strict=False):
        out = call.memory.view(call.step.outputs[output]) if output < len(call.step.outputs) else None
        if out is not None:
            out[:len(value)] = value


@kernel(Kernel.TREES)
def _trees(call: Call) -> None:
    x, p, given = call.wide(0), call.params, [call.input(i) for i in range(1, 7)]
    nodes, roots, features, weights, targets, members = given
    assert nodes is not None and roots is not None and features is not None and weights is not None
    wide = nodes.dtype == np.int64
    bits = nodes[:, 0]
    word = nodes[:, 1].astype(np.int64) & (-1 if wide else 0xFFFFFFFF)
    value = np.ascontiguousarray(bits).view(np.float64 if wide else np.float32)
    child, feature = (word & 0xFFFFFFFF, word >> 36) if wide else (word & (1 << p["shift"]) - 1, (word & (0x7FFFFFFF if p["general"] else -1)) >> p["shift"])
    nan = (word >> (32 if wide else 31) & 1 if p["general"] else word * 0).astype(bool)
    mode = word >> 33 & 7 if wide else word * 0
    x = np.concatenate([x[:, features], np.full((len(x), 1), -np.inf, x.dtype)], 1)
    rows = np.arange(len(x))[:, None]
    at = np.broadcast_to(roots[:, 0], (len(x), len(roots))).astype(np.int64)
    while (feature[at] != len(features)).any():
        seen = x[rows, feature[at]]
        passed = np.select([mode[at] == 0, mode[at] == 1, mode[at] == 2], [seen <= value[at], seen == value[at], seen != value[at]], False)
        for i, j in np.argwhere(mode[at] == 3):
            assert members is not None
            first, count = int(bits[at[i, j]]) & 0xFFFFFFFF, int(bits[at[i, j]]) >> 32
            passed[i, j] = seen[i, j] in members[first:first + count]
        passed = np.where(np.isnan(seen), nan[at], passed)
        at = np.where(feature[at] == len(features), at, child[at] + (passed == 0))
    _gather_leaves(call, bits[at].astype(np.int64) - LEAF_BITS[wide], weights, targets)


def _gather_leaves(call: Call, leaf: np.ndarray, weights: np.ndarray, targets: np.ndarray | None) -> None:
    """Add (or take the least or greatest of) the weights of leaf numbers [N, trees], tree by tree."""
    aggregate, (rows, count) = call.params["aggregate"], call.shape()
    combine = {2: np.minimum, 3: np.maximum}.get(aggregate, np.add)
    made = np.full((rows, count + 1), {2: np.inf, 3: -np.inf}.get(aggregate, 0), weights.dtype)
    has = np.zeros(made.shape, bool)
    for t in range(leaf.shape[1]):
        for i in range(rows):
            entry, more = int(leaf[i, t]), True
            if targets is None:
                made[i, :-1] = combine(made[i, :-1], weights[entry])
                has[i] = True
            while targets is not None and more:
                more = targets[entry] >= 0
                target = targets[entry] if more else ~targets[entry]
                made[i, target] = combine(made[i, target], weights[entry])
                has[i, target] = True
                entry += 1
    made[~has] = 0
    call.put((made / made.dtype.type(leaf.shape[1]) if aggregate == 0 else made)[:, :-1])
    call.put(has[:, :-1], 1)
