"""The device layer: `base` is the API (start there), `native` the desktop backend, `page` the browser's. `open_device` gives the one device all sessions of a process share."""
from __future__ import annotations

import sys
import threading

from .base import Device, NoAdapter

_lock = threading.Lock()
_shared: list[Device] = []


def unavailable() -> str:
    """Why there is no device here, or "". Asks the machine once; the device stays open for the sessions to come."""
    try:
        open_device()
    except NoAdapter as error:
        return str(error)
    return ""


def open_device() -> Device:
    """The shared device, opened at the first call and again after it was lost. Raises NoAdapter with the reason."""
    with _lock:
        if not _shared or _shared[0].lost:
            if sys.platform == "emscripten":
                from .page import PageDevice as Backend
            else:
                from .native import NativeDevice as Backend
            _shared[:] = [Backend()]
        return _shared[0]
