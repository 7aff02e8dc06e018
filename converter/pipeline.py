"""`convert`: a model in, an `.sdx` file out. The one place where the steps of a conversion stand in order."""
from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sardonyx.errors import InvalidArgument
from sardonyx.graph import Model
from sardonyx.model import is_sdx, read_model, write_model
from sardonyx.model.recorded import Recorded
from sardonyx.package import Package
from sardonyx.plan.shapes import infer_shapes

from .cut import cut, fix_dims
from .fp16 import float16_passes
from .onnx import load_model
from .options import ConvertOptions, ConvertReport
from .passes import default_passes, run_passes
from .stored import plan_stored


def open_model(source: Any) -> Model:
    """A Model from an `.onnx` or `.sdx` path, bytes, file object or ModelProto."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_file():
        with open(source, "rb") as file:
            head = file.read(16)
        return read_model(source) if is_sdx(head) else load_model(source)
    if isinstance(source, (bytes, bytearray, memoryview)) and is_sdx(bytes(source[:16])):
        return read_model(source)
    return load_model(source)


def prepare(source: Any, options: ConvertOptions, report: ConvertReport | None = None) -> Model:
    """The steps before writing: read, cut, bind sizes, infer shapes, optimise."""
    report = report if report is not None else ConvertReport()
    model = source if isinstance(source, Model) else open_model(source)
    report.operators_before = dict(Counter(node.operator for node in model.graph.walk()))
    cut(model, options.inputs, options.outputs)
    fix_dims(model, options.fix_dims)
    infer_shapes(model)
    if options.optimize:
        report.passes = run_passes(model, default_passes(options), options.progress)
    if options.fp16:
        report.passes = [*report.passes, *run_passes(model, float16_passes(), options.progress)]
    if report.passes:
        infer_shapes(model)
    report.operators_after = dict(Counter(node.operator for node in model.graph.walk()))
    return model


def convert(source: Any, destination: Any = None, options: ConvertOptions | None = None, **keywords: Any) -> ConvertReport:
    """Convert a model to `.sdx`.

    source: `.onnx` or `.sdx` path, bytes, file object or onnx ModelProto. destination: path or binary file; by default the source's path with the suffix
    `.sdx`. Options as fields of `ConvertOptions`, or as keywords. Raises a SardonyxError that names the thing; a half-written file is removed.
    """
    start = time.perf_counter()
    try:
        options = ConvertOptions(**keywords) if options is None else options
    except TypeError as error:
        raise InvalidArgument(f"convert: {error}; options are {', '.join(ConvertOptions.__dataclass_fields__)}") from None
    report = ConvertReport()
    if destination is None:
        if not isinstance(source, (str, os.PathLike)):
            raise InvalidArgument("convert: say where to write (destination=...), as the source has no path")
        destination = Path(source).with_suffix(".sdx")
    if isinstance(source, (str, os.PathLike)) and Path(source).is_file():
        if isinstance(destination, (str, os.PathLike)) and Path(destination).exists() and Path(destination).samefile(source):
            raise InvalidArgument(f"convert: '{destination}' is the source itself; write to another path")
        report.source_size = Path(source).stat().st_size
    model = prepare(source, options, report)
    package = None
    if options.store and options.pack or options.plan:  # programs read packed weights
        package, report.not_stored = plan_stored(model, options.plan)
        if options.plan and package is None:
            remedy = ". Leave --plan out to store the graph alone" if any(options.plan) else ""  # no sizes: a bundle's, whose page runs nothing else
            raise InvalidArgument(f"convert: nothing can be planned for the engine: {report.not_stored}{remedy}")
    recorded = _record(model, options) if options.webgpu or options.webgpu_f16 or options.webgpu_device else None
    if isinstance(destination, (str, os.PathLike)):
        _write_path(model, Path(destination), options, report, package, recorded)
    else:
        report.file = write_model(model, destination, pack=options.pack, package=package, recorded=recorded, most_extra=_most_extra(options), progress=_writing(options))
    if report.file.get("left_out"):
        report.not_stored = f"weights in the form its kernels read would add {report.file['left_out']:,} bytes (--plan stores them all the same)"
    report.seconds = time.perf_counter() - start
    return report


def _record(model: Model, options: ConvertOptions) -> Recorded:
    """The model for WebGPU; InvalidArgument says why there is none. Of several plans the first with ranges counts."""
    from sardonyx.webgpu.stored import PRECISIONS, Target, record_package
    if not options.pack:
        raise InvalidArgument("convert: programs for WebGPU read packed weights; leave pack=False (--no-pack) out")
    device = None
    if options.webgpu_device is not None:
        software, features, precision = options.webgpu_device
        device = Target(software, frozenset(features), precision)
        if precision not in PRECISIONS or (precision == "f16" and "shader-f16" not in device.features):
            raise InvalidArgument(f"convert: webgpu_device has the precision {precision!r}; it is 'f32', or 'f16' with the feature shader-f16")
    made, why = record_package(model, next(iter(options.plan), None), PRECISIONS if options.webgpu_f16 or options.fp16 else PRECISIONS[:1], device)
    if made is None:
        raise InvalidArgument(f"convert: nothing can be recorded for WebGPU: {why}. Leave --webgpu out to store programs for the CPU alone")
    return made


def _most_extra(options: ConvertOptions) -> float | None:
    """A program that was not asked for may make a file by this share larger: some operators' weights lie another way for kernels than for the graph, or have taken a factor."""
    return None if options.plan else 0.1


def _writing(options: ConvertOptions) -> Callable[[int, int], None] | None:
    """The writer's progress (bytes written, bytes in all) as the options' (what, fraction)."""
    report = options.progress
    return None if report is None else lambda done, total: report("writing", done / total if total else 1.0)


def _write_path(model: Model, destination: Path, options: ConvertOptions, report: ConvertReport, package: Package | None, recorded: Recorded | None) -> None:
    """Write beside the destination and rename, so that a failure leaves an old file as it was."""
    partial = destination.with_name(destination.name + ".partial")
    external = destination.with_name(destination.name + ".data") if options.external_data else None
    try:
        report.file = write_model(model, partial, pack=options.pack, package=package, recorded=recorded, most_extra=_most_extra(options), external=external, progress=_writing(options))
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    report.size = destination.stat().st_size + (external.stat().st_size if external else 0)
