"""What is true of the process and not of one session: logging, the random seed, what this build is."""
from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import Fail, InvalidArgument
from ..errors import NotImplemented as NotImplementedHere
from .exceptions import InvalidType
from .providers import get_available_providers

#: The onnxruntime release whose Python interface this is.
ONNXRUNTIME_VERSION = "1.32.0"

logger = logging.getLogger("sardonyx")
logger.addHandler(logging.NullHandler())  # a library is silent unless the application configures logging
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_seed: int | None = None
_handler: logging.Handler | None = None


def set_default_logger_severity(severity: int) -> None:
    """Log records below this severity are dropped: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal. Records go to the `logging` logger `sardonyx`."""
    logger.setLevel(_LEVELS[_severity(severity)])


def set_default_logger_verbosity(verbosity: int) -> None:
    """Accepted without effect: there are no finer levels."""
    _integer(verbosity, "verbosity")


def set_default_logger_callback(callback: Callable[[int, str, str, str, str], None] | None, severity: int = 2) -> None:
    """Give log records to `callback(severity, category, logid, code_location, message)`; None takes it away. Its exceptions go to `sys.unraisablehook`."""
    global _handler
    level = _severity(severity)
    if callback is not None and not callable(callback):
        raise Fail(f"callback must be a callable, not {type(callback).__name__}")
    if _handler is not None:
        logger.removeHandler(_handler)
        _handler = None
    if callback is not None:
        _handler = _Callback(callback)
        logger.addHandler(_handler)
        logger.setLevel(_LEVELS[level])


class _Callback(logging.Handler):
    def __init__(self, callback: Callable[[int, str, str, str, str], None]) -> None:
        super().__init__()
        self._callback = callback

    def emit(self, record: logging.LogRecord) -> None:
        severity = min(4, max(0, record.levelno // 10 - 1))
        self._callback(severity, "sardonyx", "", f"{record.filename}:{record.lineno} {record.funcName}", record.getMessage())

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        sys.unraisablehook(_Unraisable(type(error), error, getattr(error, "__traceback__", None), "in the log callback", self._callback))  # type: ignore[arg-type]


class _Unraisable:
    def __init__(self, exc_type: Any, exc_value: Any, exc_traceback: Any, err_msg: str, object: Any) -> None:
        self.exc_type, self.exc_value, self.exc_traceback, self.err_msg, self.object = exc_type, exc_value, exc_traceback, err_msg, object


def set_seed(seed: int) -> None:
    """Seed the random operators of sessions created from now on: equal programs draw equal numbers."""
    global _seed
    _seed = _integer(seed, "seed")


def current_seed() -> int | None:
    """The seed new sessions take; None: unpredictable."""
    return _seed


def enable_telemetry_events() -> None:
    """Accepted without effect: sardonyx sends nothing to anybody."""


def disable_telemetry_events() -> None:
    """Accepted without effect: sardonyx sends nothing to anybody."""


def get_build_info() -> str:
    """One line about this build."""
    from .. import __version__
    return f"sardonyx Build Info: version={__version__}, onnxruntime interface={ONNXRUNTIME_VERSION}, numpy={np.__version__}, providers={'+'.join(get_available_providers())}"


def get_version_string() -> str:
    """sardonyx's version. (As `onnxruntime`, after as_onnxruntime(), it is onnxruntime's.)"""
    from .. import __version__
    return str(__version__)


def get_device() -> str:
    """`CPU`."""
    return "CPU"


def has_collective_ops() -> bool:
    """False: no operators that span machines."""
    return False


def print_debug_info() -> None:
    """Print versions and the platform, for bug reports."""
    from .. import __version__
    print(f"sardonyx version: {__version__}\nplatform: {platform.platform()}\nPython: {platform.python_version()}\nnumpy: {np.__version__}\n"
          f"available providers: {', '.join(get_available_providers())}")


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None) -> None:
    """Accepted without effect: no such libraries are used."""


def set_global_thread_pool_sizes(intra_op_num_threads: int = 0, inter_op_num_threads: int = 0) -> None:
    """Accepted without effect in this version: operators run on the calling thread."""
    _integer(intra_op_num_threads, "intra_op_num_threads")
    _integer(inter_op_num_threads, "inter_op_num_threads")


def create_and_register_allocator(memory_info: Any, arena_cfg: Any = None) -> None:
    """Accepted without effect: memory is NumPy's."""


def create_and_register_allocator_v2(provider_type: str, memory_info: Any, options: Any, arena_cfg: Any = None) -> None:
    """Accepted without effect: memory is NumPy's."""


def register_execution_provider_library(name: str, path: str) -> None:
    """Not supported: raises NotImplemented."""
    raise NotImplementedHere(f"provider library '{path}' is compiled for onnxruntime and can not be loaded; providers here: {', '.join(get_available_providers())}")


def unregister_execution_provider_library(name: str) -> None:
    """InvalidArgument: none can have been registered."""
    raise InvalidArgument(f"no provider library is registered under the name '{name}'")


def _severity(severity: Any) -> int:
    number = _integer(severity, "severity")
    if not 0 <= number <= 4:
        raise Fail("Invalid logging severity. 0:Verbose, 1:Info, 2:Warning, 3:Error, 4:Fatal")
    return number


def _integer(value: Any, name: str) -> int:
    try:
        return int(value.__index__())
    except (AttributeError, TypeError):
        raise InvalidType(f"{name} must be an int, not {type(value).__name__}") from None
