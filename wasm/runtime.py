"""The JavaScript runtime as a folder of static files: the modules of js/ and the engine's .wasm beside them. What the npm package holds and `sardonyx bundle` copies."""
from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from .strip import strip
from .wheel import build_wheel, dependency_wheel, engine_files

JS = Path(__file__).resolve().parent / "js"
#: Templates of the page that `sardonyx bundle` writes.
SITE = Path(__file__).resolve().parent / "site"


def copy_runtime(folder: Path) -> list[Path]:
    """Copy what a page loads into `folder`; returns the files. Raises BuildError where the engine's modules are neither here nor can be built."""
    return _copy(folder, lambda p: p.suffix == ".js")


def build_package(folder: Path) -> None:
    """The npm package: what a page loads, the types, and the converter with its wheels (`npx sardonyx convert`). `npm pack FOLDER` makes the file to publish."""
    _copy(folder, lambda p: p.suffix in (".js", ".mjs", ".json", ".ts"))
    build_wheel(folder / "wheels")
    dependency_wheel(folder / "wheels", "flatbuffers")


def _copy(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for path in [*filter(wanted, sorted(JS.iterdir())), *engine_files().values()]:
        made.append(folder / path.name)
        if path.suffix in (".js", ".mjs"):
            made[-1].write_text(strip(path.read_text()))
        else:
            shutil.copyfile(path, made[-1])
    return made


if __name__ == "__main__":
    build_package(Path(sys.argv[1] if len(sys.argv) > 1 else "dist/npm"))
