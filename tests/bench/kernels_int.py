"""Integer kernels, weights in blocks and tree ensembles against onnxruntime, interleaved, one thread each: `python -m tests.bench.kernels_int [name part…] [--threads 1]` from the repository's root.

One-node models whose weights are initializers, run through both runtimes' sessions with bound outputs left to each: times hold what a run costs around the kernel too (some microseconds).
For each row: our best and median time, onnxruntime's, their ratios, the greatest difference of the outputs. Times of a shared machine are noisy: the ratio of minima is the steadier figure.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import sardonyx
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(1)
Feed = dict[str, np.ndarray]
Case = tuple[str, Callable[[], tuple[onnx.ModelProto, Feed]]]
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.onnx.ml", 3)]


def model(nodes: list[onnx.NodeProto], feed: Feed, constants: Feed, outputs: list[tuple[str, int]]) -> tuple[onnx.ModelProto, Feed]:
    """A model of these nodes with constants as initializers."""
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in feed.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info(n, t, None) for n, t in outputs], [numpy_helper.from_array(x, n) for n, x in constants.items()])
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10), feed


def whole(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def gemm(m: int, n: int, k: int, a: Any = np.uint8, b: Any = np.int8) -> Case:
    def build() -> tuple[onnx.ModelProto, Feed]:
        return model([helper.make_node("MatMulInteger", ["a", "b", "z"], ["y"])], {"a": whole((m, k), a)}, {"b": whole((k, n), b), "z": np.array(100, a)}, [("y", TensorProto.INT32)])
    return f"gemm {m}x{n}x{k} {np.dtype(a).name}·{np.dtype(b).name}", build


def conv(c: int, m: int, size: int, kernel: int, stride: int = 1, group: int = 1, x: Any = np.uint8, w: Any = np.int8) -> Case:
    def build() -> tuple[onnx.ModelProto, Feed]:
        pad = kernel // 2
        node = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "bias"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=group)
        constants = {"xs": np.float32(0.02), "xz": np.array(np.iinfo(x).min + 120, x), "w": whole((m, c // group, kernel, kernel), w), "ws": np.full(m, 0.003, np.float32), "wz": np.zeros(m, w),
                     "ys": np.float32(0.05 * (c // group * kernel * kernel) ** 0.5), "yz": np.array(np.iinfo(x).min + 130, x), "bias": rng.integers(-3000, 3000, m).astype(np.int32)}
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(x))
        return model([node], {"x": whole((1, c, size, size), x)}, {k: np.asarray(v) for k, v in constants.items()}, [("y", kind)])
    return f"{'depthwise' if group > 1 else 'conv'} {kernel}x{kernel}/{stride} {c}->{m}@{size} {np.dtype(x).name}", build


def nbits(m: int, n: int, k: int, bits: int, block: int, level: int, zero: bool = False) -> Case:
    def build() -> tuple[onnx.ModelProto, Feed]:
        names = ["a", "b", "s", "z"] if zero else ["a", "b", "s"]
        node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, accuracy_level=level)
        blocks = -(-k // block)
        constants = {"b": whole((n, blocks, block * bits // 8), np.uint8), "s": (rng.uniform(0.5, 1.5, n * blocks) / 100).astype(np.float32)}
        if zero:
            constants["z"] = whole((n * -(-blocks * bits // 8),), np.uint8)
        return model([node], {"a": rng.standard_normal((m, k)).astype(np.float32)}, constants, [("y", TensorProto.FLOAT)])
    return f"nbits {bits} {m}x{n}x{k} block {block} level {level}{' zero' if zero else ''}", build


def forest(trees: int, depth: int, rows: int) -> Case:
    def build() -> tuple[onnx.ModelProto, Feed]:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType
        from sklearn.ensemble import RandomForestClassifier
        x = np.random.default_rng(3).standard_normal((4000, 30)).astype(np.float32)
        y = (x[:, :5].sum(1) > 0).astype(int) + (x[:, 5] > 1)
        fitted = RandomForestClassifier(trees, max_depth=depth, random_state=0, n_jobs=1).fit(x, y)
        made = convert_sklearn(fitted, initial_types=[("x", FloatTensorType([None, 30]))], options={"zipmap": False}, target_opset={"": 15, "ai.onnx.ml": 3})
        return made, {"x": x[:rows]}
    return f"forest {trees}x{depth} rows {rows}", build


def cases() -> list[Case]:
    return [gemm(1024, 1024, 1024), gemm(1024, 1024, 1024, np.uint8, np.uint8), gemm(128, 768, 768), gemm(128, 3072, 768), gemm(128, 768, 3072), gemm(1, 1024, 1024), gemm(512, 512, 512),
            conv(3, 32, 224, 3, 2), conv(3, 64, 224, 7, 2), conv(32, 16, 112, 1), conv(16, 96, 112, 1), conv(96, 24, 56, 1), conv(24, 144, 56, 1), conv(192, 32, 28, 1), conv(64, 384, 14, 1),
            conv(960, 320, 7, 1), conv(64, 64, 56, 3), conv(128, 128, 28, 3), conv(256, 256, 14, 3), conv(512, 512, 7, 3), conv(256, 64, 56, 1), conv(64, 256, 56, 1), conv(256, 512, 56, 1, 2),
            conv(32, 32, 112, 3, 1, 32), conv(96, 96, 112, 3, 2, 96), conv(144, 144, 56, 3, 1, 144), conv(192, 192, 28, 3, 1, 192), conv(384, 384, 14, 3, 1, 384), conv(960, 960, 7, 3, 1, 960),
            conv(64, 64, 56, 3, x=np.int8), conv(144, 144, 56, 3, 1, 144, x=np.int8),
            nbits(1, 4096, 4096, 4, 32, 4), nbits(1, 4096, 4096, 4, 32, 0), nbits(1, 768, 768, 4, 32, 4), nbits(1, 2048, 768, 4, 32, 4), nbits(1, 4096, 4096, 4, 128, 4, True),
            nbits(1, 4096, 4096, 8, 32, 4), nbits(128, 768, 768, 4, 32, 4), nbits(128, 768, 768, 4, 32, 0),
            forest(100, 8, 1), forest(100, 8, 1000)]


def _time(f: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    f()
    return clock() - start


def compare(case: Case, threads: int, rounds: int) -> str:
    """One row."""
    name, build = case
    made, feed = build()
    data = made.SerializeToString()
    runs = []
    for runtime in (sardonyx, onnxruntime):
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        runs.append(lambda session=session: session.run(None, feed))
    ours, theirs = (run() for run in runs)
    error = max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0)) for a, b in zip(ours, theirs, strict=True))
    repeat = max(1, int(2e-3 / max(min(_time(runs[0]) for _ in range(3)), 1e-6)))
    times: list[list[float]] = [[], []]
    clock = time.thread_time if threads == 1 else time.perf_counter  # on one thread, what other programs took does not count
    for _ in range(rounds):
        for i, run in enumerate(runs):
            times[i].append(_time(lambda run=run: [run() for _ in range(repeat)], clock) / repeat)  # type: ignore[misc]
    a, b = times
    return (f"{name:44s} ours {min(a) * 1e3:8.3f} (median {np.median(a) * 1e3:8.3f}) ms · onnxruntime {min(b) * 1e3:8.3f} ({np.median(b) * 1e3:8.3f}) · "
            f"ratio {min(a) / min(b):5.2f} (medians {np.median(a) / np.median(b):5.2f}) · difference {error:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of case names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(f"load {Path('/proc/loadavg').read_text().split()[0]}")
    for case in cases():
        if not options.names or any(part in case[0] for part in options.names):
            print(compare(case, options.threads, options.rounds), flush=True)


if __name__ == "__main__":
    main()
