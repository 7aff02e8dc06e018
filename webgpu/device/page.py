"""The page's backend: navigator.gpu from Pyodide. The only module that knows JavaScript.

The device is opened by the JavaScript runtime's own module (wasm/js/gpu-device.js; `page.js` is what is called of it), which also compiles pipelines and puts errors into words. A list of
dispatches is handed over once and replayed there. Waiting is `run_sync` (JavaScript Promise Integration: Chrome and Edge 137, or newer); where a browser has none, or Python was not entered
by `runPythonAsync`, there is no device here, and the reason says so.
"""
from __future__ import annotations

import re
import weakref
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ... import wasm
from . import base
from .base import Adapter, Buffer, Device, DeviceError, Dispatch, Limits, NoAdapter, Pipeline, Span

Result = TypeVar("Result")
#: Modules of the JavaScript runtime that are needed, each after those it imports.
MODULES = ("errors.js", "env.js", "gpu-device.js")
#: Lists of dispatches that are kept as JavaScript's.
LISTS = 64


def script() -> str:
    """`page.js` applied to the modules, as one expression of `pyodide`: there is no URL they could be imported from."""
    folder = Path(str(wasm.__file__)).parent / "js"
    parts = []
    for name in MODULES:
        text = folder.joinpath(name).read_text()
        exported = re.findall(r"^export (?:async )?(?:class|function|const) (\w+)", text, re.MULTILINE)
        text = re.sub(r'^import \{([^}]*)\} from "\./([\w.-]+)";$', r'const {\1} = modules["\2"];', re.sub(r"^export ", "", text, flags=re.MULTILINE), flags=re.MULTILINE)
        parts.append(f'modules["{name}"] = (() => {{\n{text}\nreturn {{ {", ".join(exported)} }};\n}})();')
    glue = Path(__file__).with_name("page.js").read_text()
    return "(pyodide) => {\nconst modules = {};\n" + "\n".join(parts) + f"\nreturn (\n{glue}\n)(pyodide, modules);\n}}"


class PageBuffer(Buffer):
    """A GPUBuffer."""

    def __init__(self, device: PageDevice, handle: Any) -> None:
        self.handle, self.nbytes = handle, int(handle.size)
        self._device = weakref.ref(device)

    def destroy(self) -> None:
        """See `Buffer.destroy`."""
        if self.handle is not None:
            device = self._device()
            if device is not None:
                device._forget(self)
            self.handle = None


