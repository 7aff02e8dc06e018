"""Runs one C kernel of the float families alone: compiled once per ISA with float_stubs.c in place of the rest of the engine, called through ctypes."""
from __future__ import annotations

import ctypes as c
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
from sardonyx.engine.build import TARGETS, compile_units, host_target, link
from sardonyx.model.packing import Packing, pack

SOURCE = Path(__file__).parents[2] / "core" / "engine" / "src"
FLAGS = dict(TARGETS["linux", "x86_64"].isas) | dict(TARGETS["linux", "aarch64"].isas)
FAMILIES = ("gemm", "gemm_bf16", "matmul", "conv", "conv_narrow", "conv_rows", "depthwise", "winograd", "winograd_int", "pool", "attention", "gemm_int", "gemm_nbits", "matmul_int", "requant",
            "conv_int", "depthwise_int", "depthwise_vnni", "expr", "convert")
RANK = 8
DTYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.int32): 6, np.dtype(bool): 9, np.dtype(np.float16): 10, np.dtype(np.float64): 11, np.dtype(ml_dtypes.bfloat16): 16,
          np.dtype(np.int8): 3, np.dtype(np.uint8): 2}


def machine_isas() -> list[str]:
    """The variants this machine can run."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return [isa for isa, flag in (("avx512", "avx512vl"), ("avx2", "avx2"), ("sse", "sse4_2")) if flag in flags]


class View(c.Structure):
    """sx_view; `keep` holds the memory it points into."""

    keep: np.ndarray
    _fields_ = [("data", c.c_void_p), ("dim", c.c_int64 * RANK), ("stride", c.c_int64 * RANK), ("rank", c.c_int32), ("dtype", c.c_int32), ("packing", c.c_int32), ("reserved", c.c_int32),
                ("extent", c.c_int64)]


class CallRecord(c.Structure):
    _fields_ = [("kind", c.c_int32), ("n_in", c.c_int32), ("n_out", c.c_int32), ("n_param", c.c_int32), ("inputs", c.POINTER(View)), ("outputs", c.POINTER(View)), ("param", c.POINTER(c.c_int64)),
                ("prologue", c.c_void_p), ("epilogue", c.c_void_p), ("team", c.c_void_p), ("scratch", c.c_void_p), ("scratch_bytes", c.c_int64), ("fault", c.POINTER(c.c_int64)),
                ("stop", c.c_void_p), ("pause", c.c_void_p), ("sums", c.c_void_p), ("ahead", c.c_void_p), ("ahead_bytes", c.c_int64), ("bf16", c.c_int32)]


#: Products round their factors to bfloat16 (gemm_bf16.c): 0 no; 1 yes; 2 constants lie as words, too, as opening a program puts them.
BF16 = 0
ROUNDED: list[bool] = []   # of each kernel made meanwhile: whether it does
WORDS = 48


@cache
def library(isa: str) -> c.CDLL:
    """The families compiled for one ISA, re-built when a source changed."""
    target = host_target()
    families = [(f"{f}-{isa}-open", SOURCE / f"{f}.c", (*FLAGS[isa], f"-DSX_ISA={isa}", "-fvisibility=default")) for f in FAMILIES if (SOURCE / f"{f}.c").exists()]
    stubs = ("float_stubs", Path(__file__).parent / "float_stubs.c", (f"-I{SOURCE}", f"-DSX_ISA={isa}", "-fvisibility=default"))
    return c.CDLL(str(link(target, compile_units(target, [*families, stubs]), f"kernels-{isa}.so", ("-shared", "-lpthread"))))


def view(array: np.ndarray | None, dims: Sequence[int] | None = None, packing: int = 0) -> View:
    """An array as an operand; a packed one with its logical dims."""
    v = View()
    if array is None:
        return v
    shape = list(array.shape if dims is None else dims)
    v.data, v.rank, v.dtype, v.packing, v.extent = array.ctypes.data, len(shape), DTYPES[array.dtype], packing, array.nbytes if packing else array.size
    v.dim[:len(shape)] = shape
    v.stride[:len(shape)] = [0] * len(shape) if packing else [s // array.itemsize for s in array.strides]
    return v


def packed(array: np.ndarray, packing: Packing, group: int = 1) -> View:
    """A constant right-hand side as stored; the view keeps the packed array alive."""
    data = np.empty(0)
    raw = pack(array, packing, group)
    data = np.zeros(raw.nbytes + 64, np.uint8)
    start = -data.ctypes.data % 64
    data[start:start + raw.nbytes] = raw.reshape(-1).view(np.uint8)
    v = view(data[start:start + raw.nbytes].view(array.dtype), array.shape, packing)
    v.keep = data
    return v


def derived(isa: str, x: np.ndarray, weights: View, y: np.ndarray, params: Sequence[int], packing: int | None = None) -> View | None:
    """A convolution's packed weights as opening a program would transform them (`packing`: as asked); None where they stay as they are."""
    kernel = Kernel("conv", isa, [x, weights], [y], params)
    packing = getattr(kernel.lib, f"sx_conv_derives_{isa}")(kernel.pointer) if packing is None else packing
    if not packing:
        return None
    count = getattr(kernel.lib, f"sx_conv_derived_bytes_{isa}")
    count.restype = c.c_int64
    size = count(kernel.pointer, packing)
    data = np.full(size + 128, 0xA5, np.uint8)
    start = -data.ctypes.data % 64
    getattr(kernel.lib, f"sx_conv_derive_{isa}")(kernel.pointer, packing, c.c_void_p(data.ctypes.data + start))
    assert (data[start + size:] == 0xA5).all()
    v = view(data[start:start + size].view(np.float32), [weights.dim[i] for i in range(weights.rank)], packing)
    v.keep = data
    return v


