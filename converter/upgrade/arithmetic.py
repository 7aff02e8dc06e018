"""Elementwise operators: the limited broadcasting of opsets 1 to 6, attributes that became inputs, types that were dropped."""
from __future__ import annotations

from sardonyx.graph import Value
from sardonyx.types import DType

from .site import Site, adapter


@adapter(6, "Abs", "Add", "BatchNormalization", "Ceil", "Clip", "Div", "Dropout", "Elu", "Exp", "Floor", "HardSigmoid", "InstanceNormalization", "LeakyRelu", "Log",
         "Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh")
def drop_consumed_inputs(site: Site) -> None:
    """`consumed_inputs` was a hint to compute in place."""
    site.take("consumed_inputs")


@adapter(7, "Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
def broadcast_with_axis(site: Site) -> None:
    """With broadcast=1, `axis` named the axis of A at which B's first one lies; since 7 shapes are aligned at the end, as without `axis` before."""
    axis = site.take("axis")
    if site.take("broadcast", 0) and axis is not None:
        align_at(site, 1, axis)


@adapter(7, "PRelu")
def broadcast_slope(site: Site) -> None:
    """A slope of shape [C] lay along axis 1; since 7 it is aligned at the end."""
    align_at(site, 1, 1)


def align_at(site: Site, index: int, axis: int) -> None:
    """Append axes of size 1 to input `index` so that its first axis meets `axis` of input 0. An input that reaches the end already stays: that is also
    what `axis=-1`, Caffe2's "match the suffix", means for any rank."""
    data, value = site.data(), site.node.inputs[index]
    assert value is not None
    rank, own = site.rank(data), site.rank(value)
    if own is not None and (rank is not None or axis < 0):
        missing = (rank - axis if rank is not None and axis >= 0 else -axis) - own
        if missing > 0:
            site.set_input(index, site.add("Unsqueeze", [value, site.ints(list(range(own, own + missing)))]))
        return
    site.set_input(index, site.add("Reshape", [value, _shape_with_ones(site, data, value, axis)], allowzero=1))


def _shape_with_ones(site: Site, data: Value, value: Value, axis: int) -> Value:
    room = site.ints([-axis]) if axis < 0 else site.add("Sub", [site.rank_value(data), site.ints([axis])])
    count = site.add("Max", [site.add("Sub", [room, site.rank_value(value)]), site.ints([0])])
    return site.add("Concat", [site.add("Shape", [value]), site.add("Expand", [site.ints([1]), count])], axis=0)


@adapter(7, "Gemm")
def gemm_broadcast(site: Site) -> None:
    """`broadcast` allowed what is always allowed since."""
    site.take("broadcast")


@adapter(6, "Selu")
def selu_defaults(site: Site) -> None:
    """The defaults got more digits."""
    site.node.attributes.setdefault("alpha", 1.6732)
    site.node.attributes.setdefault("gamma", 1.0507)


@adapter(11, "Clip")
def clip_bounds(site: Site) -> None:
    """Attributes `min` and `max` became inputs."""
    for index, name in enumerate(("min", "max"), 1):
        bound = site.take(name)
        if bound is not None:
            site.set_input(index, site.scalar_like(bound, site.data()))


@adapter(6, "Cast")
def cast_by_name(site: Site) -> None:
    """`to` was the name of the type ("FLOAT")."""
    to = site.node.attributes["to"]
    if isinstance(to, str):
        site.node.attributes["to"] = int(DType.parse(to))


@adapter(13, "Erf")
@adapter(28, "ReduceLogSum", "ReduceLogSumExp")
def integers_through_double(site: Site) -> None:
    """Integer types were dropped: compute in double and cast back."""
    dtype = site.spec(site.data()).dtype
    if dtype is None or not dtype.is_integer:
        return
    site.set_input(0, site.add("Cast", [site.data()], to=int(DType.DOUBLE)))
    fresh, old = site.divert()
    site.finish("Cast", [fresh], old, to=int(dtype))
