"""The wheel for Pyodide, `sardonyx-<version>-py3-none-any.whl`: the installed package as it is, with the engine as WebAssembly in `engine/lib`. Good for every version of Pyodide; for one of them
it may hold bytecode too (bytecode.py).

It is put together from the files of this installation, so that `sardonyx bundle` needs no build tools; the same input gives the same bytes. `python -m sardonyx.wasm.wheel FOLDER` writes it.
"""
from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ..engine.build import TARGETS, find
from .bytecode import bytecode, can_compile

#: Not for the browser: C sources, the command line's parts that need a terminal, native libraries.
LEFT_OUT = ("engine/src/", "engine/lib/", "model/sdx.fbs")
KINDS = (".py", ".html", ".js", ".mjs", ".ts", ".json", ".typed", ".md", ".fbs")
PARTS = ("converter", "webgpu", "wasm", "mobile")


def engine_files() -> dict[str, Path]:
    """File name → path of the engine's four WebAssembly modules; built first in a checkout."""
    return {target.library: find(target) for key, target in TARGETS.items() if key[0] == "wasm"}


def package_files() -> Iterator[tuple[str, Path]]:
    """(place in the package, path) of the files of this installation."""
    roots = {}
    for part in ("", *PARTS):
        spec = find_spec(f"sardonyx.{part}".rstrip("."))
        if spec is not None and spec.origin:
            roots[f"{part}/".lstrip("/")] = Path(spec.origin).resolve().parent
    for prefix, root in roots.items():
        for path in sorted(root.rglob("*")):
            place = prefix + path.relative_to(root).as_posix()
            inside = prefix or place.split("/")[0] not in PARTS  # a part that lies in the package's folder is listed once, under its own root
            if path.is_file() and path.suffix in KINDS and inside and "__pycache__" not in place and "node_modules" not in place and not place.startswith(LEFT_OUT):
                yield place, path


def build_wheel(folder: Path, threads: bool = True, pyodide: Path | None = None) -> Path:
    """Write the wheel into `folder` and return its path. Raises BuildError where the engine's modules are neither here nor can be built.

    pyodide: a folder with a Pyodide; where there is node to run it, its Python's bytecode goes along (1.3 MB more), with which it imports three times as fast.
    """
    try:
        version = importlib.metadata.version("sardonyx")
    except importlib.metadata.PackageNotFoundError:
        version = "0.1.0"
    files = {f"sardonyx/{place}": path.read_bytes() for place, path in package_files()}
    files |= {f"sardonyx/engine/lib/{name}": path.read_bytes() for name, path in engine_files().items() if threads or "threads" not in name}
    if pyodide is not None and can_compile():
        files |= bytecode(files, pyodide)
    info = f"sardonyx-{version}.dist-info"
    files[f"{info}/METADATA"] = (f"Metadata-Version: 2.1\nName: sardonyx\nVersion: {version}\nSummary: An ONNX runtime for the browser and the edge\nLicense: Apache-2.0\n"
                                 "Requires-Python: >=3.11\nRequires-Dist: numpy>=1.26\nRequires-Dist: flatbuffers>=23.5\n").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: sardonyx.wasm.wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return write_wheel(folder / f"sardonyx-{version}-py3-none-any.whl", files, info)


def write_wheel(target: Path, files: dict[str, bytes], info: str) -> Path:
    """A wheel of these files, RECORD added."""
    record = "".join(f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n" for name, data in files.items())
    files = {**files, f"{info}/RECORD": (record + f"{info}/RECORD,,\n").encode()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            wheel.writestr(entry, data)
    return target


def dependency_wheel(folder: Path, name: str) -> Path:
    """A wheel of an installed pure Python package (flatbuffers), for a folder that serves Pyodide without a package index."""
    found = importlib.metadata.distribution(name)
    files = {str(path): Path(str(path.locate())).read_bytes() for path in found.files or [] if path.suffix in (".py", ".typed") or path.name in ("METADATA", "WHEEL")}
    info = next(str(path.parent) for path in found.files or [] if path.name == "METADATA")
    return write_wheel(folder / f"{name}-{found.version}-py3-none-any.whl", files, info)


if __name__ == "__main__":
    print(build_wheel(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
