"""`sardonyx convert`: a model to .sdx, or an optimised .onnx."""
from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from sardonyx import converter
from sardonyx.converter.options import ConvertOptions, ConvertReport
from sardonyx.errors import InvalidArgument, NoSuchFile
from typer.core import TyperCommand

from . import show
from .inputs import parse_ranges, parse_sizes

EPILOG = """\b
Examples:
  sardonyx convert model.onnx                              writes model.sdx
  sardonyx convert model.onnx -o small.sdx --fp16          float16 weights and arithmetic
  sardonyx convert model.onnx --fix-dim batch=1            a size gets its number
  sardonyx convert model.onnx --plan batch=1,seq=1..512    programs for these sizes only
  sardonyx convert model.onnx --webgpu                     and what a page runs on its GPU
  sardonyx convert model.onnx --outputs features           cut: only what `features` needs
  sardonyx convert model.onnx -o optimised.onnx --report   back to ONNX, with a list of what was done"""


class ReportCommand(TyperCommand):
    """Lets `--report` stand alone or before a file: `--report`, `--report FILE.json`, `--report=FILE.json`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        made = []
        for i, word in enumerate(args):
            if word == "--report":
                followed = i + 1 < len(args) and args[i + 1].endswith(".json")
                made += [word] if followed else ["--report="]
            else:
                made.append(word)
        return super().parse_args(ctx, made)


def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx (or .sdx) file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where to write; `.onnx` writes ONNX.", show_default="MODEL with the suffix .sdx")] = None,
    fix_dim: Annotated[list[str], typer.Option("--fix-dim", metavar="NAME=N", help="Give a symbolic size its number; `input.axis=N` where it has no name. Repeat for more.")] = [],  # noqa: B006
    inputs: Annotated[str, typer.Option(metavar="A,B", help="Cut: these values (by name) become the inputs.")] = "",
    outputs: Annotated[str, typer.Option(metavar="C,D", help="Cut: these values become the outputs.")] = "",
    fp16: Annotated[bool, typer.Option("--fp16", help="Store and compute float32 as float16.")] = False,
    no_optimize: Annotated[bool, typer.Option("--no-optimize", help="Run no pass.")] = False,
    no_pack: Annotated[bool, typer.Option("--no-pack", help="Store all weights plain, not in the order kernels read.")] = False,
    external_data: Annotated[bool, typer.Option("--external-data", help="Weights go to OUT.data beside OUT.")] = False,
    plan: Annotated[list[str], typer.Option("--plan", metavar="A=1,B=1..512", help="Sizes the stored programs are for: a number, a range or `1..`. Repeat for several plans.")] = [],  # noqa: B006
    no_plan: Annotated[bool, typer.Option("--no-plan", help="Store no programs: sessions plan when they open.")] = False,
    webgpu: Annotated[bool, typer.Option("--webgpu", help="Also store what pages run on WebGPU: shaders, and small weights once more.")] = False,
    webgpu_f16: Annotated[bool, typer.Option("--webgpu-f16", help="And float32 in half the memory there, for pages that ask for it (precision: 'f16'): adds shaders, no weights.")] = False,
    fold_budget: Annotated[int, typer.Option("--fold-budget", metavar="BYTES", min=0, help="What constant folding may add per node.")] = ConvertOptions.fold_budget,
    report: Annotated[str | None, typer.Option("--report", metavar="[FILE.json]", help="Show what each pass did, sizes and operators; with FILE also write it there.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Convert a model to .sdx (or, with -o x.onnx, to an optimised ONNX file)."""
    if not model.exists():
        raise NoSuchFile(f"model file '{model}' does not exist")
    target = output or model.with_suffix(".sdx")
    if target.is_dir():
        target = target / model.with_suffix(".sdx").name
    if not target.parent.is_dir():
        raise NoSuchFile(f"the folder '{target.parent}' does not exist; create it first")
    with show.progress(quiet) as progress:
        options = ConvertOptions(fix_dims=parse_sizes(fix_dim, "--fix-dim"), inputs=_names(inputs), outputs=_names(outputs), fp16=fp16, fold_budget=fold_budget,
                                 optimize=not no_optimize, pack=not no_pack, external_data=external_data, store=not no_plan,
                                 plan=[parse_ranges(p) for p in plan], webgpu=webgpu, webgpu_f16=webgpu_f16, progress=progress)
        made = _to_onnx(model, target, options) if target.suffix.lower() == ".onnx" else converter.convert(model, target, options)
    if not quiet:
        _summary(model, target, made)
    if report is not None:
        if not quiet:
            _tables(made)
        if report:
            Path(report).write_text(json.dumps(dataclasses.asdict(made), indent=1, default=str) + "\n", encoding="utf-8")
            if not quiet:
                show.say(f"\nreport written to {report}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _to_onnx(source: Path, target: Path, options: ConvertOptions) -> ConvertReport:
    """As `converter.convert`, but written as ONNX, with the lowest opsets that have all its operators, for the sake of other runtimes."""
    from sardonyx.converter.export import save_onnx
    if target.exists() and target.samefile(source):
        raise InvalidArgument(f"'{target}' is the source itself; write to another path")
    start = time.perf_counter()
    report = ConvertReport(source_size=source.stat().st_size)
    model = converter.prepare(source, options, report)
    save_onnx(model, target, lowest=True, external_data=options.external_data or None)
    beside = Path(f"{target}.data")
    report.size = target.stat().st_size + (beside.stat().st_size if options.external_data and beside.exists() else 0)
    report.seconds = time.perf_counter() - start
    return report


def _summary(source: Path, target: Path, report: ConvertReport) -> None:
    before, after = sum(report.operators_before.values()), sum(report.operators_after.values())
    nodes = show.plural(before, "node") if before == after else f"{before:,} → {show.plural(after, 'node')}"
    show.say(f"{source} ({show.size(report.source_size)}) → {target} ({show.size(report.size)}), {nodes}, {show.milliseconds(report.seconds)}")
    if report.not_stored:
        show.say(f"no programs are stored: {report.not_stored}; sessions plan the model when they open it")


def _tables(report: ConvertReport) -> None:
    useful = [p for p in report.passes if p.rewrites]
    show.heading("Passes", "" if report.passes else "none were run")
    if useful:
        show.table(["pass", ">rewrites", ">nodes before", ">after", ">time"],
                   [(p.name, p.rewrites, p.nodes_before, p.nodes_after, show.milliseconds(p.seconds)) for p in useful])
    idle = [name for name in dict.fromkeys(p.name for p in report.passes) if name not in {p.name for p in useful}]
    if idle:
        show.paragraph(f"nothing to do for: {', '.join(idle)}")
    for p in report.passes:
        for note in p.notes:
            show.say(f"{p.name}: {note}")
    before, after = report.operators_before, report.operators_after
    names = sorted({*before, *after}, key=lambda n: (-before.get(n, 0), n))
    changed = [n for n in names if before.get(n) != after.get(n)]
    show.heading("Operators")
    if changed:
        show.table(["operator", ">before", ">after", ">change"], [(n, before.get(n, "–"), after.get(n, "–"), f"{after.get(n, 0) - before.get(n, 0):+}") for n in changed])
    if len(changed) < len(names):
        show.paragraph(f"as before: {', '.join(f'{after[n]} {n}' for n in names if n not in changed)}")
    if report.file:
        show.heading("File")
        show.fields((str(name).replace("_", " "), _file_entry(str(name), entry)) for name, entry in report.file.items())


def _file_entry(name: str, entry: Any) -> Any:
    if isinstance(entry, dict):
        return ", ".join(f"{count} {key}" for key, count in entry.items()) or "none"
    return show.size(entry) if name.endswith("bytes") else entry
