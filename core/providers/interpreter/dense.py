"""MatMul, Conv, Pool, Attention, Rnn, Resize, Sample."""
from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels import ACTIVATIONS, Kernel
from ...ops import lookup
from ...ops.contrib_quantize import nbits_weights
from ...ops.resize import COORDINATES, MODES, NEAREST, resample
from ...ops.rnn import lstm_cells, recur
from ...ops.sample import MODES as SAMPLE_MODES
from ...ops.sample import PADDINGS
from .call import Call, kernel

_GRID_SAMPLE, _ROI_ALIGN, _MAX_ROI_POOL = lookup("", "GridSample"), lookup("", "RoiAlign"), lookup("", "MaxRoiPool")
_QUANTIZED_PRODUCT = lookup("com.microsoft", "DynamicQuantizeMatMul")
_RECURRENT = tuple(lookup("", name) for name in ("LSTM", "GRU", "RNN"))


def _zero(call: Call, name: str) -> np.ndarray | None:
    """The zero point a parameter names, as int32."""
    return call.wide(call.params[name]) if call.params[name] >= 0 else None


@kernel(Kernel.MATMUL)
def _matmul(call: Call) -> None:
    p = call.params
    if p["bits"]:
        a, n = call.wide(0), call.shape()[-1]
        weights = nbits_weights(call.input(1), call.wide(p["block_scales"]), call.input(p["block_zeros"]) if p["block_zeros"] else None, None, a.shape[1], n, p["bits"], p["block"])  # type: ignore[arg-type]
        call.finish(np.matmul(a, weights.T))
        return
    a, b = call.wide(0), call.wide(1)
    zero_a, zero_b = _zero(call, "zero_a"), _zero(call, "zero_b")
    a = a if zero_a is None else a - (zero_a.reshape(-1, 1) if zero_a.ndim == 1 and zero_a.size != 1 else zero_a)
    call.finish(np.matmul(a, b if zero_b is None else b - zero_b))


@kernel(Kernel.CONV)
def _conv(call: Call) -> None:
    if 0 in call.shape():
        return
    x, w, p = call.wide(0), call.wide(1), call.params
    zero_x, zero_w = _zero(call, "zero_x"), _zero(call, "zero_w")
    x = x if zero_x is None else x - zero_x.reshape(())  # padding stands for the zero point: 0 after the subtraction
    w = w if zero_w is None else w - zero_w.reshape([-1, *[1] * (w.ndim - 1)] if zero_w.size != 1 else ())
    call.finish(_transposed(call, x, w) if p["transposed"] else _correlated(call, x, w))


