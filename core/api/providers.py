"""The one registry of optional parts: execution providers and the `.onnx` reader, by module name.

core/api may not import floors beside or above it; what may be missing from an installation is named here and imported when it is needed.
A provider's module has a class that follows `providers.base.Provider`.
"""
from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ..errors import InvalidArgument
from ..providers.base import Provider
from .exceptions import InvalidType

REFERENCE = "ReferenceExecutionProvider"
CPU = "CPUExecutionProvider"

#: Optional parts that are not providers.
PARTS = {"onnx": "sardonyx.converter.onnx", "converter": "sardonyx.converter"}


@dataclass(frozen=True)
class Entry:
    """A provider's name: where its class is, how else it is called, and what to say where it is not there."""

    name: str
    module: str = ""
    factory: str = ""
    aliases: tuple[str, ...] = ()
    missing: str = "sardonyx does not have this provider"


#: onnxruntime's names in onnxruntime's order; the CPU is last, the reference before it.
_ENTRIES = (
    Entry("TensorrtExecutionProvider", aliases=("trt", "tensorrt")), Entry("NvTensorRTRTXExecutionProvider", aliases=("trt-rtx", "nvtensorrtrtx")),
    Entry("CUDAExecutionProvider", aliases=("cuda",)), Entry("MIGraphXExecutionProvider", aliases=("migraphx",)), Entry("ROCMExecutionProvider", aliases=("rocm",)),
    Entry("OpenVINOExecutionProvider", aliases=("openvino",)), Entry("DnnlExecutionProvider", aliases=("dnnl",)), Entry("VitisAIExecutionProvider", aliases=("vitisai",)),
    Entry("QNNExecutionProvider", aliases=("qnn",)), Entry("NnapiExecutionProvider", aliases=("nnapi",)), Entry("VSINPUExecutionProvider", aliases=("vsinpu",)),
    Entry("JsExecutionProvider", aliases=("js",)), Entry("CoreMLExecutionProvider", aliases=("coreml",)), Entry("DmlExecutionProvider", aliases=("dml", "directml")),
    Entry("RknpuExecutionProvider", aliases=("rknpu",)), Entry("WebNNExecutionProvider", aliases=("webnn",)),
    Entry("WebGpuExecutionProvider", "sardonyx.webgpu.provider", "WebGpuProvider", ("webgpu",), "this installation of sardonyx has no WebGPU part; reinstall sardonyx"),
    Entry("XnnpackExecutionProvider", aliases=("xnnpack",)), Entry("CANNExecutionProvider", aliases=("cann",)), Entry("AzureExecutionProvider", aliases=("azure",)),
    Entry(REFERENCE, "sardonyx.providers.reference", "ReferenceProvider", ("reference",)),
    Entry(CPU, "sardonyx.providers.cpu", "CpuProvider", ("cpu",), "the C engine is not built in this version"),
)
REGISTRY: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
_ALIASES = {alias: entry.name for entry in _ENTRIES for alias in entry.aliases}


