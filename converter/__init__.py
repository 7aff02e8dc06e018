"""The converter library: ONNX models → `.sdx`. `convert(source, destination, …)` is the front door.

Names are resolved on first use: a session that opens an `.onnx` imports `converter.onnx` and not the passes and the writer.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import ConvertOptions, ConvertReport
    from .pipeline import convert, open_model, prepare

__all__ = ["ConvertOptions", "ConvertReport", "convert", "open_model", "prepare"]
_HOME = {"ConvertOptions": "options", "ConvertReport": "options", "convert": "pipeline", "open_model": "pipeline", "prepare": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return found
