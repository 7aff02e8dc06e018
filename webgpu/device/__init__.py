"""The device layer: `base` is the API (start there), `native` the desktop backend. `open_device` gives the one device all sessions of a process share."""
from __future__ import annotations

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
    from .native import NativeDevice
    with _lock:
        if not _shared or _shared[0].lost:
            _shared[:] = [NativeDevice()]
        return _shared[0]
