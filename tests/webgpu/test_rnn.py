"""Recurrences on the GPU against the interpreter: R where it lies (few steps) and laid out anew, hidden sizes around words, vectors and workgroups, ragged lengths.
tests/engine/test_rnn.py has the rest."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.kernels import ACTIVATIONS, Kernel
from sardonyx.lowering import Lowering, View
from sardonyx.types import DType
from sardonyx.webgpu.kernels.rnn import FEW_STEPS, FUNCTIONS, GATES
from sardonyx.webgpu.recording import record

from .programs import agree, both, planned

RNG = np.random.default_rng(3)
FIRST = (("Sigmoid", "Tanh", "Tanh"), ("Sigmoid", "Tanh"), ("Tanh",))


def given(cell: int, steps: int, batch: int, hidden: int, directions: int, size: int = 3) -> list[np.ndarray]:
    """x, W, R, B, lengths, first states."""
    rows = GATES[cell] * hidden
    shapes = ((steps, batch, size), (directions, rows, size), (directions, rows, hidden), (directions, 2 * rows), (directions, batch, hidden), (directions, batch, hidden))
    x, w, r, b, h, c = ((RNG.standard_normal(s) * scale).astype(np.float32) for s, scale in zip(shapes, (1, 0.5, hidden**-0.5, 0.3, 0.5, 0.5), strict=True))
    return [x, w, r, b, RNG.integers(1, steps + 1, batch).astype(np.int32), h, *([c] if cell == 0 else [])]


def rule(cell: int, directions: int, known: np.ndarray | None = None, **more: Any) -> Any:
    """`known`: R as a constant."""
    def made(k: Lowering, *given: View) -> list[View]:
        inputs = [*given] if known is None else [*given[:2], k.constant(known), *given[3:]]
        x, r = inputs[0], inputs[2]
        hidden, steps, batch = r.shape[2], *x.shape[:2]
        outputs = [k.buffer(DType.FLOAT, shape).whole() for shape in ((steps, directions, batch, hidden), (directions, batch, hidden), *([(directions, batch, hidden)] if cell == 0 else []))]
        names = [*FIRST[cell]] * directions
        assert len(names) == FUNCTIONS[cell] * directions
        params = {"linear_before_reset": 0, "clip": 0.0, "input_forget": 0, "activations": [ACTIVATIONS.index(n) for n in names], **more}
        k.call(Kernel.RNN, list(inputs), outputs, cell=cell, direction=2 if directions == 2 else 0, **params)
        return outputs
    return made


@pytest.mark.parametrize("cell", [0, 1, 2])
@pytest.mark.parametrize(("steps", "batch", "hidden", "directions"), [
    (1, 2, 4, 1), (FEW_STEPS, 1, 5, 2), (FEW_STEPS + 1, 3, 5, 2), (9, 1, 64, 1), (6, 1, 258, 1), (5, 0, 8, 1)])
@pytest.mark.parametrize("constant", [False, True])
def test_cells(device: Any, cell: int, steps: int, batch: int, hidden: int, directions: int, constant: bool) -> None:
    inputs = given(cell, steps, batch, hidden, directions)
    agree(device, rule(cell, directions, inputs[2] if constant else None), *inputs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("steps", [3, 8])
@pytest.mark.parametrize("constant", [False, True])
def test_gru_that_resets_late(device: Any, steps: int, constant: bool) -> None:
    inputs = given(1, steps, 2, 37, 1)
    agree(device, rule(1, 1, inputs[2] if constant else None, linear_before_reset=1), *inputs, rtol=1e-4, atol=2e-5)


def test_a_constant_state_matrix_is_laid_out_once(device: Any) -> None:
    """A dispatch less than where it comes with the run."""
    inputs = given(0, 9, 1, 64, 1)
    known, plain = (record(*planned(rule(0, 1, r), [(DType.of(x), x.shape) for x in inputs]), device.limits, True)[0].dispatches for r in (inputs[2], None))
    assert len(known) == len(plain) - 1


def test_a_long_sequence(device: Any) -> None:
    """llvmpipe ends the loops of an invocation after 65,535 turns of all of them together, without a word: as a quad's that is 60 steps of these."""
    inputs = given(0, 64, 1, 128, 1)
    inputs[4][:] = 64
    agree(device, rule(0, 1, inputs[2]), *inputs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_sequence(device: Any, value: float) -> None:
    """Nor do zeros behind the last unit meet it."""
    inputs = given(0, 6, 3, 5, 1)
    inputs[0][2, 1, 0], inputs[4][:] = value, 6
    got, wanted = both(device, rule(0, 1), *inputs)
    np.testing.assert_allclose(got[0][:, :, ::2], wanted[0][:, :, ::2], rtol=1e-4, atol=2e-5)
    if np.isnan(value):
        assert np.isnan(got[0][2:, :, 1]).all() and np.isfinite(got[0][:2, :, 1]).all()


@pytest.mark.parametrize(("hidden", "names", "clip"), [(20, FIRST[0] * 2, 0.0), (36, ("HardSigmoid", "Softsign", "Relu", "Sigmoid", "Tanh", "Affine"), 0.4), (8, ("Tanh",) * 6, 0.0)])
def test_quads_share_an_lstm(device: Any, hidden: int, names: tuple[str, ...], clip: float) -> None:
    """Where a software adapter has subgroups: both directions, ragged lengths, bounds and functions of each direction's own, alike or not."""
    inputs = given(0, 5, 3, hidden, 2)
    inputs[4][:] = 0, 4, 5
    chosen = {"activations": [ACTIVATIONS.index(n) for n in names], "alpha": [0.2, 0, 0, 0, 0, 0.7], "beta": [0.5, 0, 0, 0, 0, 0.1], "clip": clip}
    agree(device, rule(0, 2, inputs[2], **chosen), *inputs, rtol=1e-4, atol=2e-5)
    shaders = record(*planned(rule(0, 2, inputs[2], **chosen), [(DType.of(x), x.shape) for x in inputs]), device.limits, True, features=device.features)[0].shaders
    assert any("quadBroadcast" in one.source for one in shaders) == ("subgroups" in device.features)