def _correlated(call: Call, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    p, shape, n = call.params, call.shape(), call.params["spatial"]
    spans = [(o - 1) * s + 1 for o, s in zip(shape[2:], p["strides"], strict=False)]
    need = [span + d * (k - 1) for span, k, d in zip(spans, p["kernel"], p["dilations"], strict=False)]
    padded = np.pad(x, [(0, 0), (0, 0)] + [(p["pads"][i], max(need[i] - x.shape[2 + i] - p["pads"][i], 0)) for i in range(n)])
    group, m = p["group"], w.shape[0]
    total = np.zeros(shape, x.dtype)
    for tap in np.ndindex(*w.shape[2:]):
        window = padded[(slice(None), slice(None), *(slice(t * p["dilations"][i], t * p["dilations"][i] + spans[i], p["strides"][i]) for i, t in enumerate(tap)))]
        split = window.reshape(x.shape[0], group, w.shape[1], *shape[2:])
        taps = w[(slice(None), slice(None), *tap)].reshape(group, m // group, -1)
        total += np.einsum("ngc...,gmc->ngm...", split, taps).reshape(shape)
    return total


def _transposed(call: Call, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    p, shape, n = call.params, call.shape(), call.params["spatial"]
    group, taps = p["group"], w.shape[2:]
    spans = [(i - 1) * s + 1 for i, s in zip(x.shape[2:], p["strides"], strict=False)]
    canvas = np.zeros((x.shape[0], shape[1], *(max(spans[i] + p["dilations"][i] * (taps[i] - 1), p["pads"][i] + shape[2 + i]) for i in range(n))), x.dtype)
    split = x.reshape(x.shape[0], group, x.shape[1] // group, *x.shape[2:])
    for tap in np.ndindex(*taps):
        part = np.einsum("ngc...,gcm->ngm...", split, w[(slice(None), slice(None), *tap)].reshape(group, -1, w.shape[1])).reshape(x.shape[0], shape[1], *x.shape[2:])
        canvas[(slice(None), slice(None), *(slice(t * p["dilations"][i], t * p["dilations"][i] + spans[i], p["strides"][i]) for i, t in enumerate(tap)))] += part
    return canvas[(slice(None), slice(None), *(slice(p["pads"][i], p["pads"][i] + shape[2 + i]) for i in range(n)))]


@kernel(Kernel.ATTENTION)
def _attention(call: Call) -> None:
    q, key, v, mask = call.wide(0), call.wide(1), call.wide(2), call.input(3)
    p = call.params
    for i, past in ((1, call.input(4)), (2, call.input(5))):
        new = call.input(i)
        assert new is not None
        call.put(new if past is None else np.concatenate([past, new], 2), i)
    if call.input(4) is not None:
        key, v = np.concatenate([call.wide(4), key], 2), np.concatenate([call.wide(5), v], 2)
    repeat = q.shape[1] // key.shape[1]
    key, v = np.repeat(key, repeat, 1), np.repeat(v, repeat, 1)
    scores = np.matmul(q, np.swapaxes(key, 2, 3)) * p["scale"]
    scores = np.tanh(scores / p["softcap"]) * p["softcap"] if p["softcap"] else scores
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float32)
    if p["causal"]:
        s, t = np.arange(q.shape[2])[:, None], np.arange(key.shape[2])
        scores = np.where(t <= s + p["offset"], scores, -np.inf)
    top = scores.max(3, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    call.put(np.matmul(e / np.maximum(e.sum(3, keepdims=True), np.float32(1e-38)), v))


@kernel(Kernel.POOL)
def _pool(call: Call) -> None:
    x = call.input(0)
    assert x is not None
    p, shape, n = call.params, call.shape(), call.params["spatial"]
    op, power = p["op"], p["p"]
    x = x if op == 0 and x.dtype.kind in "iu" else call.wide(0)
    spans = [(o - 1) * s + 1 for o, s in zip(shape[2:], p["strides"], strict=False)]
    ends = [max(span + d * (k - 1) - size - b, 0) for span, k, d, size, b in zip(spans, p["kernel"], p["dilations"], x.shape[2:], p["pads"], strict=False)]
    pads = [(0, 0), (0, 0)] + [(b, e) for b, e in zip(p["pads"], ends, strict=False)]
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = np.pad(x, pads, constant_values=least if op == 0 else 0)
    # A position counts for an average if it lies in the input, or in its declared padding where that counts.
    counted = np.pad(np.ones(x.shape[2:], x.dtype), [(b, e) for b, e in zip(p["pads"], p["pads_end"], strict=False)][:n], constant_values=1 if p["count_include_pad"] else 0)
    counted = np.pad(counted, [(0, max(padded.shape[2 + i] - counted.shape[i], 0)) for i in range(n)])
    places = np.pad(np.arange(int(np.prod(x.shape[2:]))).reshape(x.shape[2:], order="F" if p["storage_order"] else "C"), pads[2:], constant_values=-1)
    total: Any = None
    count: Any = 0
    where: Any = None
    for tap in np.ndindex(*p["kernel"][:n]):
        window = tuple(slice(t * p["dilations"][i], t * p["dilations"][i] + spans[i], p["strides"][i]) for i, t in enumerate(tap))
        part = padded[(slice(None), slice(None), *window)]
        if op == 0:
            place = np.broadcast_to(places[window], part.shape)
            better = np.ones(part.shape, bool) if total is None else (part > total) | (np.isnan(part) & ~np.isnan(total) if x.dtype.kind == "f" else False) | ((where < 0) & (place >= 0))
            total = part.copy() if total is None else np.where(better, part, total)
            where = place.copy() if where is None else np.where(better, place, where)
            continue
        part = part if op == 1 else np.abs(part) ** power
        total = part if total is None else total + part
        count = count + counted[window]
    if op == 0:
        call.put(total)
        call.put(where + (np.arange(x.shape[0] * x.shape[1]) * int(np.prod(x.shape[2:]))).reshape(*x.shape[:2], *[1] * n), 1)
        return
    call.put(total / count if op == 1 else total ** (1 / power))


@kernel(Kernel.RNN)
def _rnn(call: Call) -> None:
    p = call.params
    kind, directions = p["cell"], 2 if p["direction"] == 2 else 1
    count = (3, 2, 1)[kind] * directions
    # ONNX gives alphas and betas only to the functions that take one, in order.
    names = [ACTIVATIONS[i] for i in p["activations"][:count]]
    alphas = [a for a, name in zip(p["alpha"], names, strict=False) if name in WITH_ALPHA]
    betas = [b for b, name in zip(p["beta"], names, strict=False) if name in WITH_BETA]
    options: dict[str, Any] = {"activations": names, "activation_alpha": alphas, "activation_beta": betas, "clip": p["clip"] or None,
                               "direction": ("forward", "reverse", "bidirectional")[p["direction"]]}
    if call.input(1) is None:
        _projected(call, kind, directions, options)
        return
    operands = [call.wide(0), call.wide(1), call.wide(2), call.wide_or_none(3), call.input(4), call.wide_or_none(5)]
    if kind == 0:
        operands += [call.wide_or_none(6), call.wide_or_none(7)]
        options["input_forget"] = p["input_forget"]
    elif kind == 1:
        options["linear_before_reset"] = p["linear_before_reset"]
    for i, made in enumerate(_RECURRENT[kind](*operands, **options)):
        call.put(made, i)


def _projected(call: Call, kind: int, directions: int, options: dict[str, Any]) -> None:
    """RNN without W: X is the input's share already. With an 8-bit R, DynamicQuantizeLSTM's recurrence."""
    x, gates, p = call.wide(0), (4, 3, 1)[kind], call.params
    gh = x.shape[2] // directions
    hidden = gh // gates
    bias, peephole = call.wide_or_none(3), call.wide_or_none(7)
    if call.input(8) is None:
        operands = [x, None, call.wide(2), bias, call.input(4), call.wide_or_none(5)]
        if kind == 0:
            operands += [call.wide_or_none(6), peephole]
            options["input_forget"] = p["input_forget"]
        elif kind == 1:
            options["linear_before_reset"] = p["linear_before_reset"]
        made = _RECURRENT[kind](*operands, **options)
    else:
        columns = np.concatenate([np.arange(hidden) + k * -(-hidden // 16) * 16 for k in range(directions * gates)])
        given = [np.asarray(call.input(i)) for i in (2, 8, 9)]
        r, scale, zero = (x[..., columns].reshape(*x.shape[:-1], directions, gh) for x in given)
        joined = np.zeros((directions, gh), x.dtype) if bias is None else bias[:, :gh] + bias[:, gh:]
        cells = lstm_cells(lambda d, h: np.asarray(_QUANTIZED_PRODUCT(h, np.ascontiguousarray(r[:, d]), scale[d], zero[d])), directions, hidden, peephole, options["activations"],
                           options["activation_alpha"], options["activation_beta"], options["clip"], p["input_forget"], x.dtype)
        made = recur(x, lambda d, given: given[..., d * gh:(d + 1) * gh] + joined[d], call.input(4), [call.wide_or_none(5), call.wide_or_none(6)], hidden, options["direction"], 0, cells)
    for i, one in enumerate(made):
        call.put(one, i)


#: Activations that take alpha, and beta.
WITH_ALPHA = frozenset({"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"})
WITH_BETA = frozenset({"Affine", "ScaledTanh", "HardSigmoid"})


@kernel(Kernel.RESIZE)
def _resize(call: Call) -> None:
    x, p, shape = call.input(0), call.params, call.shape()
    assert x is not None
    n = x.ndim
    scales = [s or (o / i if i else 1.0) for s, o, i in zip(p["scales"], shape, x.shape, strict=False)]
    crop = p["coordinates"] == COORDINATES.index("tf_crop_and_resize")
    call.put(resample(x, range(n), shape, scales, [*p["roi"][:n], *p["roi"][n:2 * n]] if crop else None, MODES[p["mode"]], COORDINATES[p["coordinates"]], NEAREST[p["nearest"]],
                      p["antialias"], p["exclude_outside"], p["a"], p["extrapolation"]))


@kernel(Kernel.SAMPLE)
def _sample(call: Call) -> None:
    x, at, p = call.input(0), call.input(1), call.params
    if p["op"] == 0:
        call.put(_GRID_SAMPLE(x, at, align_corners=p["align_corners"], mode=SAMPLE_MODES[p["mode"]], padding_mode=PADDINGS[p["padding"]]))
    elif p["op"] == 1:
        call.put(_ROI_ALIGN(x, at, call.input(2), coordinate_transformation_mode=("half_pixel", "output_half_pixel")[p["coordinates"]], mode=("avg", "max")[p["mode"]],
                            output_height=call.shape()[2], output_width=call.shape()[3], sampling_ratio=p["sampling_ratio"], spatial_scale=p["spatial_scale"]))
    else:
        call.put(_MAX_ROI_POOL(x, at, pooled_shape=call.shape()[2:], spatial_scale=p["spatial_scale"]))
