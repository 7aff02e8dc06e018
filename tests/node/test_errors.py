"""The errors a program can catch: every class is exported and typed; bytes that are not a whole file are told apart from a download."""
from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from sardonyx import wasm

from .package import installed, node

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
JS = Path(str(wasm.__file__)).parent / "js"
PROGRAM = """
import * as ort from "sardonyx";
const errors = Object.keys(ort).filter((name) => ort[name] === ort.SardonyxError || ort[name]?.prototype instanceof ort.SardonyxError);
const empty = await ort.InferenceSession.create(new ArrayBuffer(0)).then(() => ["opened"], (error) => [error.name, error.message]);
console.log(JSON.stringify({ errors, empty }));
process.exit(0);
"""


def test_every_class_is_exported_and_typed(tmp_path: Path) -> None:
    said = json.loads(node("program.js", cwd=installed(tmp_path, PROGRAM)))
    thrown = set(re.findall(r"^export (?:class (\w+)|const (\w+) = define\()", (JS / "errors.js").read_text(), re.MULTILINE))
    names = {one or other for one, other in thrown}
    assert len(names) > 15
    assert names == set(said["errors"])
    assert names <= set(re.findall(r"^export class (\w+)", (JS / "index.d.ts").read_text(), re.MULTILINE))
    name, message = said["empty"]
    assert name in ("NetworkError", "InvalidModelFile")
    assert "server" not in message
