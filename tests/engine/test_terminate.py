"""A run stops soon after it is told to, wherever it is: natively between and inside tiles, and by the budget, which leaves a step in the middle and goes on with the same results."""
from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sardonyx
from sardonyx.engine.binding import EngineProgram
from sardonyx.errors import Terminated

from tests.patience import least
from tests.wasm.machine import WasmProgram

from .long_steps import LONG, product, questions, stopped
from .one_step import OneStep

SOON = 0.1  # seconds of processor time, of two threads the sum; 20 ms is the promise
#: Not left in the middle by a budget: one tile, in which one thread walks a row (they do ask whether the run was stopped).
WHOLE = {"top-k", "determinant", "inverse", "unique", "scatter, points", "scatter, one line"}


@pytest.mark.parametrize("name", [n for n in LONG if n not in WHOLE])
def test_steps_are_left_in_the_middle(name: str) -> None:
    """With one and two threads a run that is left after every tile gives what one without a budget does; and it is asked often."""
    made = LONG[name](0.1)
    want = [y.tobytes() for y in EngineProgram(made.program, [], threads=2).run(made.arrays)]
    for threads in (1, 2):
        found, between = questions(EngineProgram(made.program, [], threads=threads), made.arrays, 1)
        assert [y.tobytes() for y in found] == want
        assert len(between) > 2 and sorted(between)[len(between) // 2] < SOON


@pytest.mark.parametrize("name", ["matmul", "matmul, bytes, long K", "conv", "attention", "sort, one row", "rnn, batch"])
def test_steps_are_left_in_webassembly(name: str) -> None:
    made = LONG[name](0.02)
    program = WasmProgram(made.program, [])
    want = [y.tobytes() for y in program.run(made.arrays)]
    found, between = questions(program, made.arrays, 1)
    assert [y.tobytes() for y in found] == want
    assert len(between) > 1 and sorted(between)[len(between) // 2] < SOON
    with pytest.raises(Terminated):
        program.run(made.arrays, budget=1, terminated=lambda: True)
    assert [y.tobytes() for y in program.run(made.arrays)] == want


def soonest(made: OneStep, threads: int, after: float, missed: float = 0.0) -> float:
    """The least of a few tries: the thread that stops the run may come late, even after its end (`missed` then)."""
    def measure() -> float:
        found = stopped(made, threads, after)
        return missed if found is None else found
    return least(measure, SOON)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", list(LONG))
def test_stops_from_another_thread(name: str, threads: int) -> None:
    assert soonest(LONG[name](0.3), threads, 0.02) < SOON


def test_a_step_of_many_seconds_stops() -> None:
    """Terminating is what ends it: 10 s of products."""
    made = product(8192, 8192, 8192)
    assert soonest(made, 2, 0.1, missed=1.0) < SOON and soonest(made, 1, 0.1, missed=1.0) < SOON


@pytest.mark.parametrize("operator,size,stored", [("MatMul", 8192, False), ("Det", 3000, False), ("Det", 3000, True)])
def test_run_options_stop_a_step(operator: str, size: int, stored: bool, tmp_path: Path) -> None:
    """RunOptions.terminate set by another thread while one step runs; a determinant is one tile, which asks."""
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    x, y = h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [size, size]), h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = h.make_node(operator, ["x", "x"] if operator == "MatMul" else ["x"], ["y"])
    model = h.make_model(h.make_graph([node], "g", [x], [y]), opset_imports=[h.make_opsetid("", 20)], ir_version=10).SerializeToString()
    if stored:
        sardonyx.convert(model, tmp_path / "m.sdx")
    session = sardonyx.InferenceSession(tmp_path / "m.sdx" if stored else model)
    given = np.random.default_rng(1).standard_normal((size, size), np.float32)

    def stopped_after() -> float:
        """Seconds of processor time from the option's setting to the end of the run."""
        options, at = sardonyx.RunOptions(), list[float]()

        def stop() -> None:
            time.sleep(0.3)
            at.append(time.process_time())
            options.terminate = True
        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(Terminated):
            session.run(None, {"x": given}, options)
        took = time.process_time() - at[0]
        thread.join()
        assert not options._stops._told
        with pytest.raises(Terminated):   # it stays set
            session.run(None, {"x": given}, options)
        return took
    assert least(stopped_after, SOON) < SOON
