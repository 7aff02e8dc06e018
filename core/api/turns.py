"""The order of a session's asynchronous runs on a device that queues them: each begins when the one before is on its way, and its callback comes after that one's."""
from __future__ import annotations

import threading


class Turns:
    """Hands out turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[threading.Event, threading.Event] | None = None

    def turn(self) -> Turn:
        """The turn behind all others."""
        with self._lock:
            made = Turn(self._last)
            self._last = made.began, made.ended
            return made


class Turn:
    """Of one run, in this order: `begin`, `next` (perhaps), `deliver`, `end`."""

    def __init__(self, before: tuple[threading.Event, threading.Event] | None) -> None:
        self._before = before
        self.began, self.ended = threading.Event(), threading.Event()

    def begin(self) -> None:
        """Wait until the run before is on its way."""
        if self._before is not None:
            self._before[0].wait()

    def next(self) -> None:
        """The next run may begin."""
        self.began.set()

    def deliver(self) -> None:
        """The run is over: wait until the callback before has returned."""
        self.began.set()
        if self._before is not None:
            self._before[1].wait()

    def end(self) -> None:
        """The callback has returned."""
        self.ended.set()


class AnyTime:
    """A turn where there is no order: nobody waits."""

    def begin(self) -> None:
        """See `Turn`."""

    next = deliver = end = begin
