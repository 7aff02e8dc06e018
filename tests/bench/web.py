"""`python -m tests.bench.web [SECTION…] [--only PART…] [--threads N…] [--quick]`: sardonyx beside onnxruntime-web (wasm) in the same Chromium, one worker, in turns, the least time of each.

Sections: page (download, cold start), memory (ResNet-50), pyodide, yardsticks (workloads.py: float, int8, int4), public (third-party models). A table that is whole replaces its like in web.json and
web.md at once and leaves the others; with --only, --quick or --threads nothing is written. A row that fails or takes too long is listed with the reason, as missed. The exit code is 1 where a bar is.
"""
from __future__ import annotations

import argparse
import math
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import brotli
import numpy as np
import onnx
import sardonyx
from playwright.sync_api import Browser, Page, sync_playwright
from sardonyx.converter.cli.serve import Server
from sardonyx.types import DType
from sardonyx.wasm.runtime import copy_runtime
from sardonyx.wasm.wheel import build_wheel, dependency_wheel

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.conftest import PAGES as BROWSER_PAGES
from tests.browser.packages import NPM, pyodide
from tests.models.inputs import SCRIPTS, light
from tests.models.registry import fetch, light_models

from .measure import Row, known, table, write
from .workloads import ADD, MOBILENET, RESNET, YARDSTICKS, Workload

PAGES = Path(__file__).parent / "pages"
ORT = NPM / "onnxruntime-web" / "dist"
PEER = "onnxruntime-web"
RUNTIMES = {"sardonyx": "/sardonyx/index.js", PEER: "/npm/onnxruntime-web/dist/ort.wasm.min.mjs"}
#: Of the yardsticks.
PASSES = 3
HOW = (f"Written by `make bench-web`; both runtimes in one worker of Chromium, in turns; least times, the yardsticks' of {PASSES} passes (int4: 1; cold starts: medians, browsers without a driver). "
       "Llama's rows are a language model's loop of 16 tokens, from a cache of 512 in arrays: each step's logits are read and its `present.*` are the next one's `past_key_values.*`, "
       "nothing is disposed; milliseconds a token. Beside them the same step again and again on the same arrays, with outputs into the arrays of the first: what is copied in and out is in it "
       "on both sides.")
NAMES = {DType.FLOAT: "float32", DType.DOUBLE: "float64"}
FIXED = "the same inputs again and again, arrays in and out"
#: What to think of a model's difference.
CHAOTIC = {"smart-turn": "chaotic: onnxruntime itself gives 0.75 to 0.89 for inputs changed by 1e-6"}
BIG = 32 << 20                                                       # constants that no cache holds
PUBLIC = ("magika", "ocr-det", "ocr-rec", "silero-vad", "basic-pitch", "smart-turn", "minilm", "centerface", "vit-focus", "light_squeezenet", "light_densenet121", "light_shufflenet")
LIMIT = 75                                                           # seconds a row may take, opening included
IN_WORKER = """(given) => new Promise((resolve, reject) => {
  const worker = new Worker('/worker.js', {type: 'module'});
  setTimeout(() => { worker.terminate(); reject(new Error(`no answer in ${given.limit} s`)); }, 1000 * given.limit);
  worker.onmessage = ({data}) => { worker.terminate(); data.error ? reject(new Error(data.error)) : resolve(data.result); };
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage(given);
})"""
COLD = {
    "sardonyx": """<!doctype html><link rel="icon" href="data:,"><script type="module">
      import * as ort from '/sardonyx/index.js';
      const session = await ort.InferenceSession.create('/bench/%(file)s.sdx');
      await session.run({ %(name)s: new ort.Tensor('float32', new Float32Array(%(count)d), %(shape)s) });
      fetch('/told/' + performance.now());</script>""",
    PEER: """<!doctype html><link rel="icon" href="data:,"><script type="module">
      import * as ort from '/npm/onnxruntime-web/dist/ort.wasm.min.mjs';
      ort.env.wasm.wasmPaths = '/npm/onnxruntime-web/dist/';
      const session = await ort.InferenceSession.create('/bench/%(file)s.onnx');
      await session.run({ %(name)s: new ort.Tensor('float32', new Float32Array(%(count)d), %(shape)s) });
      fetch('/told/' + performance.now());</script>""",
}
#: Another site's page, so that a process of its own shows the one that is measured: it goes there when the browser's own start is over.
BEFORE = """<!doctype html><link rel="icon" href="data:,"><script>setTimeout(() => location.replace(new URLSearchParams(location.search).get('to')), 1500)</script>"""


