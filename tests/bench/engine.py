"""The engine beside onnxruntime's CPU provider and OpenVINO: issue 3's bars, as four sections.

`python -m tests.bench engine [--only PART…] [--quick] [--providers NAME…]`. Every runtime opens the same `.onnx` in this process with the same number of threads and is timed in turn: one untimed run,
then a burst of timed ones, several rounds, the order changing from round to round; the medians are compared. A burst begins only when the process is idle, because onnxruntime's
and OpenVINO's workers spin for a while after their last run. Peaks are measured in the same run by a loop of multiply-adds in registers (tests/bench/kernels.py).
"""
from __future__ import annotations

import functools
import gc
import math
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import sardonyx

from tests.models.inputs import SCRIPTS, light
from tests.models.registry import fetch, light_models

from .measure import FOLDER, Row, fresh, interleaved
from .workloads import ADD, BERT, LLAMA, MOBILENET, RESNET, YARDSTICKS, Feed, Workload, tokens

OURS, PEER, OPENVINO = "sardonyx", "onnxruntime", "OpenVINO"
REFERENCE = "ReferenceExecutionProvider"
PATIENCE = 2.0  # seconds a run may take on the NumPy operators before the row is left out
SHORT = 50e-6   # below this, onnxruntime's time plus SLACK is the bar, instead of a ratio
SLACK = 6e-6


@dataclass(frozen=True)
class Options:
    """only: parts of "section: row" names, all if empty. providers: what our sessions list; empty is the default."""

    only: tuple[str, ...] = ()
    quick: bool = False
    providers: tuple[str, ...] = ()

    def wants(self, section: str, name: str) -> bool:
        return not self.only or any(part.lower() in f"{section}: {name}".lower() for part in self.only)

    @property
    def mean_bar(self) -> float | None:
        """The bar of geometric means: a part of the rows has none."""
        return None if self.only else 0.85

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 9

    @property
    def burst(self) -> float:
        """Seconds of timed runs a round."""
        return 0.03 if self.quick else 0.2


class TooSlow(Exception):
    """A run on the NumPy operators took longer than PATIENCE."""


# -- the three runtimes: open(path, threads) → run(feed) -------------------------------------------------------------------------------------
Run = Callable[[Feed], list[Any]]


