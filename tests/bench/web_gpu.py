"""`python -m tests.bench.web_gpu [ROW…] [--keep] [--seconds S] [--limit S]`: the yardsticks on WebGPU in Chromium, sardonyx beside onnxruntime-web's WebGPU provider on the same adapter
(SwiftShader here, a processor that plays a GPU: absolute times say nothing about GPUs). Each runtime has a page and a browser of its own. Run, create + first run, dispatches, pipelines,
bytes written; then what a replayed dispatch costs in JavaScript. Writes web_gpu.json row by row (of named rows only with --keep). A runtime that fails in a row is recorded so; the exit code is 1
where ours did."""
from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sardonyx
from sardonyx.converter.cli.serve import Server
from sardonyx.types import DType
from sardonyx.wasm.runtime import copy_runtime

from tests.browser.packages import NPM

from .web import NAMES, PAGES, chromium
from .workloads import YARDSTICKS, Workload

RESULTS = Path(__file__).with_name("web_gpu.json")
RUNTIMES = ("sardonyx", "onnxruntime-web")
#: In the page; a run that takes longer is given up.
CALL = """async ([what, given, limit]) => {
  const gpu = await import('/gpu.js');
  return Promise.race([gpu[what](given), new Promise((_, reject) => setTimeout(() => reject(new Error(`no answer in ${limit} s`)), 1000 * limit))]);
}"""


def prepare(workload: Workload, folder: Path) -> dict[str, Any]:
    """The model in both forms and its inputs, in the served folder; the feeds as the page reads them."""
    source = workload.path()
    (folder / f"{workload.file}.onnx").write_bytes(source.read_bytes())
    sardonyx.convert(source, folder / f"{workload.file}.sdx", webgpu=True)
    feeds = {}
    for number, (name, value) in enumerate(workload.feed().items()):
        array, file = np.ascontiguousarray(value), f"{workload.file}-{number}.bin"
        (folder / file).write_bytes(array.tobytes())
        dtype = DType.of(array)
        feeds[name] = [NAMES.get(dtype, dtype.text), list(array.shape), f"/bench/{file}"]
    return feeds


def one(address: str, what: str, given: dict[str, Any], limit: float) -> dict[str, Any]:
    """A call in a fresh browser."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"{address}gpu.html")
        found: dict[str, Any] = page.evaluate(CALL, [what, given, limit])
        return found


def difference(mine: list[list[float]], theirs: list[list[float]]) -> float:
    """The largest difference, relative to the largest magnitude."""
    pairs = [(np.array(a), np.array(b)) for a, b in zip(mine, theirs, strict=True)]
    return max(float(np.abs(a - b).max()) for a, b in pairs) / max(1e-30, *(float(np.abs(b).max()) for _, b in pairs))


def geometric(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def row_of(workload: Workload, folder: Path, address: str, seconds: float, limit: float) -> dict[str, Any]:
    """A row. A runtime that fails or takes too long stands in it with the reason ("failed"), and there is no ratio."""
    row: dict[str, Any] = {"what": workload.name}
    feeds = prepare(workload, folder)
    ask = {"name": workload.file, "seconds": seconds, "feeds": feeds}
    outputs = {}
    for name in RUNTIMES:
        try:
            row[name] = one(address, "measure", {**ask, "runtime": name}, limit)
            outputs[name] = row[name].pop("outputs")
        except Exception as error:
            row[name] = {"failed": f"{' '.join(str(error).replace('Page.evaluate: ', '').split())[:300]}"}
    ours, theirs = (row[name] for name in RUNTIMES)
    if "failed" not in ours:
        row["replay, µs a dispatch"] = one(address, "replay", {"name": workload.file, "rounds": 20, "repeat": 50, "feeds": feeds}, limit)["microseconds"]
        if "failed" not in theirs:
            row |= {"run": ours["run"] / theirs["run"], "create + first run": opened(ours) / opened(theirs), "difference": difference(outputs["sardonyx"], outputs["onnxruntime-web"])}
    return row


def opened(side: Mapping[str, float]) -> float:
    """Milliseconds until the first results."""
    return side["create"] + side["first"]


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    sides = [row[name] for name in RUNTIMES]
    if reasons := [f"{name}: {side['failed']}" for name, side in zip(RUNTIMES, sides, strict=True) if "failed" in side]:
        done = [f"{name}: run {side['run']:.1f} ms, create + first {opened(side):.1f} ms" for name, side in zip(RUNTIMES, sides, strict=True) if "failed" not in side]
        return f"{row['what']:40} {'; '.join([*done, *reasons])}"[:300]
    ours, theirs = sides
    return (f"{row['what']:40} run {ours['run']:9.1f} / {theirs['run']:9.1f} ms = {row['run']:.2f}   create + first {opened(ours):9.1f} / {opened(theirs):9.1f} ms = {row['create + first run']:.2f}   "
            f"dispatches {ours['counts']['dispatches']} / {theirs['counts']['dispatches']}   replay {row['replay, µs a dispatch']:.2f} µs   difference {row['difference']:.1e}")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web_gpu", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="yardsticks whose name has this in it; all if none is named")
    parser.add_argument("--keep", action="store_true", help="with ROW: put these rows into web_gpu.json too")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--limit", type=float, default=240, help="seconds a runtime may take for a row")
    given = parser.parse_args(words)
    chosen = [w for w in YARDSTICKS if not given.rows or any(part.casefold() in w.name.casefold() for part in given.rows)]
    if not chosen:
        raise SystemExit(f"no yardstick's name has {' or '.join(given.rows)} in it; there are: {', '.join(w.name for w in YARDSTICKS)}")
    made: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, runtime = Path(place) / "bench", Path(place) / "runtime"
        folder.mkdir()
        copy_runtime(runtime)
        with Server({"/": PAGES, "/bench/": folder, "/sardonyx/": runtime, "/npm/": NPM}) as server:
            for workload in chosen:
                try:
                    row = row_of(workload, folder, server.address, given.seconds, given.limit)
                except Exception as error:  # not converted, or the browser itself is gone: the next row has a new one
                    row = {"what": workload.name, **{name: {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"} for name in RUNTIMES}}
                made[workload.name] = row
                print(line(row), flush=True)
                for path in folder.iterdir():
                    path.unlink()
                if not given.rows or given.keep:
                    keep(made)
    both = [row for row in made.values() if "run" in row]
    if both:
        print(f"geometric mean of {len(both)}: run {geometric([r['run'] for r in both]):.3f}, create + first run {geometric([r['create + first run'] for r in both]):.3f}")
    return 1 if any("failed" in row["sardonyx"] for row in made.values()) else 0


def keep(made: Mapping[str, dict[str, Any]]) -> None:
    """Put rows into web_gpu.json, in the yardsticks' order; others stay."""
    known = {row["what"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}
    known |= made
    RESULTS.write_text(json.dumps({"rows": [known[w.name] for w in YARDSTICKS if w.name in known]}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
