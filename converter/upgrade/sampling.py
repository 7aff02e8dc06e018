"""Resizing, sampling and pooling."""
from __future__ import annotations

import numpy as np
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.graph import Value
from sardonyx.types import DType

from .site import Site, adapter

LINEAR = {"bilinear": "linear", "trilinear": "linear"}


@adapter(7, "Upsample")
def height_and_width(site: Site) -> None:
    """Only 4-D, the factors in two attributes."""
    site.node.attributes["scales"] = [1.0, 1.0, site.node.attributes.pop("height_scale"), site.node.attributes.pop("width_scale")]


@adapter(9, "Upsample")
def upsample_scales(site: Site) -> None:
    """Attribute `scales` became input 1."""
    site.set_input(1, site.constant(site.node.attributes.pop("scales"), DType.FLOAT))


@adapter(10, "Upsample")
def upsample(site: Site) -> None:
    """Replaced by Resize. Its factors are at least 1, so that the nearest pixel is always the one before."""
    site.node.op_type = "Resize"
    mode = site.node.attributes.get("mode", "nearest")
    site.node.attributes.update(mode=LINEAR.get(mode, mode), nearest_mode="floor")


@adapter(11, "Resize")
def asymmetric(site: Site) -> None:
    """Coordinates were x/scale; 11 made that one of several modes and put the region of interest at input 1.

    The nearest pixel of version 10 is ⌊x/scale⌋ where an axis grows and ⌈x/scale⌉ where it shrinks (onnx's own examples and onnxruntime agree; the text is silent)."""
    node = site.node
    node.attributes["coordinate_transformation_mode"] = "asymmetric"
    if node.attributes.get("mode", "nearest") == "nearest" and "nearest_mode" not in node.attributes:
        _nearest(site)
    node.set_inputs([site.data(), None, node.inputs[1]])


def _nearest(site: Site) -> None:
    scales = site.known(site.node.inputs[1])
    site.node.attributes["nearest_mode"] = "floor"
    if scales is not None and np.all(scales >= 1):
        return
    if scales is not None and np.all(scales <= 1):
        site.node.attributes["nearest_mode"] = "ceil"
        return
    given, one = site.node.inputs[1], site.constant([1.0], DType.FLOAT)
    shrunk = site.add("Resize", [site.data(), None, site.add("Min", [given, one])], mode="nearest", nearest_mode="ceil", coordinate_transformation_mode="asymmetric")
    site.node.set_inputs([shrunk, site.add("Max", [given, one])])


@adapter(13, "Resize")
def absent_instead_of_empty(site: Site) -> None:
    """An empty `roi` or `scales` said "not given"; a mode for the nearest pixel was dropped."""
    node = site.node
    if node.attributes.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        node.set_input(1, None)
    if site.input(3) is not None or _is_empty(site, site.input(2)):
        site.set_input(2, None)
    if node.attributes.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        _tf_half_pixel(site)


def _is_empty(site: Site, value: Value | None) -> bool:
    return value is not None and site.spec(value).shape == (0,)


def _tf_half_pixel(site: Site) -> None:
    """(x + ½)/scale is half_pixel's coordinate plus ½: floor of it rounds that one half up, rounding it half down is that one's ceil."""
    nearest = site.node.attributes.get("nearest_mode", "round_prefer_floor")
    same = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
    if site.node.attributes.get("mode", "nearest") != "nearest" or nearest not in same:
        raise NotImplementedHere(f"{site.node.label}: coordinate_transformation_mode tf_half_pixel_for_nn, which opset 13 dropped, is supported with mode nearest and nearest_mode "
                             f"{' or '.join(same)}, not {nearest}; export the model with opset 13 or newer")
    site.node.attributes.update(coordinate_transformation_mode="half_pixel", nearest_mode=same[nearest])


@adapter(20, "GridSample")
def grid_modes(site: Site) -> None:
    """Modes were renamed when any number of spatial axes became possible."""
    mode = site.node.attributes.get("mode", "bilinear")
    site.node.attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


@adapter(16, "RoiAlign")
def roi_pixels(site: Site) -> None:
    """Coordinates were not shifted by half a pixel."""
    site.node.attributes.setdefault("coordinate_transformation_mode", "output_half_pixel")


@adapter(2, "LpPool", "GlobalLpPool")
def integer_norm(site: Site) -> None:
    """`p` was a float. A fractional one: the p-th root of the 1-norm of |x|^p."""
    p = site.take("p", 2.0)
    if float(p).is_integer():
        site.node.attributes["p"] = int(p)
        return
    site.node.attributes["p"] = 1
    site.set_input(0, site.add("Pow", [site.add("Abs", [site.data()]), site.constant(p, DType.FLOAT)]))
    fresh, old = site.divert()
    site.finish("Pow", [fresh, site.constant(1 / p, DType.FLOAT)], old)