@dataclass
class Ours:
    """One of our sessions, with the configuration `entries`. `note` says which part of it the NumPy operators run."""

    path: Path
    threads: int
    providers: Sequence[str] = ()
    note: str = ""
    entries: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = sardonyx.SessionOptions()
        options.intra_op_num_threads = self.threads
        for key, value in self.entries.items():
            options.add_session_config_entry(key, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.session = sardonyx.InferenceSession(self.path, options, providers=list(self.providers) or None)
        nodes = self.session.explain()
        slow = sum(node.provider == REFERENCE for node in nodes)
        self.note = "reference" if slow == len(nodes) else f"{slow} of {len(nodes)} nodes on the reference" if slow else ""

    def __call__(self, feed: Feed) -> list[Any]:
        return self.session.run(None, feed)

    def first(self, feed: Feed) -> list[Any]:
        """The first run. TooSlow where NumPy needs more than PATIENCE; the engine is never cut short."""
        if not self.note:
            return self(feed)
        options = sardonyx.RunOptions()
        watch = threading.Timer(PATIENCE, lambda: setattr(options, "terminate", True))
        watch.start()
        begin = time.perf_counter()
        try:
            made = self.session.run(None, feed, options)
        except sardonyx.SardonyxError as error:
            if options.terminate:
                raise TooSlow(f"a run on the NumPy operators takes more than {PATIENCE:g} s") from error
            raise
        finally:
            watch.cancel()
        if time.perf_counter() - begin > PATIENCE:
            raise TooSlow(f"a run on the NumPy operators takes {time.perf_counter() - begin:.1f} s")
        return made


class Onnxruntime:
    """onnxruntime with its defaults."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, feed: Feed) -> list[Any]:
        return list(self.session.run(None, feed))

    first = __call__


class OpenVino:
    """OpenVINO in f32, for latency. Not pinned to cores: that would move the other runtimes' threads too. Inputs and outputs are shared, not copied."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        self.request = openvino.Core().compile_model(str(path), "CPU", config).create_infer_request()

    def __call__(self, feed: Feed) -> list[Any]:
        return list(self.request.infer(feed, share_inputs=True, share_outputs=True).values())

    def first(self, feed: Feed) -> list[Any]:
        """The first run; the outputs are copied, because later runs overwrite shared ones."""
        return [np.array(value) for value in self(feed)]


# -- timing ----------------------------------------------------------------------------------------------------------------------------------
@dataclass
class Timed:
    """What one runtime did with one model: seconds. `runs`: every timed run."""

    create: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


def settle() -> None:
    """Wait until this process is idle (at most half a second)."""
    for _ in range(50):
        busy = time.process_time()
        time.sleep(0.01)
        if time.process_time() - busy < 0.001:
            return


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what it gave."""
    begin = time.perf_counter()
    made = work()
    return time.perf_counter() - begin, made


def one_run(run: Run, feed: Feed) -> float:
    """Seconds of a run."""
    return seconds(lambda: run(feed))[0]


def compare(makers: dict[str, Callable[[], Any]], feed: Feed, options: Options) -> dict[str, Timed]:
    """Every runtime on one model, interleaved. One that fails is dropped with a printed reason, unless it is ours."""
    found = {name: Timed() for name in makers}
    alive: dict[str, Any] = {}
    for _ in range(1 if options.quick else 3):
        for name in list(found):
            alive.pop(name, None)
            gc.collect()
            settle()
            try:
                created, runner = seconds(makers[name])
                took, outputs = seconds(functools.partial(runner.first, feed))
            except TooSlow:
                raise
            except Exception as error:
                if name != OPENVINO:
                    raise
                print(f"    {name} does not run it: {str(error).strip().splitlines()[0][:120] if str(error) else type(error).__name__}", flush=True)
                del found[name]
                continue
            alive[name], timed = runner, found[name]
            timed.create.append(created)
            timed.first.append(took)
            timed.outputs, timed.note = outputs, getattr(runner, "note", "")
    rounds = max(2, min(options.rounds, int(6 / max(min(t.first) for t in found.values()))))
    names = list(found)
    for number in range(rounds):
        for name in names[number % len(names):] + names[:number % len(names)]:
            settle()
            found[name].runs += burst(alive[name], feed, options.burst)
    return found


def burst(run: Run, feed: Feed, budget: float) -> list[float]:
    """One untimed run, then timed ones for about `budget` seconds, at least one."""
    once = one_run(run, feed)
    clock, times = time.perf_counter, []
    for _ in range(max(1, min(3000, int(budget / once)))):
        begin = clock()
        run(feed)
        times.append(clock() - begin)
    return times


def largest_error(ours: Iterable[Any], theirs: Iterable[Any]) -> float:
    """The largest difference of any output, relative to that output's largest magnitude; inf where shapes, kinds, NaNs or anything but numbers differ."""
    return max((_error(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _error(ours: Any, theirs: Any) -> float:
    if not isinstance(theirs, np.ndarray) or theirs.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(ours, theirs) else math.inf
    if ours.shape != theirs.shape:
        return math.inf
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    known = np.isfinite(b)
    if not (np.array_equal(known, np.isfinite(a)) and np.array_equal(a[~known], b[~known], equal_nan=True)):
        return math.inf
    difference = float(np.abs(a[known] - b[known]).max(initial=0.0))
    return difference / max(float(np.abs(b[known]).max(initial=0.0)), 1e-30) if difference else 0.0


# -- rows ------------------------------------------------------------------------------------------------------------------------------------
def scaled(time_s: float, like: float) -> tuple[float, str]:
    """Seconds in the unit that suits a peer of `like` seconds."""
    return (1e6 * time_s, "µs") if like < SHORT else (1e3 * time_s, "ms")


def beside(what: str, ours: float, theirs: float, peer: str, bar: float | None, note: str = "") -> Row:
    """Our seconds beside a peer's. bar: of the ratio, except for short runs, whose bar is the peer's time and a little."""
    value, unit = scaled(ours, theirs)
    if bar is not None and theirs < SHORT:
        return Row(what, value, unit, scaled(theirs + SLACK, theirs)[0], scaled(theirs, theirs)[0], peer, note=note)
    return Row(what, value, unit, bar, scaled(theirs, theirs)[0], peer, bar is not None, note)


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, ratios)))


def mean_row(what: str, ratios: Sequence[float], bar: float | None, note: str = "") -> list[Row]:
    return [Row(what, geometric_mean(ratios), "×", bar, note="; ".join(filter(None, [f"{len(ratios)} rows", note])))] if ratios else []


def failed(what: str, error: Exception, bar: float) -> Row:
    """Our side did not run: no time, so the bar is missed."""
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error) else ''}"
    print(f"    FAILED {what}: {reason}", flush=True)
    return Row(what, math.inf, "ms", bar, relative=True, note=f"did not run: {reason}")


