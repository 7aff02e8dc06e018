"""`sardonyx autotune`: measure which tiles this machine's GPU multiplies fastest with, and keep the answer."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sardonyx.api.loading import read

from . import show
from .inputs import SIZES_HELP, DimOption, InputOption, SeedOption, make_feeds, parse_sizes
from .media import Pixels

EPILOG = SIZES_HELP + """

\b
Examples:
  sardonyx autotune model.onnx                  measures, keeps the choice for this adapter
  sardonyx autotune model.sdx -d batch=8        for other sizes
  SARDONYX_TILES=dir sardonyx autotune m.onnx   keeps it in dir; sessions read it there too"""


def autotune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .sdx file.")],
    given: InputOption = [],  # noqa: B006
    dims: DimOption = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Runs a tile; the fastest counts.")] = 5,
    seed: SeedOption = 0,
) -> None:
    """Measure products and convolutions of a model on this machine's GPU in every tile; WebGPU sessions use the fastest from then on."""
    from sardonyx.webgpu.autotune import save, tune
    from sardonyx.webgpu.device import open_device
    loaded = read(model)
    feeds = make_feeds(loaded, given, parse_sizes(dims, "--dim"), seed, Pixels.parse(1 / 255, "0", "1"))
    for line in feeds.notes():
        show.note(line)
    device = open_device()
    show.fields([("adapter", f"{device.adapter.name} ({device.adapter.backend})")])
    if device.adapter.is_cpu:
        show.note("this adapter is a processor that plays a GPU: what is fastest on it says nothing about a GPU")
    found = tune(device, loaded, [feeds.values.get(v.name) if v.const is None or v.name in feeds.values else v.const.numpy() for v in loaded.graph.inputs], rounds)
    if not found.best:
        show.say("the model has no products or convolutions that run on this adapter")
        return
    show.heading("tiles", "rows × columns of sums an invocation holds, invocations a side")
    show.table(["product m×n×k", "fastest", "ms", "next", "ms"],
               [[key, _text(times[0][0]), f"{times[0][1] / 1e6:.3f}", *([_text(times[1][0]), f"{times[1][1] / 1e6:.3f}"] if len(times) > 1 else ["", ""])] for key, times in found.times.items()])
    show.say(f"kept: {save(device, found)}")


def _text(tile: object) -> str:
    held = vars(tile)
    return "register" if held["variant"] == "register" else f"split {held['side']}" if held["variant"] == "split" else f"{held['rows']}×{held['columns']}, {held['side']}"
