"""A self-hosted Pyodide: its core, numpy and micropip as Pyodide's lock file names and hashes them, our wheel and the one package it needs, and a lock file that lists exactly these.

A page says `loadPyodide({indexURL: "pyodide/"})`, then `loadPackage("sardonyx")`, and asks no other host. Everything copied is checked: what the pinned version consists of against the hashes
below, packages of another version against that version's own lock file.

The lock file is written here, not by pyodide-build (`pyodide lockfile add-wheels`): that command came with a release that needs Python 3.12, while on 3.11 pip finds pyodide-build 0.25.1, which has
no such command and does not start (it imports `wheel.cli`, which wheel no longer has). What it would write is these two entries.
"""
from __future__ import annotations

import hashlib
import json
import urllib.request
import warnings
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument, NoSuchFile, SardonyxError
from .wheel import build_wheel, dependency_wheel

VERSION = "314.0.3"
#: The core of VERSION: file → sha256.
CORE = {
    "pyodide.mjs": "5cfc46f5dcbaf2a16f26e2363f441873eb424762609cc03db00d6a2ace4d00e5",
    "pyodide.asm.mjs": "1a9775427ef6e8abaa7db88ece0515422d1886915ae5c9093776410c865dfd8d",
    "pyodide.asm.wasm": "e7f8fac36f8bf11085309cbc5c829b3ec3057c18bf1d73b05a6741612d63cdbf",
    "python_stdlib.zip": "444c770dfd75a32097fc0a7d5c1413fd3140601f49c3a1f2e9af0376fcd124b4",
    "pyodide-lock.json": "c963d22858f6bcb8f41586a2142f03905ab370c88ea22a86a2736e95fac2a8f3",
}
#: The core of other versions: the first that is there of each row.
PARTS = (("pyodide.mjs",), ("pyodide.asm.mjs", "pyodide.asm.js"), ("pyodide.asm.wasm",), ("python_stdlib.zip",), ("pyodide-lock.json",))
#: Packages of Pyodide's own to take along.
PACKAGES = ("numpy", "micropip")
CDN = "https://cdn.jsdelivr.net/pyodide/v{version}/full/{file}"


def write_pyodide(target: Path, source: Path | None = None) -> str:
    """Write the folder and return Pyodide's version.

    source: a folder with Pyodide's files (the npm package `pyodide`, where numpy's wheel may be missing); without it they are fetched from Pyodide's CDN. Raises NoSuchFile where a file is
    neither there nor can be fetched, InvalidArgument where a file's sha256 is not what it must be.
    """
    version = _version(source) if source is not None else VERSION
    files = {name: _read(name, version, source) for name in _core(source)}
    if version == VERSION:
        for name, data in files.items():
            _check(name, data, CORE[name])
    lock = json.loads(files.pop("pyodide-lock.json"))
    taken = {name: lock["packages"][name] for name in _closure(lock["packages"], PACKAGES)}
    for entry in taken.values():
        files[entry["file_name"]] = _check(entry["file_name"], _read(entry["file_name"], version, source), entry["sha256"])
    target.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (target / name).write_bytes(data)
    (target / "pyodide-lock.json").write_text(json.dumps(lock))  # it starts with this one, to compile our modules
    ours = {"flatbuffers": _entry(dependency_wheel(target, "flatbuffers"), ()), "sardonyx": _entry(_wheel(target), ("flatbuffers", "numpy"))}
    (target / "pyodide-lock.json").write_text(json.dumps({"info": lock["info"], "packages": {**taken, **ours}}, indent=1, sort_keys=True) + "\n")
    return version


def _wheel(target: Path) -> Path:
    """Our wheel, with bytecode for this Pyodide where node can run it."""
    try:
        return build_wheel(target, pyodide=target)
    except SardonyxError as error:
        warnings.warn(f"{error}; the page imports them from their text, which takes longer", stacklevel=3)
        return build_wheel(target)


def _core(source: Path | None) -> list[str]:
    if source is None:
        return list(CORE)
    return [next((name for name in names if (source / name).is_file()), names[0]) for names in PARTS]


def _version(source: Path) -> str:
    """What the folder's package.json says; the lock file names no version a user knows."""
    try:
        return str(json.loads((source / "package.json").read_text())["version"])
    except (OSError, ValueError, KeyError):
        raise NoSuchFile(f"'{source}' is not Pyodide: it has no package.json with a version; give the folder of the npm package (npm pack pyodide@{VERSION})") from None


def _read(name: str, version: str, source: Path | None) -> bytes:
    if source is not None and (source / name).is_file():
        return (source / name).read_bytes()
    url = CDN.format(version=version, file=name)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bytes(answer.read())
    except OSError as error:
        where = f"'{source}' has no {name}, and {url}" if source is not None else url
        raise NoSuchFile(f"{where} can not be fetched ({error}); give a folder with Pyodide's files and that one: --pyodide-from FOLDER") from None


def _check(name: str, data: bytes, wanted: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise InvalidArgument(f"{name} has sha256 {found}, it must be {wanted}: not used; get the file again")
    return data


def _closure(packages: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in packages:
            raise SardonyxError(f"Pyodide's lock file has no package '{name}'; use version {VERSION}")
        if name not in found:
            found[name] = None
            waiting += packages[name]["depends"]
    return sorted(found)


def _entry(wheel: Path, depends: tuple[str, ...]) -> dict[str, Any]:
    """A wheel of this folder as Pyodide's lock file describes packages."""
    name, version = wheel.name.split("-")[:2]
    return {"name": name, "version": version, "file_name": wheel.name, "install_dir": "site", "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), "package_type": "package",
            "imports": [name], "depends": list(depends), "unvendored_tests": False}
