"""Edits of a model's interface: bind symbolic sizes (`--fix-dim`), cut at named values (`--inputs`, `--outputs`)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from sardonyx.dim import Expr, substitute, symbols
from sardonyx.errors import InvalidArgument
from sardonyx.graph import Graph, Model, Value
from sardonyx.types import TensorType


def fix_dims(model: Model, sizes: Mapping[str, int]) -> None:
    """Give symbolic sizes a number, everywhere. An anonymous size is addressed as `input.axis`, e.g. `images.0`."""
    if not sizes:
        return
    named = {s.name for value in model.graph.inputs for d in (value.shape or ()) for s in symbols(d)}
    bound: dict[str, int] = {}
    for name, size in sizes.items():
        anonymous = _anonymous_name(model.graph, name)
        if anonymous is None and name not in named:
            known = sorted(n for n in named if not n.startswith("?")) + [f"{v.name}.{i}" for v in model.graph.inputs for i, d in enumerate(v.shape or ()) if isinstance(d, Expr)]
            raise InvalidArgument(f"the model has no symbolic size '{name}'; it has: {', '.join(known) or 'none'}")
        if size < 1:
            raise InvalidArgument(f"size {name}={size} must be at least 1")
        bound[anonymous or name] = size
    for graph in model.graph.graphs():
        for value in [*graph.inputs, *graph.outputs, *(v for n in graph.nodes for v in n.outputs if v is not None)]:
            if isinstance(value.type, TensorType) and value.type.shape is not None:
                value.type = TensorType(value.type.dtype, tuple(substitute(d, bound) for d in value.type.shape))
    model.symbols = {name: limits for name, limits in model.symbols.items() if name not in bound}


def _anonymous_name(graph: Graph, name: str) -> str | None:
    """`input.axis` → the name of the one symbol that size consists of."""
    value_name, _, axis = name.rpartition(".")
    for value in graph.inputs:
        if value.name == value_name and axis.isdigit() and int(axis) < len(value.shape or ()):
            found = symbols(value.shape[int(axis)])
            return next(iter(found)).name if len(found) == 1 else None
    return None


def cut(model: Model, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> None:
    """Keep only what is needed to compute `outputs` from `inputs` (names of any values; empty: as they are)."""
    graph = model.graph
    values = {v.name: v for v in graph.inputs}
    values.update((v.name, v) for node in graph.nodes for v in node.outputs if v is not None)
    new_inputs = [_find(values, name, "input") for name in inputs]
    if outputs:
        graph.outputs = [_find(values, name, "output") for name in outputs]
    if inputs:
        for value in new_inputs:
            if value.producer is not None:
                value.producer.outputs = [None if v is value else v for v in value.producer.outputs]
                value.producer = None
        graph.inputs = new_inputs
    _remove_unneeded(graph)
    needed = [v for node in graph.nodes for v in (*node.inputs, *(c for g in node.subgraphs() for c in g.captures()))] + graph.outputs
    missing = [v.name for v in dict.fromkeys(needed) if v is not None and v.const is None and v.producer is None and v not in graph.inputs]
    if missing:
        raise InvalidArgument(f"the outputs also depend on {', '.join(repr(n) for n in missing[:5])}: add {'it' if len(missing) == 1 else 'them'} to --inputs")


def _remove_unneeded(graph: Graph) -> None:
    needed = {v.producer for v in graph.outputs if v.producer is not None}
    for node in reversed(graph.nodes):
        if node in needed:
            used = [*node.inputs, *(v for g in node.subgraphs() for v in g.captures())]
            needed.update(v.producer for v in used if v is not None and v.producer is not None)
    graph.remove(*(n for n in graph.nodes if n not in needed))


def _find(values: Mapping[str, Value], name: str, what: str) -> Value:
    if name not in values:
        near = get_close_matches(name, values, 3)
        raise InvalidArgument(f"the model has no value '{name}' to cut at as {what}" + (f"; did you mean {', '.join(near)}?" if near else "; `sardonyx inspect --json` lists them all"))
    return values[name]
