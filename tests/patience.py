"""Waiting and measuring on a machine that is busy with other things: a condition is waited for, not a time; a figure that chance makes worse, never better, is measured again."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

SECONDS = 180.0  # for what takes a second or two by itself


def until(condition: Callable[[], object], what: str = "", seconds: float = SECONDS) -> None:
    """Return once the condition holds; AssertionError after that many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds:.0f} s: {what or 'what was waited for is not so'}"
        time.sleep(0.005)


def least(measure: Callable[[], float], below: float, tries: int = 10) -> float:
    """The least of some measurements, as few as are needed to come below."""
    found = measure()
    for _ in range(tries - 1):
        if found < below:
            break
        found = min(found, measure())
    return found


def at_once(count: int, work: Callable[[int], object]) -> None:
    """work(0) … work(count - 1), each on a thread of its own, begun together. What one of them raises is raised here, after all have ended."""
    start = threading.Barrier(count)

    def go(number: int) -> None:
        start.wait(SECONDS)
        work(number)
    with ThreadPoolExecutor(count) as threads:
        done = [threads.submit(go, number) for number in range(count)]
    for one in done:
        one.result()


def slope(values: list[float]) -> float:
    """The growth from one value to the next: the median of the slopes between any two (Theil 1950; Sen 1968), which single values that are off do not move."""
    found = sorted((b - a) / (j - i) for i, a in enumerate(values) for j, b in enumerate(values) if j > i)
    return (found[(len(found) - 1) // 2] + found[len(found) // 2]) / 2