@dataclass(frozen=True)
class Options:
    only: tuple[str, ...] = ()
    quick: bool = False
    threads: tuple[int, ...] = (1, 2)

    def wants(self, name: str) -> bool:
        return not self.only or any(part in name for part in self.only)


@dataclass(frozen=True)
class Site:
    """What the browser is shown: `folder` is served as /bench/."""

    folder: Path
    runtime: Path
    wheels: Path
    address: str

    def model(self, file: str, source: Path) -> None:
        """The model in both forms, once."""
        for kind in ("onnx", "sdx"):
            target = self.folder / f"{file}.{kind}"
            if target.exists():
                continue
            if kind == "onnx":
                shutil.copyfile(source, target)
            else:
                sardonyx.convert(source, target, plan=[{}])

    def feeds(self, file: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs as files; how the page reads them."""
        feeds = {}
        for number, (name, value) in enumerate(values.items()):
            array = np.ascontiguousarray(value)
            where = f"{file}-{number}.bin"
            (self.folder / where).write_bytes(array.tobytes())
            dtype = DType.of(array)
            feeds[name] = [NAMES.get(dtype, dtype.text), list(np.shape(value)), f"/bench/{where}"]
        return feeds


@contextmanager
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as place:
        folder, runtime, wheels = (Path(place) / name for name in ("bench", "runtime", "wheels"))
        folder.mkdir()
        wheels.mkdir()
        copy_runtime(runtime)
        build_wheel(wheels, pyodide=pyodide())
        dependency_wheel(wheels, "flatbuffers")
        mounts = {"/": PAGES, "/bench/": folder, "/sardonyx/": runtime, "/npm/": NPM, "/browser/": BROWSER_PAGES, "/wheels/": wheels, "/pyodide/": pyodide()}
        with Server(mounts) as server:
            yield Site(folder, runtime, wheels, server.address)


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *flags])
        try:
            yield browser
        finally:
            browser.close()


# -- rows of both runtimes ---------------------------------------------------------------------------------------------------------------------
def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory, the best of some tries."""
    data = np.ones((threads, 64 << 20), np.float32)
    best = 0.0
    for _ in range(5):
        workers = [threading.Thread(target=row.max) for row in data]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, data.nbytes / (time.perf_counter() - start))
    return best


@dataclass(frozen=True)
class Both:
    """A model for both runtimes. `loop`: a language model's loop, milliseconds a token."""

    what: str
    file: str
    source: Callable[[], Path]
    values: Callable[[], Mapping[str, Any]]
    loop: bool = False

    def row(self, threads: int) -> str:
        return f"{self.what}, {threads} thread{'s' if threads > 1 else ''}"


#: What a page tells of both runtimes, or why it does not.
Found = dict[str, Any] | str


def in_turns(site: Site, given: Mapping[str, Any]) -> Found:
    """One model on both runtimes in a browser of its own (pages/worker.js)."""
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.goto(site.address)
            return cast(Found, page.evaluate(IN_WORKER, given))
    except Exception as error:
        return str(error)


def side_by_side(site: Site, models: Sequence[Both], options: Options, passes: int) -> dict[str, Found]:
    """Both runtimes' times by row. Over all models again and again: a neighbour of this machine takes half a processor for a minute, so that a row's time is the least of minutes apart."""
    found: dict[str, Found] = {}
    for turn in range(passes):
        for model in models:
            try:
                site.model(model.file, model.source())
                feeds = site.feeds(model.file, model.values())
            except Exception as error:
                found |= {model.row(threads): f"not stored: {type(error).__name__}: {error}" for threads in options.threads}
                continue
            for threads in options.threads:
                given = {"name": model.file, "threads": threads, "seconds": 0.6 if options.quick else 2, "limit": LIMIT, "feeds": feeds, "decodes": model.loop}
                label, new = model.row(threads), in_turns(site, given)
                if isinstance(new, dict):
                    print(f"  {turn + 1}/{passes} {label}: {new['ours']:.4g} ms  {PEER} {new['theirs']:.4g}  × {new['ours'] / new['theirs']:.3f}", flush=True)
                old = found.get(label, new)
                if isinstance(old, dict) and isinstance(new, dict):  # a page that failed once is a row that failed
                    new = {key: max(old[key], new[key]) if key == "difference" else new[key] if isinstance(new[key], str) else min(old[key], new[key]) for key in new}
                found[label] = old if isinstance(old, str) else new
    return found


