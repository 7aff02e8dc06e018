"""as_onnxruntime(): sardonyx under the name `onnxruntime`, for packages that import it. Undone by the object it returns."""
from __future__ import annotations

import importlib
import importlib.abc
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .. import errors
from . import exceptions
from .environment import ONNXRUNTIME_VERSION, logger

NAME = "onnxruntime"
_CONVERT = "`sardonyx convert` (see `sardonyx convert --help`)"

#: Parts of the onnxruntime package that are not here, and what to do instead. Importing one raises ImportError with this text.
REFUSED = {
    "quantization": f"quantisation is done when a model is converted, with the command {_CONVERT}; a model quantised elsewhere runs here",
    "transformers": f"models are optimised when they are converted, with the command {_CONVERT}",
    "training": f"sardonyx runs models and does not train them; bring a trained model with the command {_CONVERT}",
    "tools": f"models are prepared for devices with the command {_CONVERT}",
    "backend": "use sardonyx.InferenceSession; onnx's backend interface is not here",
    "datasets": "the example models are not here",
}

#: Public names of `dir(onnxruntime)` that sardonyx does not have, and why (COMPATIBILITY.md lists them).
ABSENT = {
    "AdapterFormat": "LoRA adapters are not supported: merge the adapter into the weights before converting",
    "LoraAdapter": "LoRA adapters are not supported: merge the adapter into the weights before converting",
    "ModelCompiler": "models are compiled by `sardonyx convert`",
    "ModelPackage": "a model is one .sdx file, not a package of variants",
    "ModelPackageComponentContext": "as ModelPackage",
    "ModelPackageContext": "as ModelPackage",
    "ModelPackageOptions": "as ModelPackage",
    "ModelPackageWriteMode": "as ModelPackage",
    "OrtCompileApiFlags": "as ModelCompiler",
    "OrtEpContextData": "no provider keeps context files",
    "OrtEpContextDataBuffer": "no provider keeps context files",
    "OrtExternalInitializerInfo": "as ModelCompiler; `sardonyx convert` writes external data",
    "OrtSyncStream": "tensors lie in the host's memory: there are no streams",
}

#: Names of `dir(onnxruntime)` that only the module made by `as_onnxruntime` has.
ONLY_AS_ONNXRUNTIME = ("cuda_version", "import_capi_exception", "onnxruntime_validation", "package_name", "version")

_METADATA = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {ONNXRUNTIME_VERSION}\nSummary: sardonyx under the name onnxruntime\n"
_MOCK_SOURCE = "import sardonyx\nsardonyx.as_onnxruntime()\n"


class OnnxruntimeInstalled:
    """What `as_onnxruntime` returns. `active`: whether `import onnxruntime` now gives sardonyx. `undo()` takes it back; so does leaving a `with` block."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self._modules: dict[str, ModuleType] = {}
        self._finder: _Finder | None = None

    def undo(self) -> None:
        """Remove our modules; a later `import onnxruntime` finds the real package, if there is one."""
        global _installed
        if not self.active:
            return
        self.active, _installed = False, None
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        for name, module in self._modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        _mock_in_pyodide(remove=True)

    def __enter__(self) -> OnnxruntimeInstalled:
        return self

    def __exit__(self, *_: Any) -> None:
        self.undo()


_installed: OnnxruntimeInstalled | None = None


def as_onnxruntime() -> OnnxruntimeInstalled:
    """Make `import onnxruntime` give sardonyx, as version 1.32.0, for this process. Call it before anything imports onnxruntime.

    Where the real onnxruntime was imported already, a warning says so and nothing changes (`active` is False). In Pyodide, micropip is told too, so that
    packages that require onnxruntime install.
    """
    global _installed
    if _installed is not None:
        return _installed
    if NAME in sys.modules and not _is_half_imported(sys.modules[NAME]):
        warnings.warn("onnxruntime is imported already, so as_onnxruntime() changes nothing: call it before the first `import onnxruntime`", UserWarning, stacklevel=2)
        return OnnxruntimeInstalled(False)
    made = OnnxruntimeInstalled(True)
    made._modules = build_modules(NAME)
    made._finder = _Finder(made._modules)
    sys.meta_path.insert(0, made._finder)
    sys.modules.update(made._modules)
    _installed = made
    _mock_in_pyodide()
    return made


def _is_half_imported(module: ModuleType) -> bool:
    """True for micropip's mock, whose source calls as_onnxruntime() while it is being imported."""
    return bool(getattr(module.__spec__, "_initializing", False)) and not hasattr(module, "InferenceSession")


def capi() -> ModuleType:
    """The module `sardonyx.capi`, for `except ort.capi.onnxruntime_pybind11_state.Fail` after `import sardonyx as ort`."""
    made: ModuleType = build_modules(__package__.rpartition(".")[0])["sardonyx.capi"]
    return made


