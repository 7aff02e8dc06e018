"""RNN, GRU, LSTM: one time loop for all three; a cell maps (projected input, states) to new states for the whole batch.

The input's share of every gate is one matrix product before the loop. A reverse direction runs forward over each sequence reversed within its own length.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dim import Dim
from ..kernels import ACTIVATIONS, Kernel
from ..lowering import Lowering, View
from ..types import DType
from .cast import cast_view
from .common import fresh_shape, same_type
from .precision import widened
from .registry import Spec, operator, require

State = tuple[np.ndarray, ...]
#: (input's share of the gates [B, gates * H], states) → states; the hidden state comes first.
Cell = Callable[[np.ndarray, State], State]
Activation = Callable[[np.ndarray], np.ndarray]
Clip = float | None

# name → (function of x, alpha, beta; default alpha or None if it takes none; default beta or None)
_ACTIVATIONS: dict[str, tuple[Callable[..., np.ndarray], float | None, float | None]] = {
    "relu": (lambda x, a, b: np.maximum(x, 0), None, None),
    "tanh": (lambda x, a, b: np.tanh(x), None, None),
    "sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), None, None),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: np.where(x >= a, x, 0), 1.0, None),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1.0, None),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "softplus": (lambda x, a, b: np.logaddexp(x, 0), None, None),
}


def _activations(names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None, clip: Clip) -> list[Activation]:
    """The named functions, each clipping its argument first; alphas and betas go, in order, to the functions that take one."""
    alpha_left, beta_left = iter(alphas or ()), iter(betas or ())
    made = []
    for name in names:
        require(name.lower() in _ACTIVATIONS, f"activation '{name}' is not one of {', '.join(_ACTIVATIONS)} (in any case)")
        function, alpha, beta = _ACTIVATIONS[name.lower()]
        made.append(_bound(function, alpha if alpha is None else next(alpha_left, alpha), beta if beta is None else next(beta_left, beta), clip))
    return made


def _bound(function: Callable[..., np.ndarray], alpha: float | None, beta: float | None, clip: Clip) -> Activation:
    if clip is None:
        return lambda x: function(x, alpha, beta)
    return lambda x: function(np.clip(x, -clip, clip), alpha, beta)


def _directions(direction: str) -> tuple[bool, ...]:
    """Whether each direction runs in reverse."""
    require(direction in ("forward", "reverse", "bidirectional"), f"direction '{direction}' is not one of forward, reverse, bidirectional")
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]


def _reversal(steps: int, lengths: np.ndarray) -> np.ndarray:
    """[S, B]: where step t of each reversed sequence lies; the padding stays in place."""
    t = np.arange(steps)[:, None]
    return np.where(t < lengths, lengths - 1 - t, t)


def _recur(X: np.ndarray, W: np.ndarray | None, bias: np.ndarray, lengths: Any, initial: Sequence[Any], hidden: int, direction: str, layout: int,
           make_cell: Callable[[int], Cell]) -> tuple[np.ndarray, ...]:
    """`recur` with the matrix product as the input's share: W [D, gates * H, I], bias [D, gates * H]. W None: X [S, B, D * gates * H] is that share (of the RNN kernel, not of ONNX)."""
    require(len(bias) == len(_directions(direction)), f"W has {len(bias)} directions; direction '{direction}' needs {len(_directions(direction))}")
    gates = bias.shape[1]
    return recur(X, lambda d, x: (x[..., d * gates:(d + 1) * gates] if W is None else np.matmul(x, widened(W[d]).T)) + bias[d], lengths, initial, hidden, direction, layout, make_cell)


