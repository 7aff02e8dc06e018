"""Products that round their factors to bfloat16 (`session.enable_bf16`), beside our own float32 and onnxruntime's: `python -m tests.bench bf16 [--only PART…] [--quick]`.

The same models and the same way of timing as tests/bench/engine.py. Errors are those of the rounded outputs, relative to each output's largest magnitude: against our float32.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sardonyx.engine.binding import bfloat16_missing

from .engine import OURS, PEER, Onnxruntime, Options, Ours, beside, compare, failed, geometric_mean, largest_error, machine_peak
from .measure import Row
from .workloads import YARDSTICKS, Workload

PLAIN = "sardonyx f32"
FILES = ("gemm-512", "gemm-1024", "gemm-128", "gemv-4096", "conv-1x1", "bert-layer", "mobilenet-v2", "resnet50", "llama")
#: The most our time over our own float32's may be: issue 3's helper asked for 1.6 times the speed of a large product and of a BERT layer.
BARS = {"gemm-1024": 1 / 1.6, "bert-layer": 1 / 1.6}


def rows_of(workload: Workload, threads: int, peak: float, options: Options) -> tuple[list[Row], float]:
    """Beside our float32 and beside onnxruntime; and the ratio to the former."""
    path = workload.path()
    makers: dict[str, Callable[[], Any]] = {
        OURS: partial(Ours, path, threads, options.providers, entries={"session.enable_bf16": "1"}), PLAIN: partial(Ours, path, threads, options.providers), PEER: partial(Onnxruntime, path, threads)}
    times = compare(makers, workload.feed(), options)
    ours, plain, peer = times[OURS], times[PLAIN], times[PEER]
    share = f"{workload.work / ours.median / peak:.0%} of 2 × the f32 peak" if workload.work and peak else ""
    note = "; ".join(filter(None, [f"error {largest_error(ours.outputs, plain.outputs):.1e}", share]))
    what = f"{workload.name}, {threads} thread{'s' if threads > 1 else ''}"
    rows = [beside(what, ours.median, plain.median, PLAIN, BARS.get(workload.file), note),
            beside(what, ours.median, peer.median, "onnxruntime f32", None, f"error {largest_error(ours.outputs, peer.outputs):.1e}")]
    return rows, ours.median / plain.median


def run(options: Options) -> Iterator[tuple[str, list[Row]]]:
    """One section, 1 and 2 threads; none where the machine can not."""
    if missing := bfloat16_missing():
        print(f"bf16: {missing}, no rows", flush=True)
        return
    rows: list[Row] = []
    for threads in (1, 2):
        ratios, peak = [], 2 * threads * machine_peak()
        for workload in YARDSTICKS:
            if workload.file not in FILES or not options.wants("bf16 opt-in", workload.name):
                continue
            print(f"  bf16 opt-in: {workload.name}, {threads} threads", flush=True)
            try:
                made, ratio = rows_of(workload, threads, peak, options)
            except Exception as error:
                rows.append(failed(workload.name, error, 1.0))
                continue
            rows += made
            ratios.append(ratio)
        if ratios:
            rows.append(Row(f"geometric mean of the ratios to our f32, {threads} thread{'s' if threads > 1 else ''}", geometric_mean(ratios), "×", note=f"{len(ratios)} rows"))
    if rows:
        yield "bf16 opt-in", rows