def machine_peak() -> float:
    """Multiply-add FLOP/s of one core; 0 where the loop has no build for this machine."""
    from .kernels import harness, peak
    isas = harness.machine_isas()
    return 1e9 * peak(isas[0]) if isas else 0.0


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


# -- the yardsticks --------------------------------------------------------------------------------------------------------------------------
@dataclass
class Measured:
    """A workload's times, and how far our outputs are from onnxruntime's."""

    workload: Workload
    times: dict[str, Timed]
    error: float

    @property
    def ratio(self) -> float:
        return self.times[OURS].median / self.times[PEER].median

    def rows(self, peak: float) -> list[Row]:
        """Beside onnxruntime, beside OpenVINO, and beside the machine's peak where that has a bar."""
        w, ours, peer = self.workload, self.times[OURS], self.times[PEER]
        top = peak * (4 if w.integer else 1)
        share = w.work / ours.median / top if w.work and top else 0.0
        of_peak = f"{share:.0%} of {'4 × the f32' if w.integer else 'the'} peak" if share else ""
        openings = [f"{what} {1e3 * statistics.median(a):.3g} ms ({1e3 * statistics.median(b):.3g})" for what, a, b in (("create", ours.create, peer.create), ("first run", ours.first, peer.first))]
        rows = [beside(w.name, ours.median, peer.median, PEER, w.bar, "; ".join(filter(None, [f"error {self.error:.1e}", of_peak, *openings, ours.note])))]
        if OPENVINO in self.times:
            other = self.times[OPENVINO]
            rows.append(beside(w.name, ours.median, other.median, OPENVINO, None, f"error {largest_error(ours.outputs, other.outputs):.1e}"))
        if w.of_peak and share:
            ideal = w.work / top
            rows.append(Row(w.name, 1e3 * ours.median, "ms", 1 / w.of_peak, 1e3 * ideal, "at peak", True, f"{share:.1%} of the peak, at least {w.of_peak:.0%}"))
        return rows


def measured(workload: Workload, threads: int, options: Options) -> Measured:
    path = workload.path()
    makers: dict[str, Callable[[], Any]] = {OURS: lambda: Ours(path, threads, options.providers), PEER: lambda: Onnxruntime(path, threads)}
    if workload.openvino and has_openvino():
        makers[OPENVINO] = lambda: OpenVino(path, threads)
    times = compare(makers, workload.feed(), options)
    return Measured(workload, times, largest_error(times[OURS].outputs, times[PEER].outputs))


