"""Profiles: a Chrome trace (open it in chrome://tracing or Perfetto) with onnxruntime's names of events and arguments."""
from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

from ..providers.base import Event


class Profiler:
    """Collects the events of one session. Times in the file are microseconds since the session began; safe to use from several threads."""

    def __init__(self, prefix: str) -> None:
        self.start_time_ns = time.time_ns()
        self._origin = time.perf_counter_ns()
        self._prefix = prefix
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def now(self) -> int:
        """The clock events use."""
        return time.perf_counter_ns()

    def session(self, name: str, start: int) -> None:
        """Record that the session did `name` from `start` until now."""
        self.add([Event(name, "Session", start, self.now() - start)])

    def add(self, events: Iterable[Event]) -> None:
        """Record events of the calling thread."""
        pid, tid = os.getpid(), threading.get_native_id()
        rows = [{"cat": e.category, "pid": pid, "tid": tid, "dur": round(e.duration / 1000, 3), "ts": round((e.start - self._origin) / 1000, 3), "ph": "X", "name": e.name, "args": e.args}
                for e in events]
        with self._lock:
            self._rows.extend(rows)

    def write(self) -> str:
        """Write the file and return its path: the prefix, the time the session began, `.json`."""
        seconds, rest = divmod(self.start_time_ns, 1_000_000_000)
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(seconds))
        path = f"{self._prefix}_{stamp}_{rest // 1_000_000:03d}.json"
        with self._lock, open(path, "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, default=str) for row in self._rows) + "\n]\n")
        return path
