"""com.microsoft: DynamicQuantizeLSTM."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..types import DType
from .common import same_type
from .contrib_common import needed
from .contrib_quantize import DynamicQuantizeMatMul
from .registry import Spec, operator, require
from .rnn import Clip, lstm_cells, recur, recurrent_outputs


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