@functools.cache
def has_openvino() -> bool:
    try:
        import openvino  # noqa: F401
    except ImportError:
        print("OpenVINO is not installed (pip install openvino==2026.4.1): no rows beside it", flush=True)
        return False
    return True


def yardsticks(threads: int, options: Options) -> list[Row]:
    """One section: every workload with this many threads."""
    section = f"engine {threads} thread{'s' if threads > 1 else ''}"
    wanted = [w for w in YARDSTICKS if options.wants(section, w.name)]
    rows, kept = [], []
    peak = threads * machine_peak() if any(w.work for w in wanted) else 0.0
    if peak:
        rows.append(Row("multiply-adds in registers, f32: the peak", peak / 1e9, "GFLOP/s", note=f"{processor()}, {threads} × one core, measured in this run"))
    for workload in wanted:
        print(f"  {section}: {workload.name}", flush=True)
        try:
            one = measured(workload, threads, options)
        except TooSlow as reason:
            print(f"    left out: {reason}", flush=True)
        except Exception as error:
            rows.append(failed(workload.name, error, workload.bar))
        else:
            kept.append(one)
            rows += one.rows(peak)
            for row in one.rows(peak):
                print(f"    {row.value:.4g} {row.unit}, {row.peer_name} {row.peer:.4g}: {row.value / (row.peer or math.nan):.3f} {row.verdict} ({row.note})", flush=True)
    note = _left_out(len(YARDSTICKS) - len(kept), kept)
    rows += mean_row("geometric mean of the ratios to onnxruntime", [m.ratio for m in kept], options.mean_bar, note)
    rows += mean_row("geometric mean of the ratios to OpenVINO", [m.times[OURS].median / m.times[OPENVINO].median for m in kept if OPENVINO in m.times], None)
    if kept:
        worst = max(kept, key=lambda m: m.error / max(m.workload.bound, 1e-12))
        rows.append(Row("largest error, as a share of its bound", worst.error / max(worst.workload.bound, 1e-12), "", 1.0,
                        note=f"{worst.workload.name}: {worst.error:.1e}, bound {worst.workload.bound:g} of the output's largest magnitude"))
    rows += calls(section, threads, options)
    return rows


def _left_out(missing: int, kept: Sequence[Measured]) -> str:
    slow = sum(bool(m.times[OURS].note) for m in kept)
    return "; ".join(filter(None, [f"{missing} of {len(YARDSTICKS)} are missing" if missing else "", f"{slow} use the reference" if slow else ""]))


# -- what a call costs: one node, and sizes that change --------------------------------------------------------------------------------------
def calls(section: str, threads: int, options: Options) -> list[Row]:
    """A one-node model; BERT with another length at every call; what planning costs."""
    rows = []
    for name, part in (("one-node Add", one_node), ("BERT layer, lengths 1…128", changing_lengths), ("planning MobileNetV2", planning)):
        if options.wants(section, name):
            print(f"  {section}: {name}", flush=True)
            try:
                rows += part(threads, options)
            except TooSlow as reason:
                print(f"    left out: {reason}", flush=True)
            except Exception as error:
                rows.append(failed(name, error, 1.15))
    return rows


def one_node(threads: int, options: Options) -> list[Row]:
    """At most 15 µs, and at most onnxruntime's time and 6 µs."""
    found = measured(ADD, threads, options)
    row = found.rows(0.0)[0]
    row.bar = min(row.bar or math.inf, 15.0)
    return [row]


