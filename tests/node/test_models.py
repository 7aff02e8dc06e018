"""Every public model under node from its .sdx, without Python: its stored programs give onnxruntime's outputs for the first step of the model's script."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sardonyx

from tests.models.inputs import SCRIPTS
from tests.models.registry import MODELS, fetch
from tests.models.test_public_models import QUANTISED, _compare, peer

from .package import installed, node

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
QUICK = ("silero-vad", "silero-vad-op15", "silero-vad-half", "romanizer-decoder")
PROGRAM = """
import * as ort from "sardonyx";
import { readFileSync, writeFileSync } from "node:fs";
const [folder, feeds] = JSON.parse(process.argv[2]);
const arrays = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(`${folder}/model.sdx`);
const given = Object.fromEntries(feeds.map(([name, type, dims], i) => [name, new ort.Tensor(type, new arrays[type](new Uint8Array(readFileSync(`${folder}/in${i}`)).buffer), dims)]));
const made = await session.run(given);
session.outputNames.forEach((name, i) => writeFileSync(`${folder}/out${i}`, new Uint8Array(made[name].data.buffer, made[name].data.byteOffset, made[name].data.byteLength)));
console.log(JSON.stringify(session.outputNames.map((name) => [name, made[name].dims])));
await session.release();
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in node_modules."""
    return installed(tmp_path_factory.mktemp("models"), PROGRAM)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in SCRIPTS if n in MODELS])
def test_public_model(name: str, package: Path, tmp_path: Path) -> None:
    assert not sardonyx.convert(fetch(name), tmp_path / "model.sdx").not_stored
    feed = {key: np.asarray(x) for key, x in next(SCRIPTS[name]()).items()}
    for i, x in enumerate(feed.values()):
        (tmp_path / f"in{i}").write_bytes(x.tobytes())
    words = json.dumps([str(tmp_path), [[key, x.dtype.name, list(x.shape)] for key, x in feed.items()]])
    said = node("program.js", words, cwd=package)
    session = peer(str(fetch(name)))
    wanted = session.run(None, feed)
    outputs = json.loads(said)
    assert [key for key, _ in outputs] == [o.name for o in session.get_outputs()]
    made = [np.frombuffer((tmp_path / f"out{i}").read_bytes(), want.dtype).reshape(dims) for i, (want, (_, dims)) in enumerate(zip(wanted, outputs, strict=True))]
    _compare([made], [wanted], QUANTISED.get(name, (1e-3, None))[0])
