"""External tensor data: where a tensor's bytes lie beside the model, checked and mapped.

A location is a path relative to the model's folder. Absolute paths, `..` and symbolic links that leave the folder are refused, because a model is data
from strangers and must not read other files. Where the model file is itself a link (the Hugging Face cache), the folder it points into counts too.
"""
from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from sardonyx.errors import InvalidArgument, InvalidGraph, NoSuchFile


def map_file(path: str) -> memoryview:
    """The bytes of a file, mapped where the system can and read otherwise; empty files are empty."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # file systems without mmap (some of Pyodide's)
            return memoryview(file.read())


class ExternalData:
    """The external files of one model; each is mapped once."""

    def __init__(self, model_path: str = "", base_dir: str | None = None) -> None:
        self.base = base_dir if base_dir is not None else os.path.dirname(os.path.abspath(model_path)) if model_path else None
        self.roots = [] if self.base is None else [os.path.realpath(self.base)]
        if model_path and base_dir is None:
            self.roots.append(os.path.dirname(os.path.realpath(model_path)))
        self._maps: dict[str, memoryview] = {}

    def bytes_of(self, tensor: str, entries: Mapping[str, str], size: int) -> memoryview:
        """The `size` bytes the entries (location, offset, length) of the tensor called `tensor` point at."""
        location = entries.get("location", "")
        offset, length = self._number(tensor, entries, "offset", 0), self._number(tensor, entries, "length", size)
        if length != size:
            raise InvalidGraph(f"tensor '{tensor}': its external data has {length} bytes, but its type and shape need {size}")
        data = self._file(tensor, location)
        if offset + size > len(data):
            raise InvalidGraph(f"tensor '{tensor}': its external data is bytes {offset} to {offset + size} of '{location}', which has only {len(data)} bytes; "
                               "the file is truncated or is not this model's")
        return data[offset:offset + size]

    def _number(self, tensor: str, entries: Mapping[str, str], key: str, default: int) -> int:
        text = entries.get(key)
        if text is None or text == "":
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InvalidGraph(f"tensor '{tensor}': external data has {key} '{text[:40]}', which must be a number of bytes")
        return int(text)

    def _file(self, tensor: str, location: str) -> memoryview:
        if self.base is None:
            raise InvalidArgument(f"tensor '{tensor}' lies in the external file '{location}', and a model given as bytes has no folder; "
                                  "pass base_dir=<folder of the data>, or the model's path")
        if location not in self._maps:
            self._maps[location] = map_file(self._path(tensor, location))
        return self._maps[location]

    def _path(self, tensor: str, location: str) -> str:
        """The real path of a location, refused where it leaves the model's folder."""
        assert self.base is not None
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        if not location or "\0" in location or posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
            raise InvalidGraph(f"tensor '{tensor}': external data location '{location}' is refused; it must be a path inside the model's folder, relative and without '..'")
        path = os.path.join(self.base, location)
        real = os.path.realpath(path)
        if not any(os.path.commonpath([root, real]) == root for root in self.roots if _same_drive(root, real)):
            raise InvalidGraph(f"tensor '{tensor}': external data location '{location}' leads out of the model's folder '{self.base}' and is refused; copy the file there")
        if not os.path.isfile(real):
            raise NoSuchFile(f"tensor '{tensor}': its external data file '{path}' does not exist; put '{location}' beside the model, or pass base_dir=<folder of the data>")
        return real


def _same_drive(a: Any, b: Any) -> bool:
    return os.path.splitdrive(a)[0].lower() == os.path.splitdrive(b)[0].lower()
