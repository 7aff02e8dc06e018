"""Sizes of files, times to convert, open and import: what the ground floor promises."""
from __future__ import annotations

import functools
from pathlib import Path

from tests.models import generated
from tests.models.registry import MODELS, fetch, light_models

from .measure import FOLDER, Row, fresh, interleaved

OPENED = ("magika", "ocr-det", "ocr-rec", "centerface", "mobilenet-v2", "resnet50")
ROUNDS = 5

#: Opens each file (arguments) three times on RUNTIME, after one session on the first of them has loaded the runtime's own code. → {file: ms, "cold": ms}
OPEN = """
import json, sys, time
start = time.perf_counter()
import RUNTIME as runtime
runtime.set_default_logger_severity(4)
def once(path):
    begin = time.perf_counter()
    session = runtime.InferenceSession(path)
    return 1e3 * (time.perf_counter() - begin)
once(sys.argv[1])
cold = 1e3 * (time.perf_counter() - start)
print(json.dumps({path: sorted(once(path) for _ in range(3))[1] for path in sys.argv[1:]} | {"cold": cold}))
"""

#: Opens argument 2 once, after argument 1 (a small model) has loaded the code. → {"ms", "mb": resident memory it added}
OPEN_ONCE = """
import json, sys, time
import sardonyx
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
small = sardonyx.InferenceSession(sys.argv[1])
before, begin = resident(), time.perf_counter()
session = sardonyx.InferenceSession(sys.argv[2])
seconds = time.perf_counter() - begin
print(json.dumps({"ms": 1e3 * seconds, "mb": resident() - before}))
"""

CONVERT = """
import json, sys, time
import sardonyx
begin = time.perf_counter()
sardonyx.convert(sys.argv[1], sys.argv[2])
print(json.dumps({"s": time.perf_counter() - begin}))
"""

IMPORT = "import json, time; begin = time.perf_counter(); {}; print(json.dumps({{'ms': 1e3 * (time.perf_counter() - begin)}}))"


def model(name: str) -> Path:
    """A model file: of the registry, of the onnx package, or generated once with seeded random weights."""
    if name in MODELS:
        return fetch(name)
    if name.startswith("light_"):
        return light_models()[name]
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        {"mobilenet-v2": generated.mobilenet_v2, "resnet50": generated.resnet50}[name](path)
    return path


def converted(name: str) -> Path:
    """The model as `.sdx`, converted now by all passes."""
    import sardonyx
    target = FOLDER / f"{name}.sdx"
    target.parent.mkdir(parents=True, exist_ok=True)
    sardonyx.convert(model(name), target)
    return target


def sizes() -> list[Row]:
    """Each `.sdx` beside its `.onnx`."""
    rows = []
    for name in [*(n for n, s in MODELS.items() if s.file.endswith(".onnx")), *light_models(), "resnet50"]:
        source, target = model(name).stat().st_size, converted(name).stat().st_size
        rows.append(Row(f"size of {name}.sdx", target / 1024, "KB", 1.01 * source / 1024 + 64, source / 1024, ".onnx"))
    return rows


def opening_onnx() -> list[Row]:
    """Session creation from `.onnx`, each runtime in fresh processes."""
    paths = [str(model(name)) for name in OPENED]
    peers = {runtime: functools.partial(fresh, OPEN.replace("RUNTIME", runtime), *paths) for runtime in ("sardonyx", "onnxruntime")}
    found = interleaved(peers, ROUNDS)
    ours, theirs = found["sardonyx"], found["onnxruntime"]
    rows = [Row(f"open {name}.onnx", ours[path], "ms", 1.0, theirs[path], "onnxruntime", True) for name, path in zip(OPENED, paths, strict=True)]
    return [*rows, Row("import and open magika.onnx in a fresh process", ours["cold"], "ms", None, theirs["cold"], "onnxruntime")]


def resnet() -> list[Row]:
    """Conversion of ResNet-50 (102 MB), and opening the result."""
    source, target = model("resnet50"), FOLDER / "resnet50.sdx"
    small = converted("surfaces-k-neighbors")
    found = interleaved({"convert": lambda: fresh(CONVERT, str(source), str(target)), "open": lambda: fresh(OPEN_ONCE, str(small), str(target))}, 3)
    return [Row("convert resnet50 (102 MB)", found["convert"]["s"], "s", 5.0), Row("open resnet50.sdx", found["open"]["ms"], "ms", 20.0),
            Row("resident memory of the open resnet50.sdx", found["open"]["mb"], "MB", 10.0)]


def importing() -> list[Row]:
    """`import sardonyx` beside `import numpy`, which it needs."""
    statements = {"numpy": "import numpy", "sardonyx": "import sardonyx", "session": "import sardonyx; sardonyx.InferenceSession", "onnxruntime": "import onnxruntime"}
    found = interleaved({name: functools.partial(fresh, IMPORT.format(statement)) for name, statement in statements.items()}, 9)
    numpy = found["numpy"]["ms"]
    return [Row("import sardonyx", found["sardonyx"]["ms"], "ms", 1.5, numpy, "import numpy", True),
            Row("import sardonyx and resolve InferenceSession", found["session"]["ms"], "ms", 1.5, numpy, "import numpy", True, "loads NumPy too"),
            Row("import onnxruntime, for comparison", found["onnxruntime"]["ms"], "ms", None, numpy, "import numpy")]


def run() -> list[Row]:
    """All of it."""
    return [*importing(), *opening_onnx(), *resnet(), *sizes()]