def changing_lengths(threads: int, options: Options) -> list[Row]:
    """A session that sees another length at every call, beside one that sees each length several times in a row: once with lengths it never saw, once with lengths it did."""
    lengths = np.random.default_rng(3).permutation(np.arange(1, 129))[:12 if options.quick else None]
    feeds = [tokens(int(length)) for length in lengths]
    new, again, fixed = [], [], []
    note = ""
    for _ in range(1 if options.quick else 3):
        session = Ours(BERT.path(), threads, options.providers)
        session.first(tokens(129))
        note = session.note
        settle()
        new.append([one_run(session, feed) for feed in feeds])
        again.append([one_run(session, feed) for feed in feeds[::-1]][::-1])
        fixed.append([statistics.median([one_run(session, feed) for _ in range(4)][1:]) for feed in feeds])
    medians = {name: np.median(times, axis=0) for name, times in (("new", new), ("again", again), ("fixed", fixed))}
    base = float(np.median(medians["fixed"]))
    rows = []
    for key, what in (("new", "lengths it never saw"), ("again", "lengths it saw before")):
        ratios = medians[key] / medians["fixed"]
        said = f"length by length: median {np.median(ratios):.2f} ×, worst {ratios.max():.2f} ×"
        rows.append(Row(f"BERT layer, {len(feeds)} lengths of 1…128, another at every call, {what}", 1e3 * float(np.median(medians[key])), "ms", 1.25, 1e3 * base, "the same lengths, fixed", True,
                        "; ".join(filter(None, [said, note]))))
    return rows


def planning(threads: int, options: Options) -> list[Row]:
    """Opening MobileNetV2 from its graph: reading, planning and packing together, so planning alone is less."""
    path = MOBILENET.path()
    makers: dict[str, Callable[[], Any]] = {OURS: lambda: Ours(path, threads, options.providers), PEER: lambda: Onnxruntime(path, threads)}
    times: dict[str, list[float]] = {name: [] for name in makers}
    note = ""
    for number in range(options.rounds + 1):
        for name, make in makers.items():
            settle()
            took, made = seconds(make)
            note = getattr(made, "note", note)
            if number:
                times[name].append(took)
    ours, theirs = (1e3 * statistics.median(times[name]) for name in makers)
    return [Row("open MobileNetV2 from its graph (read, plan, pack)", ours, "ms", 120.0, theirs, PEER, note=note)]


# -- fresh processes -------------------------------------------------------------------------------------------------------------------------
#: One session and its first run on RUNTIME: argument 1 is the model, 2 the inputs. VmHWM, because ru_maxrss begins with the parent's.
FRESH = """
import json, sys, time
begin = time.perf_counter()
import numpy
from RUNTIME import InferenceSession, set_default_logger_severity
set_default_logger_severity(4)
imported = time.perf_counter()
feed = dict(numpy.load(sys.argv[2]))
start = time.perf_counter()
session = InferenceSession(sys.argv[1])
created = time.perf_counter()
session.run(None, feed)
done = time.perf_counter()
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"ms": 1e3 * (done - start), "create": 1e3 * (created - start), "import": 1e3 * (imported - begin), "mb": peak / 1024}))
"""


def fresh_process(options: Options) -> list[Row]:
    """Creation and first run in a process of its own, and the most memory it had: ours from a default-converted `.sdx` and from `.onnx`, onnxruntime from `.onnx`."""
    rows = []
    for workload in (MOBILENET, RESNET, LLAMA):
        if not options.wants("fresh process", workload.name):
            continue
        print(f"  fresh process: {workload.name}", flush=True)
        try:
            rows += _fresh_rows(workload, options)
        except TooSlow as reason:
            print(f"    left out: {reason}", flush=True)
        except (Exception, SystemExit) as error:
            rows.append(failed(f"{workload.name}.sdx: create and first run", Exception(str(error).strip().splitlines()[-1]), 0.5))
    return rows


