"""An executor that plans a model into blocks and runs them: programs on some runner, the nodes without kernels on their NumPy bodies. What runs where is `placements()`.

One plan serves every run: sizes are bound, and what data decide ends a segment (plan/cut.py). Only where an input's *value* says which axes are meant, or kernels exist for known or bounded
sizes only, is the model planned again, for each value, shape or range of those inputs: a variant. They are few.
"""
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dim import symbols
from ..errors import EPFail
from ..graph import Model, Node, Value
from ..model import collector_paused
from ..ops import lookup
from ..ops.registry import MAX_KNOWN
from ..package import Device
from ..philox import draws_of_run
from ..plan.lower import HOST_TYPES, Accepts
from ..plan.planner import Plan, given_inputs, plan_package
from ..plan.shapes import Specs, infer_plan
from .base import Placement, RunContext
from .blocks import Blocks, Runner
from .reference import NAME as REFERENCE

#: Names of the operator inputs whose values say which axes are meant, or are parameters that kernels know as numbers.
STRUCTURAL = frozenset({"axes", "axis", "steps", "roi", "scales", "block_shape", "image_shape", "pads", "split", "K", "sizes", "depth", "size", "ratio", "training_mode", "num_mel_bins", "dft_length"})


#: Upper bounds of sizes, where programs need any: few plans for all that is usual.
COARSE = (1 << 12, 1 << 16)


class NeedsBounds(EPFail):
    """A program can not be made for sizes of any kind: it may be possible for those up to a bound."""


def bucket(size: int, close: bool = False) -> tuple[int, int]:
    """The range of sizes a bounded plan for `size` covers: up to the least of COARSE; beyond, and where bounds must be `close`, (2^(k-1), 2^k], so that n plans cover sizes up to 2^n."""
    if not close and size <= COARSE[-1]:
        return 0, next(bound for bound in COARSE if size <= bound)
    if size <= 1:
        return size, size
    top = 1 << (size - 1).bit_length()
    return top // 2 + 1, top


@dataclass(frozen=True)
class Beside:
    """The provider `name` takes what the `device` of an executor refuses: what it `accepts`, and who runs its programs."""

    device: Device
    name: str
    accepts: Accepts
    make: Callable[[Plan], Runner]


class Variant:
    """A model planned for given values and shapes of some inputs (none: for every run)."""

    def __init__(self, model: Model, name: str, make: Callable[[Plan], Runner], limit: int | None, accepts: Accepts | None, ranges: Mapping[str, tuple[int, int | None]],
                 values: Mapping[Value, np.ndarray] | None = None, shapes: Mapping[Value, tuple[int, ...]] | None = None, beside: Beside | None = None) -> None:
        self.specs = infer_plan(model.graph, values, shapes)
        plan = plan_package(model, self.specs, ranges, limit, accepts, True, *((beside.device, beside.accepts) if beside else ()))
        self.fallbacks, self.beside = plan.host, plan.beside
        self.blocks = Blocks(plan, name, make, limit, beside.make if beside else None)


#: How many values and shapes of structural inputs are planned for; a model fed yet more runs the nodes concerned on the host.
VARIANTS = 16


