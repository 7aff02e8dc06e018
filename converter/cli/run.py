"""`sardonyx run`: feed a model and look at what comes out."""
from __future__ import annotations

import json
import os
import re
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import sardonyx
import typer
from sardonyx.api.loading import read
from sardonyx.errors import InvalidArgument, SardonyxError
from sardonyx.types import DType

from . import show
from .inputs import SIZES_HELP, DimOption, Feeds, InputOption, MeanOption, ProviderOption, ScaleOption, SeedOption, StdOption, make_feeds, parse_sizes
from .media import Pixels

EPILOG = SIZES_HELP + """

\b
Examples:
  sardonyx run model.onnx                                   random inputs
  sardonyx run model.onnx --input photo.jpg                 the one input, from an image
  sardonyx run model.sdx -i ids='[[101, 2023, 102]]' -d batch=1
  sardonyx run model.sdx -i feeds.npz --output-dir out      arrays by name; outputs as out/NAME.npy
  sardonyx run model.sdx --repeat 20 --profile trace.json   times; a Chrome trace"""
#: How many values of an output are shown, and how many places of a ranking.
FIRST, TOP = 5, 5


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .sdx file.")],
    given: InputOption = [],  # noqa: B006
    dims: DimOption = [],  # noqa: B006
    output_dir: Annotated[Path | None, typer.Option("--output-dir", "-o", metavar="DIR", help="Save each output as DIR/NAME.npy; DIR.npz saves one file.")] = None,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Run N times and show the times.")] = 1,
    profile: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a Chrome trace (chrome://tracing, Perfetto).")] = None,
    provider: ProviderOption = [],  # noqa: B006
    seed: SeedOption = 0,
    image_scale: ScaleOption = 1 / 255,
    image_mean: MeanOption = "0",
    image_std: StdOption = "1",
) -> None:
    """Run a model on files, JSON or random inputs, and show its outputs."""
    feeds = make_feeds(read(model), given, parse_sizes(dims, "--dim"), seed, Pixels.parse(image_scale, image_mean, image_std))
    for line in feeds.notes():
        show.note(line)
    session = open_session(model, provider, profile)
    outputs, seconds = _timed_runs(session, feeds, repeat)
    names = [o.name for o in session.get_outputs()]
    _inputs_table(feeds)
    _outputs_table(names, outputs)
    for name, value in zip(names, outputs, strict=True):
        _ranking(name, value)
    _times(session, seconds)
    if output_dir is not None:
        show.say(f"saved: {', '.join(save(output_dir, dict(zip(names, outputs, strict=True))))}")
    if profile is not None:
        os.replace(session.end_profiling(), profile)
        show.say(f"profile: {profile}")


def open_session(source: Any, providers: list[str], profile: Path | None = None) -> Any:
    """An InferenceSession on the providers that were asked for."""
    options = sardonyx.SessionOptions()
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return sardonyx.InferenceSession(source, options, providers=providers or None)


def run_session(session: Any, feeds: Feeds) -> list[Any]:
    """All outputs."""
    try:
        return session.run(None, feeds.values)
    except SardonyxError as error:
        raise type(error)(f"{error}{feeds.suspicion()}") from error


def _timed_runs(session: Any, feeds: Feeds, repeat: int) -> tuple[list[Any], list[float]]:
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        outputs = run_session(session, feeds)
        seconds.append(time.perf_counter() - start)
    return outputs, seconds


def _times(session: Any, seconds: list[float]) -> None:
    providers = ", ".join(session.get_providers())
    if len(seconds) == 1:
        show.say(f"\n{show.milliseconds(seconds[0])} on {providers}")
    else:
        later = seconds[1:]
        show.say(f"\nfirst run {show.milliseconds(seconds[0])}, then median {show.milliseconds(statistics.median(later))}, best {show.milliseconds(min(later))} "
                 f"({show.plural(len(later), 'run')}) on {providers}")


# -- looking at values ------------------------------------------------------------------------------------------------------------------------

