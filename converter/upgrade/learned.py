"""ai.onnx.ml: LabelEncoder. (The tree ensembles of versions 1 and 3 stay operators of their own.)"""
from __future__ import annotations

from sardonyx.types import DType

from .site import Site, adapter


@adapter(2, "LabelEncoder", domain="ai.onnx.ml")
def classes(site: Site) -> None:
    """One list of strings, which are numbered: strings to numbers or numbers to strings, as the input's type says (the default given, where it is unknown)."""
    attributes = site.node.attributes
    names = attributes.pop("classes_strings", [])
    dtype = site.spec(site.data()).dtype
    to_strings = dtype is DType.INT64 if dtype is not None else "default_string" in attributes and "default_int64" not in attributes
    if to_strings:
        attributes.pop("default_int64", None)
        attributes.update(keys_int64s=list(range(len(names))), values_strings=names)
    else:
        attributes.pop("default_string", None)
        first = {name: index for index, name in reversed(list(enumerate(names)))}  # the first of equal names counts
        attributes.update(keys_strings=list(first), values_int64s=list(first.values()))


@adapter(4, "LabelEncoder", domain="ai.onnx.ml")
def matching_default(site: Site) -> None:
    """Defaults of types other than the values' were ignored; 4 forbids them."""
    attributes = site.node.attributes
    for values, default in (("values_strings", "default_string"), ("values_int64s", "default_int64"), ("values_floats", "default_float")):
        if values not in attributes:
            attributes.pop(default, None)
