"""`python -m tests.bench.web [--only PART] [--seconds S] [--threads N …] [--limit S]`: the yardsticks in Chromium, sardonyx beside onnxruntime-web (wasm), in one worker, in turns; the least time of
each. Then the cold start (a fresh profile, from navigationStart to MobileNetV2's first result, model included), and what a page downloads (brotli -q 11 -w 24; a minute for onnxruntime-web's).

Writes web.json row by row; a row that takes longer than --limit is given up and listed there with the reason.
"""
from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import brotli
import numpy as np
import sardonyx
from playwright.sync_api import Browser, sync_playwright
from sardonyx.converter.cli.serve import Server
from sardonyx.types import DType
from sardonyx.wasm.runtime import copy_runtime

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.packages import NPM

from .workloads import MOBILENET, YARDSTICKS, Workload

PAGES = Path(__file__).parent / "pages"
RESULTS = Path(__file__).with_name("web.json")
ORT = NPM / "onnxruntime-web" / "dist"
NAMES = {DType.FLOAT: "float32"}
IN_WORKER = """(given) => new Promise((resolve, reject) => {
  const worker = new Worker('/worker.js', {type: 'module'});
  setTimeout(() => { worker.terminate(); reject(new Error(`no answer in ${given.limit} s`)); }, 1000 * given.limit);
  worker.onmessage = ({data}) => { worker.terminate(); data.error ? reject(new Error(data.error)) : resolve(data.result); };
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage(given);
})"""
COLD = {
    "sardonyx": """<!doctype html><link rel="icon" href="data:,"><script type="module">
      const model = fetch('/bench/mobilenet-v2.sdx');
      import * as ort from '/sardonyx/index.js';
      const session = await ort.InferenceSession.create(await model);
      await session.run({ [session.inputNames[0]]: new ort.Tensor('float32', new Float32Array(150528), [1, 3, 224, 224]) });
      globalThis.done = performance.now();</script>""",
    "onnxruntime-web": """<!doctype html><link rel="icon" href="data:,"><script type="module">
      import * as ort from '/npm/onnxruntime-web/dist/ort.wasm.min.mjs';
      ort.env.wasm.wasmPaths = '/npm/onnxruntime-web/dist/';
      const session = await ort.InferenceSession.create('/bench/mobilenet-v2.onnx');
      await session.run({ [session.inputNames[0]]: new ort.Tensor('float32', new Float32Array(150528), [1, 3, 224, 224]) });
      globalThis.done = performance.now();</script>""",
}


def prepare(workload: Workload, folder: Path) -> dict[str, Any]:
    """The model in both forms and its inputs, in the served folder; the feeds as the page reads them."""
    source = workload.path()
    (folder / f"{workload.file}.onnx").write_bytes(source.read_bytes())
    if not (folder / f"{workload.file}.sdx").exists():
        sardonyx.convert(source, folder / f"{workload.file}.sdx", plan=[{}])
    feeds = {}
    for name, value in workload.feed().items():
        array, file = np.ascontiguousarray(value), f"{abs(hash((workload.name, name)))}.bin"
        (folder / file).write_bytes(array.tobytes())
        dtype = DType.of(array)
        feeds[name] = [NAMES.get(dtype, dtype.text), list(array.shape), f"/bench/{file}"]
    return feeds


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def downloads(runtime: Path) -> dict[str, int]:
    """Bytes of a page load without the model: all JavaScript and one engine module."""
    def small(paths: list[Path]) -> int:
        return sum(len(brotli.compress(path.read_bytes(), quality=11, lgwin=24)) for path in paths)
    scripts = sorted(runtime.glob("*.js"))
    return {"sardonyx": small([*scripts, runtime / "sardonyx-relaxed-threads.wasm"]), "sardonyx, raw JavaScript": sum(p.stat().st_size for p in scripts),
            "onnxruntime-web": small([ORT / "ort.wasm.min.mjs", ORT / "ort-wasm-simd-threaded.mjs", ORT / "ort-wasm-simd-threaded.wasm"])}


def cold(address: str, rounds: int) -> dict[str, float]:
    """Least milliseconds from navigationStart to the first result, in turns, each in a browser of its own."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name in COLD:
            with chromium() as browser:
                page = browser.new_page()
                page.goto(f"{address}bench/{name}.html")
                page.wait_for_function("globalThis.done", timeout=60000)
                best[name] = min(best.get(name, math.inf), page.evaluate("globalThis.done"))
    return best


def keep(made: dict[str, Any], only: list[str]) -> None:
    """Write what there is so far, so that a run that is stopped leaves its rows. A part of the rows (--only) is printed, not written."""
    if not only:
        RESULTS.write_text(json.dumps(made, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web", description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--limit", type=float, default=90, help="seconds a row may take, models' opening included")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    made: dict[str, Any] = {"rows": rows, "failed": {}, "page load, bytes": {}, "cold start, ms": {}}
    with tempfile.TemporaryDirectory() as place:
        folder, runtime = Path(place) / "bench", Path(place) / "runtime"
        folder.mkdir()
        copy_runtime(runtime)
        for name, text in COLD.items():
            (folder / f"{name}.html").write_text(text)
        with Server({"/": PAGES, "/bench/": folder, "/sardonyx/": runtime, "/npm/": NPM}) as server:
            for workload in YARDSTICKS:
                if given.only and not any(part in workload.name for part in given.only):
                    continue
                try:
                    feeds = prepare(workload, folder)
                except Exception as error:
                    print(f"{workload.name:52} not stored: {type(error).__name__}: {error}"[:200], flush=True)
                    made["failed"][workload.name] = f"not stored: {error}"[:200]
                    continue
                for threads in given.threads:
                    with chromium() as browser:
                        page = browser.new_page()
                        page.goto(server.address)
                        try:
                            found = page.evaluate(IN_WORKER, {"name": workload.file, "threads": threads, "seconds": given.seconds, "limit": given.limit, "feeds": feeds})
                        except Exception as error:
                            print(f"{workload.name:52} {threads}: {str(error)[:200]}", flush=True)
                            made["failed"][f"{workload.name}, {threads} threads"] = str(error)[:200]
                            keep(made, given.only)
                            continue
                    rows.append({"what": workload.name, **found})
                    keep(made, given.only)
                    print(f"{workload.name:52} {threads} threads  ours {found['ours']:9.3f} ms  onnxruntime-web {found['theirs']:9.3f} ms  ratio {found['ours'] / found['theirs']:.2f}"
                          f"  difference {found['difference']:.1e}", flush=True)
            for threads in given.threads:
                ratios = [row["ours"] / row["theirs"] for row in rows if row["threads"] == threads]
                if ratios:
                    print(f"{threads} threads: geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f} over {len(ratios)} rows")
            if not given.only or any(part in MOBILENET.name for part in given.only):
                prepare(MOBILENET, folder)
                made["cold start, ms"] = cold(server.address, 3)
                print("cold start, ms:", {name: round(ms) for name, ms in made["cold start, ms"].items()})
                keep(made, given.only)
            made["page load, bytes"] = downloads(runtime)
            print("page load, brotli:", made["page load, bytes"])
    keep(made, given.only)


if __name__ == "__main__":
    main()
