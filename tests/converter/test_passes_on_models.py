"""Every pass, alone and all together, on real models: the results stay within float32 rounding. Heavier models are marked slow."""
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from sardonyx.converter.fp16 import float16_passes  # noqa: E402
from sardonyx.converter.onnx import load_model  # noqa: E402
from sardonyx.converter.options import ConvertOptions  # noqa: E402
from sardonyx.converter.passes import Pass, default_passes, run_passes  # noqa: E402
from sardonyx.dim import substitute, symbols  # noqa: E402
from sardonyx.graph import Model  # noqa: E402
from sardonyx.types import DType  # noqa: E402

from ..models.generated import bert_layer, mobilenet_v2  # noqa: E402
from ..models.registry import fetch, light_models  # noqa: E402
from .pass_graphs import distance, interface, operators, run  # noqa: E402

#: Sizes of symbolic dimensions by model ("*": all others), large enough for every branch and small enough for a quick run.
SIZES: dict[str, dict[str, int]] = {
    "magika": {"*": 2}, "ocr-det": {"p2o.DynamicDimension.0": 1, "*": 64}, "ocr-rec": {"p2o.DynamicDimension.0": 1, "*": 48}, "ocr-cls": {"?x_0": 1, "*": 48},
    "silero-vad": {"?input_1": 512, "*": 1}, "silero-vad-op15": {"sequence": 576, "*": 1}, "silero-vad-half": {"sequence": 576, "*": 1}, "silero-vad-ifless": {"sequence": 576, "*": 1},
    "silero-vad-sequence": {"*": 3}, "basic-pitch": {"*": 1}, "romanizer-encoder": {"batch": 2, "*": 5}, "romanizer-decoder": {"batch": 2, "*": 5}, "smart-turn": {"*": 1},
    "minilm": {"batch_size": 2, "*": 9}, "vit-focus": {"*": 1}, "tashkeel-rawi": {"*": 5}, "bert_layer": {"batch": 2, "*": 6}, "mobilenet_v2": {"*": 1},
}
QUICK = ["magika", "ocr-cls", "silero-vad", "silero-vad-op15", "silero-vad-sequence", "silero-vad-half", "silero-vad-ifless", "romanizer-encoder", "romanizer-decoder", "basic-pitch",
         "surfaces-gradient-boosting", "light_squeezenet", "light_shufflenet", "bert_layer"]
SLOW = ["light_densenet121", "ocr-det", "ocr-rec", "smart-turn", "centerface", "minilm", "vit-focus", "light_inception_v1", "light_vgg19", "light_bvlc_alexnet", "light_zfnet512", "mobilenet_v2"]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
#: Quick enough for one run.
IN_ALL = ["light_resnet50", "light_inception_v2"]
#: What must be recognised, so that a change of importer or passes that loses it is seen.
FOUND = {"magika": {"Gelu": 2, "LayerNormalization": 1}, "ocr-cls": {"HardSwish": 18}, "ocr-rec": {"Attention": 2, "LayerNormalization": 5, "HardSwish": 28, "Swish": 7},
         "minilm": {"Attention": 3, "Gelu": 3, "LayerNormalization": 7}, "vit-focus": {"Attention": 12, "Gelu": 12, "LayerNormalization": 25}, "smart-turn": {"Gelu": 8},
         "bert_layer": {"Attention": 1, "Gelu": 1, "LayerNormalization": 2}}
#: Operators that passes must have removed.
GONE = {"light_resnet50": ["BatchNormalization", "ConstantOfShape", "Unsqueeze"], "light_densenet121": ["BatchNormalization"], "light_inception_v2": ["BatchNormalization"],
        "light_shufflenet": ["BatchNormalization"], "ocr-det": ["BatchNormalization"], "mobilenet_v2": ["BatchNormalization"], "bert_layer": ["Erf", "Shape", "Softmax", "Sqrt"]}
#: float16 overflows in these: their weights are uniform numbers, not trained.
NOT_HALF = ("light_",)
GENERATED: dict[str, Callable[[Path], None]] = {"bert_layer": lambda path: bert_layer(path, hidden=64, heads=4), "mobilenet_v2": mobilenet_v2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Any:
    return tmp_path_factory.mktemp("generated")


@cache
def path_of(name: str, folder: Path) -> Path:
    if name in GENERATED:
        GENERATED[name](folder / f"{name}.onnx")
        return folder / f"{name}.onnx"
    return light_models()[name] if name.startswith("light_") else fetch(name)


def feeds(model: Model, name: str) -> list[Any]:
    """Random inputs of the sizes above; masks of ones with a few zeros at the end."""
    random, sizes = np.random.default_rng(1), SIZES.get(name, {})
    found: list[Any] = []
    for value in model.graph.inputs:
        if value.const is not None:
            found.append(value.const.numpy())
            continue
        shape = [substitute(d, {s.name: sizes.get(s.name, sizes.get("*", 1)) for s in symbols(d)}) for d in value.shape]
        assert value.dtype is not None
        if value.name == "sr":
            array = np.array(16000)
        elif "mask" in value.name:
            array = np.ones(shape)
            array[..., -2:] = value.dtype is DType.BOOL and name.startswith("romanizer")
        else:
            array = random.standard_normal(shape) if value.dtype.is_float else random.integers(0, 20, shape)
        found.append(np.asarray(array).astype(value.dtype.numpy))
    return found


@cache
def reference(name: str, folder: Path) -> tuple[list[Any], list[Any]]:
    model = load_model(path_of(name, folder))
    given = feeds(model, name)
    return given, run(model, given)


def apply(name: str, folder: Path, passes: list[Pass]) -> tuple[Model, float]:
    """The model after the passes, and how far its results are from those before."""
    model = load_model(path_of(name, folder))
    outside = interface(model)
    changed = any(result.rewrites for result in run_passes(model, passes))
    assert interface(model) == outside
    given, expected = reference(name, folder)
    return model, distance(expected, run(model, given)) if changed else 0.0


@pytest.mark.parametrize("name", [*ALL, *IN_ALL])
def test_all_passes(name: str, folder: Path) -> None:
    model, worst = apply(name, folder, default_passes(ConvertOptions()))
    assert worst <= 1e-4
    left = operators(model)
    assert {op: left.get(op) for op in FOUND.get(name, {})} == FOUND.get(name, {})
    assert not set(left) & set(GONE.get(name, ()))


@pytest.mark.parametrize("name", ALL)
def test_each_pass_alone(name: str, folder: Path) -> None:
    seen = set()
    for step in default_passes(ConvertOptions()):
        if step.name not in seen:
            seen.add(step.name)
            _, worst = apply(name, folder, [step])
            assert worst <= 1e-4, step.name


@pytest.mark.parametrize("name", [p for p in ALL if not str(p).startswith(NOT_HALF) and "light_" not in str(p)])
def test_float16(name: str, folder: Path) -> None:
    _, worst = apply(name, folder, [*default_passes(ConvertOptions()), *float16_passes()])
    assert worst <= 0.15