def rows_of(site: Site, models: Sequence[Both], found: Mapping[str, Found], options: Options, bars: Callable[[int, float, int], float | None]) -> Iterator[Row]:
    """A row for each model and number of threads; bars(threads, their seconds, bytes of the stored model) is a row's."""
    for model in models:
        for threads in options.threads:
            label, best = model.row(threads), found[model.row(threads)]
            if isinstance(best, str):
                yield failed(label, best)
                continue
            size = (site.folder / f"{model.file}.sdx").stat().st_size
            yield Row(label, best["ours"], "ms", bars(threads, best["theirs"] / 1e3, size), best["theirs"], PEER, True, f"differs by {best['difference']:.0e}"
                      f"{' (' + CHAOTIC[model.what] + ')' if model.what in CHAOTIC else ''}; opened in {best['openOurs']:.0f} ms, theirs in {best['openTheirs']:.0f}")


def failed(what: str, why: str) -> Row:
    return Row(what, math.inf, "ms", 0.0, note=" ".join(why.split())[:160])


def told(rows: Iterator[Row]) -> list[Row]:
    """The rows, each printed as it is made."""
    made = []
    for row in rows:
        ratio = f"  {row.peer_name} {row.peer:.4g}  × {row.value / row.peer:.3f}" if row.peer else ""
        print(f"  {row.what}: {row.value:.4g} {row.unit}{ratio}  {row.verdict}  {row.note}", flush=True)
        made.append(row)
    return made


def means(rows: Sequence[Row], options: Options, bar: float | None) -> Iterator[Row]:
    """Geometric means of the rows' ratios, by number of threads."""
    for threads in options.threads:
        ratios = [row.value / row.peer for row in rows if row.peer and row.value and row.what.endswith(f", {threads} thread{'s' if threads > 1 else ''}")]
        if ratios:
            yield Row(f"geometric mean of {len(ratios)}, {threads} thread{'s' if threads > 1 else ''}", math.exp(sum(map(math.log, ratios)) / len(ratios)), "×", bar)


def is_int8(workload: Workload) -> bool:
    return "int8" in workload.name


def decodes(workload: Workload) -> bool:
    return workload.file.startswith("llama")


def yardsticks(site: Site, options: Options) -> Iterator[tuple[str, list[Row]]]:
    """The bar of a row: 0.8, or what reading the weights alone takes, and a tenth."""
    speed = {threads: bandwidth(threads) for threads in options.threads}
    print("memory:", {threads: f"{s / 1e9:.1f} GB/s" for threads, s in speed.items()}, flush=True)

    def bars(threads: int, theirs: float, size: int) -> float:
        return max(0.8, 1.1 * size / speed[threads] / theirs if size > BIG else 0)

    wanted = [w for w in YARDSTICKS if options.wants(w.name)]
    models = {w.name: Both(w.name, w.file, w.path, w.feed, decodes(w)) for w in wanted}
    beside = {w.name: Both(f"{w.name}, {FIXED}", w.file, w.path, w.feed) for w in wanted if decodes(w)}
    far = {name for name in models if "int4" in name}  # from its bar, and minutes of theirs
    found = side_by_side(site, [model for name, model in models.items() if name not in far], options, 1 if options.quick else PASSES)
    found |= side_by_side(site, [*map(models.__getitem__, far), *beside.values()], options, 1)
    groups: list[tuple[str, float | None, Callable[[Workload], bool]]] = [
        ("yardsticks, float", 0.5, lambda w: not is_int8(w) and "int4" not in w.name), ("yardsticks, int8", 0.5, is_int8), ("yardsticks, int4", 0.06, lambda w: "int4" in w.name)]
    for title, mean, belongs in groups:
        names = [w.name for w in wanted if belongs(w)]
        if names:
            rows = told(rows_of(site, [models[name] for name in names], found, options, bars))
            rows += told(means(rows, options, mean))
            yield title, rows + told(rows_of(site, [beside[name] for name in names if name in beside], found, options, lambda *_: None))


