"""The .sdx file: `read_model`, `write_model`, `is_sdx`. FORMAT.md describes the bytes."""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .format import SDX_MAGIC, is_sdx
from .reader import Storage, collector_paused, read_model, read_programs
from .stored import StoredModel

if TYPE_CHECKING:
    from .writer import write_model

__all__ = ["SDX_MAGIC", "Storage", "StoredModel", "collector_paused", "is_sdx", "read_model", "read_programs", "write_model"]


def __getattr__(name: str) -> Any:
    """The writer comes when it is asked for: opening a model needs neither it nor flatbuffers."""
    if name == "write_model":
        return importlib.import_module(".writer", __name__).write_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
