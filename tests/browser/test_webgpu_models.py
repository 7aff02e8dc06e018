"""Public models in a page on WebGPU (SwiftShader), strict: nothing on the CPU but shape arithmetic; their scripts step by step against onnxruntime, as tests/webgpu/test_models.py does on the
desktop."""
from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx as ort
from playwright.sync_api import Page

from tests.models import test_public_models as public
from tests.models.inputs import SCRIPTS, play
from tests.models.registry import light_models

from .webgpu import ask, save

#: Those that take a few seconds; `make test-all` runs the others too.
QUICK = ("ocr-cls", "romanizer-encoder", "surfaces-k-neighbors")
OPEN = """
  globalThis.opened = await ort.InferenceSession.create('/models/' + given + '.sdx', { executionProviders: ['webgpu'], extra: { session: { disable_cpu_ep_fallback: '1' } } });
  return opened.explain().webgpu;
"""
RUN = """
  const found = await opened.run(await tensors(given));
  const text = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength).toBase64();
  return [(await openDevice()).pipelines, opened.outputNames.map((name) => [found[name].type, found[name].dims, text(found[name].data)])];
"""
TYPES = {"float32": np.float32, "float64": np.float64, "int64": np.int64, "int32": np.int32, "uint8": np.uint8, "int8": np.int8, "bool": np.bool_, "float16": np.float16}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in (*SCRIPTS, *sorted(light_models()))])
def test_public_model_with_fallback_disabled(page: Page, isolated: str, models: Path, name: str) -> None:
    file = models / f"gpu-public-{name}.sdx"
    ort.convert(public._path(name), file, webgpu=True)
    page.goto(isolated)
    about = ask(page, OPEN, f"gpu-public-{name}")
    assert about["dispatches"] > 0 and all(one["shape"] for one in about["beside"])

    compiled = set()

    def run(feed: dict[str, Any]) -> list[np.ndarray]:
        save(models, f"gpu-public-{name}.in", {key: np.asarray(value) for key, value in feed.items()})
        pipelines, outputs = ask(page, RUN, f"gpu-public-{name}.in")
        compiled.add(pipelines)
        return [np.frombuffer(base64.b64decode(text), TYPES[kind]).reshape(dims) for kind, dims, text in outputs]
    session = ort.InferenceSession(public._path(name), providers=["CPUExecutionProvider"])   # says what its inputs are
    public.agree(name, play(public._script(name, session), run), public.expected(name))
    assert len(compiled) == 1, "another size, or another step, compiled a pipeline"
