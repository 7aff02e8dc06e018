"""Sessions under misuse: closed twice, used after closing, closed during a run, shared by threads, stopped; callbacks that fail."""
from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import helper
from sardonyx.errors import Fail, InvalidArgument, NoModel, RuntimeException, Terminated

from tests.api import models
from tests.patience import SECONDS, until

from .tools import FLOAT, INT64, F, model, node, refused, session, vi

ONES = {"x": np.ones(3, F)}
STEP = {"x": np.ones(1, F)}


class Background:
    """A run on another thread; `result()` waits for it."""

    def __init__(self, made: Any, feed: Any, options: Any = None) -> None:
        self.got: list[Any] = []
        self.thread = threading.Thread(target=self._work, args=(made, feed, options))
        self.thread.start()

    def _work(self, made: Any, feed: Any, options: Any) -> None:
        try:
            self.got.append(made.run(None, feed, options))
        except Exception as error:
            self.got.append(error)

    def result(self) -> Any:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the run did not end"
        return self.got[0]


def test_closing_twice_and_using_after() -> None:
    made = session(models.scaled())
    binding = made.io_binding()
    binding.bind_cpu_input("x", ONES["x"])
    binding.bind_output("q")
    made.close()
    made.close()
    for use in (lambda: made.run(None, ONES), lambda: made.run_with_ort_values(None, {"x": sardonyx.OrtValue.ortvalue_from_numpy(ONES["x"])}),
    lambda: made.run_async(None, ONES, print, None),
                lambda: made.run_with_iobinding(binding), made.explain, lambda: made.set_providers(["reference"]), made.get_provider_graph_assignment_info):
        with refused(NoModel, "this session is closed", "new InferenceSession"):
            use()
    assert [a.name for a in made.get_inputs()] == ["x"] and made.get_modelmeta().producer_name == "tests" and "graph" in repr(made)
    with session(models.scaled()) as again:
        assert again.run(None, ONES)[0].tolist() == [2, 2, 2]
    with refused(NoModel):
        again.run(None, ONES)


def test_closing_during_a_run() -> None:
    """close returns at once, refuses new runs and lets the one that is going on finish; it can still be stopped."""
    made, options = session(models.endless()), sardonyx.RunOptions()
    run = Background(made, STEP, options)
    until(lambda: made._gate._active)
    made.close()
    made.close()
    with refused(NoModel):
        made.run(None, STEP)
    assert run.thread.is_alive()
    options.terminate = True
    assert isinstance(run.result(), Terminated)
    assert not made._gate._active and not made._gate._retired and not hasattr(made._executor, "_compiled"), "the last run gives the memory back"


def test_closing_during_a_run_that_finishes() -> None:
    made = session(repeated(400))
    run = Background(made, SQUARE)
    until(lambda: made._gate._active or run.got)
    made.close()
    assert isinstance(run.result(), list)


def repeated(count: int) -> bytes:
    """`count` products of matrices."""
    return model([node("MatMul", [f"v{i}" if i else "x", "w"], [f"v{i + 1}"]) for i in range(count)], [vi("x", FLOAT, [128, 128])], [vi(f"v{count}", FLOAT, None)],
        {"w": np.eye(128, dtype=F)})


SQUARE = {"x": np.ones((128, 128), F)}


def test_stopping_between_nodes() -> None:
    made, options = session(repeated(20_000)), sardonyx.RunOptions()
    run = Background(made, SQUARE, options)
    until(lambda: made._gate._active)
    time.sleep(0.05)
    options.terminate = True
    error = run.result()
    assert isinstance(error, (Terminated, RuntimeException)) and isinstance(error, Fail) and "RunOptions.terminate" in str(error)
    other = sardonyx.RunOptions()
    small = session(models.scaled())
    with refused(Terminated, "RunOptions.terminate"):
        small.run(None, ONES, options)
    assert small.run(None, ONES, other)[0].tolist() == [2, 2, 2]  # one run's options are nobody else's
    options.terminate = False
    assert small.run(None, ONES, options)[0].tolist() == [2, 2, 2]


def test_stopping_in_nested_loops() -> None:
    inner = helper.make_graph([node("Add", ["v", "v"], ["w"]), node("Identity", ["ci"], ["di"])], "inner", [vi("ii", INT64, []), vi("ci", 9, []), vi("v", FLOAT, [1])],
    [vi("di", 9, []), vi("w", FLOAT, [1])])
    outer = helper.make_graph([node("Loop", ["n", "", "u"], ["t"], body=inner), node("Identity", ["co"], ["do"])], "outer",
    [vi("io", INT64, []), vi("co", 9, []), vi("u", FLOAT, [1])], [vi("do", 9, []), vi("t", FLOAT, [1])])
    made = session(model([node("Loop", ["n", "", "x"], ["y"], body=outer)], [vi("x", FLOAT, [1])], [vi("y", FLOAT, [1])], {"n": np.array(2**40)}))
    options = sardonyx.RunOptions()
    run = Background(made, STEP, options)
    until(lambda: made._gate._active)
    time.sleep(0.05)
    options.terminate = True
    error = run.result()
    assert isinstance(error, Terminated) and str(error) == "the run was stopped by RunOptions.terminate"


