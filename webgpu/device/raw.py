"""wgpu-py's library called directly for the one loop that runs per dispatch: 3.9 µs a dispatch through its API (mostly Python of its own), about 1 µs this way (FACTS.md; measured again by
tests/bench/gpu.py). Private to wgpu-py, therefore alone in this file, for the releases below only, and checked by name before use; with any other release `NativeDevice` records through
the public API. `SARDONYX_WEBGPU_RAW=0` turns it off."""
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .base import Dispatch

#: (major, minor) of wgpu-py for which the calls below were tested.
TESTED = frozenset({(0, 31)})


class RawPass:
    """Records dispatches into a compute pass made by the public API."""

    def __init__(self, library: Any, null: Any) -> None:
        self._pipeline, self._group, self._dispatch = library.wgpuComputePassEncoderSetPipeline, library.wgpuComputePassEncoderSetBindGroup, library.wgpuComputePassEncoderDispatchWorkgroups
        self._null = null

    def record(self, compute_pass: Any, work: Sequence[Dispatch]) -> None:
        """What `GPUComputePassEncoder.set_pipeline`, `set_bind_group` and `dispatch_workgroups` would."""
        set_pipeline, set_group, dispatch, null, encoder = self._pipeline, self._group, self._dispatch, self._null, compute_pass._internal
        last: Any = None
        for step in work:
            pipeline = step.pipeline
            if pipeline is not last:
                set_pipeline(encoder, pipeline.handle._internal)
                last = pipeline
            set_group(encoder, 0, step.group._internal, 0, null)
            dispatch(encoder, step.x, step.y, step.z)


def raw_pass(wgpu: Any) -> RawPass | None:
    """The fast way, where this release of wgpu-py is one it is known for."""
    if tuple(wgpu.version_info[:2]) not in TESTED or os.environ.get("SARDONYX_WEBGPU_RAW") == "0":
        return None
    try:
        from wgpu.backends.wgpu_native import ffi, lib  # type: ignore[import-untyped,unused-ignore]
        return RawPass(lib, ffi.NULL)
    except (ImportError, AttributeError):
        return None