def image_of(path: Path) -> str:
    """The name of the one input that is not a weight."""
    graph = onnx.load(str(path)).graph
    weights = {tensor.name for tensor in graph.initializer}
    return next(value.name for value in graph.input if value.name not in weights)


def public(site: Site, options: Options) -> Iterator[tuple[str, list[Row]]]:
    """Third-party models on the first inputs of their scripts; no bars."""
    lights = light_models()

    def model(name: str) -> Both:
        script = light(image_of(lights[name])) if name in lights else SCRIPTS[name]
        return Both(name, name, lambda: lights.get(name) or fetch(name), lambda: next(script()))
    models = [model(name) for name in PUBLIC if options.wants(name)]
    if models:
        rows = told(rows_of(site, models, side_by_side(site, models, options, 1), options, lambda *_: None))
        yield "public models", [*rows, *told(means(rows, options, None))]


# -- a page ------------------------------------------------------------------------------------------------------------------------------------
def downloads(runtime: Path) -> Iterator[Row]:
    """Bytes of a page load without the model: all JavaScript and one engine module; -q 11 -w 24 (a minute for onnxruntime-web's)."""
    def small(paths: list[Path]) -> float:
        return sum(len(brotli.compress(path.read_bytes(), quality=11, lgwin=24)) for path in paths) / 1e3
    scripts, engine = sorted(runtime.glob("*.js")), runtime / "sardonyx-relaxed-threads.wasm"
    theirs = [ORT / "ort.wasm.min.mjs", ORT / "ort-wasm-simd-threaded.mjs", ORT / "ort-wasm-simd-threaded.wasm"]
    yield Row("page load without the model, brotli", small([*scripts, engine]), "kB", 230, small(theirs), PEER)
    for name in ("simd128", "simd128-threads", "relaxed", "relaxed-threads"):
        module = runtime / f"sardonyx-{name}.wasm"
        yield Row(f"{module.name}, raw", module.stat().st_size / 1e3, "kB", 480)
        yield Row(f"{module.name}, brotli", small([module]), "kB", 170)


class Told(Server):
    """A server that is told a page's milliseconds, by a request for /told/MILLISECONDS."""

    def __init__(self, mounts: Mapping[str, Path]) -> None:
        super().__init__(mounts)
        self.heard: queue.Queue[float] = queue.Queue()

    def find(self, path: str) -> Path | None:
        if path.startswith("/told/"):
            self.heard.put(float(path.removeprefix("/told/")))
            return None
        return super().find(path)

    def visit(self, path: str) -> float:
        """What a page says of itself in a browser of its own with a fresh profile. No driver: an inspector copies and encodes every download, on the page's own thread."""
        port = self.server_address[1]
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            words = [CHROMIUM, *ARGUMENTS, f"--user-data-dir={profile}", f"http://localhost:{port}/bench/before.html?to={self.address}{path}"]
            browser = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            try:
                return self.heard.get(timeout=60)
            except queue.Empty:
                raise RuntimeError(f"{path} says nothing for 60 s: open it in a browser and look at the console") from None
            finally:
                browser.terminate()
                browser.wait()
                with suppress(ProcessLookupError):
                    for _ in range(100):  # its processes end a little later, and write to the profile until then
                        os.killpg(browser.pid, signal.SIGKILL)
                        time.sleep(0.02)


def cold(site: Site, what: str, workload: Workload, bar: float | None, rounds: int) -> Iterator[Row]:
    """Milliseconds from navigationStart to the first result, in turns; medians."""
    (name, x), = workload.feed().items()
    site.model(workload.file, workload.path())
    (site.folder / "before.html").write_text(BEFORE)
    for runtime, text in COLD.items():
        (site.folder / f"{runtime}-{workload.file}.html").write_text(text % {"file": workload.file, "name": name, "count": x.size, "shape": list(x.shape)})
    found: dict[str, list[float]] = {runtime: [] for runtime in COLD}
    with Told({"/bench/": site.folder, "/sardonyx/": site.runtime, "/npm/": NPM}) as server:
        for _ in range(rounds):
            for runtime, all_of_it in found.items():
                all_of_it.append(server.visit(f"bench/{runtime}-{workload.file}.html"))
    ours, theirs = (found[runtime] for runtime in ("sardonyx", PEER))
    each = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    yield Row(what, statistics.median(ours), "ms", bar, statistics.median(theirs), PEER, True,
              f"medians of {rounds} fresh browsers each, in turns; ratios of pairs {each[0]:.2f} to {each[-1]:.2f}, least times {min(ours):.0f} and {min(theirs):.0f}")


