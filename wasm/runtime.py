"""The JavaScript runtime as a folder of static files: the modules of js/, without comments and joined (join.py), and the engine's .wasm beside them. What the npm package holds and
`sardonyx bundle` copies."""
from __future__ import annotations

import shutil
import sys
from pathlib import Path

from .join import join, later
from .strip import strip
from .wheel import build_wheel, dependency_wheel, engine_files

JS = Path(__file__).resolve().parent / "js"
#: Templates of the page that `sardonyx bundle` writes.
SITE = Path(__file__).resolve().parent / "site"
#: What a page imports and the sessions' workers are; what it fetches where a session is for the GPU; and the scripts of other workers, which need little of it.
ROOT, GPU, ALONE = "index", "gpu", ("thread", "planner-worker")


def scripts() -> dict[str, str]:
    """The JavaScript that pages load: {file: text}."""
    modules = {path.stem: strip(path.read_text()) for path in sorted(JS.glob("*.js"))}
    whole, inside = join(modules, ROOT)
    playing, beside = join(modules, GPU, outer=ROOT, inside=inside)
    made = {f"{ROOT}.js": whole, f"{GPU}.js": playing, **{f"{name}.js": join(modules, name)[0] for name in ALONE}}
    return made | {f"{name}.js": later(text, ROOT, inside) for name, text in modules.items() if name not in (*inside, *beside, *ALONE)}


def copy_runtime(folder: Path) -> list[Path]:
    """Write what a page loads into `folder`; returns the files. Raises BuildError where the engine's modules are neither here nor can be built."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, text in scripts().items():
        made.append(folder / name)
        made[-1].write_text(text)
    for path in engine_files().values():
        made.append(folder / path.name)
        shutil.copyfile(path, made[-1])
    return made


def build_package(folder: Path) -> None:
    """The npm package: what a page loads, the types, and the converter with its wheels (`npx sardonyx convert`). `npm pack FOLDER` makes the file to publish."""
    copy_runtime(folder)
    for path in sorted(JS.iterdir()):
        if path.suffix == ".mjs":
            (folder / path.name).write_text(strip(path.read_text()))
        elif path.suffix in (".json", ".ts"):
            shutil.copyfile(path, folder / path.name)
    build_wheel(folder / "wheels")
    dependency_wheel(folder / "wheels", "flatbuffers")


if __name__ == "__main__":
    build_package(Path(sys.argv[1] if len(sys.argv) > 1 else "dist/npm"))
