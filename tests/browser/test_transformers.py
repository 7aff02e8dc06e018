"""transformers.js, unmodified, on this runtime: it takes what lies at Symbol.for("onnxruntime"), and the file it calls model.onnx is a .sdx."""
from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sardonyx as ort
from playwright.sync_api import Page

from tests.browser.packages import TRANSFORMERS, npm_file
from tests.models.registry import fetch

TEXTS = ["Hello world", "A cat sits on the mat.", "A kitten is sitting on a rug.", "Quarterly revenue rose by 7%, the bank's unaffordable figures say."]
PIPELINE = """async (texts) => {
  const ort = await import('/sardonyx/index.js');
  globalThis[Symbol.for('onnxruntime')] = ort;
  const { env, pipeline } = await import('/models/transformers.js');
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: '/models/', useBrowserCache: false });
  const extract = await pipeline('feature-extraction', 'minilm', { device: 'auto', dtype: 'fp32' });
  const tokens = extract.tokenizer(texts, { padding: true, truncation: true });
  const made = await extract(texts, { pooling: 'mean', normalize: true });
  const of = ({ dims, data }) => ({ dims, data: Array.from(data, Number) });
  return { ids: of(tokens.input_ids), mask: of(tokens.attention_mask), made: of(made), ours: extract.model.sessions.model instanceof ort.InferenceSession, picked: ort.env.wasm.picked };
}"""


@pytest.fixture(scope="module")
def minilm(models: Path) -> Path:
    """The folder a hub would serve. The file's export lost the output's name, which pipelines look up; the numbers are as they are."""
    folder = models / "minilm"
    (folder / "onnx").mkdir(parents=True)
    with zipfile.ZipFile(fetch("minilm-tokenizer")) as archive:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes(archive.read(name))
    model = onnx.load(fetch("minilm"))
    name = next(v.name for v in model.graph.output if [d.dim_value for d in v.type.tensor_type.shape.dim][2:] == [384])
    for node in model.graph.node:
        node.input[:] = ["last_hidden_state" if n == name else n for n in node.input]
        node.output[:] = ["last_hidden_state" if n == name else n for n in node.output]
    kept = next(v for v in model.graph.output if v.name == name)
    kept.name = "last_hidden_state"
    onnx.save(model, folder / "source.onnx")
    ort.convert(folder / "source.onnx", folder / "model.sdx")
    (folder / "model.sdx").rename(folder / "onnx" / "model.onnx")
    shutil.copyfile(npm_file(*TRANSFORMERS), models / "transformers.js")
    return folder


@pytest.mark.slow  # fetches 160 MB once
def test_feature_extraction(page: Page, plain: str, minilm: Path) -> None:
    page.goto(plain)
    found: dict[str, Any] = page.evaluate(PIPELINE, TEXTS)
    ids, mask = (np.array(found[name]["data"], np.int64).reshape(found[name]["dims"]) for name in ("ids", "mask"))
    assert ids[0, :4].tolist() == [101, 7592, 2088, 102] and mask[0].sum() == 4  # [CLS] hello world [SEP]
    assert found["ours"] and found["picked"]["file"].startswith("sardonyx-")
    session = ort.InferenceSession(str(minilm / "source.onnx"))
    hidden = session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})[0]
    wanted = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    made = np.array(found["made"]["data"]).reshape(found["made"]["dims"])
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    assert made[1] @ made[2] > 0.6 > made[1] @ made[3] + 0.2  # what a cat and a kitten do is alike, revenue is not