def bits(value: float) -> int:
    """A float parameter."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class Kernel:
    """One prepared call: `run()` repeats it."""

    def __init__(self, kind: str, isa: str, inputs: Sequence[np.ndarray | View | None], outputs: Sequence[np.ndarray | None], params: Sequence[int], epilogue: bool = False, threads: int = 1) -> None:
        self.lib, self.threads = library(isa), threads
        self.keep = inputs, outputs
        self.inputs = (View * max(len(inputs), 1))(*[x if isinstance(x, View) else view(x) for x in inputs])
        self.outputs = (View * len(outputs))(*[view(x) for x in outputs])
        self.params = (c.c_int64 * max(len(params), 1))(*params)
        self.fault = (c.c_int64 * 4)()
        self.record = CallRecord(0, len(inputs), len(outputs), len(params), self.inputs, self.outputs, self.params, None, c.addressof(self.fault) if epilogue else None, None, None, 0, self.fault)
        if BF16 and kind in ("matmul", "conv"):
            self._round(kind, isa)
        scratch = getattr(self.lib, f"sx_scratch_{kind}_{isa}")
        scratch.restype = c.c_int64
        size = -(-scratch(c.byref(self.record)) // 64) * 64
        self.memory = np.full(size * threads + 128, 0xA5, np.uint8)
        self.record.scratch = -(-self.memory.ctypes.data // 64) * 64
        self.record.scratch_bytes = size
        self.end = self.record.scratch - self.memory.ctypes.data + size * threads
        self.function = getattr(self.lib, f"sx_k_{kind}_{isa}")
        self.pointer = c.byref(self.record)

    def _round(self, kind: str, isa: str) -> None:
        self.record.kind, self.record.bf16 = {"matmul": 4, "conv": 5}[kind], 1
        call = c.byref(self.record)
        ROUNDED.append(bool(getattr(self.lib, f"sx_bf16_used_{isa}")(call)))
        if BF16 < 2 or not getattr(self.lib, f"sx_bf16_wanted_{isa}")(call):
            return
        count = getattr(self.lib, f"sx_bf16_bytes_{isa}")
        count.restype = c.c_int64
        size = count(call, WORDS)
        self.words = np.full(size + 128, 0xA5, np.uint8)
        start = -self.words.ctypes.data % 64
        getattr(self.lib, f"sx_bf16_derive_{isa}")(call, WORDS, c.c_void_p(self.words.ctypes.data + start))
        assert (self.words[start + size:] == 0xA5).all()
        self.inputs[1].data, self.inputs[1].packing, self.inputs[1].extent = self.words.ctypes.data + start, WORDS, size

    def run(self) -> int:
        c.c_int.in_dll(self.lib, "stub_workers").value = self.threads
        code: int = self.function(self.pointer)
        assert (self.memory[self.end:] == 0xA5).all(), "a kernel wrote past its scratch"
        return code


def run(kind: str, isa: str, inputs: Sequence[np.ndarray | View | None], outputs: Sequence[np.ndarray | None], params: Sequence[int], epilogue: bool = False, threads: int = 1) -> None:
    """Run once; an error code fails."""
    kernel = Kernel(kind, isa, inputs, outputs, params, epilogue, threads)
    code = kernel.run()
    assert code == 0, f"{kind}: error {code}, fault {list(kernel.fault)}"


def with_epilogue(value: np.ndarray) -> np.ndarray:
    """What the stub's epilogue makes of a result."""
    return 2 * value + sum(((axis + 1) * grid for axis, grid in enumerate(np.indices(value.shape))), np.zeros(value.shape))
