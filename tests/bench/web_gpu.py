"""`python -m tests.bench.web_gpu [ROW…] [--keep] [--missing] [--minutes M] [--seconds S] [--limit S]`: the yardsticks on WebGPU in Chromium, sardonyx beside onnxruntime-web's WebGPU provider on
the same adapter (SwiftShader here, a processor that plays a GPU: absolute times say nothing about GPUs).

Each runtime has a page and a browser of its own, in turns; the least time of a few fresh starts where these are short. Run, create + first run, compiling, dispatches, pipelines, bytes moved; what
a replayed dispatch costs in JavaScript; which nodes the peer puts on the CPU, from its own log. Where those are nodes that multiply, the row compares our GPU with its CPU, and is marked: the
geometric means are of all rows, and of the others alone. Writes web_gpu.json and web_gpu.md row by row (of named rows only with --keep); what an interrupted run lacks, `--missing` measures.
A runtime that fails in a row is recorded so; the exit code is 1 where ours did."""
from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
OURS, PEER = "sardonyx", "onnxruntime-web"
RUNTIMES = (OURS, PEER)
#: Fresh starts of a row whose starts take less than so many milliseconds; others have one.
TRIES, SHORT = 3, 8000
#: Operators whose place decides where a model runs.
HEAVY = re.compile(r"MatMul|Gemm|Conv|LSTM|GRU|RNN|Attention|TreeEnsemble|Einsum")
#: A node in onnxruntime's verbose log, under the provider it is placed on.
PLACED, NODE = re.compile(r"placed on \[(\w+)\]"), re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\w+) \(")
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


def one(address: str, what: str, given: dict[str, Any], limit: float, said: list[str] | None = None) -> Any:
    """A call in a fresh browser; `said` gets what the page writes to its console."""
    with chromium() as browser:
        page = browser.new_page()
        if said is not None:
            page.on("console", lambda message: said.append(message.text))
        page.goto(f"{address}gpu.html")
        return page.evaluate(CALL, [what, given, limit])


def placements(address: str, name: str, limit: float) -> dict[str, int]:
    """{operator: nodes} of what onnxruntime-web places on the CPU, by its log; its copies between the two included."""
    said: list[str] = []
    one(address, "place", {"name": name}, limit, said)
    found: Counter[str] = Counter()
    where = ""
    for line in said:
        if heading := PLACED.search(line):
            where = heading[1]
            if line.lstrip().find("All nodes") >= 0 and where == "CPUExecutionProvider":
                return {"all": int(line.rsplit(":", 1)[1])}
        elif where and (node := NODE.search(line)) and (where == "CPUExecutionProvider" or node[1].startswith("Memcpy")):
            found[node[1]] += 1
    if not where:
        raise RuntimeError("onnxruntime-web's log names no node placements")
    return dict(sorted(found.items()))


def heavy(row: Mapping[str, Any]) -> bool:
    """Whether the peer's CPU does a part of the row that counts."""
    return any(operator == "all" or HEAVY.search(operator) for operator in row.get("peer's nodes on the CPU", {}))


def difference(mine: list[list[float]], theirs: list[list[float]]) -> float:
    """The largest difference, relative to the largest magnitude."""
    pairs = [(np.array(a), np.array(b)) for a, b in zip(mine, theirs, strict=True)]
    return max(float(np.abs(a - b).max()) for a, b in pairs) / max(1e-30, *(float(np.abs(b).max()) for _, b in pairs))


def geometric(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def opened(side: Mapping[str, float]) -> float:
    """Milliseconds until the first results."""
    return side["create"] + side["first"]


def row_of(workload: Workload, folder: Path, address: str, seconds: float, limit: float) -> dict[str, Any]:
    """A row. A runtime that fails or takes too long stands in it with the reason ("failed"), and there is no ratio."""
    row: dict[str, Any] = {"what": workload.name}
    ask = {"name": workload.file, "seconds": seconds, "feeds": prepare(workload, folder)}
    outputs: dict[str, Any] = {}
    for turn in range(TRIES):
        for name in RUNTIMES:
            before = row.get(name)
            if before and "failed" in before:
                continue
            try:
                now = one(address, "measure", {**ask, "runtime": name, "seconds": 0 if turn else seconds}, limit)
            except Exception as error:
                row[name] = {"failed": f"{' '.join(str(error).replace('Page.evaluate: ', '').split())[:300]}"}
                continue
            outputs[name] = now.pop("outputs")
            if before:
                best = min(before, now, key=opened)
                now = {**best, "run": min(before["run"], now["run"])}
            row[name] = now
        if turn == 0 and max((opened(row[name]) for name in RUNTIMES if "failed" not in row[name]), default=SHORT) >= SHORT:
            break
    if all("failed" not in row[name] for name in RUNTIMES):
        row |= {"run": row[OURS]["run"] / row[PEER]["run"], "create + first run": opened(row[OURS]) / opened(row[PEER]), "difference": difference(outputs[OURS], outputs[PEER])}
        row["peer's nodes on the CPU"] = placements(address, workload.file, limit)
    return row


def line(row: Mapping[str, Any]) -> str:
    """A row as text."""
    sides = [row[name] for name in RUNTIMES]
    if reasons := [f"{name}: {side['failed']}" for name, side in zip(RUNTIMES, sides, strict=True) if "failed" in side]:
        done = [f"{name}: run {side['run']:.1f} ms, create + first {opened(side):.1f} ms" for name, side in zip(RUNTIMES, sides, strict=True) if "failed" not in side]
        return f"{row['what']:40} {'; '.join([*done, *reasons])}"[:300]
    ours, theirs = sides
    return (f"{row['what']:40} run {ours['run']:9.1f} / {theirs['run']:9.1f} ms = {row['run']:.2f}   create + first {opened(ours):9.1f} / {opened(theirs):9.1f} ms = {row['create + first run']:.2f}   "
            f"dispatches {ours['counts']['dispatches']} / {theirs['counts']['dispatches']}   difference {row['difference']:.1e}{'   (the peer multiplies on the CPU)' if heavy(row) else ''}")


def means(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Both geometric means as text."""
    both = [row for row in rows if "run" in row]
    kinds = [("all rows that both run", both), ("those of them whose products the peer runs on the GPU, too", [row for row in both if "peer's nodes on the CPU" in row and not heavy(row)])]
    return [f"{what} ({len(of)}): run {geometric([r['run'] for r in of]):.3f} ×, create + first run {geometric([r['create + first run'] for r in of]):.3f} ×" for what, of in kinds if of]


HEAD = """# WebGPU in Chromium, beside onnxruntime-web's WebGPU provider

Written by `python -m tests.bench.web_gpu`: ours / theirs on the same adapter (SwiftShader, a processor that plays a GPU: absolute times say nothing about GPUs); milliseconds, least times.
Compiling: from the first pipeline asked for until the last is there (–: the runtime asks in a way that does not tell). Pipelines are those of create and first run; dispatches and bytes moved
(written by the page and copied between buffers, results included) are a later run's. The last column: nodes the peer places on the CPU, by its own log; a row with products among them (*)
compares our GPU with its CPU.
"""


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """What web_gpu.md says."""
    def pair(tell: Callable[[Mapping[str, Any]], Any], form: str) -> Callable[[Mapping[str, Any]], str]:
        def both(row: Mapping[str, Any]) -> str:
            values = [None if "failed" in row[name] else tell(row[name]) for name in RUNTIMES]
            return " / ".join("–" if value is None else format(value, form) for value in values)
        return both

    def ratio(key: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: f"{row[key]:.2f}" if key in row else ""

    def beside(row: Mapping[str, Any]) -> str:
        cpu = [f"{count} {operator}" for operator, count in row.get("peer's nodes on the CPU", {}).items()]
        return ", ".join(cpu) or "; ".join(f"{name}: {row[name]['failed'][:120]}" for name in RUNTIMES if "failed" in row[name])
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "what": lambda row: f"{row['what']}{' *' if heavy(row) else ''}",
        "run": pair(lambda side: side["run"], ",.1f"), "ratio": ratio("run"),
        "create + first run": pair(opened, ",.0f"), "ratio ": ratio("create + first run"),
        "first run": pair(lambda side: side["first"], ",.0f"),
        "compiling": pair(lambda side: side.get("compiling"), ",.0f"),
        "pipelines": pair(lambda side: side.get("opened", side["created"])["pipelines"], ""),
        "dispatches": pair(lambda side: side["counts"]["dispatches"], ""),
        "MB moved": pair(lambda side: (side["counts"]["written"] + side["counts"]["copied"]) / 1e6, ",.2f"),
        "µs a replayed dispatch": lambda row: f"{row[OURS]['replayed']:.2f}" if "replayed" in row[OURS] else "",
        "difference": lambda row: f"{row['difference']:.0e}" if "difference" in row else "",
        "the peer's nodes on the CPU": beside,
    }
    lines = [list(columns), ["---", *["--:"] * (len(columns) - 2), "---"], *([tell(row) for tell in columns.values()] for row in rows)]
    return "\n".join([HEAD, *(f"- Geometric mean, {mean}." for mean in means(rows)), "", *(f"| {' | '.join(cells)} |" for cells in lines)]) + "\n"


def stored() -> dict[str, dict[str, Any]]:
    """The rows of web_gpu.json."""
    return {row["what"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}


def keep(made: Mapping[str, dict[str, Any]]) -> None:
    """Put rows into web_gpu.json and web_gpu.md, in the yardsticks' order; others stay."""
    known = stored() | made
    rows = [known[w.name] for w in YARDSTICKS if w.name in known]
    RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(markdown(rows))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web_gpu", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="yardsticks whose name has this in it; all if none is named")
    parser.add_argument("--keep", action="store_true", help="with ROW: put these rows into web_gpu.json too")
    parser.add_argument("--missing", action="store_true", help="only rows that web_gpu.json does not have, or where ours failed")
    parser.add_argument("--minutes", type=float, default=25, help="begin no row after so many")
    parser.add_argument("--seconds", type=float, default=4, help="of later runs of a runtime in a row")
    parser.add_argument("--limit", type=float, default=150, help="seconds a runtime may take for a row")
    given = parser.parse_args(words)
    chosen = [w for w in YARDSTICKS if not given.rows or any(part.casefold() in w.name.casefold() for part in given.rows)]
    if not chosen:
        raise SystemExit(f"no yardstick's name has {' or '.join(given.rows)} in it; there are: {', '.join(w.name for w in YARDSTICKS)}")
    if given.missing:
        known = stored()
        chosen = [w for w in chosen if "failed" in known.get(w.name, {OURS: {"failed": ""}})[OURS]]
    until = time.monotonic() + 60 * given.minutes
    made: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, runtime = Path(place) / "bench", Path(place) / "runtime"
        folder.mkdir()
        copy_runtime(runtime)
        with Server({"/": PAGES, "/bench/": folder, "/sardonyx/": runtime, "/npm/": NPM}) as server:
            for workload in chosen:
                if time.monotonic() > until:
                    print(f"no time left: {', '.join(w.name for w in chosen if w.name not in made)}; go on with --missing")
                    break
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
    print("\n".join(f"geometric mean, {mean}" for mean in means(list(made.values()))))
    return 1 if any("failed" in row[OURS] for row in made.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
