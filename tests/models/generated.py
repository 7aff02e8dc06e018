"""Models built with seeded random weights, for tests and benchmarks of sizes no package ships: the architectures of the papers, as exporters write them.

`python -m tests.models.generated NAME PATH` writes one. Weights are scaled so that activations keep their size from layer to layer.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

#: Raised whenever a builder below writes another model than before: files cached under the old number are stale.
VERSION = 1


class Builder:
    """Nodes, initializers and names in order."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.count = 0

    def weight(self, array: Any, dtype: Any = np.float32) -> str:
        """An initializer."""
        self.count += 1
        name = f"w{self.count}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.weight(values, np.int64)

    def normal(self, *shape: int, scale: float) -> str:
        """Random normal weights."""
        return self.weight(self.random.standard_normal(shape, np.float32) * np.float32(scale))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, called: str = "", **attributes: Any) -> Any:
        """A node; the name of its output (`called`, or made up), or names."""
        self.count += 1
        names = [called] if called else [f"{op_type.lower()}{self.count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"/{op_type}_{self.count}", **attributes))
        return names[0] if outputs == 1 else names

    def conv_bn(self, x: str, channels: int, filters: int, kernel: int, stride: int = 1, group: int = 1, gain: float = 2.0) -> str:
        """Conv without bias, and BatchNormalization in inference form."""
        fan = channels // group * kernel * kernel
        pads = [kernel // 2] * 4
        y = self.op("Conv", x, self.normal(filters, channels // group, kernel, kernel, scale=(gain / fan) ** 0.5), kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, group=group)
        stats = [self.random.uniform(0.8, 1.2, filters), self.random.normal(0, 0.1, filters), self.random.normal(0, 0.1, filters), self.random.uniform(0.8, 1.2, filters)]
        return str(self.op("BatchNormalization", y, *map(self.weight, stats), epsilon=1e-5))

    def save(self, path: str | os.PathLike[str], inputs: Sequence[Any], outputs: Sequence[tuple[str, Any]], name: str, opset: int = 17) -> None:
        """Name the outputs and write the file; values of `outputs` are (name, type) pairs of (made name → given name, shape). A made name that is the given one needs no Identity."""
        renamed = [helper.make_node("Identity", [made], [value.name]) for made, value in outputs if made != value.name]
        graph = helper.make_graph(self.nodes + renamed, name, list(inputs), [value for _, value in outputs], self.initializers)
        domains = [helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in self.nodes} - {""})]
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=8, producer_name="sardonyx.tests"), path)


def _image(batch: str | int) -> Any:
    return helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 224, 224])


def _classes(batch: str | int) -> Any:
    return helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, 1000])


def resnet50(path: str | os.PathLike[str], seed: int = 0, batch: str | int = "batch") -> None:
    """ResNet-50 v1.5 (torchvision's: the stride in the 3×3): 25.6 M parameters, 102 MB, 4.1 GFLOP multiply-adds. input float[batch, 3, 224, 224] → output float[batch, 1000]."""
    b = Builder(seed)
    x = b.op("Relu", b.conv_bn("input", 3, 64, 7, 2))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = b.op("Relu", b.conv_bn(x, channels, width, 1))
            y = b.op("Relu", b.conv_bn(y, width, width, 3, stride))
            y = b.conv_bn(y, width, 4 * width, 1, gain=0.5)
            shortcut = b.conv_bn(x, channels, 4 * width, 1, stride, gain=1.0) if not block else x
            x, channels = b.op("Relu", b.op("Add", y, shortcut)), 4 * width
    x = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    x = b.op("Gemm", x, b.normal(1000, 2048, scale=2048 ** -0.5), b.normal(1000, scale=0.01), transB=1)
    b.save(path, [_image(batch)], [(x, _classes(batch))], "resnet50")


