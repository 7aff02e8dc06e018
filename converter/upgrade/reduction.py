"""Reductions along axes, Softmax and its kin, TopK, DFT."""
from __future__ import annotations

from .site import Site, adapter


@adapter(13, "ReduceSum", "Squeeze", "Unsqueeze")
@adapter(18, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare")
def axes_input(site: Site) -> None:
    """Attribute `axes` became input 1."""
    axes = site.take("axes")
    if axes is not None:
        site.set_input(1, site.ints(axes))


@adapter(13, "Softmax", "LogSoftmax", "Hardmax")
def coerced_to_2d(site: Site) -> None:
    """The input was flattened to 2-D at `axis` (default 1) and each row normalised; since 13 only `axis` itself (default -1) is."""
    axis, data = site.take("axis", 1), site.data()
    shape = site.spec(data).shape
    if axis == -1:
        site.node.attributes["axis"] = -1
    elif shape is not None and all(d == 1 for d in shape[axis % max(len(shape), 1) + 1:]):
        site.node.attributes["axis"] = axis
    else:
        site.set_input(0, site.add("Flatten", [data], axis=axis))
        site.node.attributes["axis"] = -1
        fresh, old = site.divert()
        site.finish("Reshape", [fresh, site.add("Shape", [data])], old, allowzero=1)


@adapter(10, "TopK")
def k_input(site: Site) -> None:
    """Attribute `k` became input 1, a tensor of shape [1]."""
    site.set_input(1, site.ints([site.node.attributes.pop("k")]))


@adapter(20, "DFT")
def axis_input(site: Site) -> None:
    """Attribute `axis` (default 1) became input 2 (default -2)."""
    site.set_input(2, site.ints(site.take("axis", 1)))
