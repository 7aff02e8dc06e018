"""What all benchmarks share: fresh processes, interleaved rounds, rows with bars, and the two result files."""
from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "bench"


@dataclass
class Row:
    """One measured thing. value in `unit`; `peer`: the same of what it is compared with; `bar`: the most `value` (or value / peer where `relative`) may be."""

    what: str
    value: float
    unit: str
    bar: float | None = None
    peer: float | None = None
    peer_name: str = ""
    relative: bool = False
    note: str = ""

    @property
    def judged(self) -> float:
        """What the bar is about."""
        return self.value / self.peer if self.relative and self.peer else self.value

    @property
    def verdict(self) -> str:
        """pass, FAIL, or empty where there is no bar."""
        return "" if self.bar is None else "pass" if self.judged <= self.bar else "FAIL"


def fresh(code: str, *arguments: str) -> Any:
    """Run Python code in a fresh process; it prints JSON."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""})
    if done.returncode:
        raise SystemExit(f"a benchmark process failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def interleaved(peers: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int) -> dict[str, dict[str, float]]:
    """Each peer in turn, `rounds` times: {peer: {measure: median}}. The first round warms the page cache and is dropped."""
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in peers}
    for round_number in range(rounds + 1):
        for name, run in peers.items():
            for key, value in run().items():
                if round_number:
                    seen[name].setdefault(key, []).append(value)
    return {name: {key: statistics.median(values) for key, values in measures.items()} for name, measures in seen.items()}


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | value | peer | ratio | bar | |", "|---|--:|--:|--:|--:|---|"]
    for r in rows:
        peer = "" if r.peer is None else f"{r.peer:.4g} {r.unit} ({r.peer_name})"
        ratio = "" if r.peer is None else f"{r.value / r.peer:.3g} ×"
        bar = "" if r.bar is None else f"{r.bar:.4g} {'×' if r.relative else r.unit}"
        lines.append(f"| {r.what}{f' – {r.note}' if r.note else ''} | {r.value:.4g} {r.unit} | {peer} | {ratio} | {bar} | {r.verdict} |")
    return "\n".join(lines)


def known(name: str = "results") -> dict[str, list[Row]]:
    """The tables in NAME.json."""
    path, names = Path(__file__).with_name(f"{name}.json"), [f.name for f in fields(Row)]
    stored = json.loads(path.read_text())["sections"] if path.exists() else {}
    return {title: [Row(**{key: row[key] for key in names if key in row}) for row in rows] for title, rows in stored.items()}


def write(sections: Mapping[str, list[Row]], name: str = "results", how: str = "Written by `make bench`; peers ran in the same session, in turn; medians.") -> None:
    """NAME.json and NAME.md beside this file."""
    where = Path(__file__).parent
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    data = {"machine": machine, "sections": {title: [asdict(r) | {"verdict": r.verdict} for r in rows] for title, rows in sections.items()}}
    (where / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    text = [f"# Benchmarks\n\n{how} {machine['system']}, {machine['cores']} cores, Python {machine['python']}.\n"]
    text += [f"## {title}\n\n{table(rows)}\n" for title, rows in sections.items()]
    (where / f"{name}.md").write_text("\n".join(text))
