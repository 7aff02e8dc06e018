"""Runs the suite on one executor with two long-lived workers; a case that crashes or exceeds its time fails alone and the worker is restarted."""
from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

SECONDS = 180.0  # per case; the slowest take a few, on a machine busy with other things a minute
#: Of a GPU that a processor plays in a browser: VGG-19 (39 GFLOP) takes it a minute by itself.
PATIENCE = {"chromium-webgpu": 4.0}


def _work(pipe: Connection, executor: str) -> None:
    """Worker: says (None, "", "") when it is ready (a browser or Pyodide takes its time), then receives case indices, answers (index, error or "", where it ran)."""
    import os
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from .executors import EXECUTORS, PLACES, PREPARED
    from .suite import compare, load
    cases = load()
    run = EXECUTORS[executor]
    PREPARED.get(executor, lambda: None)()
    pipe.send((None, "", ""))
    while True:
        index = pipe.recv()
        if index is None:
            return
        case = cases[index]
        try:
            for inputs, expected in case.sets:
                compare(case, expected, run(case, inputs))
            pipe.send((index, "", PLACES.get(case.name, "")))
        except Exception as error:  # every failure is a result here
            pipe.send((index, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", ""))


class _Worker:
    def __init__(self, executor: str) -> None:
        self.seconds = SECONDS * PATIENCE.get(executor, 1.0)
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, executor), daemon=True)
        self.process.start()
        theirs.close()
        self.busy: int | None = None
        self.since = 0.0

    def give(self, index: int) -> None:
        self.busy, self.since = index, time.monotonic()
        self.pipe.send(index)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_suite(executor: str, indices: Sequence[int], workers: int = 2, progress: Callable[[int], Any] = lambda done: None,
              places: dict[int, str] | None = None) -> dict[int, str]:
    """Index → "" (passed) or why it failed, for the given cases. `places` is filled with where each passed case ran (see `executors.PLACES`)."""
    waiting = list(reversed(indices))
    results: dict[int, str] = {}
    pool = [_Worker(executor) for _ in range(workers)]
    while len(results) < len(indices):
        for worker in pool:
            if worker.busy is None and waiting:
                worker.give(waiting.pop())
        wait([w.pipe for w in pool if w.busy is not None], timeout=1.0)
        for i, worker in enumerate(pool):
            if worker.busy is None:
                continue
            outcome = _outcome(worker)
            if outcome is not None:
                results[worker.busy] = outcome[0]
                if places is not None and outcome[2]:
                    places[worker.busy] = outcome[2]
                progress(len(results))
                worker.busy = None
                if outcome[1]:
                    worker.stop()
                    pool[i] = _Worker(executor)
    for worker in pool:
        worker.stop()
    return results


def _outcome(worker: _Worker) -> tuple[str, bool, str] | None:
    """(result, worker must be restarted, where it ran), or None while the case still runs."""
    try:
        if worker.pipe.poll():
            index, result, place = worker.pipe.recv()
            if index is None:
                worker.since = time.monotonic()
                return None
            return result, False, place
    except (EOFError, OSError):
        worker.process.join(5)
        return f"crash: the worker ended with exit code {worker.process.exitcode}", True, ""
    if time.monotonic() - worker.since > worker.seconds:
        return f"timeout: more than {worker.seconds:.0f} s", True, ""
    return None
