"""`session.explain()`: where each node runs, and why not elsewhere."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..providers.base import Placement


@dataclass(frozen=True)
class Row:
    """One node: the model's node names it came from, its operator, who runs it, and why not a provider listed earlier (empty: it is the first)."""

    names: tuple[str, ...]
    operator: str
    provider: str
    reason: str = ""


class Explanation(Sequence[Row]):
    """The rows in the order of the graph, nested graphs included; `str()` is a table. `skipped`: {listed provider that is not used: reason}; `notes`: what session
    options come to here, as sentences."""

    def __init__(self, rows: Sequence[Row], skipped: Mapping[str, str], notes: Sequence[str] = ()) -> None:
        self.rows, self.skipped, self.notes = tuple(rows), dict(skipped), tuple(notes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        counts = Counter(row.provider for row in self.rows)
        lines = [f"{len(self.rows)} nodes: {', '.join(f'{n} on {name}' for name, n in counts.most_common()) or 'none'}"]
        lines += [f"{name} is not used: {reason}" for name, reason in self.skipped.items()]
        lines += self.notes
        table = [("node", "operator", "provider", "reason")] + [(_short(" + ".join(r.names)), r.operator, r.provider, r.reason) for r in self.rows]
        widths = [max(len(line[i]) for line in table) for i in range(3)]
        return "\n".join(lines + ["  ".join([*(cell.ljust(w) for cell, w in zip(line[:3], widths, strict=True)), line[3]]).rstrip() for line in table])

    __repr__ = __str__


def rows_of(placements: Sequence[Placement], stand_in: str) -> list[Row]:
    """Placements as rows; `stand_in` is the reason where the reference runs under another provider's name."""
    return [Row(_names(p), p.node.operator, p.provider, p.reason or stand_in) for p in placements]


def _names(placement: Placement) -> tuple[str, ...]:
    node = placement.node
    return tuple(n for n in node.origin if n) or tuple(v.name for v in node.outputs if v is not None)[:1]


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[:width - 1] + "…"