class SegmentedExecutor:
    """A model on programs where it can be, on NumPy bodies where not. `strict` refuses the latter. `prepare`: rewrites the model before it
    is planned for the first time. `beside`: who runs what `accepts` refuses, before NumPy does. Where a runner says NeedsBounds, the model is planned for ranges of sizes from then on."""

    def __init__(self, model: Model, name: str, make: Callable[[Plan], Runner], *, strict: bool = False, limit: int | None = None,
                 accepts: Callable[[Mapping[str, tuple[int, int | None]]], Accepts] | None = None, prepare: Callable[[Model], object] | None = None,
                 beside: Beside | None = None) -> None:
        self.beside = beside
        self.model, self.name, self.make, self.strict, self.limit, self.accepts, self.prepare = model, name, make, strict, limit, accepts, prepare
        self.variants: dict[Any, Variant] = {}
        self.lock = threading.RLock()
        self._structural: list[Value] = []
        self._shaped: list[Value] = []
        self._latest: Variant | None = None
        self._fixed: Variant | None = None     # the one variant that every run takes
        self._bounds = 0                       # of sizes: none, coarse ones, close ones
        self.inputs = given_inputs(model.graph)
        if strict and not self.structural and not self.shaped:
            self._check(self.general)

    def _plan(self, values: Mapping[Value, np.ndarray] | None = None, shapes: Mapping[Value, tuple[int, ...]] | None = None, ranges: Mapping[str, tuple[int, int]] | None = None) -> Variant:
        known = {**self.model.symbols, **(ranges or {})}
        accepts = self.accepts(known) if self.accepts is not None else None
        return Variant(self.model, self.name, self.make, self.limit, accepts, known, values, shapes, self.beside)

    @property
    def general(self) -> Variant:
        """The plan for inputs of any value. Made when it is first needed: opening a session takes no planning (but a strict one, which must say what it refuses)."""
        found = self.variants.get(())
        if found is None:
            with self.lock:
                found = self.variants.get(())
                if found is None:
                    with collector_paused():
                        if self.prepare is not None:
                            self.prepare(self.model)
                        found = self._plan()
                    self._structural = structural_inputs(self.model, found.specs, found.fallbacks)
                    self._shaped = [v for v in self.inputs if any(symbols(d) for d in found.specs[v].shape or ())] if found.fallbacks else []
                    self._fixed = None if self._structural or self._shaped or self._bounds or (self.strict and found.fallbacks) else found
                    self.variants[()] = found
        return found

    @property
    def structural(self) -> list[Value]:
        """The inputs whose values are planned for."""
        _ = self.general
        return self._structural

    @property
    def shaped(self) -> list[Value]:
        """The inputs whose shapes are looked at for a variant of their own; none once that has won nothing."""
        _ = self.general
        return self._shaped

    @property
    def latest(self) -> Variant:
        """The variant of the last run."""
        return self._latest or self.general

    def _check(self, variant: Variant) -> None:
        if self.strict and variant.fallbacks:
            node, why = next(iter(variant.fallbacks.items()))
            more = f" (and {len(variant.fallbacks) - 1} more nodes)" if len(variant.fallbacks) > 1 else ""
            raise EPFail(f"fallback refused: {node.label} ({node.operator}) would run on NumPy: {why}{more}")

    def _variant(self, values: Mapping[Value, Any]) -> Variant:
        """The variant for this run's values and shapes of the inputs that decide."""
        given = {v: values[v] for v in self.structural if values[v].size <= MAX_KNOWN}
        shapes = {v: values[v].shape for v in self.shaped}
        buckets = self._buckets(values) if self._bounds else {}
        if not given and not shapes and not buckets:
            self._check(self.general)
            return self.general
        key = (tuple((a.shape, a.tobytes()) for a in given.values()), tuple(shapes.values()), tuple(buckets.items()))
        with self.lock:
            found = self.variants.get(key)
            if found is None and (len(self.variants) <= VARIANTS or not (given or shapes)):
                found = self.variants[key] = self._vary(given, shapes, buckets)
        found = found or self.general
        self._check(found)
        return found

    def _vary(self, values: Mapping[Value, np.ndarray], shapes: Mapping[Value, tuple[int, ...]], buckets: Mapping[str, tuple[int, int]]) -> Variant:
        """The variant for these values and shapes; shapes are looked at no more where they win nothing."""
        made = self._plan(values, None, buckets) if values or buckets else self.general
        if shapes and made.fallbacks:
            closer = self._plan(values, shapes)
            if len(closer.fallbacks) < len(made.fallbacks):
                return closer
            self._shaped = []
        return made

    def _buckets(self, values: Mapping[Value, Any]) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for value in self.inputs:
            given = values[value]  # a sequence has no shape
            for said, size in zip(self.general.specs[value].shape or (), getattr(given, "shape", ()), strict=False):
                names = symbols(said)
                if len(names) == 1 and str(said) == next(iter(names)).name:
                    found.setdefault(str(said), bucket(size, self._bounds > 1))
        return found

    def run(self, inputs: Sequence[Any], wanted: Sequence[int], context: RunContext) -> list[Any]:
        """See `Executor.run`."""
        given = inputs if len(inputs) == len(self.inputs) else [x for x, v in zip(inputs, self.model.graph.inputs, strict=True) if v.const is None]
        named = dict(zip(self.inputs, given, strict=True))
        self._latest = variant = self._fixed or self._variant(named)
        if context.into is not None:    # by output, in the programs' order; of one that is asked for twice the first
            at = dict(reversed(list(zip(wanted, context.into, strict=True))))
            context.into = [at.get(i) for i in range(len(variant.blocks.owned))]
        stay = frozenset(wanted[i] for i in context.stay)
        while True:
            bounds = self._bounds
            try:
                made = variant.blocks.run(given, context, draws_of_run(context.seed), stay)
                break
            except NeedsBounds:
                if not self._bound_sizes(named, bounds):
                    raise
                self._latest = variant = self._variant(named)
        owned = variant.blocks.owned
        context.owned = all([owned[i] for i in wanted]) and len(set(wanted)) == len(wanted)
        return [made[i] for i in wanted]

    def _bound_sizes(self, values: Mapping[Value, Any], tried: int) -> bool:
        """Plan for closer ranges of sizes than those that were `tried`; whether there are any."""
        with self.lock:
            if tried > 1 or not self._buckets(values):
                return False
            self._bounds, self._fixed = max(self._bounds, tried + 1), None
            return True

    def placements(self) -> list[Placement]:
        """Where each node ran last (before the first run: would run, whatever small inputs say); free nodes (shape arithmetic done at planning) count for the programs."""
        latest = self.latest
        host = {inner: why if self._latest else run_plans(node, why, latest.specs)
                for node, why in latest.fallbacks.items() for inner in (node, *(n for g in node.subgraphs() for n in g.walk()))}
        name = self.beside.name if self.beside else ""
        return [Placement(n, REFERENCE, host[n]) if n in host else Placement(n, name, latest.beside[n]) if n in latest.beside else Placement(n, self.name) for n in self.model.graph.walk()]

    def close(self) -> None:
        """Drop plans and constants."""
        self.variants = {}
        self._latest = self._fixed = None


