"""Operators that move data: attributes that became inputs."""
from __future__ import annotations

from sardonyx.types import DType

from .site import Site, adapter


@adapter(5, "Reshape")
def shape_input(site: Site) -> None:
    """Attribute `shape` became input 1; `consumed_inputs` was a hint."""
    site.take("consumed_inputs")
    site.set_input(1, site.ints(site.take("shape", [])))


@adapter(4, "Concat")
def concat_axis(site: Site) -> None:
    """`axis` had the default 1."""
    site.node.attributes.setdefault("axis", 1)


@adapter(2, "Pad")
def paddings(site: Site) -> None:
    """`paddings` was renamed."""
    site.node.attributes["pads"] = site.take("paddings")


@adapter(11, "Pad")
def pads_input(site: Site) -> None:
    """Attributes `pads` and `value` became inputs."""
    site.set_input(1, site.ints(site.node.attributes.pop("pads")))
    value = site.take("value", 0.0)
    if value:
        site.set_input(2, site.scalar_like(value, site.data()))


@adapter(10, "Slice")
def bounds_inputs(site: Site) -> None:
    """Attributes `starts`, `ends` and `axes` became inputs."""
    starts, ends = site.node.attributes.pop("starts"), site.node.attributes.pop("ends")
    axes = site.take("axes", list(range(len(starts))))
    for index, values in enumerate((starts, ends, axes), 1):
        site.set_input(index, site.ints(values))


@adapter(2, "Split")
def split_lengths(site: Site) -> None:
    """The lengths could be an input of the data's (float) type, as they can again since 13, as int64."""
    lengths = site.input(1)
    if lengths is not None:
        site.set_input(1, site.add("Cast", [lengths], to=int(DType.INT64)))


@adapter(13, "Split")
def split_input(site: Site) -> None:
    """Attribute `split` became input 1."""
    lengths = site.take("split")
    if lengths is not None:
        site.set_input(1, site.ints(lengths))


@adapter(18, "Split")
def split_count(site: Site) -> None:
    """Without lengths, the number of parts must be said."""
    if site.input(1) is None:
        site.node.attributes["num_outputs"] = len(site.node.outputs)


@adapter(6, "Tile")
def tile_repeats(site: Site) -> None:
    """Inputs `tiles` and `axis`, scalars of the data's (float) type, became one count for each axis."""
    tiles, axis = (site.add("Reshape", [site.add("Cast", [value], to=int(DType.INT64)), site.ints([1])]) for value in site.node.inputs[1:3])
    ones = site.add("Expand", [site.ints([1]), site.rank_value(site.data())])
    site.node.set_inputs([site.data(), site.add("ScatterElements", [ones, axis, tiles], axis=0)])


@adapter(11, "Scatter")
def scatter(site: Site) -> None:
    """Renamed."""
    site.node.op_type = "ScatterElements"
