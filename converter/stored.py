"""What a conversion stores besides the graph: the model, planned for the C engine.

Rules
1. By default one plan for every size the model allows (its own ranges, `Model.symbols`): programs bind sizes, so ranges are no wider than the model, and no narrower.
2. `plan`: {size: (least, most or None)}, or several of them: each is planned for itself, and a run takes the first that holds. Sizes that are not named keep the model's range.
3. All or nothing: where a node has no kernels, nothing is stored, and the report says which nodes and why. The graph is always there: sessions of Python plan it, with NumPy for those nodes.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from sardonyx.errors import InvalidArgument, SardonyxError
from sardonyx.graph import Model
from sardonyx.package import Package, merged
from sardonyx.plan.planner import given_inputs, plan_package
from sardonyx.plan.shapes import infer_plan
from sardonyx.providers.engine import accepts, available
from sardonyx.providers.segmented import run_plans

Ranges = Mapping[str, tuple[int, int | None]]
#: How many nodes without kernels a report names.
NAMED = 5


def plan_stored(model: Model, plans: Sequence[Ranges] = ()) -> tuple[Package | None, str]:
    """(package, "") or (None, why not). InvalidArgument where a plan names a size the model does not have."""
    sizes = {str(d) for value in given_inputs(model.graph) for d in value.shape or ()}
    for ranges in plans:
        for name, (low, high) in ranges.items():
            if name not in sizes:
                raise InvalidArgument(f"--plan: the model's inputs have no size '{name}'; they have {', '.join(sorted(s for s in sizes if not s.isdigit())) or 'none'}")
            if low < 0 or (high is not None and high < low):
                raise InvalidArgument(f"--plan: {name}={low}..{high} is no range")
    if reason := available():
        return None, f"the C engine is not here: {reason}"
    made = []
    for ranges in plans or ({},):
        try:
            specs = infer_plan(model.graph)
            found = plan_package(model, specs, {**model.symbols, **ranges}, None, accepts, host=True)
        except SardonyxError as error:
            return None, str(error)
        if found.host:
            named = [run_plans(node, why, specs) for node, why in list(found.host.items())[:NAMED]]
            more = f" and {len(found.host) - NAMED} more" if len(found.host) > NAMED else ""
            return None, f"{len(found.host)} of its nodes have no kernels ({'; '.join(named)}{more})"
        made.append((found.package, ranges))
    try:
        package = merged(made)
        package.verify()
    except SardonyxError as error:
        return None, str(error)
    return package, ""
