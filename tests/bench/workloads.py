"""The yardstick workloads of the engine: models from seeded weights, cached by what they were built with, the inputs they are run on, and the bars of their ratios to onnxruntime."""
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.models import generated
from tests.models.generated import Builder

from .measure import FOLDER

Feed = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """bar: the most our time over onnxruntime's may be. bound: the most the outputs may differ from onnxruntime's, relative to each output's largest magnitude.

    file: the stem of the cached model; workloads that share it share the model. work: operations (two a multiply-add) of a run, where a share of the machine's peak is asked for;
    `integer`: they are int8's. of_peak: the least share of the peak. openvino: it is timed too.
    """

    name: str
    file: str
    build: Callable[[Path], None]
    feed: Callable[[], Feed]
    bar: float = 1.15
    bound: float = 1e-3
    work: float = 0.0
    integer: bool = False
    of_peak: float = 0.0
    openvino: bool = True

    def path(self) -> Path:
        """The model's file, built if this version of it is not there; older versions are removed."""
        target = FOLDER / f"{self.file}.{_tools()}.onnx"
        if not target.exists():
            FOLDER.mkdir(parents=True, exist_ok=True)
            for stale in FOLDER.glob(f"{self.file}.v*.onnx"):
                stale.unlink()
            partial_file = FOLDER / f"{self.file}.{os.getpid()}.partial.onnx"
            self.build(partial_file)
            partial_file.rename(target)
        return target


def _tools() -> str:
    """What decides a built model besides its seed: our builders, onnxruntime's quantiser, scikit-learn."""
    from importlib.metadata import version
    return f"v{generated.VERSION}-{version('onnxruntime')}-{version('scikit-learn')}"


# -- inputs ----------------------------------------------------------------------------------------------------------------------------------
def normal(*shape: int, name: str = "x", scale: float = 1.0) -> Feed:
    """Seeded normal floats."""
    return {name: np.random.default_rng(7).standard_normal(shape, np.float32) * np.float32(scale)}


def tokens(length: int, hidden: int = 768) -> Feed:
    """A sequence for the BERT layer, all of it attended to."""
    return normal(1, length, hidden, name="hidden_states") | {"attention_mask": np.ones((1, length), np.int64)}


def decode(past: int = 512, layers: int = 12, heads: int = 12, size: int = 64) -> Feed:
    """One token after `past` others."""
    rng = np.random.default_rng(7)
    cache = {f"past_key_values.{i}.{part}": rng.standard_normal((1, heads, past, size), np.float32) for i in range(layers) for part in ("key", "value")}
    return {"input_ids": np.array([[17]]), "attention_mask": np.ones((1, past + 1), np.int64), "position_ids": np.array([[past]])} | cache


image = partial(normal, 1, 3, 224, 224, name="input")


# -- models ----------------------------------------------------------------------------------------------------------------------------------
def gemm(m: int, n: int, k: int) -> Callable[[Path], None]:
    """A constant right-hand side: float[m, k] · float[k, n]."""
    return partial(generated.one_node, op_type="MatMul", x=(TensorProto.FLOAT, [m, k]), y=(TensorProto.FLOAT, [m, n]), constants=[lambda b: b.normal(k, n, scale=k ** -0.5)])


def gemm_int8(m: int, n: int, k: int) -> Callable[[Path], None]:
    """uint8[m, k] with zero point 128 · int8[k, n], constant."""
    def weight(b: Builder) -> str:
        return b.weight(b.random.integers(-127, 128, (k, n)), np.int8)
    return partial(generated.one_node, op_type="MatMulInteger", x=(TensorProto.UINT8, [m, k]), y=(TensorProto.INT32, [m, n]), constants=[weight, lambda b: b.weight(128, np.uint8)])


