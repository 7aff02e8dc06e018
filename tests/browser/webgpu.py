"""What the tests of WebGPU in a page share: the page's prelude, models with saved inputs and outputs."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx as ort
from onnx import parser
from playwright.sync_api import Page

#: In the page before each test. `tensors(name)`: the saved inputs or outputs of a model.
PRELUDE = """async (given) => {
  const ort = await import('/sardonyx/index.js');
  const { openDevice } = await import('/sardonyx/gpu.js');
  const tensors = async (name) => Object.fromEntries(await Promise.all((await (await fetch('/models/' + name + '.json')).json()).map(async ([key, type, dims], i) => {
    const bytes = await (await fetch(`/models/${name}.${i}`)).arrayBuffer();
    return [key, new ort.Tensor(type, new (new ort.Tensor(type, [], [0]).data.constructor)(bytes), dims)];
  })));
  const difference = (made, wanted) => Math.max(...Object.entries(wanted).map(([name, { data, dims }]) => {
    if (String(dims) !== String(made[name].dims)) return Infinity;
    return data.reduce((most, v, i) => Math.max(most, Math.abs(Number(v) - Number(made[name].data[i]))), 0);
  }));
  const failure = async (what) => { try { await what(); return ['no error', '']; } catch (error) { return [error.name, error.message, error instanceof ort.SardonyxError]; } };
  const gpu = { executionProviders: ['webgpu'] };
  %s
}"""
MLP = """<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 4] x) => (float[batch, 3] y) <float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] b = {0.5, -0.5, 0}> { a = MatMul(x, w) y = Add(a, b) }"""


def ask(page: Page, code: str, given: Any = None) -> Any:
    return page.evaluate(PRELUDE % code, given)


def save(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Tensors for the page: names, types and dims as JSON, bytes beside."""
    (folder / f"{name}.json").write_text(json.dumps([[key, str(a.dtype), list(a.shape)] for key, a in arrays.items()]))
    for i, a in enumerate(arrays.values()):
        (folder / f"{name}.{i}").write_bytes(np.ascontiguousarray(a).tobytes())


Maker = Callable[..., float]


@pytest.fixture(scope="session")
def keep(models: Path) -> Maker:
    """keep(name, model, **inputs): the model converted with programs for WebGPU; inputs and Python's outputs saved as name.in and name.out; returns the outputs' scale."""
    def make(name: str, model: Any, tag: str = "", **inputs: np.ndarray) -> float:
        if not (models / f"{name}.sdx").exists():
            ort.convert(model, models / f"{name}.sdx", webgpu=True)
        session = ort.InferenceSession(str(models / f"{name}.sdx"), providers=["CPUExecutionProvider"])
        outputs = dict(zip([v.name for v in session.get_outputs()], session.run(None, inputs), strict=True))
        save(models, f"{name}{tag}.in", inputs)
        save(models, f"{name}{tag}.out", outputs)
        return max(float(np.abs(a).max()) for a in outputs.values())
    return make


def mlp(keep: Maker) -> None:
    keep("gpu-mlp", parser.parse_model(MLP), x=np.arange(8, dtype=np.float32).reshape(2, 4))
