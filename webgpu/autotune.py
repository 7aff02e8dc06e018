"""Measuring which tiles (kernels/tiles.py) an adapter is fastest with: `sardonyx autotune MODEL`.

Method: the model is planned and run once for every candidate with that tile wherever it is possible; the device's timestamps give each step's time, the least of several rounds counts. For each
key of the table (kind and sizes up to powers of two; of rows that only a run knows the end of their range, tiles.py) the tile with the least sum over the model's steps wins. What was measured for
other models stays. Results are kept per adapter, in `$SARDONYX_TILES` or `~/.cache/sardonyx/tiles`, and used by every device opened afterwards.
"""
from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SardonyxError
from ..graph import Model
from ..providers.base import RunContext
from .device.base import Device, MissingFeature
from .kernels.tiles import CANDIDATES, Tile, load, path_of
from .provider import Deferred, WebGpuExecutor


@dataclass
class Tuned:
    """best: key → tile; times: key → [(tile, nanoseconds)] of all that were tried, fastest first."""

    best: dict[str, Tile] = field(default_factory=dict)
    times: dict[str, list[tuple[Tile, int]]] = field(default_factory=dict)


class Always(Mapping[str, Tile]):
    """One tile for every product."""

    measuring = True   # dispatches stay single: each has its own time

    def __init__(self, tile: Tile) -> None:
        self.tile = tile

    def __getitem__(self, key: str) -> Tile:
        return self.tile

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


def tune(device: Device, model: Model, inputs: Sequence[Any], rounds: int = 5) -> Tuned:
    """Measure a model on these inputs. MissingFeature where the device has no timestamps. Tiles it can not run, or not with this model, are left out."""
    if not device.timestamps:
        raise MissingFeature(f"{device.adapter.name} has no timestamps (feature timestamp-query): tiles can not be measured on it")
    before = device.tiles
    totals: dict[str, dict[Tile, int]] = {}
    try:
        for tile in CANDIDATES:
            if tile.fits(device.limits):
                device.tiles = Always(tile)
                for key, spent in _measured(device, model, inputs, rounds).items():
                    totals.setdefault(key, {})[tile] = spent
    finally:
        device.tiles = before
    found = Tuned(times={key: sorted(spent.items(), key=lambda item: item[1]) for key, spent in totals.items()})
    found.best = {key: times[0][0] for key, times in found.times.items()}
    return found


def _measured(device: Device, model: Model, inputs: Sequence[Any], rounds: int) -> dict[str, int]:
    """Key → nanoseconds of the steps that have it, the least of each over some rounds after a first run."""
    executor = WebGpuExecutor(device, model)
    try:
        outputs = range(len(model.graph.outputs))
        executor.run(inputs, outputs, RunContext())
        least: dict[str, int] = {}
        for _ in range(rounds):
            context = RunContext(events=[])
            executor.run(inputs, outputs, context)
            for event in context.events or ():
                least[event.name] = min(least.get(event.name, 1 << 62), event.duration)
        spent: dict[str, int] = {}
        for runner in executor.latest.blocks.runners:
            program = runner.program if isinstance(runner, Deferred) else None
            if program is None:   # of a branch that was not taken
                continue
            for number, key in dict.fromkeys((d.step, d.tile) for d in program.taken if d.tile):
                name = f"{program.recording.steps[number]}_kernel_time"
                if name in least:
                    spent[key] = spent.get(key, 0) + least[name]
        return spent
    except SardonyxError as reason:
        warnings.warn(f"a tile was left out: {reason}", stacklevel=2)
        return {}
    finally:
        executor.close()


def save(device: Device, found: Tuned) -> Path:
    """Add what was measured to the adapter's file."""
    path = path_of(device.adapter)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {**load(device.adapter), **found.best}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"adapter": device.adapter.name, "driver": device.adapter.driver, "tiles": {name: vars(tile) for name, tile in sorted(kept.items())}}, indent=1))
    partial.replace(path)
    return path
