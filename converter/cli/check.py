"""`sardonyx check`: the same inputs through sardonyx and through onnxruntime, worst tensor first; `--intermediate` finds the node where they part."""
from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sardonyx import ops
from sardonyx.api.loading import read
from sardonyx.converter.export import save_onnx
from sardonyx.errors import InvalidArgument
from sardonyx.graph import Graph, Model, Node, Value
from sardonyx.plan.shapes import infer_shapes
from sardonyx.types import DType, SequenceType, TensorType

from . import show
from .inputs import SIZES_HELP, DimOption, Feeds, InputOption, MeanOption, ProviderOption, ScaleOption, SeedOption, StdOption, is_sdx_file, make_feeds, parse_sizes
from .media import Pixels
from .run import open_session, run_session, value_text

EPILOG = """\b
A value is over where |ours - theirs| > atol + rtol * scale; scale is the largest |value| of onnxruntime's tensor.
Without --rtol: 1e-3 (float16 5e-3, bfloat16 3e-2); 8-bit integers may differ by one step, other integers, booleans and
strings not at all.

""" + SIZES_HELP + """

\b
Examples:
  sardonyx check model.onnx
  sardonyx check model.sdx --input image=cat.png --rtol 1e-4
  sardonyx check model.onnx --intermediate             which node differs first?

\b
Exit code: 0 equal, 1 different, 2 could not be compared."""
#: Rows shown with --intermediate.
WORST = 10


@dataclass(frozen=True)
class Tolerance:
    """Bounds on differences; `rtol` None: by element type."""

    rtol: float | None = None
    atol: float = 1e-7

    def bound(self, dtype: DType, scale: float) -> float:
        """The greatest difference that is no difference, for a tensor of this scale."""
        if dtype.is_float or dtype.is_complex:
            rtol = self.rtol if self.rtol is not None else {DType.FLOAT16: 5e-3, DType.BFLOAT16: 3e-2}.get(dtype, 1e-3)
            return self.atol + rtol * scale
        return 1.0 if dtype.is_integer and dtype.bits <= 8 and self.rtol is None else 0.0


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from onnxruntime's. `excess`: the worst difference in units of the bound; above 1 (or NaN against a number) is different."""

    name: str
    text: str
    worst: float = 0.0
    scale: float = 0.0
    over: int = 0
    count: int = 0
    excess: float = 0.0
    remark: str = ""

    @property
    def equal(self) -> bool:
        return self.over == 0 and not self.remark


def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file, or an .sdx, which is exported back.")],
    given: InputOption = [],  # noqa: B006
    dims: DimOption = [],  # noqa: B006
    rtol: Annotated[float | None, typer.Option(min=0, help="Greatest difference relative to the tensor's scale.", show_default="by type, see below")] = None,
    atol: Annotated[float, typer.Option(min=0, help="Greatest absolute difference, added to that.")] = 1e-7,
    intermediate: Annotated[bool, typer.Option("--intermediate", help="Compare every value and name the first node that differs.")] = False,
    provider: ProviderOption = [],  # noqa: B006
    seed: SeedOption = 0,
    image_scale: ScaleOption = 1 / 255,
    image_mean: MeanOption = "0",
    image_std: StdOption = "1",
) -> None:
    """Compare with onnxruntime on the same inputs. Exit code 1 where they differ."""
    onnxruntime = _onnxruntime()
    tolerance = Tolerance(rtol, atol)
    loaded = read(model)
    feeds = make_feeds(loaded, given, parse_sizes(dims, "--dim"), seed, Pixels.parse(image_scale, image_mean, image_std))
    for line in [*feeds.notes(), *_random_nodes(loaded.graph)]:
        show.note(line)
    with tempfile.TemporaryDirectory(prefix="sardonyx-check-") as folder:
        if intermediate:
            equal = Intermediate(onnxruntime, read(model), feeds, tolerance, provider, Path(folder)).report()
        else:
            equal = _check_outputs(onnxruntime, model, feeds, tolerance, provider, Path(folder))
    if not equal:
        raise typer.Exit(1)


def _check_outputs(onnxruntime: Any, path: Path, feeds: Feeds, tolerance: Tolerance, provider: list[str], folder: Path) -> bool:
    source = _export(read(path), folder / "model.onnx") if is_sdx_file(path) else path
    names, theirs = _run_onnxruntime(onnxruntime, source, feeds)
    ours = run_session(open_session(path, provider), feeds)
    found = [d for name, a, b in zip(names, ours, theirs, strict=True) for d in compare(name, a, b, tolerance)]
    _table(found)
    return _verdict(found, "output", onnxruntime)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InvalidArgument("check compares with onnxruntime, which is not installed: pip install onnxruntime") from None
    return onnxruntime


