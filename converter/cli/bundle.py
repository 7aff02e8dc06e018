"""`sardonyx bundle`: a folder that any static host can serve: page, runtime, model, the headers that give pages threads, and a service worker for hosts that can not send headers."""
from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import sardonyx
import typer
from sardonyx.api.loading import read
from sardonyx.errors import InvalidArgument, NoSuchFile
from sardonyx.wasm import pyodide as self_hosted
from sardonyx.wasm import runtime

from . import show
from .inputs import is_sdx_file
from .serve import ISOLATION

EPILOG = """\b
The folder holds index.html (loads and runs the model), app.js, model.sdx, sardonyx/ (the runtime), sw.js (a service
worker: headers and offline use), and the headers for Netlify and Cloudflare Pages (_headers), Vercel (vercel.json) and
Apache (.htaccess).

\b
Examples:
  sardonyx bundle model.onnx -o site
  sardonyx serve site
  sardonyx bundle model.onnx -o site --pyodide       and Python in the page: site/pyodide/"""
#: Scripts that a page does not load by itself: a worker does, or they are for rare cases.
LATER = ("thread.js", "planner.js", "planner-worker.js", "pyodide.js", "gpu.js", "image.js")
SNIPPET = """<script type="module">
  import * as ort from "./sardonyx/index.js";
  const session = await ort.InferenceSession.create("model.sdx");
  const feeds = {{ {feeds} }};
  const {{ {output} }} = await session.run(feeds);
</script>"""


def bundle(
    model: Annotated[Path, typer.Argument(help="The model: .onnx or .sdx.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it may exist.")] = Path("site"),
    title: Annotated[str, typer.Option(help="The page's title; default: the file's name.")] = "",
    webgpu: Annotated[bool, typer.Option("--webgpu", help="Run on the visitor's GPU where there is one (and on the CPU where not): adds shaders, 0.1 to 0.4 MB.")] = False,
    pyodide: Annotated[bool, typer.Option("--pyodide", help=f"Add Python for pages: Pyodide {self_hosted.VERSION} with numpy and sardonyx, from Pyodide's CDN, checked.")] = False,
    pyodide_from: Annotated[Path | None, typer.Option("--pyodide-from", metavar="FOLDER", help="The same from a folder with Pyodide's files: nothing is fetched that is there.")] = None,
) -> None:
    """Make a static site that runs a model."""
    if not model.is_file():
        raise NoSuchFile(f"'{model}' does not exist")
    if output.exists() and not output.is_dir():
        raise InvalidArgument(f"'{output}' is a file; give a folder with -o")
    python = pyodide or pyodide_from is not None
    with TemporaryDirectory(prefix=".bundle-", dir=next(place for place in (output, *output.absolute().parents) if place.is_dir())) as work:
        made = Path(work) / "site"  # moved when all of it is there: what fails leaves nothing behind
        if python:  # first: what can not be fetched fails before anything is converted
            version = self_hosted.write_pyodide(made / "pyodide", pyodide_from)
            show.note(f"pyodide/: Pyodide {version} (MPL-2.0) with numpy and sardonyx; loadPyodide({{indexURL: 'pyodide/'}}), then loadPackage('sardonyx')")
        made.mkdir(exist_ok=True)
        target = made / "model.sdx"
        if is_sdx_file(model):
            shutil.copyfile(model, target)
        else:
            sardonyx.convert(model, target, plan=[{}], webgpu=webgpu)  # programs, whatever they add: pages run nothing else
        scripts = [path for path in runtime.copy_runtime(made / "sardonyx") if path.suffix == ".js"]
        write_pages(made, title or model.stem, target, scripts, python, webgpu)
        write_headers(made)
        for path in [path for path in made.rglob("*") if path.is_file()]:
            (output / path.relative_to(made)).parent.mkdir(parents=True, exist_ok=True)
            path.replace(output / path.relative_to(made))
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}  {size / 1e6:.1f} MB; look at it: sardonyx serve {output}")


def write_pages(output: Path, title: str, model: Path, scripts: list[Path], python: bool, webgpu: bool) -> None:
    """index.html with preloads and the snippet for this model, app.js and sw.js."""
    graph = read(str(model)).graph
    feeds = ", ".join(f"{json.dumps(v.name)}: new ort.Tensor(…)" for v in graph.inputs if v.const is None)
    names = [v.name for v in graph.outputs]
    snippet = SNIPPET.format(feeds=feeds, output=", ".join(n if n.isidentifier() else f"{json.dumps(n)}: y{i}" for i, n in enumerate(names)))
    preload = "\n".join(f'<link rel="modulepreload" href="sardonyx/{path.name}">' for path in scripts if path.name not in LATER)
    preload += '\n<link rel="preload" href="model.sdx" as="fetch" crossorigin>'
    values = {"title": html.escape(title), "preload": preload, "snippet": html.escape(snippet), "version": str(model.stat().st_mtime_ns),
              "pyodide": "pyodide/" if python else "", "webgpu": "webgpu" if webgpu else ""}
    for path in sorted(runtime.SITE.iterdir()):
        text = path.read_text()
        for name, value in values.items():
            text = text.replace("{{" + name + "}}", value)
        (output / path.name).write_text(text)


def write_headers(output: Path) -> None:
    """The isolation headers, as the common static hosts take them."""
    (output / "_headers").write_text("/*\n" + "".join(f"  {name}: {value}\n" for name, value in ISOLATION.items()))
    rows = [{"key": name, "value": value} for name, value in ISOLATION.items()]
    (output / "vercel.json").write_text(json.dumps({"headers": [{"source": "/(.*)", "headers": rows}]}, indent=2) + "\n")
    apache = "AddType application/wasm .wasm\n<IfModule mod_headers.c>\n" + "".join(f'  Header set {name} "{value}"\n' for name, value in ISOLATION.items()) + "</IfModule>\n"
    (output / ".htaccess").write_text(apache)
    show.note("headers: _headers (Netlify, Cloudflare Pages), vercel.json, .htaccess; elsewhere the service worker adds them")
