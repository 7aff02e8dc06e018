"""sardonyx: an ONNX runtime for the browser and the edge.

    import sardonyx as ort
    session = ort.InferenceSession("model.onnx")
    outputs = session.run(None, {"x": array})

The names are onnxruntime's; COMPATIBILITY.md in sardonyx/api says what differs. Importing costs little: each name is resolved on first use.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.binding import IOBinding as IOBinding
    from .api.compat import as_onnxruntime as as_onnxruntime
    from .api.devices import OrtArenaCfg as OrtArenaCfg
    from .api.devices import OrtDevice as OrtDevice
    from .api.devices import OrtEpDevice as OrtEpDevice
    from .api.devices import OrtHardwareDevice as OrtHardwareDevice
    from .api.devices import OrtMemoryInfo as OrtMemoryInfo
    from .api.nodes import ModelMetadata as ModelMetadata
    from .api.nodes import NodeArg as NodeArg
    from .api.options import RunOptions as RunOptions
    from .api.options import SessionOptions as SessionOptions
    from .api.session import InferenceSession as InferenceSession
    from .api.sparse import SparseTensor as SparseTensor
    from .api.values import OrtValue as OrtValue

    __version__: str

#: module → the public names it has.
_NAMES = {
    "api.session": "InferenceSession",
    "api.options": "RunOptions SessionOptions",
    "api.binding": "IOBinding",
    "api.values": "OrtValue OrtValueVector copy_tensors",
    "api.sparse": "SparseCooView SparseCsrView SparseTensor",
    "api.devices": "OrtArenaCfg OrtDevice OrtEpDevice OrtHardwareDevice OrtMemoryInfo get_ep_devices",
    "api.nodes": "ModelMetadata NodeArg OrtEpAssignedNode OrtEpAssignedSubgraph",
    "api.enums": "ExecutionMode ExecutionOrder GraphOptimizationLevel OrtAllocatorType OrtDeviceMemoryType OrtDeviceVendorId OrtExecutionProviderDevicePolicy OrtHardwareDeviceType "
                 "OrtMemType OrtMemoryInfoDeviceType OrtSparseFormat",
    "api.providers": "get_all_providers get_available_providers",
    "api.environment": "create_and_register_allocator create_and_register_allocator_v2 disable_telemetry_events enable_telemetry_events get_build_info get_device get_version_string "
                       "has_collective_ops preload_dlls print_debug_info register_execution_provider_library set_default_logger_callback set_default_logger_severity "
                       "set_default_logger_verbosity set_global_thread_pool_sizes set_seed unregister_execution_provider_library",
    "api.compat": "as_onnxruntime",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()} | {"SessionIOBinding": "api.binding"}

__all__ = ["__version__", "capi", "convert", "errors", *_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Resolve a public name on first use."""
    if name in _HOME:
        found = getattr(import_module(f".{_HOME[name]}", __name__), "IOBinding" if name == "SessionIOBinding" else name)
    elif name == "__version__":
        found = _version()
    elif name == "errors":
        return import_module(".errors", __name__)
    elif name == "convert":
        found = import_module(".api.providers", __name__).part("converter").convert
    elif name == "capi":
        found = import_module(".api.compat", __name__).capi()
    else:
        raise AttributeError(f"module 'sardonyx' has no attribute '{name}'{_why_absent(name)}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The version of the installed distribution: pyproject.toml is the one place that states it."""
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("sardonyx")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0+unknown"


def _why_absent(name: str) -> str:
    if name.startswith("_"):
        return ""
    reason = import_module(".api.compat", __name__).ABSENT.get(name)
    return f": {reason}" if reason else ""