@dataclass(frozen=True)
class Request:
    """A provider the caller listed, by its full name, with its options."""

    name: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A provider a session will use. `stand_in`: why `provider` is the reference although another name was asked for; empty otherwise."""

    name: str
    provider: Provider
    options: dict[str, str]
    stand_in: str = ""


def part(name: str) -> ModuleType:
    """An optional part by its short name; InvalidArgument naming the part where the installation lacks it."""
    try:
        return import_module(PARTS[name])
    except ModuleNotFoundError as error:
        if error.name is None or not PARTS[name].startswith(error.name):
            raise
        raise InvalidArgument(f"this installation of sardonyx has no {PARTS[name]}; convert the model to .sdx where it has, or reinstall sardonyx") from None


def canonical(name: Any) -> str:
    """`cpu` or `CPUExecutionProvider` → `CPUExecutionProvider`; InvalidArgument (a ValueError) listing the known names."""
    if not isinstance(name, str):
        raise InvalidType(f"'providers' values must be either strings or (string, dict) tuples, not {type(name).__name__} {name!r:.60}")
    found = name if name in REGISTRY else _ALIASES.get(name.lower())
    if found is None:
        short = ", ".join(alias for alias in _ALIASES)
        raise InvalidArgument(f"Unknown Provider Type: {name}; known are {', '.join(REGISTRY)} (in short: {short})")
    return found


def reason_missing(name: str) -> str:
    """Empty where the provider works here, otherwise why it does not."""
    entry = REGISTRY[name]
    if not entry.module or find_spec(entry.module) is None:
        return entry.missing
    return _make(entry).available()


def provider(name: str) -> Provider:
    """The provider of a full name, which must be there (`reason_missing`)."""
    return _make(REGISTRY[name])


def _make(entry: Entry) -> Provider:
    made: Provider = getattr(import_module(entry.module), entry.factory)()
    return made


def get_all_providers() -> list[str]:
    """Every provider name a session accepts, available or not; the CPU last."""
    return list(REGISTRY)


def get_available_providers() -> list[str]:
    """The providers that work here, best first; the CPU last, never the reference.

    The CPU is always there: where its engine is missing, the NumPy operators stand in, with a warning, and `session.explain()` says so.
    """
    return [name for name in REGISTRY if name not in (REFERENCE, CPU) and not reason_missing(name) and _worth_listing(name)] + [CPU]


def _worth_listing(name: str) -> bool:
    """Programs pass the whole list of available providers on: one that only emulates its device (WebGPU on a software adapter) has to be asked for by name."""
    emulated: bool = getattr(_make(REGISTRY[name]), "emulated", lambda: False)()
    return not emulated


def requests(providers: Any, provider_options: Any = None) -> list[Request]:
    """The caller's `providers` and `provider_options` as Requests with full names, each once. A single name is taken as a list of one."""
    if isinstance(providers, str):
        providers = [providers]
    listed = list(providers or ())
    if provider_options is not None and providers is not None:
        extra = list(provider_options)
        if len(extra) != len(listed):
            raise InvalidArgument(f"'providers' and 'provider_options' should be the same length if both are given, not {len(listed)} and {len(extra)}")
        if any(not isinstance(p, str) for p in listed) and any(extra):
            raise InvalidArgument("Only string values for 'providers' are supported if 'provider_options' is given.")
        listed = [p if not isinstance(p, str) else (p, o) for p, o in zip(listed, extra, strict=True)]
    found: dict[str, Request] = {}
    for item in listed:
        name, options = _name_and_options(item)
        if name in found:
            warnings.warn(f"Duplicate provider '{name}' encountered, ignoring.", UserWarning, stacklevel=4)
            continue
        found[name] = Request(name, options)
    return list(found.values())


def _name_and_options(item: Any) -> tuple[str, dict[str, str]]:
    if not isinstance(item, (tuple, list)):
        return canonical(item), {}
    if len(item) != 2 or not isinstance(item[1], Mapping):
        raise InvalidType(f"'providers' values must be either strings or (string, dict) tuples, not {item!r:.80}")
    return canonical(item[0]), {str(k): str(v) for k, v in item[1].items()}


def choose(listed: Sequence[Request], strict: bool) -> tuple[list[Choice], dict[str, str]]:
    """The providers a session uses, in order, and {skipped name: reason}.

    Unless `strict`, the CPU comes last even where it was not listed; the reference alone needs no other.
    """
    chosen: list[Choice] = []
    skipped: dict[str, str] = {}
    wanted = list(listed) or [Request(CPU)]
    if not strict and not any(request.name in (CPU, REFERENCE) for request in wanted):
        wanted.append(Request(CPU))
    for request in wanted:
        reason = reason_missing(request.name)
        if not reason:
            chosen.append(Choice(request.name, _make(REGISTRY[request.name]), request.options))
        elif request.name == CPU:
            chosen.append(Choice(CPU, _make(REGISTRY[REFERENCE]), request.options, stand_in=reason))
        else:
            skipped[request.name] = reason
    return chosen, skipped
