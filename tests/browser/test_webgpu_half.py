"""f16 and subgroups in Chromium. SwiftShader has subgroups and no f16: what is played with subgroups gives Python's numbers; where f16 can not be had, pages are told; models in float16 run all
the same. (tests/webgpu/test_stored.py plays the same recordings on an adapter with f16, tests/node/test_half.py this runtime on one without numbers.)"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx as ort
from onnx import helper, numpy_helper
from playwright.sync_api import Page

from tests.models import generated

from .webgpu import Maker, ask, mlp, save


def decoder(rows: int = 2) -> Any:
    """Rows through products with large weights and in blocks of 4 bits, and a norm."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gelu", ["h"], ["g"]),
             helper.make_node("MatMulNBits", ["g", "v", "scales"], ["d"], domain="com.microsoft", K=640, N=200, bits=4, block_size=32),
             helper.make_node("Add", ["d", "x"], ["s"]), helper.make_node("LayerNormalization", ["s", "scale"], ["y"])]
    weights = {"w": (rng.normal(size=(200, 640)) / 14).astype(np.float32), "v": rng.integers(0, 256, (200, 20, 16)).astype(np.uint8), "scales": np.full((200, 20), 0.01, np.float32),
               "scale": np.ones(200, np.float32)}
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [rows, 200])], [helper.make_tensor_value_info("y", 1, [rows, 200])],
                              [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10)


@pytest.mark.parametrize("subgroups", [True, False])
def test_subgroups_of_the_page(page: Page, isolated: str, keep: Maker, subgroups: bool) -> None:
    """The device decides: as a GPU with subgroups (SwiftShader's, of 4 invocations) it gets what takes them, without them what does not."""
    scale = keep("gpu-decoder", decoder(), x=np.random.default_rng(1).normal(size=(2, 200)).astype(np.float32))
    page.goto(isolated)
    found = ask(page, """
      const device = await openDevice();
      const has = device.device.features.has('subgroups');
      device.isCpu = false;
      if (!given) Object.defineProperty(device.device, 'features', { value: new Set() });
      const session = await ort.InferenceSession.create('/models/gpu-decoder.sdx', gpu);
      const made = difference(await session.run(await tensors('gpu-decoder.in')), await tensors('gpu-decoder.out'));
      return { has, made, about: session.explain().webgpu };
    """, subgroups)
    assert found["has"], "this Chromium's SwiftShader has no subgroups any more"
    assert found["about"]["features"] == (["subgroups"] if subgroups else []) and found["about"]["software"] is False and found["about"]["precision"] == "f32"
    assert found["made"] <= 1e-4 * scale


def test_where_f16_can_not_be_had(page: Page, isolated: str, keep: Maker, models: Path) -> None:
    """Another precision than was asked for: a warning and the truth in explain(), or in strict sessions an error; a wrong word is an error."""
    mlp(keep)
    ort.convert(decoder(), models / "gpu-half.sdx", webgpu_f16=True)
    x = np.random.default_rng(1).normal(size=(2, 200)).astype(np.float32)
    save(models, "gpu-half.in", {"x": x})
    save(models, "gpu-half.out", {"y": ort.InferenceSession(str(models / "gpu-half.sdx"), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]})
    page.goto(isolated)
    found = ask(page, """
      const warned = [], warn = console.warn, f16 = { executionProviders: [{ name: 'webgpu', precision: 'f16' }] };
      console.warn = (...words) => warned.push(words.join(' '));
      const strict = { ...f16, extra: { session: { disable_cpu_ep_fallback: '1' } } }, create = (name, options) => ort.InferenceSession.create(`/models/${name}.sdx`, options);
      const session = await create('gpu-half', f16);
      const made = difference(await session.run(await tensors('gpu-half.in')), await tensors('gpu-half.out'));
      const errors = [await failure(() => create('gpu-half', strict)), await failure(() => create('gpu-half', { executionProviders: [{ name: 'webgpu', precision: 'fp16' }] }))];
      const { device } = await openDevice();
      Object.defineProperty(device, 'features', { value: new Set(['shader-f16']) });
      errors.push(await failure(() => create('gpu-mlp', strict)));
      const bare = (await create('gpu-mlp', f16)).explain().webgpu;
      console.warn = warn;
      return { made, about: session.explain().webgpu, errors, bare, warned };
    """)
    assert found["made"] <= 1e-4 and found["about"]["precision"] == found["bare"]["precision"] == "f32" and found["about"]["features"] == []
    assert [e[0] for e in found["errors"]] == ["MissingFeature", "InvalidArgument", "NotImplemented"] and all(e[2] for e in found["errors"])
    assert "lacks shader-f16" in found["errors"][0][1] and "'f32' or 'f16', not 'fp16'" in found["errors"][1][1] and "--webgpu-f16" in found["errors"][2][1]
    assert len(found["warned"]) == 2 and "lacks shader-f16" in found["warned"][0] and "--webgpu-f16" in found["warned"][1]