def mobilenet_v2(path: str | os.PathLike[str], seed: int = 0, batch: str | int = "batch") -> None:
    """MobileNetV2 1.0 (torchvision's): 3.5 M parameters, 14 MB, 0.3 GFLOP multiply-adds. input float[batch, 3, 224, 224] → output float[batch, 1000]."""
    b = Builder(seed)
    zero, six = b.weight(0.0), b.weight(6.0)

    def relu6(value: str) -> str:
        return str(b.op("Clip", value, zero, six))
    x, channels = relu6(b.conv_bn("input", 3, 32, 3, 2)), 32
    for expansion, filters, blocks, first_stride in [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]:
        for block in range(blocks):
            stride, hidden = first_stride if not block else 1, channels * expansion
            y = relu6(b.conv_bn(x, channels, hidden, 1)) if expansion > 1 else x
            y = relu6(b.conv_bn(y, hidden, hidden, 3, stride, group=hidden))
            y = b.conv_bn(y, hidden, filters, 1, gain=1.0)
            x = b.op("Add", x, y) if stride == 1 and channels == filters else y
            channels = filters
    x = relu6(b.conv_bn(x, channels, 1280, 1))
    x = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    x = b.op("Gemm", x, b.normal(1000, 1280, scale=1280 ** -0.5), b.normal(1000, scale=0.01), transB=1)
    b.save(path, [_image(batch)], [(x, _classes(batch))], "mobilenet_v2")


def bert_layer(path: str | os.PathLike[str], seed: int = 0, dynamic: bool = True, hidden: int = 768, heads: int = 12, layers: int = 1) -> None:
    """Layers of BERT as torch's exporter wrote them at opset 13: LayerNorm, GELU and attention in small operators, reshapes by computed shapes.

    hidden_states float[batch, sequence, hidden], attention_mask int64[batch, sequence] → output float[batch, sequence, hidden]; fixed at [1, 128] if not `dynamic`.
    """
    b = Builder(seed)
    batch, length = ("batch", "sequence") if dynamic else (1, 128)
    size = hidden // heads

    def linear(value: str, given: int, made: int) -> str:
        return str(b.op("Add", b.normal(made, scale=0.02), b.op("MatMul", value, b.normal(given, made, scale=given ** -0.5))))

    def layer_norm(value: str) -> str:
        deviation = b.op("Sub", value, b.op("ReduceMean", value, axes=[-1], keepdims=1))
        variance = b.op("ReduceMean", b.op("Pow", deviation, b.weight(2.0)), axes=[-1], keepdims=1)
        normal = b.op("Div", deviation, b.op("Sqrt", b.op("Add", variance, b.weight(1e-12))))
        return str(b.op("Add", b.op("Mul", normal, b.weight(b.random.uniform(0.9, 1.1, hidden))), b.normal(hidden, scale=0.02)))

    def sizes(value: str, *tail: int) -> str:
        dims = [b.op("Unsqueeze", b.op("Gather", b.op("Shape", value), b.weight(i, np.int64), axis=0), b.ints(0)) for i in (0, 1)]
        return str(b.op("Concat", *dims, *(b.ints(t) for t in tail), axis=0))

    def split(value: str, perm: Sequence[int]) -> str:
        return str(b.op("Transpose", b.op("Reshape", value, sizes(value, heads, size)), perm=list(perm)))
    mask = b.op("Cast", b.op("Unsqueeze", b.op("Unsqueeze", "attention_mask", b.ints(1)), b.ints(2)), to=TensorProto.FLOAT)
    mask = b.op("Mul", b.op("Sub", b.weight(1.0), mask), b.weight(np.finfo(np.float32).min))
    x = "hidden_states"
    for _ in range(layers):
        q, k, v = (split(linear(x, hidden, hidden), perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        scores = b.op("Div", b.op("MatMul", q, k), b.weight(size ** 0.5))
        weights = b.op("Softmax", b.op("Add", scores, mask), axis=-1)
        context = b.op("Transpose", b.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        x = layer_norm(b.op("Add", linear(b.op("Reshape", context, sizes(context, hidden)), hidden, hidden), x))
        wide = linear(x, hidden, 4 * hidden)
        erf = b.op("Add", b.op("Erf", b.op("Div", wide, b.weight(2 ** 0.5))), b.weight(1.0))
        wide = b.op("Mul", b.op("Mul", wide, erf), b.weight(0.5))
        x = layer_norm(b.op("Add", linear(wide, 4 * hidden, hidden), x))
    inputs = [helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, [batch, length, hidden]), helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [batch, length])]
    b.save(path, inputs, [(x, helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, length, hidden]))], "bert_layer", opset=13)