def pages(site: Site, options: Options) -> Iterator[tuple[str, list[Row]]]:
    rounds = 1 if options.quick else 15
    rows = [] if options.quick else told(downloads(site.runtime))
    rows += told(cold(site, "cold start to MobileNetV2's first result, model included", MOBILENET, 0.3, rounds))
    rows += told(cold(site, "cold start to one Add's result", ADD, None, rounds))
    yield "page", rows


# -- memory ------------------------------------------------------------------------------------------------------------------------------------
@contextmanager
def watched(site: Site) -> Iterator[tuple[Page, Path]]:
    """A page of a fresh browser that measures its memory at once, and its renderer's folder in /proc once `start` has run."""
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as driver:
        flags = [*ARGUMENTS, "--enable-blink-features=ForceEagerMeasureMemory"]
        context = driver.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=flags)
        try:
            yield context.new_page(), Path(profile)
        finally:
            context.close()


def renderers(profile: Path) -> list[Path]:
    """The processes, in /proc, that show pages of the browser with this profile."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            if "--type=renderer" in words and str(profile) in words:
                found.append(process)
    return found


def megabytes(process: Path, field: str) -> float:
    """VmRSS (now) or VmHWM (the most since clear_refs was written)."""
    return next(1.024e-3 * float(line.split()[1]) for line in (process / "status").read_text().splitlines() if line.startswith(field))


def held(page: Page) -> float:
    """Megabytes after a garbage collection, memory of workers included."""
    return float(page.evaluate("async () => (await import('/memory.js')).held()")) / 1e6


def memory_of(site: Site, runtime: str, file: str, runs: int) -> dict[str, float]:
    """Megabytes: `peak` of the page's process while it opens and runs, `above` what it was with the runtime loaded; `grown` by `runs` runs; `kept` after release above what was before."""
    with watched(site) as (page, profile):
        page.goto(site.address)
        page.evaluate("async ([runtime, address]) => (await import('/memory.js')).start(runtime, address, 1)", [runtime, RUNTIMES[runtime]])
        before = held(page)
        resident = {process: megabytes(process, "VmRSS") for process in renderers(profile)}
        for process in resident:
            (process / "clear_refs").write_text("5")
        page.evaluate("async (name) => (await import('/memory.js')).work(name)", file)
        process = max(resident, key=lambda process: megabytes(process, "VmHWM") - resident[process])
        found = {"peak": megabytes(process, "VmHWM"), "above": megabytes(process, "VmHWM") - resident[process]}
        if runs:
            page.evaluate("async () => (await import('/memory.js')).repeat(50)")
            first = held(page)
            page.evaluate("async (runs) => (await import('/memory.js')).repeat(runs)", runs)
            found["grown"] = held(page) - first
        page.evaluate("async () => (await import('/memory.js')).end()")
        return found | {"kept": held(page) - before}


def memory(site: Site, options: Options) -> Iterator[tuple[str, list[Row]]]:
    for workload in (ADD, RESNET, MOBILENET):
        site.model(workload.file, workload.path())
    made = {runtime: memory_of(site, runtime, RESNET.file, 0) for runtime in RUNTIMES}
    ours, theirs = made["sardonyx"], made[PEER]
    runs = 100 if options.quick else 1000
    many = memory_of(site, "sardonyx", MOBILENET.file, runs)
    yield "memory, ResNet-50 (102 MB)", told(iter([
        Row("the page's process at most, opening and running", ours["peak"], "MB", 0.5, theirs["peak"], PEER, True),
        Row("the same, above the process with the runtime loaded", ours["above"], "MB", 0.5, theirs["above"], PEER, True),
        Row("held after release and collection, above before", ours["kept"], "MB", 5, theirs["kept"], PEER),
        Row(f"{runs:,} runs of MobileNetV2 add", many["grown"], "MB", 1),
        Row("held after them, release and collection, above before", many["kept"], "MB", 5)]))


