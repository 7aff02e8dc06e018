"""run.py: run a model that `sardonyx convert` wrote through the C API, with ctypes alone: python run.py libsardonyx.so model.sdx. Inputs are ones; open sizes are 1. What any language with a foreign
function interface does."""
from __future__ import annotations

import ctypes
import mmap
import sys
from ctypes import byref, c_char_p, c_int32, c_int64, c_uint64, c_void_p


class Report(ctypes.Structure):
    _fields_ = [("code", c_int32), ("rule", c_int32), ("step", c_int64), ("operand", c_int64), ("values", c_int64 * 2), ("program", c_int32), ("block", c_int32), ("segment", c_int32),
                ("reserved", c_int32)]


class Tensor(ctypes.Structure):
    _fields_ = [("dtype", c_int32), ("rank", c_int32), ("dim", c_int64 * 8), ("data", c_void_p)]


class Port(ctypes.Structure):
    _fields_ = [("dtype", c_int32), ("rank", c_int32), ("dim", c_int64 * 8), ("name", c_void_p), ("name_bytes", c_int64)]


TYPES = {1: ctypes.c_float, 6: c_int32, 7: c_int64, 9: ctypes.c_bool, 11: ctypes.c_double}


def elements(tensor: Tensor) -> int:
    """How many elements it has."""
    n = 1
    for d in tensor.dim[:tensor.rank]:
        n *= d
    return n


def main(library: str, model: str) -> None:
    """Open, run, print, close."""
    sx = ctypes.CDLL(library)
    sx.sx_package_count.restype = c_int64
    with open(model, "rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # copy on write: ctypes wants a writable buffer
    start = ctypes.addressof(c_char_p.from_buffer(held))
    package, session, report = c_void_p(), c_void_p(), Report()

    def check(code: int) -> None:
        if code:
            text = ctypes.create_string_buffer(1024)
            sx.sx_package_error_text(byref(report), package, text, c_int64(1024))
            sys.exit(f"error {code}: {text.value.decode()}")
    check(sx.sx_package_map(c_void_p(start), c_uint64(len(held)), None, byref(package), byref(report)))
    check(sx.sx_session_open(package, byref(session), byref(report)))
    inputs, kept = (Tensor * sx.sx_package_count(package, 0))(), []
    for i, tensor in enumerate(inputs):
        port = Port()
        sx.sx_package_port(package, 0, c_int64(i), byref(port))
        tensor.dtype, tensor.rank = port.dtype, port.rank
        tensor.dim[:port.rank] = [max(d, 1) if d < 0 else d for d in port.dim[:port.rank]]
        kept.append((TYPES[port.dtype] * elements(tensor))(*[1] * elements(tensor)))
        tensor.data = ctypes.addressof(kept[-1])
    check(sx.sx_session_run(session, inputs, c_int64(len(inputs)), c_int64(0), byref(report)))
    for i in range(sx.sx_package_count(package, 1)):
        port, tensor = Port(), Tensor()
        sx.sx_package_port(package, 1, c_int64(i), byref(port))
        check(sx.sx_session_output(session, c_int64(i), byref(tensor)))
        values = (TYPES[tensor.dtype] * elements(tensor)).from_address(tensor.data)
        print(ctypes.string_at(port.name, port.name_bytes).decode(), list(tensor.dim[:tensor.rank]), *values[:64])
    sx.sx_session_close(session)
    sx.sx_package_close(package)


if __name__ == "__main__":
    main(*sys.argv[1:])