@pytest.mark.parametrize("data", [models.branches(), repeated(20), models.noise()], ids=["branches", "matrices", "random"])
def test_threads_share_a_session(data: bytes) -> None:
    """Every thread gets what it would get alone."""
    sardonyx.set_seed(3)
    made = session(data)
    feeds: list[dict[str, Any]] = []
    for i in range(8):
        rng = np.random.default_rng(i)
        feeds.append({a.name: np.array(i % 2 == 0) if a.type == "tensor(bool)" else rng.standard_normal([d if isinstance(d,
        int) else 2 for d in a.shape]).astype(F) for a in made.get_inputs()})
    alone = [made.run(None, feed) for feed in feeds]
    for _ in range(5):
        runs = [Background(made, feed) for feed in feeds]
        for run, expected in zip(runs, alone, strict=True):
            got = run.result()
            assert isinstance(got, list), got
            if feeds[0]:
                np.testing.assert_array_equal(got[0], expected[0])
            else:
                assert got[0].shape == expected[0].shape


def test_one_threads_error_is_its_own() -> None:
    made = session(model([node("Gather", ["w", "i"], ["y"])], [vi("i", INT64, [1])], [vi("y", FLOAT, None)], {"w": np.arange(4, dtype=F)}))
    runs = [Background(made, {"i": np.array([i])}) for i in range(8)]
    for i, run in enumerate(runs):
        got = run.result()
        if i < 4:
            assert got[0].tolist() == [i]
        else:
            assert isinstance(got, RuntimeException) and f"index {i}" in str(got)


# -- run_async -------------------------------------------------------------------------------------------------------------------------------------

class Callback:
    """Keeps what it was called with; `then` happens after."""

    def __init__(self, then: Any = lambda: None) -> None:
        self.calls: list[Any] = []
        self.done, self.then = threading.Event(), then

    def __call__(self, results: Any, data: Any, error: str) -> None:
        self.calls.append((results, data, error))
        try:
            self.then()
        finally:
            self.done.set()

    def wait(self) -> Any:
        assert self.done.wait(SECONDS)
        return self.calls[0]


def fails(kind: type[BaseException]) -> Any:
    def fail() -> None:
        raise kind("from the callback")
    return fail


@pytest.mark.parametrize("kind", [ValueError, KeyError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises(kind: type[BaseException], monkeypatch: Any) -> None:
    """It is reported as any uncaught exception of a thread is, and the next run is not disturbed."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: seen.append(error))
    made, callback, after = session(models.scaled()), Callback(fails(kind)), Callback()
    made.run_async(None, ONES, callback, 1)
    callback.wait()
    made.run_async(None, ONES, after, 2)
    results, data, error = after.wait()
    assert results[0].tolist() == [2, 2, 2] and data == 2 and error == ""
    assert len(callback.calls) == 1, "a failing callback is not called again with its own error"
    if issubclass(kind, Exception):
        until(lambda: seen)
        assert seen[0][0] is kind


def test_callbacks_may_use_the_session() -> None:
    made = session(models.scaled())
    inner: list[Any] = []
    running, closing = Callback(lambda: inner.append(made.run(None, ONES))), Callback(made.close)
    made.run_async(None, ONES, running, None)
    running.wait()
    assert inner[0][0].tolist() == [2, 2, 2]
    made.run_async(None, ONES, closing, None)
    closing.wait()
    with refused(NoModel):
        made.run(None, ONES)


def test_more_runs_than_threads() -> None:
    made = session(models.scaled())
    callbacks = [Callback() for _ in range(100)]
    for i, callback in enumerate(callbacks):
        made.run_async(None, {"x": np.full(3, i, F)}, callback, i)
    for i, callback in enumerate(callbacks):
        results, data, error = callback.wait()
        assert (results[0].tolist(), data, error) == ([2.0 * i] * 3, i, "")


def test_errors_of_asynchronous_runs_name_the_thing() -> None:
    made = session(models.scaled())
    for feed, words in [({"x": np.ones(2, F)}, ["'x'", "float[3]"]), ({"x": np.ones(3)}, ["tensor(double)", ".astype(np.float32)"])]:
        callback = Callback()
        made.run_async(None, feed, callback, None)
        results, _, error = callback.wait()
        assert results == [] and all(word in error for word in words)
    with refused(InvalidArgument, "Required inputs (['x'])"):
        made.run_async(None, {}, Callback(), None)
    with refused(InvalidArgument, "callback must be callable"):
        made.run_async(None, ONES, "callback", None)