def four_bits(weight: np.ndarray, block: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric blockwise quantisation as MatMulNBits stores it: float[K, N] → (uint8[N, K/block, block/2] with the even element in the low half, float[N · K/block] scales; zero is 8)."""
    blocks = weight.T.reshape(weight.shape[1], -1, block)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
    scales = extreme / -8
    steps = np.clip(np.rint(blocks / scales) + 8, 0, 15).astype(np.uint8)
    return steps[..., ::2] | steps[..., 1::2] << 4, scales.ravel()


def llama(path: str | os.PathLike[str], seed: int = 0, layers: int = 12, hidden: int = 768, heads: int = 12, vocabulary: int = 32000, inner: int = 2048, int4: bool = False) -> None:
    """A decoder of Llama's kind with a key-value cache, spelled out in standard operators as exporters write it: RMSNorm, rotary embedding, SwiGLU, untied head; 134 M parameters by default, 537 MB.

    input_ids int64[batch, sequence], attention_mask int64[batch, total], position_ids int64[batch, sequence], past_key_values.{i}.{key,value} float[batch, heads, past, hidden/heads]
    → logits float[batch, sequence, vocabulary], present.{i}.{key,value} float[batch, heads, total, hidden/heads]. int4: every matrix is a MatMulNBits of blocks of 32 at accuracy level 4.
    """
    b = Builder(seed)
    size = hidden // heads

    def linear(value: str, given: int, made: int, called: str = "") -> str:
        weight = b.random.standard_normal((given, made), np.float32) * np.float32(given ** -0.5)
        if not int4:
            return str(b.op("MatMul", value, b.weight(weight), called=called))
        packed, scales = four_bits(weight)
        return str(b.op("MatMulNBits", value, b.weight(packed, np.uint8), b.weight(scales), called=called, domain="com.microsoft", K=given, N=made, bits=4, block_size=32, accuracy_level=4))

    def norm(value: str) -> str:
        mean = b.op("ReduceMean", b.op("Pow", value, b.weight(2.0)), axes=[-1], keepdims=1)
        scale = b.op("Div", b.weight(1.0), b.op("Sqrt", b.op("Add", mean, b.weight(1e-5))))
        return str(b.op("Mul", b.weight(b.random.uniform(0.9, 1.1, hidden)), b.op("Mul", value, scale)))

    def split(value: str) -> str:
        return str(b.op("Transpose", b.op("Reshape", value, b.ints(0, 0, heads, size)), perm=[0, 2, 1, 3]))

    def rotate(value: str) -> str:
        low, high = (b.op("Slice", value, b.ints(start), b.ints(stop), b.ints(3)) for start, stop in ((0, size // 2), (size // 2, size)))
        return str(b.op("Add", b.op("Mul", value, cos), b.op("Mul", b.op("Concat", b.op("Neg", high), low, axis=-1), sin)))
    angles = b.op("Mul", b.op("Unsqueeze", b.op("Cast", "position_ids", to=TensorProto.FLOAT), b.ints(-1)), b.weight(10000.0 ** (-np.arange(0, size, 2) / size)))
    angles = b.op("Unsqueeze", b.op("Concat", angles, angles, axis=-1), b.ints(1))
    cos, sin = b.op("Cos", angles), b.op("Sin", angles)
    total = b.op("Gather", b.op("Shape", "attention_mask"), b.weight(1, np.int64), axis=0)
    causal = b.op("LessOrEqual", b.op("Range", b.weight(0, np.int64), total, b.weight(1, np.int64)), b.op("Unsqueeze", "position_ids", b.ints(-1)))
    seen = b.op("And", causal, b.op("Unsqueeze", b.op("Cast", "attention_mask", to=TensorProto.BOOL), b.ints(1)))
    mask = b.op("Unsqueeze", b.op("Where", seen, b.weight(0.0), b.weight(np.finfo(np.float32).min)), b.ints(1))
    x = b.op("Gather", b.normal(vocabulary, hidden, scale=1.0), "input_ids", axis=0)
    for layer in range(layers):
        y = norm(x)
        q, k, v = (split(linear(y, hidden, hidden)) for _ in range(3))
        k = b.op("Concat", f"past_key_values.{layer}.key", rotate(k), axis=2, called=f"present.{layer}.key")
        v = b.op("Concat", f"past_key_values.{layer}.value", v, axis=2, called=f"present.{layer}.value")
        scores = b.op("Mul", b.op("MatMul", rotate(q), b.op("Transpose", k, perm=[0, 1, 3, 2])), b.weight(size ** -0.5))
        context = b.op("Transpose", b.op("MatMul", b.op("Softmax", b.op("Add", scores, mask), axis=-1), v), perm=[0, 2, 1, 3])
        x = b.op("Add", x, linear(b.op("Reshape", context, b.ints(0, 0, hidden)), hidden, hidden))
        y = norm(x)
        gate = linear(y, hidden, inner)
        x = b.op("Add", x, linear(b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), linear(y, hidden, inner)), inner, hidden))
    linear(norm(x), hidden, vocabulary, called="logits")

    def cache(name: str, length: str) -> list[Any]:
        return [helper.make_tensor_value_info(f"{name}.{i}.{part}", TensorProto.FLOAT, ["batch", heads, length, size]) for i in range(layers) for part in ("key", "value")]
    tokens = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length]) for name, length in (("input_ids", "sequence"), ("attention_mask", "total"), ("position_ids", "sequence"))]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", vocabulary]), *cache("present", "total")]
    b.save(path, [*tokens, *cache("past_key_values", "past")], [(value.name, value) for value in outputs], "llama")


def lstm(path: str | os.PathLike[str], seed: int = 0, size: int = 256) -> None:
    """One forward LSTM. x float[sequence, batch, size] → y float[sequence, 1, batch, size]."""
    b = Builder(seed)
    weights = [b.normal(1, 4 * size, size, scale=size ** -0.5) for _ in range(2)]
    b.op("LSTM", "x", *weights, b.normal(1, 8 * size, scale=0.1), called="y", hidden_size=size)
    b.save(path, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["sequence", "batch", size])],
           [("y", helper.make_tensor_value_info("y", TensorProto.FLOAT, ["sequence", 1, "batch", size]))], "lstm", opset=14)


def one_node(path: str | os.PathLike[str], op_type: str, x: tuple[Any, Sequence[int]], y: tuple[Any, Sequence[int]], constants: Sequence[Callable[[Builder], str]],
             seed: int = 0, **attributes: Any) -> None:
    """A model of one operator: x (element type, shape) and then the constants, made in order → y."""
    b = Builder(seed)
    b.op(op_type, "x", *(make(b) for make in constants), called="y", **attributes)
    b.save(path, [helper.make_tensor_value_info("x", *x)], [("y", helper.make_tensor_value_info("y", *y))], op_type.lower())


GENERATED: dict[str, Callable[..., None]] = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2, "bert_layer": bert_layer, "llama": llama, "lstm": lstm}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in GENERATED:
        raise SystemExit(f"usage: python -m tests.models.generated {{{','.join(GENERATED)}}} PATH")
    GENERATED[sys.argv[1]](sys.argv[2])