@pytest.mark.parametrize("gpu", [False, True])
def test_models_in_float16_run_strictly(page: Page, isolated: str, models: Path, gpu: bool) -> None:
    """Converted with --fp16: no f16 here, so float16 is packed in words that are read, and float32 between."""
    ort.convert(decoder(), models / "gpu-fp16.sdx", webgpu=True, fp16=True)
    x = np.random.default_rng(1).normal(size=(2, 200)).astype(np.float32)
    save(models, "gpu-fp16.in", {"x": x})
    wanted = ort.InferenceSession(str(models / "gpu-fp16.sdx"), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    save(models, "gpu-fp16.out", {"y": wanted})
    page.goto(isolated)
    found = ask(page, """
      if (given) (await openDevice()).isCpu = false;
      const session = await ort.InferenceSession.create('/models/gpu-fp16.sdx', { ...gpu, extra: { session: { disable_cpu_ep_fallback: '1' } } });
      return { made: difference(await session.run(await tensors('gpu-fp16.in')), await tensors('gpu-fp16.out')), about: session.explain().webgpu };
    """, gpu)
    assert found["about"]["beside"] == [] and found["about"]["features"] == (["subgroups"] if gpu else [])
    assert found["made"] <= 8e-3 * float(np.abs(wanted).max())


@pytest.mark.slow
def test_a_decoder_of_any_length(page: Page, isolated: str, models: Path) -> None:
    """A prompt, then a token, from one file: as a GPU with subgroups, products of one row are other dispatches than those of many."""
    generated.llama(models / "gpu-llama.onnx", layers=1, hidden=128, heads=4, vocabulary=300, inner=256, int4=True)
    ort.convert(models / "gpu-llama.onnx", models / "gpu-llama.sdx", webgpu=True)
    reference = ort.InferenceSession(str(models / "gpu-llama.onnx"), providers=["ReferenceExecutionProvider"])
    past, scale = np.zeros((2, 1, 4, 0, 32), np.float32), []
    for rows in (5, 1):
        total = past.shape[3] + rows
        feeds = {"input_ids": np.arange(rows)[None] * 7 + 3, "attention_mask": np.ones((1, total), np.int64), "position_ids": np.arange(total - rows, total)[None],
                 "past_key_values.0.key": past[0], "past_key_values.0.value": past[1]}
        wanted = reference.run(None, feeds)
        past = np.stack(wanted[1:])
        save(models, f"gpu-llama{rows}.in", feeds)
        save(models, f"gpu-llama{rows}.out", dict(zip([o.name for o in reference.get_outputs()], wanted, strict=True)))
        scale.append(max(float(np.abs(a).max()) for a in wanted))
    page.goto(isolated)
    found = ask(page, """
      const device = await openDevice(), made = [];
      device.isCpu = false;
      const session = await ort.InferenceSession.create('/models/gpu-llama.sdx', gpu);
      for (const rows of [5, 1]) made.push([difference(await session.run(await tensors(`gpu-llama${rows}.in`)), await tensors(`gpu-llama${rows}.out`)), device.pipelines]);
      return { made, features: session.explain().webgpu.features };
    """)
    assert found["features"] == ["subgroups"] and all(difference <= 1e-4 * s for (difference, _), s in zip(found["made"], scale, strict=True))
    assert found["made"][0][1] == found["made"][1][1], "a token compiled something"
