"""The executors that run the suite, by id. Each takes a model converted to `.sdx` once (a cache all executors share) and numpy inputs.

Ids: reference; interpreter (planned programs in NumPy); native (the C engine); wasmtime (the engine as a WebAssembly module);
chromium-wasm (the JavaScript runtime in Chromium on stored programs); chromium-webgpu (the same on recordings for SwiftShader, with the wasm engine beside); pyodide (planned and run in Pyodide
under node); wgpu (WebGPU on lavapipe).
"""
from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .suite import CACHE, Case

ROOT = Path(__file__).resolve().parents[2]


@cache
def source_key() -> str:
    """A hash of everything that decides how a case is converted: the sources of core/ and converter/."""
    digest = hashlib.sha256()
    for folder in ("core", "converter"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def converted(case: Case) -> bytes:
    """The case's model as `.sdx` bytes."""
    name = hashlib.sha256(case.model).hexdigest()[:24]
    path = CACHE / f"sdx-{source_key()}" / f"{name}.sdx"
    if not path.exists():
        from sardonyx.converter.onnx import load_model
        from sardonyx.model import write_model
        from sardonyx.plan.shapes import infer_shapes
        model = load_model(case.model)
        infer_shapes(model)
        buffer = io.BytesIO()
        write_model(model, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{id(case)}.partial")
        partial.write_bytes(buffer.getvalue())
        partial.rename(path)
    return path.read_bytes()


def reference(case: Case, inputs: list[Any]) -> list[Any]:
    """The NumPy bodies, strict: only ReferenceExecutionProvider is listed."""
    import sardonyx
    session = sardonyx.InferenceSession(converted(case), providers=["ReferenceExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs: list[Any] = session.run(None, dict(zip(names, inputs, strict=False)))
    session.close()
    return outputs


#: Case name → where it ran last: "strict" (programs alone), "no kernel" (all of it known at planning), or why a node ran on the host.
PLACES: dict[str, str] = {}


def interpreter(case: Case, inputs: list[Any]) -> list[Any]:
    """Planned programs on the NumPy interpreter, with a poisoned arena; nodes without kernels on their NumPy bodies (`PLACES` says so)."""
    from sardonyx.providers.interpreter import Interpreter
    from sardonyx.providers.segmented import SegmentedExecutor
    return _in_segments(case, inputs, lambda model: SegmentedExecutor(model, "interpreter", lambda plan: Interpreter(plan.program, plan.constants)))


def native(case: Case, inputs: list[Any]) -> list[Any]:
    """CPUExecutionProvider: planned programs on the C engine; nodes without kernels on their NumPy bodies (`PLACES` says so)."""
    from sardonyx.providers.engine import EngineExecutor
    return _in_segments(case, inputs, lambda model: EngineExecutor(model, threads=1))


def wasmtime(case: Case, inputs: list[Any]) -> list[Any]:
    """The engine's simd128 module under wasmtime, otherwise as `native`."""
    from sardonyx.providers.engine import accepts
    from sardonyx.providers.segmented import SegmentedExecutor

    from tests.wasm.machine import WasmProgram
    return _in_segments(case, inputs, lambda model: SegmentedExecutor(model, "wasmtime", lambda plan: WasmProgram(plan.program, plan.constants), accepts=lambda ranges: accepts))


def chromium_wasm(case: Case, inputs: list[Any]) -> list[Any]:
    """The JavaScript runtime in Chromium on the case's stored programs."""
    from .chromium import run
    outputs, PLACES[case.name] = run(converted(case), inputs)
    return outputs


def chromium_webgpu(case: Case, inputs: list[Any]) -> list[Any]:
    """The JavaScript runtime in Chromium on recordings, on SwiftShader; what WGSL has no kernels for runs on the wasm engine (`PLACES` says so)."""
    from .chromium import run
    outputs, PLACES[case.name] = run(converted(case), inputs, webgpu=True)
    return outputs


def pyodide(case: Case, inputs: list[Any]) -> list[Any]:
    """CPUExecutionProvider in Pyodide under node: planned there, run on the engine's WebAssembly module; nodes without kernels on their NumPy bodies (`PLACES` says so)."""
    from .pyodide import run
    outputs, PLACES[case.name] = run(converted(case), inputs)
    return outputs


def wgpu(case: Case, inputs: list[Any]) -> list[Any]:
    """WebGpuExecutionProvider through wgpu-py, on lavapipe; nodes without kernels on their NumPy bodies (`PLACES` says so)."""
    from sardonyx.webgpu.provider import WebGpuExecutor
    return _in_segments(case, inputs, lambda model: WebGpuExecutor(_lavapipe(), model))


@cache
def _lavapipe() -> Any:
    import os
    os.environ.setdefault("VK_DRIVER_FILES", "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
    os.environ.setdefault("SARDONYX_WEBGPU_ADAPTER", "llvmpipe")
    from sardonyx.webgpu.device import open_device
    return open_device()


def _in_segments(case: Case, inputs: list[Any], make: Callable[[Any], Any]) -> list[Any]:
    from sardonyx.model import read_model
    from sardonyx.providers.base import RunContext
    model = read_model(converted(case))
    executor = make(model)
    given = list(inputs) + [None] * (len(model.graph.inputs) - len(inputs))
    given = [v.const.numpy() if x is None and v.const is not None else x for x, v in zip(given, model.graph.inputs, strict=True)]
    outputs: list[Any] = executor.run(given, range(len(model.graph.outputs)), RunContext())
    reasons = list(executor.latest.fallbacks.values())
    PLACES[case.name] = reasons[0] if reasons else "no kernel" if executor.latest.blocks.stepless else "strict"
    executor.close()
    return outputs


EXECUTORS: dict[str, Callable[[Case, list[Any]], list[Any]]] = {"reference": reference, "interpreter": interpreter, "native": native, "wasmtime": wasmtime,
                                                                  "chromium-wasm": chromium_wasm, "chromium-webgpu": chromium_webgpu, "pyodide": pyodide, "wgpu": wgpu}


def _pyodide() -> None:
    from .pyodide import process
    process()


def _page() -> None:
    from .chromium import page
    page()


#: What an executor starts before its first case.
PREPARED: dict[str, Callable[[], Any]] = {"pyodide": _pyodide, "chromium-wasm": _page, "chromium-webgpu": _page, "wgpu": _lavapipe}


def known_failures(executor: str) -> dict[str, str]:
    """Case → reason, as committed: the cases this executor is known not to pass."""
    path = Path(__file__).parent / "failures" / f"{executor}.json"
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return found
