"""The device API every executor and kernel of this package uses; a backend is one class below.

How to think
- A backend owns one adapter and one device. Everything that may have to wait is `async`: opening, compiling, reading. A page awaits; a desktop drives the coroutine to its end
  with `wait`, because its backend never really suspends.
- What a program needs is little: buffers, pipelines made of one WGSL module with the entry point `main` and one bind group, a recorded list of dispatches to submit, and reading back.
- Binding 0 is a uniform block, the others are storage buffers, in the order of `Pipeline.writes`, which says for each whether it is read and written. No auto layouts.
- Pipelines are cached by source: equal text is one pipeline for all sessions. Bind groups are cached by what they bind and dropped with their buffers.
- `Limits` are those the device was opened with. A backend raises them to the adapter's only for sizes (buffer, binding), never for what kernels rely on, unless told to.
- Errors are the typed ones below, always with the remedy; a backend translates its library's errors, and nothing of that library leaks.

To add a backend: subclass `Device`, fill the abstract methods, give `adapter`, `limits`, `features`; texts it compiles go through `native` and, where
its WGSL is another dialect (FACTS.md: `enable subgroups;`), through what wgsl/functions.py has for that. Nothing else in this package may know which backend runs.
"""
from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import EPFail, MemoryLimit

Result = TypeVar("Result")


class DeviceError(EPFail):
    """Base of the errors of this package's devices."""


class NoAdapter(DeviceError):
    """There is no WebGPU adapter here (no library, no driver, or none the browser allows)."""


class MissingFeature(DeviceError):
    """The adapter lacks a feature that was asked for."""


class LimitExceeded(DeviceError, MemoryLimit):
    """Something is larger than the adapter's limits allow."""


class OutOfDeviceMemory(DeviceError, MemoryLimit):
    """The device has no memory left for a buffer."""


class ShaderRejected(DeviceError):
    """A shader did not compile: a bug of ours or of the driver. The message names the kernel, the node and the WGSL line."""


class DeviceLost(DeviceError):
    """The device is gone (driver reset, GPU removed, tab in background); a new session opens a new one."""


@dataclass(frozen=True)
class Adapter:
    """What runs the shaders. `is_cpu`: a software adapter, for which barrier-free kernels are chosen."""

    name: str
    driver: str
    backend: str
    is_cpu: bool

    @property
    def counts(self) -> bool:
        """Whether the driver ends loops after so many turns (wgsl/turns.py), and says nothing."""
        return "llvmpipe" in self.name


@dataclass(frozen=True)
class Limits:
    """The limits kernels look at; defaults are what every WebGPU device has."""

    storage_buffers: int = 8
    invocations: int = 256
    workgroup_bytes: int = 16384
    groups: int = 65535
    binding_bytes: int = 128 << 20
    buffer_bytes: int = 256 << 20
    uniform_bytes: int = 65536
    alignment: int = 256


class Buffer(ABC):
    """Device memory. `nbytes` is a multiple of 4."""

    nbytes: int

    @abstractmethod
    def destroy(self) -> None:
        """Give the memory back; destroying twice is allowed."""


@dataclass(frozen=True)
class Pipeline:
    """A compiled shader. `writes[i]`: whether storage binding i + 1 is written."""

    handle: Any
    layout: Any
    writes: tuple[bool, ...]


@dataclass(frozen=True)
class Dispatch:
    """One recorded dispatch: what a run replays."""

    pipeline: Pipeline
    group: Any
    x: int
    y: int = 1
    z: int = 1


#: Runs that may be submitted to a device and not yet read.
AHEAD = 4
#: (buffer, offset, bytes)
Span = tuple[Buffer, int, int]


class Device(ABC):
    """An open device; see the head of this module. Methods may be called from several threads; `lock` is held by whoever writes, submits and reads as one."""

    adapter: Adapter
    limits: Limits
    features: frozenset[str]
    lost: bool = False
    timestamps: bool = False   # whether there is `timed`
    dot4: bool = False         # whether its WGSL has packed_4x8_integer_dot_product

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tiles: Mapping[str, Any] | None = None   # choices measured on this adapter (kernels/tiles.py); the provider loads them
        self.ahead: AbstractContextManager[Any] = nullcontext()   # held by a run on its way; one that `fetch`es lets AHEAD of them in
        self.compiled = 0     # pipelines made so far: tests count them
        self.buffers = 0      # buffers alive: tests count them

    @abstractmethod
    def buffer(self, nbytes: int, *, uniform: bool = False, label: str = "") -> Buffer:
        """Memory of at least `nbytes` bytes, zeroed. LimitExceeded, OutOfDeviceMemory."""

    @abstractmethod
    def write(self, buffer: Buffer, data: Any, offset: int = 0) -> None:
        """Copy C-contiguous bytes (whole words) into a buffer, in order with submitted work."""

    @abstractmethod
    async def pipeline(self, source: str, writes: tuple[bool, ...], label: str) -> Pipeline:
        """The pipeline of a WGSL source, compiled once a device. ShaderRejected names `label`."""

    async def pipelines(self, wanted: Sequence[tuple[str, tuple[bool, ...], str]]) -> list[Pipeline]:
        """The pipelines of (source, writes, label), which a backend that can compiles all at once."""
        return [await self.pipeline(*one) for one in wanted]

    @abstractmethod
    def bind(self, pipeline: Pipeline, uniform: Span, storage: Sequence[Buffer]) -> Any:
        """A bind group, cached."""

    @abstractmethod
    def submit(self, work: Sequence[Dispatch]) -> None:
        """Queue dispatches, each seeing what the ones before it wrote."""

    async def timed(self, work: Sequence[Dispatch]) -> list[tuple[int, int]]:
        """As `submit`, each dispatch in a pass of its own; (begin, duration) of each in nanoseconds of the device's clock. MissingFeature where it has none."""
        raise MissingFeature(f"{self.adapter.name} has no timestamps (feature timestamp-query)")

    @abstractmethod
    async def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Copies of device memory, after all submitted work, by a persistent staging buffer. DeviceLost."""

    def fetch(self, spans: Sequence[Span], reset: tuple[Buffer, Buffer]) -> Callable[[], list[bytes]] | None:
        """Queue `read`, behind all submitted work, and after it a copy of the first of `reset` to the second; None where a backend can not. What waits for the bytes must be called once, by any thread
        and without the lock: what is submitted meanwhile does not change them. DeviceLost."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Give everything back; using the device afterwards raises DeviceLost."""

    def wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine of this device to its end. Backends that really suspend override this."""
        try:
            coroutine.send(None)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        coroutine.close()
        raise DeviceError("this device can only be awaited here: use the asynchronous call (run_async)")
