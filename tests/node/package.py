"""The npm package as a program has it, and node."""
from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from sardonyx.wasm.runtime import build_package


def installed(folder: Path, program: str) -> Path:
    """The folder, with the package in node_modules and a module `program.js`."""
    build_package(folder / "node_modules" / "sardonyx")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "program.js").write_text(program)
    return folder


def node(*words: Any, cwd: Path) -> str:
    """What `node words…` prints; it must succeed."""
    done = subprocess.run(["node", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
