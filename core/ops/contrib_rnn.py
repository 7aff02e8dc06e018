"""com.microsoft: DynamicQuantizeLSTM."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..expr import Compute, Op, binary, const, coord, select
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .cast import cast_view
from .common import same_type
from .contrib_common import needed
from .contrib_quantize import DynamicQuantizeMatMul
from .registry import Spec, operator, require
from .rnn import Clip, call_rnn, lstm_cells, recur, recurrent_outputs


@operator("com.microsoft")
def DynamicQuantizeLSTM(X: Any, W: Any, R: Any, B: Any = None, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None, P: Any = None, W_scale: Any = None,
                        W_zero_point: Any = None, R_scale: Any = None, R_zero_point: Any = None, *, activation_alpha: Any = None, activation_beta: Any = None,
                        activations: Any = None, clip: Clip = None, direction: str = "forward", hidden_size: int | None = None, input_forget: int = 0) -> Any:
    """LSTM whose weights W [D, I, 4 * H] and R [D, H, 4 * H] are 8-bit, with one scale and zero point for each direction or each column of it.

    What meets them is quantised to uint8 as in DynamicQuantizeLinear: the input as a whole, up to the longest sequence, and each step's hidden states of the whole batch together
    (onnxruntime does so on one thread; with more it may cut the batch in parts)."""
    needed(W_scale=W_scale, W_zero_point=W_zero_point, R_scale=R_scale, R_zero_point=R_zero_point)
    require(W.ndim == 3 and R.ndim == 3 and R.shape[2] == 4 * R.shape[1], f"W {list(W.shape)} must be [D, I, 4 * H] and R {list(R.shape)} [D, H, 4 * H]")
    count, hidden = R.shape[:2]
    bias = np.zeros((count, 4 * hidden), np.float32) if B is None else B[:, :4 * hidden] + B[:, 4 * hidden:]
    longest = len(X) if sequence_lens is None or not sequence_lens.size else int(sequence_lens.max())

    def project(d: int, x: np.ndarray) -> np.ndarray:
        made = np.zeros((*x.shape[:2], 4 * hidden), np.float32)
        made[:longest] = DynamicQuantizeMatMul(x[:longest], W[d], W_scale[d], W_zero_point[d]) + bias[d]
        return made

    def recurrent(d: int, h: np.ndarray) -> np.ndarray:
        return np.asarray(DynamicQuantizeMatMul(h, R[d], R_scale[d], R_zero_point[d]))
    make_cell = lstm_cells(recurrent, count, hidden, P, activations, activation_alpha, activation_beta, clip, input_forget, np.dtype(np.float32))
    return recur(X, project, sequence_lens, [initial_h, initial_c], hidden, direction, 0, make_cell)


@DynamicQuantizeLSTM.shape
def _(X: Spec, W: Spec, R: Spec, B: Spec | None, sequence_lens: Spec | None, initial_h: Spec | None, initial_c: Spec | None, P: Spec | None, W_scale: Spec, W_zero_point: Spec,
      R_scale: Spec, R_zero_point: Spec, *, activation_alpha: Any = None, activation_beta: Any = None, activations: Any = None, clip: Clip = None, direction: str = "forward",
      hidden_size: int | None = None, input_forget: int = 0) -> Any:
    same_type(W, R, W_zero_point, R_zero_point, names="W, R and their zero points")
    same_type(X, B, initial_h, initial_c, P, W_scale, R_scale, names="the real inputs")
    hidden = hidden_size or (None if R.shape is None else R.shape[1])
    return recurrent_outputs(X, DType.FLOAT, hidden, direction, 0, 2)


@DynamicQuantizeLSTM.lower
def _(k: Lowering, X: View, W: View, R: View, B: View | None = None, sequence_lens: View | None = None, initial_h: View | None = None, initial_c: View | None = None,
      P: View | None = None, W_scale: View | None = None, W_zero_point: View | None = None, R_scale: View | None = None, R_zero_point: View | None = None, *, activation_alpha: Any = None,
      activation_beta: Any = None, activations: Any = None, clip: Clip = None, direction: str = "forward", hidden_size: int | None = None, input_forget: int = 0, out: Any) -> tuple[View, ...]:
    parameters = [view.buffer.tensor if view is not None and view.is_whole else None for view in (W, W_scale, W_zero_point, R, R_scale, R_zero_point)]
    if any(p is None for p in parameters) or X.dtype is not DType.FLOAT:
        raise CannotLower("weights that are not constant")
    w, w_scale, w_zero, r, r_scale, r_zero = (np.asarray(p.numpy()) for p in parameters if p is not None)
    count, size, columns = w.shape
    hidden = r.shape[1]
    if not (size and hidden) or r.shape != (count, hidden, 4 * hidden) or columns != 4 * hidden:
        raise CannotLower("weights of such sizes")
    rows = X.shape[0] * X.shape[1]
    # The input's share of all directions is one product; W's columns stand side by side.
    flat = k.reshape(X if sequence_lens is None else _within(k, X, sequence_lens), (rows, size))
    assert DynamicQuantizeMatMul.lowering is not None
    share = DynamicQuantizeMatMul.lowering(k, flat, k.constant(np.ascontiguousarray(w.transpose(1, 0, 2)).reshape(size, count * columns)), k.constant(_each_column(w_scale, count, columns)),
                                           k.constant(_each_column(w_zero, count, columns)), out=Spec(DType.FLOAT, (rows, count * columns)))
    # R's gates are padded to whole panels, so that each begins one.
    wide = -(-hidden // 16) * 16

    def padded(array: np.ndarray) -> np.ndarray:
        gates = array.reshape(-1, count * 4, hidden)
        return np.pad(gates, ((0, 0), (0, 0), (0, wide - hidden))).reshape(-1, count * 4 * wide)
    recurrent = padded(np.ascontiguousarray(r.transpose(1, 0, 2)).reshape(hidden, count * columns))
    scale, zero = (padded(_each_column(x, count, columns)[None])[0] for x in (r_scale, r_zero))
    lens = None if sequence_lens is None else cast_view(k, sequence_lens, DType.INT32)
    operands = [k.reshape(share, (X.shape[0], X.shape[1], count * columns)), None, k.constant(recurrent), B, lens, initial_h, initial_c, P, k.constant(scale), k.constant(zero)]
    return call_rnn(k, 0, operands, DType.FLOAT, hidden, alphas=activation_alpha, betas=activation_beta, activations=activations, clip=clip, direction=direction, input_forget=input_forget)


def _each_column(parameter: np.ndarray, count: int, columns: int) -> np.ndarray:
    """One parameter for each direction, or for each of its columns, as one for each column of all."""
    return np.ascontiguousarray(np.broadcast_to(parameter.reshape(count, -1), (count, columns))).reshape(-1)


def _within(k: Lowering, X: View, sequence_lens: View) -> View:
    """X with zeros after the longest sequence: they do not count for its range."""
    longest = k.reduce(3, cast_view(k, sequence_lens, DType.INT64), [0], DType.INT64)
    return k.map(lambda x, n: select(binary(Op.LT, coord(0), n), x, const(0.0, Compute.F32)), X, k.reshape(longest, ()), dtype=DType.FLOAT, shape=X.shape)