def recur(X: np.ndarray, project: Callable[[int, np.ndarray], np.ndarray], lengths: Any, initial: Sequence[Any], hidden: int, direction: str, layout: int,
          make_cell: Callable[[int], Cell]) -> tuple[np.ndarray, ...]:
    """Run `make_cell(d)` over time for each direction d; `project(d, x)` is the input's share of its gates. `initial`: the states or None. Outputs Y, then the last states."""
    x = widened(X.transpose(1, 0, 2) if layout else X)
    steps, batch, _ = x.shape
    reversed_ = _directions(direction)
    lens = np.full(batch, steps) if lengths is None else lengths.astype(np.int64)
    require(np.all((lens >= 0) & (lens <= steps)) and lens.shape == (batch,), f"sequence_lens must be {batch} lengths in [0, {steps}]")
    ragged = bool((lens != steps).any())
    starts = [np.zeros((len(reversed_), batch, hidden), x.dtype) if s is None else widened(s.transpose(1, 0, 2) if layout else s) for s in initial]
    Y = np.zeros((steps, len(reversed_), batch, hidden), x.dtype)
    last = [np.empty_like(s) for s in starts]
    for d, backwards in enumerate(reversed_):
        order = _reversal(steps, lens)[..., None] if backwards else None
        projected = project(d, x if order is None else np.take_along_axis(x, order, 0))
        cell, states = make_cell(d), tuple(s[d] for s in starts)
        made = np.zeros((steps, batch, hidden), x.dtype)
        for t in range(steps):
            new = cell(projected[t], states)
            if ragged:
                active = (t < lens)[:, None]
                made[t] = np.where(active, new[0], 0)
                states = tuple(np.where(active, n, s) for n, s in zip(new, states, strict=True))
            else:
                made[t], states = new[0], new
        Y[:, d] = made if order is None else np.take_along_axis(made, order, 0)
        for out, state in zip(last, states, strict=True):
            out[d] = state
    if layout:
        Y, last = Y.transpose(2, 0, 1, 3), [s.transpose(1, 0, 2) for s in last]
    return tuple(np.ascontiguousarray(v.astype(X.dtype, copy=False)) for v in (Y, *last))


