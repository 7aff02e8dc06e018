"""Tensors that stay on the GPU between runs: what an OrtValue of device 'webgpu' holds, and what goes from one program to the next.

They hold elements as programs read and write them alike: one word each (`wgsl/storage.py`), so float32, int32 and uint32 only. 8- and 16-bit elements lie packed in inputs and as words in
outputs, and 64-bit integers must be checked before they are narrowed; those go through the host.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import Fail, InvalidArgument
from ..types import DType
from .device.base import Buffer, Device, DeviceLost
from .wgsl.storage import PLAIN, download, upload


class Pool:
    """Buffers that tensors have given back, for the next ones of about the size: bind groups are made once a buffer, and a loop over the same sizes allocates nothing."""

    def __init__(self, device: Device) -> None:
        self.device, self.closed = device, False
        self._free: list[Buffer] = []

    def take(self, nbytes: int) -> Buffer:
        """A buffer of at least `nbytes` bytes; what it holds is left over from another tensor."""
        with self.device.lock:
            fitting = [b for b in self._free if nbytes <= b.nbytes <= max(2 * nbytes, 4096)]
            if fitting:
                best = min(fitting, key=lambda b: b.nbytes)
                self._free.remove(best)
                return best
            return self.device.buffer(nbytes, label="a tensor that stays on the device")

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back."""
        with self.device.lock:
            if self.closed or self.device.lost:
                buffer.destroy()
            else:
                self._free.append(buffer)

    def close(self) -> None:
        """Give the memory back. Tensors still alive keep theirs until they go."""
        with self.device.lock:
            self.closed = True
            for buffer in self._free:
                buffer.destroy()
            self._free.clear()


class GpuTensor:
    """A tensor in GPU memory, with the attributes of an array that do not look at elements; `numpy()` fetches them. Its memory goes back with it, or with `close()`."""

    on_device = True

    def __init__(self, pool: Pool, buffer: Buffer, type: DType, shape: tuple[int, ...]) -> None:
        self.pool, self.type, self.shape = pool, type, shape
        self._buffer: Buffer | None = buffer

    @classmethod
    def upload(cls, device: Device, array: np.ndarray, pool: Pool | None = None) -> GpuTensor:
        """A copy of an array. Fail for element types that are not held here."""
        dtype = DType.of(array)
        if dtype not in PLAIN:
            raise Fail(f"tensors of {dtype.text} can not stay on WebGPU (float, int32 and uint32 can): keep this one on 'cpu'")
        pool = pool or Pool(device)
        made = cls(pool, pool.take(max(array.nbytes, 4)), dtype, array.shape)
        made.write(array)
        return made

    dtype = property(lambda self: self.type.numpy, doc="NumPy's dtype.")
    ndim = property(lambda self: len(self.shape), doc="Number of axes.")
    size = property(lambda self: int(np.prod(self.shape, dtype=np.int64)), doc="Number of elements.")
    nbytes = property(lambda self: 4 * self.size, doc="Bytes of the elements.")
    device = property(lambda self: self.pool.device, doc="Where it lies.")

    def on(self, device: Device, name: str) -> Buffer:
        """The buffer, for a program of that device. DeviceLost where the tensor went with its device, InvalidArgument where it lies elsewhere or was closed."""
        if self.pool.device.lost:
            raise DeviceLost(f"the tensor given for input '{name}' was lost with its device ({self.pool.device.adapter.name}): make it anew from the host's data")
        if self.pool.device is not device:
            raise InvalidArgument(f"the tensor given for input '{name}' lies on another device ({self.pool.device.adapter.name}) than the session's ({device.adapter.name}): "
                                  "pass .numpy(), or make it for this device")
        if self._buffer is None:
            raise InvalidArgument(f"the tensor given for input '{name}' was closed")
        return self._buffer

    def write(self, array: np.ndarray) -> None:
        """Overwrite all elements."""
        if array.size:
            self.device.write(self.on(self.device, "of a copy"), upload(array, self.type))

    def numpy(self) -> np.ndarray:
        """The elements, copied to the host."""
        if not self.size:
            return np.zeros(self.shape, self.dtype)
        with self.device.lock:
            raw = self.device.wait(self.device.read([(self.on(self.device, "of a copy"), 0, self.nbytes)]))[0]
        return download(raw, self.type, list(self.shape))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def close(self) -> None:
        """Give the memory back."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self.pool.give(buffer)

    def __del__(self) -> None:
        if getattr(self, "_buffer", None) is not None:
            self.close()
