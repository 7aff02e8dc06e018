"""Damage many files, open each, and hold what happens against the promise: only typed errors, no case over 1 s, no allocation over 64 MB beyond the file.

    python -m tests.fuzz.run --kind sdx --files 100000 --seed 1 [--seconds 600] [--case N]

A session is made of a file (read, shapes inferred, compiled for the reference executor), asked what it says of itself and, where that is known to be cheap, run once. Cases run in a worker process:
if it dies, the case that killed it is named. `--case` repeats one case with a traceback.
"""
from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
import traceback
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sardonyx import InferenceSession
from sardonyx.dim import is_static, product, substitute, symbols
from sardonyx.errors import SardonyxError
from sardonyx.graph import Model
from sardonyx.model import read_model
from sardonyx.types import DType, TensorType

from tests.fuzz import mutate, mutate_onnx, seeds

MAX_SECONDS = 1.0
MAX_BYTES = 64 << 20
CHEAP_ELEMENTS = 1 << 14
#: Operators whose work the sizes of their values do not bound.
COSTLY = frozenset({"Loop", "Scan", "SequenceMap", "StringSplit", "RegexFullMatch"})


class Hang(BaseException):
    """A case that ran far beyond its time (not an Exception: nothing may catch it)."""


def _alarm(*_: Any) -> None:
    raise Hang


def mutators(kind: str) -> list[Any]:
    """The seeds of a kind, ready to be mutated."""
    return [mutate.Seed(f) for f in seeds.sdx_files()] if kind == "sdx" else [mutate_onnx.Seed(f) for f in seeds.onnx_files()]


def case(kind: str, prepared: list[Any], seed: int, number: int) -> bytes:
    """The file of one case."""
    rng = seeds.seeded(seed, number)
    return rng.choice(prepared).mutated(rng)


def check(kind: str, data: bytes) -> str:
    """Put a file through everything; what came of it, in a word. A word that begins with BAD breaks the promise. What takes too long is tried again: the machine may have been busy."""
    for _ in range(3):
        outcome = _check(kind, data)
        if not outcome.startswith("BAD") or " s (" not in outcome:
            break
    return outcome


def _check(kind: str, data: bytes) -> str:
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 20 * MAX_SECONDS)
    try:
        outcome = _open(kind, data)
    except SardonyxError as error:
        outcome = type(error).__name__ if str(error) else f"BAD {type(error).__name__} without a message"
    except Hang:
        outcome = "BAD hang"
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f"BAD {type(error).__name__}: {str(error)[:100]} ({Path(frame.filename).name}:{frame.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before - len(data)
    if not outcome.startswith("BAD") and seconds > MAX_SECONDS:
        outcome = f"BAD {seconds:.1f} s ({outcome})"
    if not outcome.startswith("BAD") and peak > MAX_BYTES:
        outcome = f"BAD {peak >> 20} MB ({outcome})"
    return outcome


def _open(kind: str, data: bytes) -> str:
    """The whole way of a file: read, verified, shapes inferred, compiled; and run where that is cheap."""
    if kind == "sdx":  # a session tells the kind by the first bytes, which may be what was damaged
        read_model(data).graph.verify()
    session = InferenceSession(data, providers=["reference"])
    try:
        str(session.explain()), list(map(str, [*session.get_inputs(), *session.get_outputs()])), session.get_modelmeta().custom_metadata_map
        feeds = _feeds(session._model)
        if feeds is None:
            return "opened"
        session.run(None, feeds)
        return "ran"
    finally:
        session.close()


def _feeds(model: Model) -> dict[str, Any] | None:
    """Small inputs, where every value of the model is known to be small; else None."""
    nodes = list(model.graph.walk())
    if any(n.op_type in COSTLY for n in nodes):
        return None
    values = {v for g in model.graph.graphs() for v in [*g.inputs, *g.outputs]} | {v for n in nodes for v in [*n.inputs, *n.outputs] if v is not None}
    total = 0
    for value in values:
        shape = _sized(value.type)
        if shape is None or not is_static(shape) or min(shape, default=1) < 0 or max(shape, default=0) > CHEAP_ELEMENTS:
            return None
        total += product(shape)
    if total > CHEAP_ELEMENTS or sum(_numbers_in(n) for n in nodes) > CHEAP_ELEMENTS:
        return None
    return {v.name: np.full(_sized(v.type), "" if v.dtype is DType.STRING else 0, v.dtype.numpy) for v in model.graph.inputs if v.dtype is not None}


def _sized(kind: Any) -> Any:
    """The shape of a tensor type with every symbol taken as 2."""
    if not isinstance(kind, TensorType) or kind.dtype is None or kind.shape is None:
        return None
    return tuple(substitute(d, {s.name: 2 for s in symbols(d)}) for d in kind.shape)


def _numbers_in(node: Any) -> int:
    """The largest integer among the attributes: what a body may take as a count."""
    flat = [i for v in node.attributes.values() for i in (v if isinstance(v, list) else [v]) if isinstance(i, int)]
    return max((abs(i) for i in flat), default=0)


def watch() -> None:
    """Measure memory and arm the alarm of this process."""
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    signal.signal(signal.SIGPROF, _alarm)


def _work(kind: str, seed: int, numbers: range, pipe: Any) -> None:
    watch()
    prepared = mutators(kind)
    for number in numbers:
        pipe.send((number, None))
        pipe.send((number, check(kind, case(kind, prepared, seed, number))))
    pipe.close()


def main() -> int:
    """The command line; 1 where a case broke the promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("sdx", "onnx"), default="sdx")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--case", type=int)
    options = parser.parse_args()
    if options.case is not None:
        print(_open(options.kind, case(options.kind, mutators(options.kind), options.seed, options.case)))
        return 0
    outcomes, bad, done = Counter[str](), 0, 0
    end, next_case = time.monotonic() + options.seconds, 0
    while next_case < options.files and time.monotonic() < end:
        receive, send = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.Process(target=_work, args=(options.kind, options.seed, range(next_case, options.files), send))
        worker.start()
        send.close()
        current = next_case
        try:
            while time.monotonic() < end:
                if not receive.poll(120):
                    raise EOFError
                current, outcome = receive.recv()
                if outcome is not None:
                    outcomes[outcome.split(":")[0] if not outcome.startswith("BAD") else "BAD"] += 1
                    done += 1
                    if outcome.startswith("BAD"):
                        bad += 1
                        print(f"case {current}: {outcome}", flush=True)
                next_case = current + 1 if outcome is not None else current
        except EOFError:
            worker.join(1)
            if worker.exitcode != 0:
                bad += 1
                print(f"case {current}: BAD the worker {'hangs' if worker.exitcode is None else f'died ({worker.exitcode})'}", flush=True)
            next_case = current + 1
        worker.kill()
        worker.join()
    print(f"{done} {options.kind} files, seed {options.seed}: {dict(outcomes.most_common())}; {bad} bad")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
