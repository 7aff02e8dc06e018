"""The desktop backend: wgpu-py (wgpu-native: Vulkan, Metal, DirectX 12). The only module, with `raw`, that imports wgpu.

The adapter is the system's best; `SARDONYX_WEBGPU_ADAPTER` (a part of its name, such as "llvmpipe") picks another. wgpu's calls return when they are done here, so the
coroutines below never suspend.
"""
from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..wgsl.functions import naga, native
from .base import AHEAD, Adapter, Buffer, Device, DeviceLost, Dispatch, LimitExceeded, Limits, MissingFeature, NoAdapter, OutOfDeviceMemory, Pipeline, ShaderRejected, Span
from .raw import raw_pass

_QUIET = logging.NullHandler()
ADAPTER = "SARDONYX_WEBGPU_ADAPTER"
#: Timestamps a query set holds (WebGPU: 4096).
QUERIES = 4096
#: Limits → wgpu's names.
_NAMES = {
    "storage_buffers": "max-storage-buffers-per-shader-stage", "invocations": "max-compute-invocations-per-workgroup", "workgroup_bytes": "max-compute-workgroup-storage-size",
    "groups": "max-compute-workgroups-per-dimension", "binding_bytes": "max-storage-buffer-binding-size", "buffer_bytes": "max-buffer-size", "uniform_bytes": "max-uniform-buffer-binding-size",
    "alignment": "min-uniform-buffer-offset-alignment",
}


#: Features a device is opened with where the adapter has them, wgpu's names → WebGPU's.
OFFERED = {"timestamp-query": "timestamp-query", "shader-f16": "shader-f16", "subgroup": "subgroups"}


class NativeBuffer(Buffer):
    """A wgpu buffer."""

    def __init__(self, device: NativeDevice, handle: Any, nbytes: int) -> None:
        self.handle, self.nbytes = handle, nbytes
        self._device = weakref.ref(device)

    def destroy(self) -> None:
        """See `Buffer.destroy`."""
        if self.handle is None:
            return
        device = self._device()
        if device is not None:
            device._forget(self)
        self.handle.destroy()
        self.handle = None


