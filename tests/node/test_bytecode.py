"""The wheel with bytecode: Pyodide's Python imports it without compiling anything, from the files it lists; a Pyodide that does not start is told about and costs the bytecode only."""
from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from sardonyx.errors import SardonyxError
from sardonyx.wasm import bytecode
from sardonyx.wasm.wheel import build_wheel, dependency_wheel

from tests.browser.packages import pyodide

from .package import node

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
PROGRAM = """
import { readFileSync } from "node:fs";
const [home, ...wheels] = process.argv.slice(2);
const { loadPyodide } = await import("file://" + home + "/pyodide.mjs");
const python = await loadPyodide({ indexURL: home + "/" });
await python.loadPackage("numpy", { messageCallback: () => {} });
for (const wheel of wheels) python.unpackArchive(new Uint8Array(readFileSync(wheel)), "wheel");
console.log(python.runPython(`
import importlib._bootstrap_external as machinery, json, sys
compiled, original = [], machinery.SourceLoader.source_to_code
def noted(self, data, path, *rest, **more):
    compiled.append(path)
    return original(self, data, path, *rest, **more)
machinery.SourceLoader.source_to_code = noted
import sardonyx
from sardonyx.plan import planner
from sardonyx.ops import conv
from sardonyx.converter import pipeline
json.dumps([[path for path in compiled if "sardonyx" in path], conv.Conv.__doc__ or "", conv.__file__, sum(name.startswith("sardonyx.") for name in sys.modules)])
`));
"""


def test_nothing_is_compiled(tmp_path: Path) -> None:
    wheel, plain = build_wheel(tmp_path, pyodide=pyodide()), build_wheel(tmp_path / "plain")
    again = build_wheel(tmp_path / "again", pyodide=pyodide())
    assert again.read_bytes() == wheel.read_bytes(), "the same input gives the same bytes"
    names, before = set(zipfile.ZipFile(wheel).namelist()), set(zipfile.ZipFile(plain).namelist())
    added = names - before
    assert before < names and len(added) > 100 and all(name.endswith(".cpython-314.pyc") for name in added)
    assert all(name.replace("__pycache__/", "").replace(".cpython-314.pyc", ".py") in before for name in added)
    assert wheel.stat().st_size < plain.stat().st_size + 1_500_000
    (tmp_path / "program.mjs").write_text(PROGRAM)
    found = json.loads(node("program.mjs", pyodide(), wheel, dependency_wheel(tmp_path, "flatbuffers"), cwd=tmp_path))
    assert found[0] == [] and found[2].endswith("/sardonyx/ops/conv.py") and found[3] > 40


def test_a_pyodide_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "pyodide.mjs").write_text("export const loadPyodide = () => { throw new Error('out of order'); };")
    (tmp_path / "pyodide.asm.wasm").write_bytes(b"")
    with pytest.raises(SardonyxError, match="does not compile our modules under node"):
        bytecode.bytecode({"sardonyx/graph.py": b"x = 1\n"}, tmp_path)
