"""The JavaScript runtime as a folder of static files: the modules of js/ and the engine's .wasm beside them. What the npm package holds and `sardonyx bundle` copies."""
from __future__ import annotations

import shutil
from pathlib import Path

from .wheel import engine_files

JS = Path(__file__).resolve().parent / "js"
#: Templates of the page that `sardonyx bundle` writes.
SITE = Path(__file__).resolve().parent / "site"


def copy_runtime(folder: Path, *, types: bool = True) -> list[Path]:
    """Copy the runtime into `folder`; returns the files. Raises BuildError where the engine's modules are neither here nor can be built."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [p for p in sorted(JS.iterdir()) if p.suffix in (".js", ".mjs", ".json", ".md") or (types and p.name.endswith(".d.ts"))]
    made = []
    for path in [*wanted, *engine_files().values()]:
        made.append(folder / path.name)
        shutil.copyfile(path, made[-1])
    return made
