"""Exceptions only the session API knows; the others are in `sardonyx.errors`. All carry onnxruntime's names."""
from __future__ import annotations

from typing import Any

from ..errors import Fail, InvalidArgument, SardonyxError


class InvalidType(InvalidArgument, TypeError):
    """An argument has the wrong Python type (onnxruntime's binding raises TypeError there)."""


class ModelLoadCanceled(Fail):
    """`SessionOptions.set_load_cancellation_flag(True)` was set before the model was loaded."""


class EngineError(SardonyxError):
    """Known by name so that `except` clauses written for onnxruntime import; never raised."""


class NotFound(SardonyxError):
    """As EngineError."""


class DeviceReset(SardonyxError):
    """As EngineError."""


class ModelRequiresCompilation(SardonyxError):
    """As EngineError."""


def expect(value: Any, kinds: type | tuple[type, ...], what: str) -> None:
    """InvalidType unless `value` is of one of the kinds."""
    if not isinstance(value, kinds):
        names = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise InvalidType(f"{what} must be {names}, not {type(value).__name__}")