def conv(channels: int, filters: int, kernel: int, side: int, group: int = 1) -> Callable[[Path], None]:
    """Stride 1, as wide as before, with bias."""
    fan = channels // group * kernel * kernel
    constants = [lambda b: b.normal(filters, channels // group, kernel, kernel, scale=fan ** -0.5), lambda b: b.normal(filters, scale=0.1)]
    return partial(generated.one_node, op_type="Conv", x=(TensorProto.FLOAT, [1, channels, side, side]), y=(TensorProto.FLOAT, [1, filters, side, side]), constants=constants,
                   kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, group=group)


def dynamic_int8(build: Callable[[Path], None]) -> Callable[[Path], None]:
    """The model as onnxruntime.quantization makes it dynamic: int8 weights, activations quantised at run time."""
    def made(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        source = path.with_suffix(".float.onnx")
        build(source)
        quantize_dynamic(source, path, weight_type=QuantType.QInt8)
        source.unlink()
    return made


def qdq(build: Callable[[Path], None]) -> Callable[[Path], None]:
    """The model as onnxruntime.quantization makes it static, in QuantizeLinear-DequantizeLinear form, calibrated on random images after its own preparation (which folds BatchNormalization)."""
    def made(path: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Images(CalibrationDataReader):
            def __init__(self) -> None:
                rng = np.random.default_rng(11)
                self.left = [rng.standard_normal((1, 3, 224, 224), np.float32) for _ in range(4)]

            def get_next(self) -> Feed | None:
                return {"input": self.left.pop()} if self.left else None
        source, prepared = path.with_suffix(".float.onnx"), path.with_suffix(".prepared.onnx")
        build(source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, path, Images(), quant_format=QuantFormat.QDQ)
        source.unlink()
        prepared.unlink()
    return made


def forest(path: Path) -> None:
    """A random forest classifier of 100 trees, 8 deep, 20 features, fitted to seeded points."""
    from onnx import save
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier
    rng = np.random.default_rng(0)
    points = rng.standard_normal((4000, 20)).astype(np.float32)
    kind = (points[:, :5].sum(1) + points[:, 5] * points[:, 6] > 0).astype(np.int64)
    fitted = RandomForestClassifier(100, max_depth=8, random_state=0).fit(points, kind)
    save(to_onnx(fitted, points[:1], options={"zipmap": False}), path)


def add(path: Path) -> None:
    """One Add of eight floats to eight others."""
    generated.one_node(path, "Add", (TensorProto.FLOAT, [8]), (TensorProto.FLOAT, [8]), [lambda b: b.normal(8, scale=1.0)])


def int8_input() -> Feed:
    return {"x": np.random.default_rng(7).integers(0, 256, (1024, 1024), np.uint8)}


MOBILENET = Workload("MobileNetV2", "mobilenet-v2", generated.mobilenet_v2, image, 0.9)
RESNET = Workload("ResNet-50", "resnet50", generated.resnet50, image, 0.85)
BERT = Workload("BERT layer 128×768", "bert-layer", generated.bert_layer, partial(tokens, 128), 0.9)
LLAMA = Workload("Llama 12×768 decode, 512 past, f32", "llama", generated.llama, decode, 0.75)
ADD = Workload("one-node Add", "add", add, partial(normal, 8))

#: The rows of FACTS' table. Quantised networks: one value rounded to the next step moves everything after it, hence their wider bounds.
YARDSTICKS = (
    Workload("gemm 512³", "gemm-512", gemm(512, 512, 512), partial(normal, 512, 512), work=2 * 512**3, of_peak=0.88),
    Workload("gemm 1024³", "gemm-1024", gemm(1024, 1024, 1024), partial(normal, 1024, 1024), work=2 * 1024**3, of_peak=0.88),
    Workload("gemm 128×768×768", "gemm-128", gemm(128, 768, 768), partial(normal, 128, 768), work=2 * 128 * 768**2),
    Workload("gemv 4096", "gemv-4096", gemm(1, 4096, 4096), partial(normal, 1, 4096)),
    Workload("gemm 1024³ int8", "gemm-int8", gemm_int8(1024, 1024, 1024), int8_input, 1.05, 0.0, 2 * 1024**3, integer=True),
    Workload("conv 3×3 64→64 @56", "conv-3x3", conv(64, 64, 3, 56), partial(normal, 1, 64, 56, 56), 0.55, work=2 * 64 * 64 * 9 * 56**2),
    Workload("depthwise 3×3 96 @112", "depthwise", conv(96, 96, 3, 112, 96), partial(normal, 1, 96, 112, 112), 0.8, work=2 * 96 * 9 * 112**2),
    Workload("conv 1×1 96→24 @56", "conv-1x1", conv(96, 24, 1, 56), partial(normal, 1, 96, 56, 56), work=2 * 96 * 24 * 56**2),
    BERT,
    Workload("BERT layer int8 dynamic", "bert-layer-int8", dynamic_int8(generated.bert_layer), partial(tokens, 128), bound=0.02),
    MOBILENET,
    Workload("MobileNetV2 int8 QDQ", "mobilenet-v2-qdq", qdq(generated.mobilenet_v2), image, 0.8, 0.1),
    RESNET,
    Workload("ResNet-50 int8 QDQ", "resnet50-qdq", qdq(generated.resnet50), image, 1.0, 0.1),
    Workload("LSTM 100×256", "lstm", generated.lstm, partial(normal, 100, 1, 256), 0.9),
    LLAMA,
    Workload("Llama decode, int4 MatMulNBits (accuracy level 4)", "llama-int4", partial(generated.llama, int4=True), decode, 0.7, 0.05),
    Workload("RandomForest 100×8, batch 1", "forest", forest, partial(normal, 1, 20, name="X"), openvino=False),
    Workload("RandomForest 100×8, batch 1000", "forest", forest, partial(normal, 1000, 20, name="X"), 0.4, openvino=False),
)
