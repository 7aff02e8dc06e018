"""The WebGPU section of a .sdx: a package (core/package.py) whose device segments a page replays, and what it replays, as JSON text (webgpu/stored.py writes it).

    0    "SDXW", u16 major, u16 minor      the version of the text
    8    u64 bytes of the package, u64 bytes of the text
    24   8 bytes 0
    32   the package, then at once the text
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import InvalidModelFile
from ..graph import Tensor
from ..package import Package, Place
from .format import REMEDY

MAGIC = b"SDXW"
VERSION = (1, 1)
_HEADER = struct.Struct("<4sHHQQ8x")


@dataclass
class Recorded:
    """A model recorded for WebGPU. `package`: its device programs have no steps; `constants`: what is uploaded, each with its form (packing, group); `text`: the text, once it is known where
    these lie in the tensor data."""

    package: Package
    constants: list[tuple[Tensor, tuple[int, int]]]
    text: Callable[[Sequence[Place]], bytes]


def pack_recorded(recorded: Recorded, places: Sequence[Place]) -> bytes:
    """The section. `places`: where the package's constants lie, then where the others do."""
    count = len(recorded.package.constants)
    package, text = recorded.package.pack(places[:count]), recorded.text(places[count:])
    return _HEADER.pack(MAGIC, *VERSION, len(package), len(text)) + package + text


def unpack_recorded(section: memoryview) -> tuple[tuple[int, int], memoryview, memoryview]:
    """(version of the text, package, text) of a section; ((0, 0), empty, empty) where there is none. InvalidModelFile."""
    if not len(section):
        return (0, 0), section, section
    if len(section) < _HEADER.size or bytes(section[:4]) != MAGIC:
        raise InvalidModelFile(f"WebGPU section, offset 0: no header; {REMEDY}")
    _, major, minor, package, text = _HEADER.unpack_from(section)
    if package % 8 or _HEADER.size + package + text != len(section):
        raise InvalidModelFile(f"WebGPU section, offset 8: {package} bytes of package and {text} of text in a section of {len(section)}; {REMEDY}")
    return (major, minor), section[_HEADER.size:_HEADER.size + package], section[_HEADER.size + package:]
