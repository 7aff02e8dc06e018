"""A model's stored programs, opened without its graph: what a session needs to run at once."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..graph import Model, Value
from ..package import Port, Reader


@dataclass(frozen=True)
class Stored:
    """The package of a `.sdx` as it lies there, and the tensor data its constants lie in."""

    packed: memoryview
    data: np.ndarray
    inputs: list[Port]
    outputs: list[Port]

    @classmethod
    def open(cls, packed: memoryview, data: np.ndarray) -> Stored | None:
        """None where kernels or packings are of another version: the graph is planned instead. InvalidModelFile where the package is damaged."""
        reader = Reader(packed)
        return None if reader.stale() else cls(packed, data, reader.ports(6), reader.ports(7))


_FIELDS = frozenset(f.name for f in fields(Model))


class StoredModel(Model):
    """A Model whose graph, and what else its file says, is decoded when it is asked for, and `prepare`d. `stored` runs without it."""

    def __init__(self, decode: Callable[[], Model], stored: Stored, interface: tuple[list[Value], list[Value]], path: str) -> None:
        self.stored = stored
        self.prepare: Callable[[Model], object] = lambda model: None
        self._decode, self._interface, self._path = decode, interface, path

    @property
    def interface(self) -> tuple[list[Value], list[Value]]:
        """The graph's inputs and outputs, without the graph."""
        return self._interface

    def __getattribute__(self, name: str) -> Any:
        if name in _FIELDS:
            own = object.__getattribute__(self, "__dict__")
            if "graph" not in own:
                model = own["_decode"]()
                own["prepare"](model)
                own.update(model.__dict__)
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        return f"StoredModel({self._path!r})"