# -- Pyodide -----------------------------------------------------------------------------------------------------------------------------------
IN_PYODIDE = """([wheels, code, files]) => new Promise((resolve, reject) => {
  const worker = new Worker('/browser/pyodide-worker.js', {type: 'module'});
  worker.onmessage = ({data}) => { worker.terminate(); data.error ? reject(new Error(data.error)) : resolve(data.result); };
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage({wheels, code, files});
})"""
IN_JAVASCRIPT = """async ([address, file]) => {
  const ort = await import(address);
  Object.assign(ort.env.wasm, {numThreads: 1});
  const session = await ort.InferenceSession.create(`/bench/${file}.sdx`), x = { input: new ort.Tensor('float32', new Float32Array(150528).fill(0.5), [1, 3, 224, 224]) };
  let best = Infinity;
  for (let i = 0; i < 60; i++) { const start = performance.now(); await session.run(x); best = Math.min(best, performance.now() - start); }
  return best;
}"""


def in_pyodide(site: Site, options: Options) -> Iterator[tuple[str, list[Row]]]:
    """MobileNetV2 in Pyodide in a worker, one thread, beside the JavaScript runtime in the same page; the least of some fresh browsers."""
    site.model(MOBILENET.file, MOBILENET.path())
    code = (PAGES / "in_pyodide.py").read_text() + "\nfound"
    files = {f"/model.{kind}": f"/bench/{MOBILENET.file}.{kind}" for kind in ("sdx", "onnx")}
    wheels = [path.name for path in site.wheels.glob("*.whl")]
    best: dict[str, float] = {}
    for _ in range(1 if options.quick else 3):
        with chromium() as browser:
            page = browser.new_page()
            page.goto(site.address)
            found = page.evaluate(IN_PYODIDE, [wheels, code, files])
            found["javascript"] = page.evaluate(IN_JAVASCRIPT, [RUNTIMES["sardonyx"], MOBILENET.file])
            best = {key: min(value, best.get(key, math.inf)) for key, value in found.items()}
    yield "Pyodide, MobileNetV2", told(iter([
        Row("run", best["run"], "ms", 1.15, best["javascript"], "the JavaScript runtime", True),
        Row("from sardonyx import InferenceSession, after numpy", best["imports"], "ms"),
        Row("session of a stored program, after the imports", best["session"], "ms", 100),
        Row("a second session of it", best["second"], "ms"),
        Row("first run of the stored program", best["first"], "ms"),
        Row("session of the .onnx, planned anew, and its first run", best["open"] + best["plan"], "ms", 600, note=f"opening {best['open']:.0f}, planning and running {best['plan']:.0f}"),
        Row("the wheel, with bytecode for this Python", next(site.wheels.glob("sardonyx-*.whl")).stat().st_size / 1e6, "MB")]))


#: Each makes tables, with their titles, one after the other.
SECTIONS: dict[str, Callable[[Site, Options], Iterator[tuple[str, list[Row]]]]] = {"page": pages, "memory": memory, "pyodide": in_pyodide, "yardsticks": yardsticks, "public": public}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.web", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if none is named")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="yardsticks, public: only models whose name has this in it; may be repeated")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: minutes; nothing is written")
    given = parser.parse_args(words)
    if unknown := [name for name in given.sections if name not in SECTIONS]:
        raise SystemExit(f"unknown section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    options, results = Options(tuple(given.only), given.quick, tuple(given.threads)), dict[str, list[Row]]()
    with site() as where:
        for name in given.sections or SECTIONS:
            start = time.perf_counter()
            try:
                for title, rows in SECTIONS[name](where, options):
                    print(f"\n## {title}\n\n{table(rows)}\n", flush=True)
                    results[title] = rows
                    if options == Options():
                        write(known("web") | results, "web", HOW)  # what was measured is kept, should a later part fail or be stopped
            except Exception as error:  # one section's trouble takes no other's numbers
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                results[name] = [failed(name, f"{type(error).__name__}: {error}")]
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    missed = [f"{title}: {row.what}" for title, rows in results.items() for row in rows if row.verdict == "FAIL"]
    print(f"\n{len(missed)} bars missed{': ' + '; '.join(missed) if missed else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
