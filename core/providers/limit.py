"""The session configuration entry `session.memory_limit`: bytes; "0" means none, and without the entry it is the machine's memory."""
from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..errors import InvalidArgument

MEMORY_LIMIT = "session.memory_limit"


def memory_limit(options: Mapping[str, Any]) -> int | None:
    """The limit in bytes, None for none. InvalidArgument where the entry is not a number of bytes."""
    text = str(options.get(MEMORY_LIMIT, "")).strip()
    if not text:
        return _physical_memory()
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgument(f"'{MEMORY_LIMIT}' must be a number of bytes (0: no limit), not '{text[:40]}'; e.g. add_session_config_entry('{MEMORY_LIMIT}', '{1 << 30}')")
    return int(text) or None


@cache
def _physical_memory() -> int | None:
    """Bytes of the machine's memory, None where the system does not say (pages, Windows)."""
    try:
        return (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) or None
    except (AttributeError, ValueError, OSError):
        return None