class NativeDevice(Device):
    """`limits`: what to open the device with (default: WebGPU's defaults, with sizes as large as the adapter has). `features`: wgpu names that must be there."""

    def __init__(self, limits: Limits | None = None, features: Sequence[str] = ()) -> None:
        super().__init__()
        self._wgpu, adapter = _adapter()
        lacking = sorted(set(features) - set(adapter.features))
        if lacking:
            raise MissingFeature(f"the adapter {adapter.info['device']} lacks {', '.join(lacking)}; it has {', '.join(sorted(adapter.features))}")
        has = {name: int(adapter.limits[key]) for name, key in _NAMES.items()}
        self.limits = limits or Limits(binding_bytes=has["binding_bytes"], buffer_bytes=has["buffer_bytes"])
        for name, key in _NAMES.items():
            wanted = getattr(self.limits, name)
            if wanted < has[name] if name == "alignment" else wanted > has[name]:
                raise LimitExceeded(f"the adapter {adapter.info['device']} has {key} {has[name]}, {wanted} was asked for")
        try:
            self.timestamps = "timestamp-query" in adapter.features
            wanted_features = sorted({*features, *(name for name in OFFERED if name in adapter.features)})
            self._device = adapter.request_device_sync(required_features=wanted_features, required_limits={key: getattr(self.limits, name) for name, key in _NAMES.items()})
        except Exception as error:
            raise NoAdapter(f"the adapter {adapter.info['device']} gives no device: {_first_line(error)}; update its driver") from error
        self.adapter = Adapter(str(adapter.info["device"]), str(adapter.info["description"]), str(adapter.info["backend_type"]), adapter.info["adapter_type"] == "CPU")
        self.features = frozenset(OFFERED.get(name, name) for name in self._device.features)
        self._pipelines: dict[tuple[str, tuple[bool, ...]], Pipeline] = {}
        self._layouts: dict[tuple[bool, ...], Any] = {}
        self._groups: dict[Any, Any] = {}
        self.ahead = threading.BoundedSemaphore(AHEAD)
        self._staging: list[NativeBuffer] = []   # nobody's at the moment
        self._raw = raw_pass(self._wgpu)
        self.dot4 = self._compiles("@compute @workgroup_size(1) fn main() { let x = dot4I8Packed(1u, 2u); }")  # wgpu-py does not list WGSL's language features

    # -- memory ------------------------------------------------------------------------------------------------------------------------------
    def buffer(self, nbytes: int, *, uniform: bool = False, label: str = "") -> NativeBuffer:
        """See `Device.buffer`."""
        usage = self._wgpu.BufferUsage
        return self._buffer(nbytes, (usage.UNIFORM if uniform else usage.STORAGE | usage.COPY_SRC) | usage.COPY_DST, label)

    def _buffer(self, nbytes: int, usage: int, label: str) -> NativeBuffer:
        self._alive()
        nbytes = max(16, -(-nbytes // 4) * 4)
        most = min(self.limits.binding_bytes, self.limits.buffer_bytes) if usage & self._wgpu.BufferUsage.STORAGE else self.limits.buffer_bytes
        if nbytes > most:
            raise LimitExceeded(f"'{label}' takes {nbytes:,} bytes, a buffer of {self.adapter.name} holds {most:,}: use smaller sizes, or CPUExecutionProvider")
        try:
            made = NativeBuffer(self, self._device.create_buffer(size=nbytes, usage=usage, label=label[:60]), nbytes)
        except self._wgpu.GPUError as error:
            raise OutOfDeviceMemory(f"{self.adapter.name} has no {nbytes:,} bytes for '{label}': {_first_line(error)}; close sessions or use smaller sizes") from error
        self.buffers += 1
        return made

    def _forget(self, buffer: NativeBuffer) -> None:
        self.buffers -= 1
        with self.lock:
            for key in [k for k in self._groups if id(buffer) in k]:
                del self._groups[key]

    def write(self, buffer: Buffer, data: Any, offset: int = 0) -> None:
        """See `Device.write`."""
        assert isinstance(buffer, NativeBuffer)
        self._alive()
        if memoryview(data).nbytes:  # wgpu-py refuses to write nothing
            self._device.queue.write_buffer(buffer.handle, offset, data)

    # -- pipelines ---------------------------------------------------------------------------------------------------------------------------
    async def pipeline(self, source: str, writes: tuple[bool, ...], label: str) -> Pipeline:
        """See `Device.pipeline`."""
        with self.lock:
            found = self._pipelines.get((source, writes))
            if found is None:
                found = self._pipelines[source, writes] = self._compile(source, writes, label)
            return found

    def _compile(self, source: str, writes: tuple[bool, ...], label: str) -> Pipeline:
        self._alive()
        layout = self._layout(writes)
        source = naga(native(source) if self.dot4 else source)
        try:
            module = self._device.create_shader_module(code=source)
            handle = self._device.create_compute_pipeline(layout=self._device.create_pipeline_layout(bind_group_layouts=[layout]), compute={"module": module, "entry_point": "main"})
        except self._wgpu.GPUError as error:
            raise ShaderRejected(f"{self.adapter.name} rejected the shader of {label}: {_complaint(error, source)}; please report it, and run the model on CPUExecutionProvider") from error
        self.compiled += 1
        return Pipeline(handle, layout, writes)

    def _compiles(self, source: str) -> bool:
        try:
            self._device.create_shader_module(code=source)
            return True
        except self._wgpu.GPUError:
            return False

    def _layout(self, writes: tuple[bool, ...]) -> Any:
        if writes not in self._layouts:
            kinds = ["uniform", *("storage" if w else "read-only-storage" for w in writes)]
            self._layouts[writes] = self._device.create_bind_group_layout(
                entries=[{"binding": i, "visibility": self._wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}} for i, kind in enumerate(kinds)])
        return self._layouts[writes]

    def bind(self, pipeline: Pipeline, uniform: Span, storage: Sequence[Buffer]) -> Any:
        """See `Device.bind`."""
        key = (pipeline.writes, uniform[1], uniform[2], id(uniform[0]), *map(id, storage))
        with self.lock:
            if key not in self._groups:
                spans = [uniform, *((b, 0, b.nbytes) for b in storage)]
                entries = [{"binding": i, "resource": {"buffer": b.handle, "offset": offset, "size": size}} for i, (b, offset, size) in enumerate(spans)]  # type: ignore[attr-defined]
                self._groups[key] = self._device.create_bind_group(layout=pipeline.layout, entries=entries)
            return self._groups[key]

    # -- running -----------------------------------------------------------------------------------------------------------------------------
    def submit(self, work: Sequence[Dispatch]) -> None:
        """See `Device.submit`."""
        self._alive()
        encoder = self._device.create_command_encoder()
        one_pass = encoder.begin_compute_pass()
        if self._raw is not None:
            self._raw.record(one_pass, work)
        else:
            _record(one_pass, work)
        one_pass.end()
        self._device.queue.submit([encoder.finish()])

    async def timed(self, work: Sequence[Dispatch]) -> list[tuple[int, int]]:
        """See `Device.timed`."""
        if not self.timestamps:
            return await super().timed(work)
        self._alive()
        found: list[tuple[int, int]] = []
        usage = self._wgpu.BufferUsage
        for at in range(0, len(work), QUERIES // 2):
            part = work[at:at + QUERIES // 2]
            queries = self._device.create_query_set(type="timestamp", count=2 * len(part))
            resolved = self._buffer(16 * len(part), usage.QUERY_RESOLVE | usage.COPY_SRC, "timestamps")
            encoder = self._device.create_command_encoder()
            for i, step in enumerate(part):
                one_pass = encoder.begin_compute_pass(timestamp_writes={"query_set": queries, "beginning_of_pass_write_index": 2 * i, "end_of_pass_write_index": 2 * i + 1})
                _record(one_pass, [step])
                one_pass.end()
            encoder.resolve_query_set(queries, 0, 2 * len(part), resolved.handle, 0)
            self._device.queue.submit([encoder.finish()])
            ticks = memoryview((await self.read([(resolved, 0, 16 * len(part))]))[0]).cast("Q")
            resolved.destroy()
            found += [(ticks[2 * i], max(ticks[2 * i + 1] - ticks[2 * i], 0)) for i in range(len(part))]
        return found

    async def read(self, spans: Sequence[Span]) -> list[bytes]:
        """See `Device.read`."""
        return self.fetch(spans)()

    def fetch(self, spans: Sequence[Span], reset: tuple[Buffer, Buffer] | None = None) -> Callable[[], list[bytes]]:
        """See `Device.fetch`."""
        self._alive()
        offsets, total = [], 0
        for _, _, size in spans:
            offsets.append(total)
            total += -(-size // 8) * 8
        if not total:
            return lambda: [b"" for _ in spans]
        with self.lock:
            staging = self._stage(total)
            encoder = self._device.create_command_encoder()
            for (buffer, at, size), to in zip(spans, offsets, strict=True):
                if size:
                    encoder.copy_buffer_to_buffer(buffer.handle, at, staging.handle, to, -(-size // 4) * 4)  # type: ignore[attr-defined]
            if reset is not None:
                encoder.copy_buffer_to_buffer(reset[0].handle, 0, reset[1].handle, 0, reset[1].nbytes)  # type: ignore[attr-defined]
            self._device.queue.submit([encoder.finish()])

        def wait() -> list[bytes]:
            try:
                staging.handle.map_sync(self._wgpu.MapMode.READ, 0, total)
                try:
                    view = staging.handle.read_mapped(0, total, copy=False)
                    return [bytes(view[to:to + size]) for (_, _, size), to in zip(spans, offsets, strict=True)]
                finally:
                    staging.handle.unmap()
            except self._wgpu.GPUError as error:
                self.lost = True
                raise DeviceLost(f"{self.adapter.name} was lost while reading results: {_first_line(error)}; make a new session") from error
            finally:
                self._unstage(staging)
        return wait

    def _stage(self, nbytes: int) -> NativeBuffer:
        """A staging buffer for one reader; of those nobody uses the smallest that fits, else a new one in the place of one that does not."""
        found = min((b for b in self._staging if b.nbytes >= nbytes), key=lambda b: b.nbytes, default=None)
        if found is not None:
            self._staging.remove(found)
            return found
        if self._staging:
            self._staging.pop().destroy()
        usage = self._wgpu.BufferUsage
        return self._buffer(max(1 << 16, 1 << (nbytes - 1).bit_length()), usage.MAP_READ | usage.COPY_DST, "staging")

    def _unstage(self, staging: NativeBuffer) -> None:
        with self.lock:
            if self.lost or len(self._staging) >= AHEAD:
                staging.destroy()
            else:
                self._staging.append(staging)

    def _alive(self) -> None:
        if self.lost:
            raise DeviceLost(f"{self.adapter.name} was lost or closed: make a new session")

    def close(self) -> None:
        """See `Device.close`."""
        with self.lock:
            if self.lost:
                return
            self._groups.clear()
            self._pipelines.clear()
            self._layouts.clear()
            for staging in self._staging:
                staging.destroy()
            self._staging.clear()
            self.lost = True
            self._device.destroy()


def _record(one_pass: Any, work: Sequence[Dispatch]) -> None:
    """Dispatches through the public API."""
    last: Any = None
    for step in work:
        if step.pipeline is not last:
            one_pass.set_pipeline(step.pipeline.handle)
            last = step.pipeline
        one_pass.set_bind_group(0, step.group)
        one_pass.dispatch_workgroups(step.x, step.y, step.z)


def _adapter() -> tuple[Any, Any]:
    """The wgpu module and the adapter; NoAdapter with the remedy."""
    os.environ.setdefault("XDG_RUNTIME_DIR", "/tmp")  # wgpu's Vulkan loader refuses to work without one
    try:
        import wgpu
    except ImportError as error:
        raise NoAdapter(f"wgpu is not installed ({error}); pip install 'sardonyx[webgpu]'") from None
    except Exception as error:  # a library that does not fit this system
        raise NoAdapter(f"wgpu does not load: {_first_line(error)}; pip install 'sardonyx[webgpu]'") from None
    logging.getLogger("wgpu").addHandler(_QUIET)   # what drivers remark goes to whoever set logging up, and not to everybody's terminal
    wanted = os.environ.get(ADAPTER, "")
    try:
        adapters = [a for a in wgpu.gpu.enumerate_adapters_sync() if a.info["backend_type"] != "OpenGL"]
        found = [a for a in adapters if wanted.lower() in str(a.info["device"]).lower()]
        best = None if wanted else wgpu.gpu.request_adapter_sync(power_preference="high-performance")
    except Exception as error:
        raise NoAdapter(f"no WebGPU adapter: {_first_line(error)}; install a Vulkan driver (software: apt-get install mesa-vulkan-drivers libvulkan1)") from error
    if best is not None and best.info["backend_type"] != "OpenGL":
        return wgpu, best
    if not found:
        others = ", ".join(sorted({str(a.info["device"]) for a in adapters}))
        if others and wanted:
            raise NoAdapter(f"no WebGPU adapter is named {wanted!r}, as {ADAPTER} asks for; there are {others}. Leave the variable out for the best one, or install a Vulkan driver")
        raise NoAdapter(f"no WebGPU adapter{f' named {wanted!r} ({ADAPTER})' if wanted else ''}; install a Vulkan driver (software: apt-get install mesa-vulkan-drivers libvulkan1)")
    return wgpu, found[0]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _complaint(error: Exception, source: str) -> str:
    """The compiler's message without its drawing, and the WGSL line it means."""
    text = str(error)
    said = " ".join(line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] not in "┌│=0123456789" and not line.strip().startswith(("Validation Error", "Caused by", "In wgpu")))
    at = text.partition("wgsl:")[2].partition(":")[0]
    lines = source.split("\n")
    line = f"; line {at}: {lines[int(at) - 1].strip()[:200]}" if at.isdigit() and 0 < int(at) <= len(lines) else ""
    return (said or _first_line(error))[:400] + line
