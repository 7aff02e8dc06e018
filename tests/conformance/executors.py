"""The executors that run the suite, by id. Each takes a model converted to `.sdx` once (a cache all executors share) and numpy inputs.

Ids: reference; native, wasmtime, wgpu, chromium-wasm, chromium-webgpu join as they are built.
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


EXECUTORS: dict[str, Callable[[Case, list[Any]], list[Any]]] = {"reference": reference}


def known_failures(executor: str) -> dict[str, str]:
    """Case → reason, as committed: the cases this executor is known not to pass."""
    path = Path(__file__).parent / "failures" / f"{executor}.json"
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return found
