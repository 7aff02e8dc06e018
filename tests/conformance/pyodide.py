"""The suite's cases in Pyodide under node, one process a worker: CPUExecutionProvider on the engine's WebAssembly module, nodes without kernels on their NumPy bodies."""
from __future__ import annotations

import pickle
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

#: Answers a pickled (bytes of a .sdx, inputs) by a pickled (outputs, where it ran) or (error, None).
SERVER = """
import pickle
from sardonyx.errors import SardonyxError
from sardonyx.model import read_model
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor

def answer(message):
    try:
        return pickle.dumps(run(*pickle.loads(message.to_bytes())), protocol=5)
    except Exception as error:
        return pickle.dumps((f"{type(error).__name__}: {error}", None), protocol=5)

def run(sdx, inputs):
    model = read_model(sdx)
    executor = EngineExecutor(model, threads=1)
    given = list(inputs) + [None] * (len(model.graph.inputs) - len(inputs))
    given = [v.const.numpy() if x is None and v.const is not None else x for x, v in zip(given, model.graph.inputs, strict=True)]
    outputs = executor.run(given, range(len(model.graph.outputs)), RunContext())
    reasons = list(executor.latest.fallbacks.values())
    place = reasons[0] if reasons else "no kernel" if executor.latest.blocks.stepless else "strict"
    executor.close()
    return outputs, place
"""


@cache
def process() -> subprocess.Popen[bytes]:
    """The Pyodide of this process."""
    from sardonyx.wasm.wheel import build_wheel, dependency_wheel

    from tests.browser.packages import pyodide
    node = shutil.which("node")
    if node is None:
        raise SystemExit("no node: .ci/setup test")
    folder = Path(tempfile.mkdtemp(prefix="sardonyx-pyodide-"))
    wheels = [build_wheel(folder), dependency_wheel(folder, "flatbuffers")]
    return subprocess.Popen([node, Path(__file__).with_suffix(".mjs"), pyodide(), SERVER, *wheels], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run(sdx: bytes, inputs: list[Any]) -> tuple[list[Any], str]:
    """The outputs of a converted model, and where it ran. RuntimeError with Pyodide's error."""
    host = process()
    assert host.stdin is not None and host.stdout is not None
    message = pickle.dumps((sdx, inputs), protocol=5)
    host.stdin.write(struct.pack("<I", len(message)) + message)
    host.stdin.flush()
    head = host.stdout.read(4)
    if len(head) < 4:
        raise SystemExit(f"Pyodide ended with exit code {host.wait()}")
    made, place = pickle.loads(host.stdout.read(struct.unpack("<I", head)[0]))
    if place is None:
        raise RuntimeError(made)
    return made, place