class PageDevice(Device):
    """The page's GPU. NoAdapter says why there is none."""

    def __init__(self) -> None:
        super().__init__()
        try:
            import pyodide_js
            from pyodide.code import run_js
            from pyodide.ffi import can_run_sync, run_sync
        except ImportError as error:
            raise NoAdapter(f"this Pyodide can not wait for the GPU ({error}); use Pyodide 0.28 or newer") from None
        if not can_run_sync():
            raise NoAdapter("Python can not wait for the GPU here: it takes a browser with JavaScript Promise Integration (Chrome or Edge 137, or newer) and code run by pyodide.runPythonAsync")
        self._run_sync = run_sync
        self._glue = run_js(script())(pyodide_js._module)
        with _typed():
            self._gpu = run_sync(self._glue.open())
        limits = self._gpu.limits
        self.limits = Limits(binding_bytes=int(limits.maxStorageBufferBindingSize), buffer_bytes=int(limits.maxBufferSize), alignment=int(self._gpu.alignment))
        self.adapter = Adapter(str(self._gpu.name), "WebGPU of the browser", "browser", bool(self._gpu.isCpu))
        self.features = frozenset(str(f) for f in self._gpu.device.features)
        self.timestamps = bool(self._gpu.timestamps)
        self._groups: dict[Any, Any] = {}
        self._lists: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        self._pipelines: dict[tuple[str, tuple[bool, ...]], Pipeline] = {}

    @property
    def lost(self) -> bool:  # type: ignore[override]
        """Whether the device is gone."""
        return self._gpu.failure is not None

    # -- memory ------------------------------------------------------------------------------------------------------------------------------
    def buffer(self, nbytes: int, *, uniform: bool = False, label: str = "") -> PageBuffer:
        """See `Device.buffer`."""
        with _typed():
            made = PageBuffer(self, self._gpu.uniform(nbytes) if uniform else self._gpu.storage(nbytes, label))
        self.buffers += 1
        return made

    def _forget(self, buffer: PageBuffer) -> None:
        self.buffers -= 1
        self._gpu.free(buffer.handle)
        for key in [k for k in self._groups if id(buffer) in k]:
            del self._groups[key]
        self._lists.clear()

    def write(self, buffer: Buffer, data: Any, offset: int = 0) -> None:
        """See `Device.write`."""
        assert isinstance(buffer, PageBuffer)
        dense = np.ascontiguousarray(data)
        with _typed():
            self._glue.write(self._gpu, buffer.handle, offset, _address(dense), dense.nbytes)

    # -- pipelines ---------------------------------------------------------------------------------------------------------------------------
    async def pipeline(self, source: str, writes: tuple[bool, ...], label: str) -> Pipeline:
        """See `Device.pipeline`."""
        return (await self.pipelines([(source, writes, label)]))[0]

    async def pipelines(self, wanted: Sequence[tuple[str, tuple[bool, ...], str]]) -> list[Pipeline]:
        """See `Device.pipelines`: all compile at once."""
        started = {(source, writes): self._gpu.pipeline(source, "".join("01"[w] for w in writes), label) for source, writes, label in wanted if (source, writes) not in self._pipelines}
        for (source, writes), promise in started.items():
            with _typed():
                made = await promise
            self._pipelines[source, writes] = Pipeline(made.pipeline, made.layout, writes)
            self.compiled += 1
        return [self._pipelines[source, writes] for source, writes, _ in wanted]

    def bind(self, pipeline: Pipeline, uniform: Span, storage: Sequence[Buffer]) -> Any:
        """See `Device.bind`."""
        key = (pipeline.writes, uniform[1], uniform[2], id(uniform[0]), *map(id, storage))
        if key not in self._groups:
            buffers = self._glue.list()
            for b in storage:
                buffers.push(b.handle)  # type: ignore[attr-defined]
            self._groups[key] = self._glue.bind(self._gpu, pipeline.layout, uniform[0].handle, uniform[1], uniform[2], buffers)  # type: ignore[attr-defined]
        return self._groups[key]

    # -- running -----------------------------------------------------------------------------------------------------------------------------
    def submit(self, work: Sequence[Dispatch]) -> None:
        """See `Device.submit`."""
        with _typed():
            self._glue.submit(self._gpu, self._list(work))

    def _list(self, work: Sequence[Dispatch]) -> Any:
        """JavaScript's list of dispatches. The same list again is not handed over again."""
        held = self._lists.get(id(work))
        if held is None or held[0] is not work:
            made = self._glue.list()
            for d in work:
                self._glue.add(made, d.pipeline.handle, d.group, d.x, d.y, d.z)
            self._lists[id(work)] = (work, made)
            while len(self._lists) > LISTS:
                self._lists.popitem(last=False)
        return self._lists[id(work)][1]

    async def timed(self, work: Sequence[Dispatch]) -> list[tuple[int, int]]:
        """See `Device.timed`. Browsers may round their clock (Chrome: to 100 µs)."""
        if not self.timestamps:
            return await super().timed(work)
        with _typed():
            flat = [int(tick) for tick in (await self._glue.timed(self._gpu, self._list(work))).to_py()]
        return list(zip(flat[::2], flat[1::2], strict=True))

    async def read(self, spans: Sequence[Span]) -> list[bytes]:
        """See `Device.read`."""
        made = [np.empty(size, np.uint8) for _, _, size in spans]
        flat = self._glue.list()
        for (buffer, at, size), target in zip(spans, made, strict=True):
            for item in (buffer.handle, at, size, _address(target)):  # type: ignore[attr-defined]
                flat.push(item)
        with _typed():
            await self._glue.read(self._gpu, flat)
        return [x.tobytes() for x in made]

    def close(self) -> None:
        """See `Device.close`."""
        self._groups.clear()
        self._lists.clear()
        self._gpu.device.destroy()
        self._run_sync(self._gpu.lost)

    def wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine of this device to its end."""
        made: Result = self._run_sync(coroutine)
        return made


def _address(array: np.ndarray) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


class _typed:  # noqa: N801
    """JavaScript's errors as this package's, by their names."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None or isinstance(error, DeviceError) or type(error).__name__ != "JsException":
            return
        found = getattr(base, str(getattr(error, "name", "")), None)
        text = str(getattr(error, "message", error)).replace("executionProviders: ['wasm']", "CPUExecutionProvider")
        raise (found if isinstance(found, type) and issubclass(found, DeviceError) else DeviceError)(text) from error
