"""The engine's modules under node (engine.mjs), where V8 runs them as a page does, with workers on shared memory."""
from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sardonyx.engine.binding import constant
from sardonyx.engine.build import TARGETS, find
from sardonyx.graph import Tensor
from sardonyx.program import Program

SCRIPT = Path(__file__).parent / "engine.mjs"
NODE = shutil.which("node")


@dataclass
class Case:
    """A program with its constants, inputs, and what the outputs look like."""

    name: str
    program: Program
    constants: Sequence[Tensor]
    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]
    runs: int = 1
    budget: int = 0


def write(case: Case, folder: Path) -> dict[str, Any]:
    """The case's files and its part of the job."""
    def file(kind: str, number: int, data: np.ndarray | bytes) -> str:
        name = f"{case.name}-{kind}{number}.bin"
        (folder / name).write_bytes(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())
        return name

    return {"name": case.name, "program": file("program", 0, case.program.pack()), "constants": [file("constant", i, constant(case.program, i, t)) for i, t in enumerate(case.constants)],
            "inputs": [{"file": file("input", i, x), "dims": list(x.shape)} for i, x in enumerate(case.inputs)], "outputs": [y.nbytes for y in case.outputs], "runs": case.runs, "budget": case.budget}


def run(cases: Sequence[Case], folder: Path, build: str, workers: int = 0, threads: int = 0) -> dict[str, Any]:
    """What engine.mjs prints, with each case's `outputs` as arrays."""
    job = {"module": str(find(TARGETS["wasm", build])), "workers": workers, "threads": threads, "folder": str(folder), "cases": [write(case, folder) for case in cases]}
    (folder / "job.json").write_text(json.dumps(job))
    done = subprocess.run([str(NODE), "--experimental-wasm-relaxed-simd", str(SCRIPT), str(folder / "job.json")], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    for case, found in zip(cases, made["cases"], strict=True):
        found["outputs"] = [np.frombuffer(base64.b64decode(y), w.dtype).reshape(w.shape) for y, w in zip(found["outputs"], case.outputs, strict=True)]
    return made
