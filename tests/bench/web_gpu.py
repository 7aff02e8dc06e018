"""`python -m tests.bench.web_gpu [--only PART] [--seconds S] [--limit S]`: the yardsticks on WebGPU in Chromium, sardonyx beside onnxruntime-web's WebGPU provider on the same adapter
(SwiftShader here, a processor that plays a GPU: absolute times say nothing about GPUs). Each runtime has a page and a browser of its own. Run, create + first run, dispatches, pipelines,
bytes written; then what a replayed dispatch costs in JavaScript. Writes web_gpu.json row by row."""
from __future__ import annotations

import argparse
import json
import math
import tempfile
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web_gpu", description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--limit", type=float, default=240, help="seconds a runtime may take for a row")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    made: dict[str, Any] = {"rows": rows, "failed": {}}
    with tempfile.TemporaryDirectory() as place:
        folder, runtime = Path(place) / "bench", Path(place) / "runtime"
        folder.mkdir()
        copy_runtime(runtime)
        with Server({"/": PAGES, "/bench/": folder, "/sardonyx/": runtime, "/npm/": NPM}) as server:
            for workload in YARDSTICKS:
                if given.only and not any(part in workload.name for part in given.only):
                    continue
                try:
                    feeds = prepare(workload, folder)
                    ask = {"name": workload.file, "seconds": given.seconds, "feeds": feeds}
                    found = {name: one(server.address, "measure", {**ask, "runtime": name}, given.limit) for name in RUNTIMES}
                    cost = one(server.address, "replay", {"name": workload.file, "rounds": 20, "repeat": 50, "feeds": feeds}, given.limit)
                except Exception as error:
                    made["failed"][workload.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                    print(f"{workload.name:52} {made['failed'][workload.name]}"[:240], flush=True)
                    continue
                ours, theirs = found["sardonyx"], found["onnxruntime-web"]
                row = {"what": workload.name, "run": ours["run"] / theirs["run"], "create + first run": (ours["create"] + ours["first"]) / (theirs["create"] + theirs["first"]),
                       "difference": difference(ours.pop("outputs"), theirs.pop("outputs")), "replay, µs a dispatch": cost["microseconds"], "sardonyx": ours, "onnxruntime-web": theirs}
                rows.append(row)
                if not given.only:
                    RESULTS.write_text(json.dumps(made, indent=1) + "\n")
                opened = [side["create"] + side["first"] for side in (ours, theirs)]
                print(f"{workload.name:40} run {ours['run']:9.1f} / {theirs['run']:9.1f} ms = {row['run']:.2f}   "
                      f"create + first {opened[0]:9.1f} / {opened[1]:9.1f} ms = {row['create + first run']:.2f}   "
                      f"dispatches {ours['counts']['dispatches']} / {theirs['counts']['dispatches']}   replay {cost['microseconds']:.2f} µs   difference {row['difference']:.1e}", flush=True)
            if rows:
                print(f"geometric mean: run {geometric([r['run'] for r in rows]):.3f}, create + first run {geometric([r['create + first run'] for r in rows]):.3f}")


if __name__ == "__main__":
    main()
