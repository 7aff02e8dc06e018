"""Plays what a file stores for WebGPU on a desktop's device: a second player beside wasm/js/gpu.js and gpu-program.js, for adapters that no browser here runs on (lavapipe has f16)."""
from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sardonyx.model.format import Header
from sardonyx.model.recorded import unpack_recorded
from sardonyx.package import Package
from sardonyx.types import DType
from sardonyx.webgpu.device.base import Dispatch
from sardonyx.webgpu.wgsl.storage import download, upload


def text_of(data: bytes) -> tuple[Package, dict[str, Any]]:
    """A file's package and text for WebGPU."""
    at, length = Header.unpack(memoryview(data)).webgpu
    _, package, text = unpack_recorded(memoryview(data)[at:at + length])
    return Package.unpack(package), json.loads(bytes(text))


def shaders_of(text: Mapping[str, Any]) -> list[tuple[str, tuple[bool, ...]]]:
    """All shaders, edits carried out: (source, which bindings are written)."""
    made = [(source, writes) for source, writes in text["shaders"]]
    for like, writes, *changes in text.get("edits", ()):
        lines = text["shaders"][like][0].split("\n")
        for first, behind, *new in changes:
            lines[first:behind] = new
        made.append(("\n".join(lines), writes))
    return [(source, tuple(w == "1" for w in writes)) for source, writes in made]


def chosen(both: Mapping[str, Any], software: bool, features: frozenset[str], precision: str) -> dict[str, Any]:
    """The recording a device takes."""
    for wanted in (precision, "f32"):
        for soft, needs, held, recording in both.get("variants", ()):
            if held == wanted and bool(soft) == software and set(needs.split()) <= features:
                return recording  # type: ignore[no-any-return]
    return both.get("cpu", both["gpu"]) if software else both["gpu"]  # type: ignore[no-any-return]


def play(device: Any, data: bytes, inputs: Sequence[np.ndarray], precision: str = "f32") -> tuple[list[np.ndarray], dict[str, Any], list[str]]:
    """(outputs, the recording, the sources it runs) of a file whose run is one program."""
    package, text = text_of(data)
    recording = chosen(text["programs"][str(text["direct"])], device.adapter.is_cpu, device.features, precision)
    table = package.programs[text["direct"]].program.bind([x.shape for x in inputs], inputs)
    shaders, start, made = shaders_of(text), Header.unpack(memoryview(data)).data[0], []
    slabs = [device.buffer(max(table[row] * each for row, each in zip(slab[1::2], slab[2::2], strict=True))) for slab in recording["slabs"]]
    for number in recording["constants"]:
        at, count, item = text["constants"][number]
        raw = np.frombuffer(data, np.uint8, item or count, start + at)
        raw = np.tile(raw, count // item) if item else raw
        if number in recording.get("half", ()):
            floats = raw.view(np.float32)
            raw = upload(np.where(np.isfinite(floats), np.clip(floats, -65504, 65504), floats).astype(np.float16), DType.FLOAT16)
        made.append(device.buffer(raw.nbytes))
        device.write(made[-1], raw)
    status = device.buffer(4)
    device.write(status, np.array([0xFFFFFFFF], np.uint32))
    buffers = [*slabs, *made, status]
    for (slab, dtype, *_), x in zip(recording["inputs"], inputs, strict=True):
        if slab >= 0:
            device.write(slabs[slab], upload(x, DType(dtype)))
    work, uniforms = [], []
    for shader, groups, label, bound, rows in recording["dispatches"]:
        count = table[groups]
        block = np.array([table[row] for row in rows] + [0] * max(4 - len(rows), -len(rows) % 4), np.int32)
        uniforms.append(device.buffer(block.nbytes, uniform=True))
        device.write(uniforms[-1], block)
        pipeline = device.wait(device.pipeline(*shaders[shader], text["labels"][label]))
        if count > 0:
            work.append(Dispatch(pipeline, device.bind(pipeline, (uniforms[-1], 0, block.nbytes), [buffers[b] for b in bound]), min(count, 65535), -(-count // min(count, 65535))))
    try:
        device.submit(work)
        shapes = [[table[row] for row in dims] for _, _, dims in recording["outputs"]]
        read = device.wait(device.read([(status, 0, 4), *((slabs[slab], 0, 4 * math.prod(shape)) for (slab, _, _), shape in zip(recording["outputs"], shapes, strict=True))]))
        assert read[0] == b"\xff" * 4, "the run reported a fault"
        return [download(raw, DType(o[1]), shape) for raw, o, shape in zip(read[1:], recording["outputs"], shapes, strict=True)], recording, [shaders[d[0]][0] for d in recording["dispatches"]]
    finally:
        for buffer in (*buffers, *uniforms):
            buffer.destroy()
