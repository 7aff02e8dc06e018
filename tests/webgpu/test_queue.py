"""Runs that queue on the device: the next is submitted before the one before is read; results and errors are each run's own, in order; there is a bound."""
from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.converter.onnx import load_model
from sardonyx.errors import RuntimeException
from sardonyx.providers.base import RunContext
from sardonyx.webgpu.device.base import AHEAD, DeviceLost
from sardonyx.webgpu.provider import WebGpuExecutor

from .test_models import floats, mlp, model

GATHER = "g (float[5] x, int64[n] i) => (float[n] y) {\n    y = Gather(x, i) }"


class Watched:
    """The device's `fetch`, whose results come when `open` is set; `order`: what happened, "submit" and "read"."""

    def __init__(self, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.order, self.lock, fetch = threading.Event(), [], threading.Lock(), device.fetch
        self.flying = self.most = 0
        self.submitted = threading.Semaphore(0)

        def watched(spans: Any, reset: Any = None) -> Any:
            wait = fetch(spans, reset)
            with self.lock:
                self.order.append("submit")
                self.flying += 1
                self.most = max(self.most, self.flying)
            self.submitted.release()

            def held() -> Any:
                assert self.open.wait(60)
                found = wait()
                with self.lock:
                    self.order.append("read")
                    self.flying -= 1
                return found
            return held
        monkeypatch.setattr(device, "fetch", watched)


def test_the_next_run_is_submitted_before_this_one_is_read(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_async`: calls return at once; the second run is on its way while the first one's results are not there; callbacks come in the order of the calls."""
    session = sardonyx.InferenceSession(mlp(), providers=["WebGpuExecutionProvider"])
    feeds = [floats(3, 20) for _ in range(12)]
    wanted = [session.run(None, {"x": x})[0] for x in feeds]
    watched, made, done = Watched(own, monkeypatch), [], threading.Event()

    def callback(results: list[Any], number: Any, error: str) -> None:
        made.append((number, results, error))
        if len(made) == len(feeds):
            done.set()
    for i, x in enumerate(feeds):
        session.run_async(None, {"x": x}, callback, i)
    for _ in range(2):
        assert watched.submitted.acquire(timeout=60), "the second run waits for the first one's results"
    assert watched.order[:2] == ["submit", "submit"] and not made
    watched.open.set()
    assert done.wait(120)
    assert [number for number, _, _ in made] == list(range(len(feeds)))
    for number, results, error in made:
        assert error == ""
        np.testing.assert_array_equal(results[0], wanted[number])
    assert 2 <= watched.most <= AHEAD


def test_sizes_may_change_from_run_to_run(own: Any) -> None:
    """Memory that grows or is written anew under a run on its way does not change what that run gives."""
    session = sardonyx.InferenceSession(mlp(), providers=["WebGpuExecutionProvider"])
    feeds = [floats(n, 20) for n in (3, 40, 4, 300, 1, 17, 3, 500, 2)]
    reference = sardonyx.InferenceSession(mlp(), providers=["CPUExecutionProvider"])
    made: dict[int, Any] = {}
    done = threading.Semaphore(0)
    for i, x in enumerate(feeds):
        session.run_async(None, {"x": x}, lambda results, number, error: (made.update({number: (results, error)}), done.release()), i)
    for _ in feeds:
        assert done.acquire(timeout=120)
    assert list(made) == list(range(len(feeds)))
    for i, x in enumerate(feeds):
        assert made[i][1] == ""
        np.testing.assert_allclose(made[i][0][0], reference.run(None, {"x": x})[0], rtol=1e-4, atol=1e-6)


def test_an_error_belongs_to_its_run(own: Any) -> None:
    session = sardonyx.InferenceSession(model(GATHER), providers=["WebGpuExecutionProvider"])
    x, made, done = np.arange(5, dtype=np.float32), {}, threading.Semaphore(0)
    indices = [np.array([1, 2]), np.array([0, 7]), np.array([4]), np.array([9, 0]), np.array([-1, 3])]
    for i, index in enumerate(indices):
        session.run_async(None, {"x": x, "i": index}, lambda results, number, error: (made.update({number: (results, error)}), done.release()), i)
    for _ in indices:
        assert done.acquire(timeout=120)
    for i, index in enumerate(indices):
        results, error = made[i]
        if i in (1, 3):
            assert not results and "an index is outside the tensor" in error
        else:
            assert error == ""
            np.testing.assert_array_equal(results[0], x[index])


def test_threads_queue_runs_and_no_more_than_the_bound(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` from many threads: AHEAD runs are on their way at most; what the fastest thread asks for next waits."""
    executor = WebGpuExecutor(own, load_model(mlp()), strict=True)
    executor.run([floats(3, 20)], [0], RunContext())
    watched, wrong = Watched(own, monkeypatch), []
    feeds = [floats(3, 20) for _ in range(AHEAD + 3)]
    made: list[Any] = [None] * len(feeds)

    def work(i: int) -> None:
        try:
            made[i] = executor.run([feeds[i]], [0], RunContext())[0]
        except BaseException as error:
            wrong.append(error)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(feeds))]
    for thread in threads:
        thread.start()
    for _ in range(AHEAD):
        assert watched.submitted.acquire(timeout=60)
    assert not watched.submitted.acquire(timeout=0.3), "more runs on their way than the bound"
    watched.open.set()
    for thread in threads:
        thread.join()
    assert not wrong and watched.most == AHEAD
    for x, y in zip(feeds, made, strict=True):
        np.testing.assert_array_equal(y, executor.run([x], [0], RunContext())[0])
    assert len(own._staging) <= AHEAD, "staging buffers are pooled"
    executor.close()


def test_faults_of_queued_runs_are_not_mixed(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good run submitted behind a faulty one that is not read yet."""
    executor = WebGpuExecutor(own, load_model(model(GATHER)), strict=True)
    x = np.arange(5, dtype=np.float32)
    executor.run([x, np.array([1, 2])], [0], RunContext())
    watched, found = Watched(own, monkeypatch), {}

    def work(name: str, index: list[int]) -> None:
        try:
            found[name] = executor.run([x, np.array(index)], [0], RunContext())[0]
        except RuntimeException as error:
            found[name] = error
    threads = []
    for name, index in (("bad", [0, 8]), ("good", [2, 3])):
        threads.append(threading.Thread(target=work, args=(name, index)))
        threads[-1].start()
        assert watched.submitted.acquire(timeout=60)
    watched.open.set()
    for thread in threads:
        thread.join()
    assert isinstance(found["bad"], RuntimeException) and found["good"].tolist() == [2, 3]
    executor.close()


def test_a_device_lost_with_runs_on_their_way(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them fail, typed; the next one opens a device."""
    executor = WebGpuExecutor(own, load_model(mlp()), strict=True)
    x = floats(3, 20)
    wanted = executor.run([x], [0], RunContext())[0]
    watched, found = Watched(own, monkeypatch), []

    def work() -> None:
        try:
            found.append(executor.run([x], [0], RunContext())[0])
        except DeviceLost as error:
            found.append(error)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
        assert watched.submitted.acquire(timeout=60)
    own.close()
    watched.open.set()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 and all(isinstance(error, DeviceLost) for error in found)
    np.testing.assert_array_equal(executor.run([x], [0], RunContext())[0], wanted)
    assert executor.device is not own
    executor.close()


@pytest.mark.parametrize("on_device", [False, True])
def test_500_runs_leak_no_buffer(own: Any, on_device: bool) -> None:
    """Nor a bind group, with sizes that change; outputs that stay on the device go back to the pool."""
    executor = WebGpuExecutor(own, load_model(mlp()), strict=True)
    feeds = [floats(3 + i % 3, 20) for i in range(6)]
    stay = RunContext(stay=frozenset({0} if on_device else ()))
    counted = set()
    for i in range(500):
        executor.run([feeds[i % 6]], [0], stay)
        if i >= 20:
            counted.add((own.buffers, len(own._groups), own.compiled))
    assert len(counted) == 1
    executor.close()
