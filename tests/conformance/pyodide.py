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

from .server import packed, unpacked


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
    host = subprocess.Popen([node, Path(__file__).with_suffix(".mjs"), pyodide(), Path(__file__).with_name("server.py"), *wheels], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert host.stdout is not None
    if host.stdout.read(5) != b"ready":
        raise SystemExit(f"Pyodide ended with exit code {host.wait()}")
    return host


def run(sdx: bytes, inputs: list[Any]) -> tuple[list[Any], str]:
    """The outputs of a converted model, and where it ran. RuntimeError with Pyodide's error."""
    host = process()
    assert host.stdin is not None and host.stdout is not None
    message = pickle.dumps((sdx, [packed(x) for x in inputs]), protocol=5)
    host.stdin.write(struct.pack("<I", len(message)) + message)
    host.stdin.flush()
    head = host.stdout.read(4)
    if len(head) < 4:
        raise SystemExit(f"Pyodide ended with exit code {host.wait()}")
    made, place = pickle.loads(host.stdout.read(struct.unpack("<I", head)[0]))
    if place is None:
        raise RuntimeError(made)
    return [unpacked(y) for y in made], place