def structural_inputs(model: Model, specs: Specs, reasons: Mapping[Node, str]) -> list[Value]:
    """Small graph inputs whose values host nodes need before they can be planned: with these given, they may have kernels."""
    return list(dict.fromkeys(value for node in reasons for value in structural_of(node, specs)))


def structural_of(node: Node, specs: Specs) -> list[Value]:
    """Those of one node."""
    named = zip(node.inputs, lookup(node.domain, node.op_type).inputs, strict=False)
    return list(dict.fromkeys(source for value, name in named if value is not None and name in STRUCTURAL for source in _sources(value, specs) or ()))


def run_plans(node: Node, reason: str, specs: Specs) -> str:
    """Why a node has no kernels before a run; and that a run plans for the values it gives, where those are what is missing."""
    names = ", ".join(f"'{v.name}'" for v in structural_of(node, specs))
    return f"{reason}; a run plans for the value of {names} that it gives, for at most {VARIANTS} values a session" if names else reason


def _sources(value: Value, specs: Specs) -> list[Value] | None:
    """The graph inputs a value follows from, its shape arithmetic aside; None where one of them is not small."""
    out, stack, seen = [], [value], set()
    while stack:
        at = stack.pop()
        if at in seen or at.const is not None:
            continue
        seen.add(at)
        if at.producer is not None:
            stack += [] if at.producer.op_type in ("Shape", "Size") else [v for v in at.producer.inputs if v is not None]
            continue
        shape = specs[at].shape
        if shape is None or len(shape) > 1 or any(isinstance(d, int) and d > MAX_KNOWN for d in shape) or specs[at].dtype in HOST_TYPES:
            return None
        out.append(at)
    return out
