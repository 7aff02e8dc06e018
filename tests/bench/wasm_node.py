"""The yardsticks under node (V8): our modules beside onnxruntime-web, interleaved in one process. For work on kernels; `make bench-web` measures in a browser.

    python -m tests.bench.wasm_node [--peer FOLDER] [--workers N] [--builds simd128,relaxed] [--rounds N] [--only TEXT]

FOLDER has onnxruntime-web in its node_modules (`npm install onnxruntime-web@1.30`). Prints processor milliseconds a run of the best burst (and the median by the clock), GFLOP/s where the work is
known, and ratios. With workers the clock's least time is printed instead.
"""
from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sardonyx.converter.pipeline import ConvertOptions, prepare
from sardonyx.engine.binding import EngineProgram
from sardonyx.engine.build import TARGETS, find
from sardonyx.plan.planner import Plan
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import accepts
from sardonyx.providers.segmented import SegmentedExecutor

from tests.wasm.node import NODE, Case, write

from .workloads import YARDSTICKS, Workload, conv, gemm, gemm_int8, normal

SCRIPT = Path(__file__).with_suffix(".mjs")
#: Less than a millisecond each: on a busy machine the least of many runs is one that nobody disturbed.
SMALL = (
    Workload("small gemm 128×256×256", "small-gemm", gemm(128, 256, 256), partial(normal, 128, 256), work=2 * 128 * 256**2),
    Workload("small gemv 1×512×512", "small-gemv", gemm(1, 512, 512), partial(normal, 1, 512), work=2 * 512**2),
    Workload("small gemm 128×256×256 int8", "small-gemm-int8", gemm_int8(128, 256, 256), lambda: {"x": np.random.default_rng(7).integers(0, 255, (128, 256), np.uint8)}, work=2 * 128 * 256**2),
    Workload("small conv 3×3 64→64 @16", "small-conv-3x3", conv(64, 64, 3, 16), partial(normal, 1, 64, 16, 16), work=2 * 64 * 64 * 9 * 16**2),
    Workload("small conv 3×3 64→64 @28", "small-winograd", conv(64, 64, 3, 28), partial(normal, 1, 64, 28, 28), work=2 * 64 * 64 * 9 * 28**2),
    Workload("small depthwise 3×3 96 @28", "small-depthwise", conv(96, 96, 3, 28, 96), partial(normal, 1, 96, 28, 28), work=2 * 96 * 9 * 28**2),
    Workload("small conv 1×1 96→24 @28", "small-conv-1x1", conv(96, 24, 1, 28), partial(normal, 1, 96, 28, 28), work=2 * 96 * 24 * 28**2),
)


class Recorder:
    """Runs a plan natively and keeps what went in and came out."""

    def __init__(self, plan: Plan, seen: list[Recorder]) -> None:
        self.plan, self.engine = plan, EngineProgram(plan.program, plan.constants)
        self.inputs: Sequence[np.ndarray] = ()
        self.outputs: Sequence[np.ndarray] = ()
        seen.append(self)

    def run(self, inputs: Sequence[np.ndarray], **options: Any) -> list[np.ndarray]:
        """As EngineProgram.run."""
        self.inputs = [x.copy() for x in inputs]
        self.outputs = self.engine.run(inputs)
        return list(self.outputs)

    def close(self) -> None:
        """Nothing: what was seen is used later."""


def recorded(workload: Workload) -> tuple[Case, dict[str, np.ndarray]]:
    """The workload's one program on its feed. Raises ValueError where it takes several programs or NumPy."""
    model, feed, seen = prepare(workload.path(), ConvertOptions()), workload.feed(), []  # type: ignore[var-annotated]
    executor = SegmentedExecutor(model, "recorder", lambda plan: Recorder(plan, seen), accepts=lambda ranges: accepts)
    given = [feed.get(v.name) if v.const is None or v.name in feed else v.const.numpy() for v in model.graph.inputs]
    executor.run(given, range(len(model.graph.outputs)), RunContext())
    ran = [r for r in seen if len(r.outputs)]
    if len(ran) != 1 or executor.latest.fallbacks:
        raise ValueError(f"{len(ran)} programs, on NumPy: {list(executor.latest.fallbacks.values())[:1]}")
    made = ran[0]
    return Case(workload.name.replace("/", "-").replace(" ", "-"), made.plan.program, made.plan.constants, made.inputs, made.outputs), feed


def job(case: Case, workload: Workload, feed: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    """What the script needs of a case: the program's files, the peer's model and feeds, the outputs to compare with."""
    described = write(case, folder)
    feeds, wanted = [], []
    for i, (name, x) in enumerate(feed.items()):
        (folder / f"{case.name}-feed{i}.bin").write_bytes(np.ascontiguousarray(x).tobytes())
        feeds.append({"name": name, "file": f"{case.name}-feed{i}.bin", "dims": list(x.shape), "type": x.dtype.name})
    for i, y in enumerate(case.outputs):
        (folder / f"{case.name}-want{i}.bin").write_bytes(np.ascontiguousarray(y).tobytes())
        wanted.append(f"{case.name}-want{i}.bin")
    return described | {"model": str(workload.path()), "feeds": feeds, "wanted": wanted, "types": [y.dtype.name for y in case.outputs]}


def rows(options: argparse.Namespace) -> Iterator[tuple[Workload, dict[str, Any]]]:
    """Each workload with what was measured."""
    builds = [b + ("-threads" if options.workers else "") for b in options.builds.split(",")]
    for workload in SMALL if options.small else YARDSTICKS:
        if options.only and options.only not in workload.name:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                case, feed = recorded(workload)
            except (ValueError, RuntimeError) as reason:
                print(f"{workload.name}: left out, {reason}")
                continue
            whole = {"modules": [str(find(TARGETS["wasm", b])) for b in builds], "workers": options.workers, "folder": name, "rounds": options.rounds, "budget": options.budget,
                     "peer": str(Path(options.peer).resolve()) if options.peer else "", "cases": [job(case, workload, feed, folder)]}
            (folder / "job.json").write_text(json.dumps(whole))
            done = subprocess.run([str(NODE), "--experimental-wasm-relaxed-simd", str(SCRIPT), str(folder / "job.json")], capture_output=True, text=True, timeout=900)
            if done.returncode or not done.stdout:
                print(f"{workload.name}: {done.stderr[-400:]}")
                continue
            yield workload, json.loads(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--builds", default="simd128,relaxed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=150.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--small", action="store_true", help="small problems, least time by the clock")
    options = parser.parse_args()
    builds = options.builds.split(",")
    ratios: list[list[float]] = [[] for _ in builds]
    for workload, found in rows(options):
        least, text = found["least" if options.workers or options.small else "busy"], []
        for i, build in enumerate(builds):
            speed = f" {workload.work / least[i] / 1e6:.0f} GFLOP/s" if workload.work else ""
            ratio = f" ×{least[i] / least[-1]:.2f}" if found["peer"] else ""
            text.append(f"{build} {least[i]:.3f} ms ({found['median'][i]:.2f}){speed}{ratio} error {found['error'][i]:.1e}")
            if found["peer"]:
                ratios[i].append(least[i] / least[-1])
        print(f"{workload.name:50} {'; '.join(text)}" + (f"; onnxruntime-web {least[-1]:.2f} ms ({found['median'][-1]:.2f})" if found["peer"] else ""), flush=True)
    for build, values in zip(builds, ratios, strict=True):
        if values:
            print(f"{build}: geometric mean of {len(values)} ratios {math.exp(sum(map(math.log, values)) / len(values)):.3f}")


if __name__ == "__main__":
    main()
