"""The float kernels alone against onnxruntime, interleaved, one thread each: `python -m tests.bench.kernels [name part…] [--isa avx512]` from the repository's root.

For each case: our best and median time, onnxruntime's, their ratios, and the share of the machine's own multiply-add peak, measured first.
onnxruntime runs a one-node model whose weights are initializers. Times of a shared machine are noisy: the ratio of minima is the steadier figure.
"""
from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sardonyx.model.packing import Packing

from tests.engine import float_harness as harness

PEAK = r"""
typedef float v __attribute__((vector_size(4 * LANES)));
float peak(long n) {
    v a[12], x;
    for (int l = 0; l < LANES; l++) x[l] = 0.999f;
    for (int i = 0; i < 12; i++) a[i] = x * (float)i;
    for (long k = 0; k < n; k++) {
        _Pragma("clang loop unroll(full)") for (int i = 0; i < 12; i++) a[i] = a[i] * x + x;
        __asm__ volatile("" : "+v"(x));
    }
    v s = a[0];
    for (int i = 1; i < 12; i++) s += a[i];
    return s[0];
}
"""
LANES = {"avx512": 16, "avx2": 8, "sse": 4}
rng = np.random.default_rng(1)


def peak(isa: str) -> float:
    """GFLOP/s of independent multiply-adds in registers, best of several."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(PEAK)
        options = ["-O2", "-shared", "-fPIC", *harness.FLAGS[isa], "-ffp-contract=fast", f"-DLANES={LANES[isa]}"]
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *options, str(source), "-o", str(target)], check=True)
        lib = ctypes.CDLL(str(target))
        lib.peak.restype = ctypes.c_float
        best = min(_time(lambda: lib.peak(ctypes.c_long(400_000))) for _ in range(15))
    return 400_000 * 12 * 2 * LANES[isa] / best / 1e9


def _time(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def session(node: onnx.NodeProto, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> Callable[[], object]:
    """onnxruntime on one node, bound to fixed buffers."""
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in inputs.items()],
                              [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)], [numpy_helper.from_array(x, n) for n, x in constants.items()])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = made.io_binding()
    for name, x in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output(node.output[0], onnxruntime.OrtValue.ortvalue_from_numpy(made.run(None, inputs)[0]))
    return lambda: made.run_with_iobinding(binding)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def aligned(x: np.ndarray) -> np.ndarray:
    """A copy that starts on a cache line."""
    raw = np.empty(x.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start:start + x.nbytes].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


Case = tuple[str, float, Callable[[str], Callable[[], object]], Callable[[], Callable[[], object]]]


def gemm(m: int, n: int, k: int, constant: bool = True) -> Case:
    a, b, y = aligned(normal(m, k)), aligned(normal(k, n)), aligned(normal(m, n))
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    return (f"gemm {m}x{n}x{k}{'' if constant else ' plain'}", 2.0 * m * n * k,
            lambda isa: harness.Kernel("matmul", isa, [a, harness.packed(b, Packing.MATRIX) if constant else b], [y], [-1, -1]).run,
            lambda: session(node, {"a": a} if constant else {"a": a, "b": b}, {"b": b} if constant else {}))


def conv(c: int, m: int, size: int, kernel: int, stride: int = 1, group: int = 1, bias: bool = False) -> Case:
    x, w = normal(1, c, size, size), normal(m, c // group, kernel, kernel)
    pad, out = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1
    last = np.moveaxis(aligned(np.ascontiguousarray(np.moveaxis(x, 1, -1))), -1, 1)
    y = np.moveaxis(aligned(np.zeros((1, out, out, m), np.float32)), -1, 1)
    form = Packing.DEPTHWISE if group > 1 and c == group else Packing.CONV
    params = [2, group, kernel, kernel, 1, stride, stride, 1, 1, 1, 1, pad, pad, 0, 0, -1, -1]

    def ours(isa: str) -> Callable[[], object]:
        weights = harness.packed(w, form, 1 if form is Packing.DEPTHWISE else group)
        return harness.Kernel("conv", isa, [last, harness.derived(isa, last, weights, y, params) or weights], [y], params).run
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=group)
    name = f"{'depthwise' if group > 1 else 'conv'} {kernel}x{kernel}/{stride} {c}->{m}@{size}"
    return (name, 2.0 * m * out * out * c // group * kernel * kernel,
            ours, lambda: session(node, {"x": x}, {"w": w}))


def pool(op: str, c: int, size: int, kernel: int, stride: int) -> Case:
    x, pad = normal(1, c, size, size), kernel // 2
    out = (size + 2 * pad - kernel) // stride + 1
    last = np.moveaxis(aligned(np.ascontiguousarray(np.moveaxis(x, 1, -1))), -1, 1)
    y = np.moveaxis(aligned(np.zeros((1, out, out, c), np.float32)), -1, 1)
    params = [2, int(op == "AveragePool"), kernel, kernel, 1, stride, stride, 1, 1, 1, 1, pad, pad, 0, pad, pad, 0, 0, harness.bits(2), 0]
    node = helper.make_node(op, ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
    return (f"{op} {kernel}x{kernel}/{stride} {c}@{size}", 0.0, lambda isa: harness.Kernel("pool", isa, [last], [y], params).run, lambda: session(node, {"x": x}, {}))


def attention(h: int, hk: int, s: int, t: int, d: int, causal: bool = False) -> Case:
    q, k, v, y = aligned(normal(1, h, s, d)), aligned(normal(1, hk, t, d)), aligned(normal(1, hk, t, d)), aligned(normal(1, h, s, d))
    params = [harness.bits(d ** -0.5), harness.bits(0.0), int(causal), t - s]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=int(causal and s == t))
    return (f"attention {h}/{hk} {s}x{t}x{d}{' causal' if causal else ''}", 4.0 * h * s * t * d, lambda isa: harness.Kernel("attention", isa, [q, k, v, None], [y], params).run,
            lambda: session(node, {"q": q, "k": k, "v": v}, {}))


def cases() -> list[Case]:
    return [gemm(512, 512, 512), gemm(1024, 1024, 1024), gemm(512, 512, 512, False), gemm(1024, 1024, 1024, False), gemm(128, 768, 768), gemm(128, 3072, 768), gemm(128, 768, 3072),
            gemm(1, 4096, 4096), gemm(4, 4096, 4096), gemm(1, 4096, 4096, False), gemm(3136, 24, 96),
            conv(64, 64, 56, 3), conv(128, 128, 28, 3), conv(256, 256, 14, 3), conv(512, 512, 7, 3), conv(3, 64, 224, 7, 2), conv(3, 32, 224, 3, 2), conv(128, 128, 56, 3, 2),
            conv(96, 24, 56, 1), conv(24, 144, 56, 1), conv(256, 64, 56, 1), conv(64, 256, 56, 1), conv(960, 320, 7, 1), conv(256, 512, 56, 1, 2),
            conv(96, 96, 112, 3, 1, 96), conv(96, 96, 112, 3, 2, 96), conv(384, 384, 14, 3, 1, 384), conv(960, 960, 7, 3, 1, 960), conv(144, 144, 56, 5, 1, 144),
            pool("MaxPool", 64, 112, 3, 2), pool("AveragePool", 64, 56, 3, 1), pool("MaxPool", 192, 28, 3, 1),
            attention(12, 12, 128, 128, 64), attention(12, 12, 512, 512, 64), attention(12, 12, 512, 512, 64, True), attention(12, 12, 1, 512, 64), attention(32, 8, 1, 1024, 128)]


def compare(case: Case, isa: str, top: float, rounds: int) -> str:
    name, work, ours, theirs = case
    f, g = ours(isa), theirs()
    for call in (f, g, f, g):
        call()
    repeat = max(1, int(2e-3 / max(_time(f), 1e-6)))
    a, b = [], []
    for _ in range(rounds):
        a.append(_time(lambda: [f() for _ in range(repeat)]) / repeat)
        b.append(_time(lambda: [g() for _ in range(repeat)]) / repeat)
    best = f"{work / min(a) / 1e9 / top * 100:5.1f} %" if work else "    –  "
    return (f"{name:34s} ours {min(a) * 1e3:8.3f} (median {np.median(a) * 1e3:8.3f}) ms {best} of peak · onnxruntime {min(b) * 1e3:8.3f} ({np.median(b) * 1e3:8.3f}) · "
            f"ratio {min(a) / min(b):5.2f} (medians {np.median(a) / np.median(b):5.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of case names")
    parser.add_argument("--isa", default=harness.machine_isas()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    top = peak(options.isa)
    print(f"{options.isa}: {top:.0f} GFLOP/s of multiply-adds a core; load {Path('/proc/loadavg').read_text().split()[0]}")
    for case in cases():
        if not options.names or any(part in case[0] for part in options.names):
            print(compare(case, options.isa, top, options.rounds), flush=True)


if __name__ == "__main__":
    main()
