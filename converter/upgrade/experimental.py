"""Operators that early exporters (CoreML, WinML, Caffe2) wrote and ONNX never made official; onnxruntime still runs them up to opset 9 and its schemas
(contrib_defs.cc) are the only definition left."""
from __future__ import annotations

from sardonyx.graph import Value

from .site import Site, adapter

GONE = 10


def become(site: Site, op_type: str, *inputs: Value | None) -> None:
    """Turn the node into another operator without attributes."""
    site.node.op_type, site.node.attributes = op_type, {}
    site.node.set_inputs(inputs)


def scaled(site: Site, value: Value, factor: float) -> Value:
    """value · factor, in the type of the data."""
    return site.add("Mul", [value, site.scalar_like(factor, site.data())])


@adapter(GONE, "Affine")
def affine(site: Site) -> None:
    """alpha·x + beta."""
    alpha, beta = site.take("alpha", 1.0), site.take("beta", 0.0)
    become(site, "Add", scaled(site, site.data(), alpha), site.scalar_like(beta, site.data()))


@adapter(GONE, "Scale")
def scale(site: Site) -> None:
    """scale·x."""
    become(site, "Mul", site.data(), site.scalar_like(site.take("scale", 1.0), site.data()))


@adapter(GONE, "ImageScaler")
def image_scaler(site: Site) -> None:
    """scale·x + bias, one bias for each channel of [N, C, H, W]."""
    bias = site.add("Unsqueeze", [site.scalar_like(site.node.attributes["bias"], site.data()), site.ints([1, 2])])
    become(site, "Add", scaled(site, site.data(), site.take("scale", 1.0)), bias)


@adapter(GONE, "ParametricSoftplus")
def parametric_softplus(site: Site) -> None:
    """alpha·log(1 + exp(beta·x))."""
    _around(site, "Softplus")


@adapter(GONE, "ScaledTanh")
def scaled_tanh(site: Site) -> None:
    """alpha·tanh(beta·x)."""
    _around(site, "Tanh")


def _around(site: Site, function: str) -> None:
    alpha, beta = site.node.attributes["alpha"], site.node.attributes["beta"]
    become(site, "Mul", site.add(function, [scaled(site, site.data(), beta)]), site.scalar_like(alpha, site.data()))


@adapter(GONE, "Crop")
def crop(site: Site) -> None:
    """[N, C, H, W] without `border` (left, top, right, bottom); `scale` (height, width) says the size instead of right and bottom."""
    left, top, right, bottom = site.node.attributes["border"]
    size = site.take("scale")
    height, width = (top + size[0], left + size[1]) if size else (-bottom or 2**31 - 1, -right or 2**31 - 1)
    become(site, "Slice", site.data(), site.ints([top, left]), site.ints([height, width]), site.ints([2, 3]))


@adapter(9, "MeanVarianceNormalization")
def normalize_variance(site: Site) -> None:
    """Each channel of [N, C, H, W], or everything at once (`across_channels`); without `normalize_variance` only the mean was taken off."""
    axes = [0, 1, 2, 3] if site.take("across_channels", 0) else [0, 2, 3]
    if site.take("normalize_variance", 1):
        site.node.attributes["axes"] = axes
    else:
        become(site, "Sub", site.data(), site.add("ReduceMean", [site.data(), site.ints(axes)]))