def build_modules(root: str) -> dict[str, ModuleType]:
    """The modules of onnxruntime's package under the name `root`, wired to each other."""
    package = importlib.import_module(__package__.rpartition(".")[0])
    state = _module(f"{root}.capi.onnxruntime_pybind11_state", package, _error_names())
    collection = _module(f"{root}.capi.onnxruntime_inference_collection", package, {"Session": package.InferenceSession, "C": state})
    validation = _module(f"{root}.capi.onnxruntime_validation", package, {"check_distro_info": _nothing, "check_training_module": _nothing})
    pybind = _module(f"{root}.capi._pybind_state", package, dict(vars(state)["__own__"]))
    below = {"onnxruntime_pybind11_state": state, "onnxruntime_inference_collection": collection, "onnxruntime_validation": validation, "_pybind_state": pybind}
    folder = _module(f"{root}.capi", package, below, is_package=True)
    top = _module(root, package, {"capi": folder, "__version__": ONNXRUNTIME_VERSION, "version": ONNXRUNTIME_VERSION, "package_name": NAME, "cuda_version": "", "import_capi_exception": None,
                                  "onnxruntime_validation": validation, "get_version_string": _version, "__file__": package.__file__}, is_package=True)
    return {m.__name__: m for m in (top, folder, *below.values())}


def _module(name: str, package: ModuleType, own: dict[str, Any], is_package: bool = False) -> ModuleType:
    """A module with the names `own`; every other public name is sardonyx's."""
    module = ModuleType(name, package.__doc__)
    module.__spec__ = ModuleSpec(name, _Loader(module), is_package=is_package)
    module.__loader__ = module.__spec__.loader
    module.__package__ = name if is_package else name.rpartition(".")[0]
    if is_package:
        module.__path__ = []

    def missing(attribute: str) -> Any:
        if attribute in REFUSED and is_package and "." not in name:
            return importlib.import_module(f"{name}.{attribute}")
        if attribute.startswith("__"):
            raise AttributeError(f"module '{name}' has no attribute '{attribute}'")
        return getattr(package, attribute)
    vars(module).update(own, __own__=own, __getattr__=missing, __dir__=lambda: sorted({*own, *package.__all__}))
    return module


def _error_names() -> dict[str, Any]:
    found = {name: kind for module in (errors, exceptions) for name, kind in vars(module).items()
             if isinstance(kind, type) and issubclass(kind, errors.SardonyxError) and kind.__module__ == module.__name__}
    return found


def _version() -> str:
    """The onnxruntime release whose interface this is."""
    return ONNXRUNTIME_VERSION


def _nothing(*_: Any, **__: Any) -> None:
    """onnxruntime checks the operating system and the training build here; there is nothing to check."""


class _Loader(importlib.abc.Loader):
    """Hands out a module that is already made."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Refusal(importlib.abc.Loader):
    """Raises the ImportError that says what to do instead."""

    def __init__(self, part: str) -> None:
        self._part = part

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"onnxruntime.{self._part} is not part of sardonyx, which runs here as onnxruntime: {REFUSED[self._part]}", name=f"{NAME}.{self._part}")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds our modules, refuses the parts that are not here, and answers importlib.metadata."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname in self._modules:
            return self._modules[fullname].__spec__
        top, _, rest = fullname.partition(".")
        if top == NAME and rest in REFUSED:
            return ModuleSpec(fullname, _Refusal(rest), is_package=True)
        return None

    def find_distributions(self, context: Any = None) -> Iterable[Any]:
        """importlib.metadata's hook: a distribution called onnxruntime."""
        wanted = getattr(context, "name", None)
        return [_distribution()] if wanted is None or wanted.lower() == NAME else []


def _distribution() -> Any:
    from importlib.metadata import Distribution
    from pathlib import Path

    class Onnxruntime(Distribution):
        """sardonyx as the distribution `onnxruntime`."""

        def read_text(self, filename: str) -> str | None:
            return _METADATA if filename in ("METADATA", "PKG-INFO") else None

        def locate_file(self, path: Any) -> Any:
            return Path(__file__).parents[2] / path
    return Onnxruntime()


def _mock_in_pyodide(remove: bool = False) -> None:
    """Tell Pyodide's installer that onnxruntime is there (or no longer)."""
    if "pyodide" not in sys.modules and sys.platform != "emscripten":
        return
    try:
        micropip = importlib.import_module("micropip")
    except ImportError:
        logger.info("micropip is not loaded; packages that require onnxruntime will not install until it is and as_onnxruntime() runs again")
        return
    if remove:
        micropip.remove_mock_package(NAME)
    else:
        micropip.add_mock_package(NAME, ONNXRUNTIME_VERSION, modules={NAME: _MOCK_SOURCE})
