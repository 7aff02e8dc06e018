"""Our modules compiled by the Python of a Pyodide: importing them from their text takes most of the time until a first model is planned in a page (0.3 of 0.6 s).

Bytecode is good for one version of Python only, so only that Python can make it, under node. A wheel holds it beside the text (`__pycache__`); other versions import the text.
"""
from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from ..errors import SardonyxError

#: Folders of what pages import; the command line and what is for devices a page has not stay text, and so do operators that few models have.
COMPILED = ("sardonyx/", "sardonyx/api/", "sardonyx/converter/", "sardonyx/converter/onnx/", "sardonyx/converter/passes/", "sardonyx/converter/upgrade/", "sardonyx/engine/", "sardonyx/model/",
            "sardonyx/ops/", "sardonyx/plan/", "sardonyx/providers/", "sardonyx/wasm/")
SELDOM = ("sardonyx/ops/contrib_", "sardonyx/ops/ml_", "sardonyx/ops/training", "sardonyx/ops/loss", "sardonyx/ops/generate_index")
_MADE: dict[bytes, dict[str, bytes]] = {}  # in this process, by what it was made of
_NODE = """
import { readFileSync, writeFileSync } from "node:fs";
const [home, archive, made] = process.argv.slice(2);
const { loadPyodide } = await import(new URL("pyodide.mjs", home));
const python = await loadPyodide({ indexURL: (await import("node:url")).fileURLToPath(home) });
python.FS.writeFile("/text.zip", new Uint8Array(readFileSync(archive)));
python.runPython(readFileSync(new URL("compile.py", import.meta.url), "utf8"));
writeFileSync(made, python.FS.readFile("/code.zip"));
"""
_PYTHON = """
import importlib.util, os, py_compile, zipfile
with zipfile.ZipFile("/text.zip") as text, zipfile.ZipFile("/code.zip", "w") as code:
    text.extractall("/text")
    for name in text.namelist():
        py_compile.compile("/text/" + name, "/one.pyc", dfile=name, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        with open("/one.pyc", "rb") as made:
            code.writestr(importlib.util.cache_from_source(name), made.read())
"""


def can_compile() -> bool:
    """Whether there is what it takes: node."""
    return shutil.which("node") is not None


def bytecode(files: dict[str, bytes], pyodide: Path) -> dict[str, bytes]:
    """{place of a .pyc: its bytes} for those .py of `files` that pages import. pyodide: a folder with its core. Raises SardonyxError where that Pyodide does not start under node."""
    texts = {name: data for name, data in files.items() if name.endswith(".py") and f"{name.rpartition('/')[0]}/" in COMPILED and not name.startswith(SELDOM)}
    key = hashlib.sha256(b"".join(name.encode() + b"\0" + data for name, data in texts.items()) + (pyodide / "pyodide.asm.wasm").read_bytes()).digest()
    if key not in _MADE:
        _MADE[key] = _compiled(texts, pyodide)
    return _MADE[key]


def _compiled(texts: dict[str, bytes], pyodide: Path) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "compile.mjs").write_text(_NODE)
        (folder / "compile.py").write_text(_PYTHON)
        with zipfile.ZipFile(folder / "text.zip", "w") as text:
            for name, data in texts.items():
                text.writestr(name, data)
        done = subprocess.run(["node", "compile.mjs", f"{pyodide.resolve().as_uri()}/", str(folder / "text.zip"), str(folder / "code.zip")], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SardonyxError(f"Pyodide in '{pyodide}' does not compile our modules under node: {done.stderr.strip().splitlines()[-1:] or 'no reason given'}")
        with zipfile.ZipFile(io.BytesIO((folder / "code.zip").read_bytes())) as code:
            return {name: code.read(name) for name in code.namelist()}
