"""What a provider is: a class with a name that turns a Model into an Executor.

A provider module is reached by name through the registry in `core/api/providers.py`; importing it must be cheap and must not fail where the
device is missing: `available()` answers instead, with a reason.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..graph import Model, Node


@dataclass(frozen=True)
class Placement:
    """Where one node runs, and why not elsewhere."""

    node: Node
    provider: str
    reason: str = ""


@dataclass
class Event:
    """One timed piece of a run, for profiling: times in nanoseconds of `time.perf_counter_ns`."""

    name: str
    category: str
    start: int
    duration: int
    args: dict[str, Any] = field(default_factory=dict)


class Stops:
    """Whether runs are to stop: polled by calling it. An engine whose step takes long is told as well: `tell` names what stops it until `forget`."""

    def __init__(self) -> None:
        self.wanted = False
        self._lock, self._told = threading.Lock(), list[Callable[[], object]]()

    def __call__(self) -> bool:
        return self.wanted

    def set(self, wanted: bool) -> None:
        """From any thread."""
        self.wanted = wanted
        if wanted:
            with self._lock:  # nobody is told after it was forgotten
                for stop in self._told:
                    stop()

    def tell(self, stop: Callable[[], object]) -> None:
        """Call `stop` from any thread when the run is to end."""
        with self._lock:
            self._told.append(stop)

    def forget(self, stop: Callable[[], object]) -> None:
        """After the run."""
        with self._lock:
            self._told.remove(stop)


@dataclass
class RunContext:
    """What a run is given besides its inputs. `terminated` is polled (of `Stops` it may ask to be told); `events`, where not None, collects the profile. The executor sets `owned` where
    every array it returns is the caller's alone; else the session copies them. `into`: for each wanted output an array of the caller's or None; an executor may write there and return it,
    where it fits. `stay`: positions of wanted outputs that are to stay on the executor's device, where it has one and their type can: an object with `on_device` and `numpy()` is returned
    for them; where `into` has a tensor on the device for one, the executor may write there. `submitted` is called when the next run may begin, if that is before this one's end."""

    terminated: Callable[[], bool] = lambda: False
    events: list[Event] | None = None
    seed: int | None = None
    owned: bool = False
    into: Sequence[Any] | None = None
    stay: frozenset[int] = frozenset()
    submitted: Callable[[], None] | None = None


def on_host(value: Any) -> Any:
    """A value where the host reads it: a tensor on a device is fetched, everything else is itself."""
    return value.numpy() if getattr(value, "on_device", False) else value


class Executor(Protocol):
    """A model made ready to run. Safe to call from several threads at once. May have `notes`: sentences explain() begins with; and `unmet`: what was asked for and is not done, a warning."""

    def run(self, inputs: Sequence[Any], wanted: Sequence[int], context: RunContext) -> list[Any]:
        """Compute the outputs with the given indices from all graph inputs, in order (checked by the session)."""

    def placements(self) -> list[Placement]:
        """Where each node runs."""

    def close(self) -> None:
        """Give memory back; the executor is not used again."""


class Provider(Protocol):
    """A way to run models."""

    name: str

    def available(self) -> str:
        """Empty where it works here; otherwise the reason it does not."""

    def compile(self, model: Model, options: Mapping[str, Any]) -> Executor:
        """Make the model ready. options: the session's configuration entries and the provider's own options. Raises a SardonyxError naming the node where it can not."""