def _fresh_rows(workload: Workload, options: Options) -> list[Row]:
    source = workload.path()
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        target, inputs = Path(folder) / "model.sdx", Path(folder) / "inputs.npz"
        sardonyx.convert(source, target)
        probe = Ours(target, 0, options.providers)
        probe.first(workload.feed())
        note = probe.note
        probe.session.close()
        np.savez(inputs, **workload.feed())
        cases = {"sdx": (OURS, target), "onnx": (OURS, source), PEER: (PEER, source)}
        found = interleaved({key: functools.partial(fresh, _fresh_code(runtime, options), str(path), str(inputs)) for key, (runtime, path) in cases.items()}, 1 if options.quick else 5)
    peer, rows = found[PEER], []
    for key in ("sdx", "onnx"):
        ours, bars = found[key], (0.5, 0.6) if key == "sdx" else (None, None)
        split = f"create {ours['create']:.3g} ms ({peer['create']:.3g}); with imports {ours['import'] + ours['ms']:.4g} ms ({peer['import'] + peer['ms']:.4g})"
        rows.append(Row(f"{workload.name} from .{key}: create and first run", ours["ms"], "ms", bars[0], peer["ms"], f"{PEER}, .onnx", bars[0] is not None, "; ".join(filter(None, [split, note]))))
        rows.append(Row(f"{workload.name} from .{key}: peak resident memory", ours["mb"], "MB", bars[1], peer["mb"], f"{PEER}, .onnx", bars[1] is not None, note))
    return rows


def _fresh_code(runtime: str, options: Options) -> str:
    """The program for one runtime; our providers, where some are asked for."""
    code = FRESH.replace("RUNTIME", runtime)
    return code.replace("sys.argv[1])\n", f"sys.argv[1], providers={list(options.providers)!r})\n") if runtime == OURS and options.providers else code


# -- public models ---------------------------------------------------------------------------------------------------------------------------
def public_models(options: Options) -> list[Row]:
    """Every model of the registry and the onnx package's CNNs on the first inputs of its script, 1 and 2 threads; the geometric means have the bar."""
    rows = []
    for threads in (1, 2):
        ratios, slow, missing = [], 0, 0
        for name, path in {**{name: None for name in SCRIPTS}, **light_models()}.items():
            what = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
            if not options.wants("public models", what):
                continue
            print(f"  public models: {what}", flush=True)
            try:
                row = _public_row(what, name, path or fetch(name), threads, options)
            except TooSlow as reason:
                missing += 1
                print(f"    left out: {reason}", flush=True)
            except Exception as error:
                missing += 1
                rows.append(failed(what, error, 1.15))
            else:
                ratios.append(row.value / (row.peer or math.nan))
                slow += "reference" in row.note
                rows.append(row)
        note = "; ".join(filter(None, [f"{missing} models are missing" if missing else "", f"{slow} use the reference" if slow else ""]))
        rows += mean_row(f"geometric mean, {threads} thread{'s' if threads > 1 else ''}", ratios, options.mean_bar, note)
    return rows


def _public_row(what: str, name: str, path: Path, threads: int, options: Options) -> Row:
    script = SCRIPTS.get(name) or light(Onnxruntime(path, 1).session.get_inputs()[0].name)
    times = compare({OURS: lambda: Ours(path, threads, options.providers), PEER: lambda: Onnxruntime(path, threads)}, next(script()), options)
    ours, peer = times[OURS], times[PEER]
    note = "; ".join(filter(None, [f"error {largest_error(ours.outputs, peer.outputs):.1e}", ours.note]))
    value, unit = scaled(ours.median, peer.median)
    return Row(what, value, unit, None, scaled(peer.median, peer.median)[0], PEER, note=note)


def run(options: Options) -> Iterator[tuple[str, list[Row]]]:
    """All four sections as they are measured, without those that have no row."""
    load = os.getloadavg()[0]
    print(f"{processor()}; load {load:.2f}{': other programs are running, these times are not to be trusted' if load > 0.5 else ''}", flush=True)
    sections = {"engine 1 thread": lambda: yardsticks(1, options), "engine 2 threads": lambda: yardsticks(2, options),
                "fresh process": lambda: fresh_process(options), "public models": lambda: public_models(options)}
    for title, section in sections.items():
        if rows := section():
            yield title, rows
