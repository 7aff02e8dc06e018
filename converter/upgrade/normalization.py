"""BatchNormalization, GroupNormalization, Dropout: what training and test mode were, and how parameters were shaped."""
from __future__ import annotations

from sardonyx.graph import Value
from sardonyx.types import DType

from .site import Site, adapter


@adapter(7, "BatchNormalization", "Dropout")
def is_test(site: Site) -> None:
    """`is_test` (default 0) said which mode. 7 dropped it; `training_mode` is kept here for the adapter of the version that has it again."""
    site.node.attributes["training_mode"] = int(not site.take("is_test", 0))


@adapter(9, "BatchNormalization")
def not_spatial(site: Site) -> None:
    """spatial=0 normalised each position on its own, with parameters of shape [C, D1 … Dn]: a 2-D normalisation of [N, C·D1 … Dn]."""
    if site.take("spatial", 1):
        return
    data, mean = site.data(), site.node.inputs[3]
    shapes = [site.add("Shape", [data]), *[site.add("Shape", [mean])] * 4]
    site.set_input(0, site.add("Flatten", [data], axis=1))
    for index in range(1, 5):
        site.set_input(index, site.add("Reshape", [site.node.inputs[index], site.ints([-1])]))
    for index, shape in enumerate(shapes):
        if site.output(index) is not None:
            fresh, old = site.divert(index)
            site.finish("Reshape", [fresh, shape], old, allowzero=1)


@adapter(14, "BatchNormalization")
def training_by_outputs(site: Site) -> None:
    """Training was asked for by naming outputs beyond Y: running mean and variance, then the batch's own (saved) ones, which 14 dropped.

    With momentum 0 the running statistics are the batch's own, so a second normalisation gives those."""
    node = site.node
    training = node.attributes.pop("training_mode", int(any(v is not None for v in node.outputs[1:])))
    saved = node.outputs[3:]
    node.outputs = node.outputs[:3] if training else node.outputs[:1]
    if not training:
        return
    if any(v is not None for v in saved):
        own = {"momentum": 0.0, "training_mode": 1, "epsilon": node.attributes.get("epsilon", 1e-5)}
        site.finish("BatchNormalization", node.inputs, [None, *saved], **own)
    node.attributes["training_mode"] = 1


@adapter(10, "Dropout")
def mask_type(site: Site) -> None:
    """The mask had the type of the data; it is bool since 10."""
    if site.output(1) is not None:
        fresh, old = site.divert(1)
        site.finish("CastLike", [fresh, site.data()], old)


@adapter(12, "Dropout")
def ratio_input(site: Site) -> None:
    """Attribute `ratio` became input 1; input 2 asks for training, which versions 7 to 10 could not."""
    site.set_input(1, site.constant(site.take("ratio", 0.5), DType.FLOAT))
    if site.take("training_mode", 0):
        site.set_input(2, site.constant(True, DType.BOOL))


@adapter(21, "GroupNormalization")
def parameters_by_channel(site: Site) -> None:
    """Scale and bias had one element for each group; since 21 for each channel."""
    groups = site.node.attributes["num_groups"]
    channels = site.add("Shape", [site.data()], start=1, end=2)
    shape = site.add("Concat", [site.ints([groups]), site.add("Div", [channels, site.ints([groups])])], axis=0)
    for index in (1, 2):
        value: Value | None = site.node.inputs[index]
        wide = site.add("Expand", [site.add("Unsqueeze", [value, site.ints([1])]), shape])
        site.set_input(index, site.add("Reshape", [wide, site.ints([-1])]))