def _biases(B: Any, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """B [D, 2 * gates * H] as (Wb, Rb); zeros where absent."""
    if B is None:
        zero = np.zeros(R.shape[:2], widened(R).dtype)
        return zero, zero
    half = B.shape[1] // 2
    return widened(B[:, :half]), widened(B[:, half:])


def _outputs(X: Spec, W: Spec, R: Spec, hidden_size: int | None, direction: str, layout: int, states: int) -> tuple[Spec, ...]:
    hidden = hidden_size or (None if R.shape is None else R.shape[2])
    return recurrent_outputs(X, same_type(X, W, R, names="X, W and R"), hidden, direction, layout, states)


def recurrent_outputs(X: Spec, dtype: DType | None, hidden: Any, direction: str, layout: int, states: int) -> tuple[Spec, ...]:
    """Y and the last states; `hidden` None: not known."""
    require(X.shape is None or len(X.shape) == 3, f"X {X} must have rank 3")
    count: Any = len(_directions(direction))
    seq, batch = (X.shape[1], X.shape[0]) if X.shape is not None and layout else X.shape[:2] if X.shape is not None else fresh_shape(2)  # type: ignore[misc]
    hidden = fresh_shape(1)[0] if hidden is None else hidden  # type: ignore[index]
    Y = (batch, seq, count, hidden) if layout else (seq, count, batch, hidden)
    last = (batch, count, hidden) if layout else (count, batch, hidden)
    return Spec(dtype, Y), *[Spec(dtype, last)] * states


@operator()
def RNN(X: Any, W: Any, R: Any, B: Any = None, sequence_lens: Any = None, initial_h: Any = None, *, activation_alpha: Any = None, activation_beta: Any = None,
        activations: Any = ("Tanh", "Tanh"), clip: Clip = None, direction: str = "forward", hidden_size: int | None = None, layout: int = 0) -> Any:
    """H_t = f(X_t Wᵀ + H_{t-1} Rᵀ + Wb + Rb); outputs Y (all hidden states) and Y_h (the last ones)."""
    input_bias, state_bias = _biases(B, R)
    functions = _activations(activations, activation_alpha, activation_beta, clip)

    def make_cell(d: int) -> Cell:
        recurrent, f = widened(R[d]).T, functions[d]

        def cell(x: np.ndarray, states: State) -> State:
            return (f(x + states[0] @ recurrent),)
        return cell
    return _recur(X, W, input_bias + state_bias, sequence_lens, [initial_h], R.shape[2], direction, layout, make_cell)


@RNN.shape
def _(X: Spec, W: Spec, R: Spec, B: Spec | None = None, sequence_lens: Spec | None = None, initial_h: Spec | None = None, *, activation_alpha: Any = None,
      activation_beta: Any = None, activations: Any = None, clip: Clip = None, direction: str = "forward", hidden_size: int | None = None, layout: int = 0) -> Any:
    return _outputs(X, W, R, hidden_size, direction, layout, 1)


@operator()
def GRU(X: Any, W: Any, R: Any, B: Any = None, sequence_lens: Any = None, initial_h: Any = None, *, activation_alpha: Any = None, activation_beta: Any = None,
        activations: Any = None, clip: Clip = None, direction: str = "forward", hidden_size: int | None = None, layout: int = 0, linear_before_reset: int = 0) -> Any:
    """Gated recurrent unit with gates z (update), r (reset), h; outputs Y (all hidden states) and Y_h (the last ones)."""
    hidden = R.shape[2]
    input_bias, state_bias = _biases(B, R)
    functions = _activations(activations or ["Sigmoid", "Tanh"] * len(R), activation_alpha, activation_beta, clip)

    def make_cell(d: int) -> Cell:
        recurrent, late_bias = widened(R[d]).T, state_bias[d][2 * hidden:]
        f, g = functions[2 * d:2 * d + 2]

        def cell(x: np.ndarray, states: State) -> State:
            h, = states
            gates = f(x[:, :2 * hidden] + h @ recurrent[:, :2 * hidden])
            z, r = gates[:, :hidden], gates[:, hidden:]
            if linear_before_reset:
                candidate = g(x[:, 2 * hidden:] + r * (h @ recurrent[:, 2 * hidden:] + late_bias))
            else:
                candidate = g(x[:, 2 * hidden:] + (r * h) @ recurrent[:, 2 * hidden:])
            return ((1 - z) * candidate + z * h,)
        return cell
    # Rbh joins the input's share unless it is to be added before the reset gate.
    joined = np.array(state_bias)
    if linear_before_reset:
        joined[:, 2 * hidden:] = 0
    return _recur(X, W, input_bias + joined, sequence_lens, [initial_h], hidden, direction, layout, make_cell)


@GRU.shape
def _(X: Spec, W: Spec, R: Spec, B: Spec | None = None, sequence_lens: Spec | None = None, initial_h: Spec | None = None, *, activation_alpha: Any = None,
      activation_beta: Any = None, activations: Any = None, clip: Clip = None, direction: str = "forward", hidden_size: int | None = None, layout: int = 0,
      linear_before_reset: int = 0) -> Any:
    return _outputs(X, W, R, hidden_size, direction, layout, 1)


@operator()
def LSTM(X: Any, W: Any, R: Any, B: Any = None, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None, P: Any = None, *, activation_alpha: Any = None,
         activation_beta: Any = None, activations: Any = None, clip: Clip = None, direction: str = "forward", hidden_size: int | None = None, input_forget: int = 0,
         layout: int = 0) -> Any:
    """Long short-term memory with gates i, o, f, c and peepholes P; outputs Y (all hidden states), Y_h and Y_c (the last ones)."""
    hidden = R.shape[2]
    input_bias, state_bias = _biases(B, R)
    recurrent = widened(R).transpose(0, 2, 1)
    make_cell = lstm_cells(lambda d, h: h @ recurrent[d], len(R), hidden, P, activations, activation_alpha, activation_beta, clip, input_forget, recurrent.dtype)
    return _recur(X, W, input_bias + state_bias, sequence_lens, [initial_h, initial_c], hidden, direction, layout, make_cell)


def lstm_cells(recurrent: Callable[[int, np.ndarray], np.ndarray], directions: int, hidden: int, P: Any, activations: Any, alphas: Any, betas: Any, clip: Clip, input_forget: int,
               dtype: np.dtype[Any]) -> Callable[[int], Cell]:
    """The LSTM cell of each direction; `recurrent(d, h)` is the hidden state's share [B, 4 * H] of its gates."""
    functions, unclipped = (_activations(activations or ["Sigmoid", "Tanh", "Tanh"] * directions, alphas, betas, limit) for limit in (clip, None))
    peepholes = np.zeros((directions, 3 * hidden), dtype) if P is None else widened(P)

    def make_cell(d: int) -> Cell:
        p_i, p_o, p_f = np.split(peepholes[d], 3)
        f, g, _ = functions[3 * d:3 * d + 3]
        # `clip` bounds what enters the gates; the cell state enters the output activation as it is, as in onnxruntime.
        output_activation = unclipped[3 * d + 2]

        def cell(x: np.ndarray, states: State) -> State:
            h, c = states
            i, o, forget, candidate = np.split(x + recurrent(d, h), 4, 1)
            i = f(i + p_i * c)
            forget = 1 - i if input_forget else f(forget + p_f * c)
            c = forget * c + i * g(candidate)
            return f(o + p_o * c) * output_activation(c), c
        return cell
    return make_cell


@LSTM.shape
def _(X: Spec, W: Spec, R: Spec, B: Spec | None = None, sequence_lens: Spec | None = None, initial_h: Spec | None = None, initial_c: Spec | None = None, P: Spec | None = None, *,
      activation_alpha: Any = None, activation_beta: Any = None, activations: Any = None, clip: Clip = None, direction: str = "forward", hidden_size: int | None = None,
      input_forget: int = 0, layout: int = 0) -> Any:
    return _outputs(X, W, R, hidden_size, direction, layout, 2)


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _input_share(k: Lowering, X: View, W: View) -> tuple[View, View | None]:
    """X and W of the RNN kernel. A constant W meets all steps in one product with packed weights first, in float (halves would be rounded on the way); other W's the kernel takes itself."""
    tensor = W.buffer.tensor
    if tensor is None or not W.is_whole or X.dtype is not DType.FLOAT or tensor.size == 0:
        return X, W
    (steps, batch, size), columns = X.shape, tensor.shape[0] * tensor.shape[1]
    weights = k.constant(tensor.numpy().reshape(columns, tensor.shape[2])).permute((1, 0))
    made = k.matmul(k.reshape(X, (steps * batch, size)), weights, X.dtype, (steps * batch, columns))
    return k.reshape(made, (steps, batch, columns)), None


def call_rnn(k: Lowering, kind: int, operands: Sequence[View | None], dtype: DType, hidden: Dim, *, alphas: Any, betas: Any, activations: Any, clip: Clip, direction: str, layout: int = 0,
             input_forget: int = 0, linear_before_reset: int = 0) -> tuple[View, ...]:
    """The RNN kernel; kind and operands as in its record, X with time first. The outputs as ONNX has them, batch first where `layout`."""
    names = (("Sigmoid", "Tanh", "Tanh"), ("Sigmoid", "Tanh"), ("Tanh",))[kind]
    count = len(_directions(direction))
    chosen = list(activations or list(names) * count)[:len(names) * count]
    defaults = [_ACTIVATIONS[n.lower()][1:] for n in chosen]
    left, right = iter(alphas or ()), iter(betas or ())
    numbers = [i for n in chosen for i, known in enumerate(ACTIVATIONS) if known.lower() == n.lower()]
    x = operands[0]
    assert x is not None
    steps, batch = x.shape[:2]
    shapes: list[tuple[Dim, ...]] = [(steps, count, batch, hidden), *[(count, batch, hidden)] * (2 if kind == 0 else 1)]
    made, written = [], []
    for shape in shapes:
        order = ((2, 0, 1, 3) if len(shape) == 4 else (1, 0, 2)) if layout else tuple(range(len(shape)))
        made.append(k.buffer(dtype, [shape[i] for i in order]).whole())
        written.append(made[-1].permute([order.index(i) for i in range(len(shape))]))
    k.call(Kernel.RNN, operands, written, cell=kind, direction=("forward", "reverse", "bidirectional").index(direction), linear_before_reset=linear_before_reset,
           input_forget=input_forget, clip=clip or 0.0, activations=numbers, alpha=[0.0 if a is None else next(left, a) for a, _ in defaults],
           beta=[0.0 if b is None else next(right, b) for _, b in defaults])
    return tuple(made)


def _recurrent_rule(kind: int) -> Any:
    """A lowering rule; kind as in the RNN record."""
    def rule(k: Lowering, X: View, W: View, R: View, B: View | None = None, sequence_lens: View | None = None, initial_h: View | None = None, initial_c: View | None = None,
             P: View | None = None, *, activation_alpha: Any = None, activation_beta: Any = None, activations: Any = None, clip: Clip = None, direction: str = "forward",
             hidden_size: int | None = None, layout: int = 0, input_forget: int = 0, linear_before_reset: int = 0, out: Any) -> tuple[View, ...]:
        def states(view: View | None) -> View | None:
            return view if view is None or not layout else view.permute((1, 0, 2))
        lens = None if sequence_lens is None else cast_view(k, sequence_lens, DType.INT32)
        x, w = _input_share(k, X.permute((1, 0, 2)) if layout else X, W)
        return call_rnn(k, kind, [x, w, R, B, lens, states(initial_h), states(initial_c), P], X.dtype, R.shape[2], alphas=activation_alpha, betas=activation_beta, activations=activations,
                        clip=clip, direction=direction, layout=layout, input_forget=input_forget, linear_before_reset=linear_before_reset)
    return rule


LSTM.lower(_recurrent_rule(0))
GRU.lower(_recurrent_rule(1))
RNN.lower(_recurrent_rule(2))