def value_text(value: Any) -> str:
    """`float[1, 10]`, `list of 3`, `map of 2`."""
    if isinstance(value, np.ndarray):
        return f"{DType.of(value).text}{list(value.shape)}"
    return "none" if value is None else f"list of {len(value)}" if isinstance(value, list) else f"map of {len(value)}" if isinstance(value, dict) else type(value).__name__


def _is_number(value: Any) -> bool:
    return isinstance(value, np.ndarray) and DType.of(value) is not DType.STRING


def _row(name: str, value: Any) -> list[str]:
    row = [name, value_text(value)]
    if _is_number(value) and value.size and not np.iscomplexobj(value):
        exact = value.dtype.kind in "biu"
        wide = value if exact else value.astype(np.float64)
        with np.errstate(all="ignore"):
            row += [str(int(wide.min())) if exact else show.number(wide.min()), str(int(wide.max())) if exact else show.number(wide.max()), show.number(float(wide.mean(dtype=np.float64)))]
    else:
        row += ["", "", ""]
    return [*row, _first(value)]


def _first(value: Any) -> str:
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1)[:FIRST].tolist()
        words = [show.number(float(v)) if isinstance(v, float) or not isinstance(v, (int, bool, str, complex)) else repr(v) if isinstance(v, str) else str(v) for v in flat]
        return " ".join(words) + (" …" if value.size > FIRST else "")
    text = "" if value is None else repr(value[:FIRST]) if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _inputs_table(feeds: Feeds) -> None:
    show.heading("Inputs", "" if feeds.values else "none")
    if feeds.values:
        show.table(["name", "value", ">min", ">max", ">mean", "first values"], [_row(name, value) for name, value in feeds.values.items()])


def _outputs_table(names: list[str], outputs: list[Any]) -> None:
    show.heading("Outputs")
    show.table(["name", "value", ">min", ">max", ">mean", "first values"], [_row(name, value) for name, value in zip(names, outputs, strict=True)])
    for name, value in zip(names, outputs, strict=True):
        if _is_number(value) and value.dtype.kind not in "biu" and (bad := int((~np.isfinite(value.astype(np.complex128))).sum())):
            show.note(f"{name}: {bad} of {value.size} values are not finite")


def _ranking(name: str, value: Any) -> None:
    """The highest scores of what looks like one list of scores."""
    if not _is_number(value) or not DType.of(value).is_float or value.size < TOP or value.size != max(value.shape):
        return
    scores = value.reshape(-1).astype(np.float64)
    best = np.argsort(-scores, kind="stable")[:TOP]
    show.heading(f"Highest in {name}")
    show.table([">index", ">value"], [(int(i), show.number(scores[i])) for i in best])


# -- saving -----------------------------------------------------------------------------------------------------------------------------------

def save(place: Path, outputs: dict[str, Any]) -> list[str]:
    """Write outputs to a folder, one file each (.json for lists and maps), or all arrays to one .npz; returns the paths."""
    if place.suffix.lower() == ".npz":
        other = [name for name, value in outputs.items() if not isinstance(value, np.ndarray)]
        if other:
            raise InvalidArgument(f"output '{other[0]}' is no array and does not go into a .npz; give a folder, --output-dir {place.stem}")
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, **{name: _storable(value) for name, value in outputs.items()})  # type: ignore[arg-type]
        return [str(place)]
    place.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, value in outputs.items():
        stem = re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "output"
        suffix = ".npy" if isinstance(value, np.ndarray) else ".json"
        path = place / f"{stem}{suffix}"
        if path in paths:
            path = place / f"{stem}_{len(paths)}{suffix}"
        if isinstance(value, np.ndarray):
            np.save(path, _storable(value))
        else:
            path.write_text(json.dumps(value, default=lambda v: v.tolist()), encoding="utf-8")
        paths.append(path)
    return [str(path) for path in paths]


def _storable(array: np.ndarray) -> np.ndarray:
    """Strings as NumPy text, which needs no pickle."""
    return array.astype(str) if array.dtype == object else array
