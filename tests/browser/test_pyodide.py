"""`import sardonyx as ort` in Pyodide: installed by micropip, on the main thread and in a worker, isolated and not."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx as ort
from playwright.sync_api import Page

from tests.models import generated
from tests.models.registry import fetch

IN_PAGE = "async ([wheels, code, files]) => (await import('/pyodide.js')).run(wheels, code, files)"
IN_WORKER = """([wheels, code, files]) => new Promise((resolve, reject) => {
  const worker = new Worker('/pyodide-worker.js', {type: 'module'});
  worker.onmessage = ({data}) => { worker.terminate(); data.error ? reject(new Error(data.error)) : resolve(data.result); };
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage({wheels, code, files});
})"""
CODE = """
import hashlib, json
import numpy as np
import sardonyx as ort
from sardonyx.wasm import binding

def strict():
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options

session = ort.InferenceSession("/model", strict(), providers=["CPUExecutionProvider"])
x = np.random.default_rng(7).normal(size=(2, 3, 224, 224)).astype(np.float32)
y, = session.run(None, {session.get_inputs()[0].name: x})
wrong = ""
try:
    session.run(None, {session.get_inputs()[0].name: x.astype(np.float64)})
except Exception as error:
    wrong = type(error).__name__
{"providers": ort.get_available_providers(), "threads": binding.engine().threads, "isa": binding.isas()[0], "y": y.ravel().astype(float).tolist(), "wrong": wrong}
"""


def names(wheels: Path) -> list[str]:
    return sorted(p.name for p in wheels.glob("*.whl"))


@pytest.mark.parametrize("where", ["page", "worker"])
def test_a_model_runs_in_pyodide(page: Page, address: str, wheels: Path, models: Path, where: str, request: pytest.FixtureRequest) -> None:
    path = models / "mobilenet_v2.onnx"
    if not path.exists():
        generated.mobilenet_v2(path)
    page.goto(address)
    found: dict[str, Any] = page.evaluate(IN_PAGE if where == "page" else IN_WORKER, [names(wheels), CODE, {"/model": "/models/mobilenet_v2.onnx"}])
    session = ort.InferenceSession(str(path))
    x = np.random.default_rng(7).normal(size=(2, 3, 224, 224)).astype(np.float32)
    wanted = session.run(None, {session.get_inputs()[0].name: x})[0].ravel()
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
    assert found["providers"] == ["CPUExecutionProvider"] and found["wrong"] == "InvalidArgument"
    assert found["isa"] == "relaxed"
    assert (found["threads"] > 1) == (where == "worker" and "isolated" in request.node.callspec.params["address"] and page.evaluate("navigator.hardwareConcurrency") > 2)


def test_magika_in_pyodide(page: Page, plain: str, wheels: Path) -> None:
    """A third party's model straight from its package, `.onnx` in, against this machine's answer."""
    path = fetch("magika")
    code = """
import numpy as np, sardonyx as ort
session = ort.InferenceSession("/model")
name = session.get_inputs()[0].name
x = np.random.default_rng(1).integers(0, 257, size=(3, 2048)).astype(np.int32)
session.run(None, {name: x})[0].astype(float).tolist()
"""
    page.goto(plain)
    found = page.evaluate(IN_PAGE, [names(wheels), code, {"/model": f"/cache/{path.name}"}])
    session = ort.InferenceSession(str(path))
    x = np.random.default_rng(1).integers(0, 257, size=(3, 2048)).astype(np.int32)
    np.testing.assert_allclose(np.array(found), session.run(None, {session.get_inputs()[0].name: x})[0], rtol=1e-3, atol=1e-5)