def _run_onnxruntime(onnxruntime: Any, path: Path, feeds: Feeds) -> tuple[list[str], list[Any]]:
    """(output names, outputs). onnxruntime's own complaints become one of ours: there is nothing to compare then."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return [o.name for o in session.get_outputs()], session.run(None, feeds.values)
    except Exception as error:  # its exceptions have no common base
        raise InvalidArgument(f"onnxruntime {onnxruntime.__version__} can not run this model, so there is nothing to compare with: {error}{feeds.suspicion()}") from None


def _export(model: Model, path: Path) -> Path:
    save_onnx(model, path, lowest=True)
    return path


def _random_nodes(graph: Graph) -> list[str]:
    labels = [node.label for node in graph.walk() if _is_random(node)]
    return [f"{labels[0]}{f' and {len(labels) - 1} more' if len(labels) > 1 else ''} may draw random numbers: what depends on that differs"] if labels else []


def _is_random(node: Node) -> bool:
    return ops.exists(node.domain, node.op_type) and ops.lookup(node.domain, node.op_type).random


# -- comparing --------------------------------------------------------------------------------------------------------------------------------

def compare(name: str, ours: Any, theirs: Any, tolerance: Tolerance) -> list[Difference]:
    """The differences of one value: one a tensor, several for a sequence or map."""
    if isinstance(theirs, np.ndarray) and isinstance(ours, np.ndarray):
        return [_compare_arrays(name, ours, theirs, tolerance)]
    if isinstance(theirs, (list, tuple)) and isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        return [d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in compare(f"{name}[{i}]", a, b, tolerance)]
    if isinstance(theirs, dict) and isinstance(ours, dict) and ours.keys() == theirs.keys():
        keys = list(theirs)
        return compare(name, np.array([ours[k] for k in keys]), np.array([theirs[k] for k in keys]), tolerance)
    if ours is None and theirs is None:
        return [Difference(name, "none")]
    if type(ours) is type(theirs) and not isinstance(theirs, (list, tuple, dict)):
        return compare(name, np.asarray(ours), np.asarray(theirs), tolerance)
    return [Difference(name, value_text(theirs), excess=math.inf, remark=f"ours is {value_text(ours)}")]


def _compare_arrays(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: Tolerance) -> Difference:
    text, dtype = value_text(theirs), DType.of(theirs)
    if value_text(ours) != text:
        return Difference(name, text, excess=math.inf, remark=f"ours is {value_text(ours)}")
    if dtype is DType.STRING:
        over = sum(a != b for a, b in zip(ours.reshape(-1).tolist(), theirs.reshape(-1).tolist(), strict=True))
        return Difference(name, text, over=over, count=theirs.size, excess=math.inf if over else 0.0)
    with np.errstate(all="ignore"):
        wide = np.complex128 if dtype.is_complex else np.float64
        a, b = ours.astype(wide).reshape(-1), theirs.astype(wide).reshape(-1)
        same = (ours.reshape(-1) == theirs.reshape(-1)) | (np.isnan(a) & np.isnan(b))
        far = np.where(same, 0.0, np.abs(a - b))
        if not dtype.is_float and not dtype.is_complex:
            far = np.maximum(far, ~same)  # int64 beyond what a double holds
        far[np.isnan(far)] = math.inf  # NaN or infinite against a number
    finite = np.abs(b)[np.isfinite(b)]
    scale = float(finite.max(initial=0.0))
    bound = tolerance.bound(dtype, scale)
    worst = float(far.max(initial=0.0))
    return Difference(name, text, worst, scale, int((far > bound).sum()), theirs.size, worst / bound if bound else (math.inf if worst else 0.0))


def _table(found: Sequence[Difference], limit: int | None = None) -> None:
    ordered = sorted(found, key=lambda d: (d.equal, -d.excess))[:limit]
    rows = [(d.name, d.text, show.number(d.worst), show.number(d.worst / d.scale) if d.scale else "–", f"{d.over:,} of {d.count:,}",
             "ok" if d.equal else "DIFFERENT" + (f": {d.remark}" if d.remark else "")) for d in ordered]
    show.say()
    show.table(["tensor", "type", ">max abs", ">relative", ">over", ""], rows, [None if d.equal else "red" for d in ordered])


def _verdict(found: Sequence[Difference], what: str, onnxruntime: Any) -> bool:
    wrong = sum(not d.equal for d in found)
    show.say()
    if wrong:
        show.say(f"DIFFERENT: {wrong:,} of {show.plural(len(found), what)} {'differs' if wrong == 1 else 'differ'} from onnxruntime {onnxruntime.__version__}", "bold red")
    else:
        show.say(f"equal: {show.plural(len(found), what)} as onnxruntime {onnxruntime.__version__} has {'it' if len(found) == 1 else 'them'}", "green")
    return not wrong


# -- every value ------------------------------------------------------------------------------------------------------------------------------

class Intermediate:
    """The model with every value of its graph as an output, run by both."""

    def __init__(self, onnxruntime: Any, model: Model, feeds: Feeds, tolerance: Tolerance, providers: list[str], folder: Path) -> None:
        self.onnxruntime, self.model, self.feeds, self.tolerance, self.providers, self.folder = onnxruntime, model, feeds, tolerance, providers, folder
        infer_shapes(model)
        made = [v for node in model.graph.nodes for v in node.outputs if v is not None and _exportable(v)]
        self.values = list(dict.fromkeys([*model.graph.outputs, *made]))
        model.graph.outputs = self.values

    def report(self) -> bool:
        """Print the tables; whether all is equal."""
        path = _export(self.model, self.folder / "all.onnx")
        names, theirs = _run_onnxruntime(self.onnxruntime, path, self.feeds)
        ours = run_session(open_session(path, self.providers), self.feeds)
        found = {value: compare(name, a, b, self.tolerance) for value, name, a, b in zip(self.values, names, ours, theirs, strict=True)}
        everything = [d for differences in found.values() for d in differences]
        _table(everything, WORST)
        if len(everything) > WORST:
            show.say(f"… the worst {WORST} of {len(everything)} values")
        self._find_node(found, dict(zip(self.values, theirs, strict=True)))
        return _verdict(everything, "value", self.onnxruntime)

    def _find_node(self, found: dict[Value, list[Difference]], theirs: dict[Value, Any]) -> None:
        """Show the first node that differs and, where it only makes visible what came before, the first that differs on its own."""
        differing = [node for node in self.model.graph.nodes if not _is_random(node) and any(not d.equal for v in node.outputs if v is not None for d in found.get(v, ()))]
        if not differing:
            return
        self._show_node("First node that differs", differing[0], found)
        cause = next((node for node in differing if self._differs_alone(node, found, theirs)), None)
        if cause is differing[0]:
            show.say("On onnxruntime's inputs it differs too: this node is the cause.")
        elif cause is None:
            show.say("No node differs on its own, given onnxruntime's inputs: differences within the tolerance add up (after quantization, by whole steps).")
        else:
            show.say("On onnxruntime's inputs it does not differ: differences within the tolerance add up before it.")
            self._show_node("First node that differs on onnxruntime's inputs", cause, found)

    def _show_node(self, title: str, node: Node, found: dict[Value, list[Difference]]) -> None:
        graph = self.model.graph
        show.heading(title, f"{graph.nodes.index(node) + 1} of {len(graph.nodes)} in the order of the graph")
        worst = max((d for v in node.outputs if v is not None for d in found.get(v, ())), key=lambda d: (not d.equal, d.excess))
        show.fields([("operator", node.operator), ("model's node", " + ".join(node.origin)), ("attributes", ", ".join(f"{k}={_brief(v)}" for k, v in node.attributes.items())),
                     *(("input", f"{v.name}  {show.type_text(v.type)}{'  (constant)' if v.const is not None else ''}") for v in node.inputs if v is not None),
                     ("output", f"{worst.name}: {worst.remark or f'max abs {show.number(worst.worst)} at scale {show.number(worst.scale)}, {worst.over:,} of {worst.count:,} over'}")])

    def _differs_alone(self, node: Node, found: dict[Value, list[Difference]], theirs: dict[Value, Any]) -> bool:
        """The node by itself on onnxruntime's values of its inputs: is it the cause?"""
        given = {v.name: v for v in [*node.inputs, *(c for g in node.subgraphs() for c in g.captures())] if v is not None and v.const is None}
        values = {name: theirs.get(v, self.feeds.values.get(name)) for name, v in given.items()}
        outputs = [v for v in node.outputs if v is not None and v in found]
        if any(value is None for value in values.values()):
            return False  # an input that was no output: it can not be told
        path = self.folder / "node.onnx"
        save_onnx(self.model, path, inputs=list(given), outputs=[v.name for v in outputs], lowest=True)
        made = open_session(path, self.providers).run(None, values)
        return not all(d.equal for v, value in zip(outputs, made, strict=True) for d in compare(v.name, value, theirs[v], self.tolerance))


def _exportable(value: Value) -> bool:
    """Whether the value can be an output: its type must be known, all the way down."""
    kind = value.type
    while isinstance(kind, SequenceType):
        kind = kind.element
    return isinstance(kind, TensorType) and kind.dtype is not None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
