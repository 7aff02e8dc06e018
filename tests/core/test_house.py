"""The rules of the house that a machine can check: floors, packages, generated files, what the run time imports."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Folder or module → floor (CONTRIBUTING.md, "Floors"). The longest match counts.
FLOORS = {
    "converter/cli": 8, "core/genai": 7, "core/api": 6, "core/__init__": 6, "converter": 5, "core/providers": 5, "webgpu": 5, "mobile": 5, "wasm": 5, "core/plan": 4, "core/model": 4,
    "core/engine": 4, "core/philox": 1, "core/narrow": 1, "core/dtypes": 2, "core/ops": 3, "core/program": 3, "core/package": 3, "core/lowering": 2, "core/kernels": 2, "core/expr": 1, "core/graph": 1,
    "core/types": 1, "core/dim": 1, "core/errors": 1,
}


def floor(path: str) -> int:
    """The floor of a repository path."""
    found = [k for k in FLOORS if path == k or path.startswith((k + "/", k + "."))]
    assert found, f"{path} has no floor: add it to FLOORS and to CONTRIBUTING.md"
    return FLOORS[max(found, key=len)]


def sources() -> list[Path]:
    """The package's Python files."""
    return [p for folder in ("core", "converter", "webgpu", "wasm", "mobile") for p in sorted((ROOT / folder).rglob("*.py"))]


def module_path(name: str) -> str:
    """`sardonyx.plan.shapes` → `core/plan/shapes`."""
    parts = name.split(".")[1:]
    if parts and parts[0] in ("converter", "webgpu", "wasm", "mobile"):
        return "/".join(parts)
    return "/".join(["core", *parts]) if parts else "core/__init__"


def imported(path: Path) -> list[str]:
    """Names of the sardonyx modules a file imports, anywhere in it (a lazy import counts)."""
    relative = path.relative_to(ROOT).with_suffix("")
    parts = list(relative.parts)
    package = ["sardonyx", *(parts[1:-1] if parts[0] == "core" else parts[:-1])]
    out = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            out += [a.name for a in node.names if a.name.split(".")[0] == "sardonyx"]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[:len(package) - node.level + 1]] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name.split(".")[0] == "sardonyx":
                out += [f"{name}.{a.name}" if not node.module or name == "sardonyx" or (ROOT / module_path(name)).is_dir() else name for a in node.names]
    return out


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down_the_floors(path: Path) -> None:
    here = floor(str(path.relative_to(ROOT).with_suffix("")))
    for name in imported(path):
        target = module_path(name)
        while not (ROOT / target).is_dir() and not (ROOT / f"{target}.py").exists():
            target = target.rpartition("/")[0]
        if target == "core":  # a name of the package itself
            target = "core/__init__"
        assert floor(target) <= here, f"{path.relative_to(ROOT)} (floor {here}) imports {name} (floor {floor(target)})"


def test_packages_are_the_folders() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {p.parent for p in sources() if p.name == "__init__.py"}
    named = {"sardonyx" + "".join("." + part for part in (p.relative_to(ROOT).parts[1:] if p.relative_to(ROOT).parts[0] == "core" else p.relative_to(ROOT).parts)) for p in folders}
    assert set(config["packages"]) == named
    assert {p.parent for p in sources()} == folders, "a folder with modules has no __init__.py"


def test_operator_index_is_current() -> None:
    from sardonyx.ops.generate_index import generate
    assert (ROOT / "core/ops/index.py").read_text() == generate(ROOT / "core/ops"), "run `make generate`"
    from sardonyx.dtypes import document
    assert (ROOT / "core/DTYPES.md").read_text() == document(), "run `make generate`"


def test_files_hold_one_idea() -> None:
    long = {str(p.relative_to(ROOT)): n for p in sources() if "generated" not in p.name and (n := len(p.read_text().splitlines())) > 600}
    assert not long


def test_run_time_needs_numpy_and_flatbuffers_only() -> None:
    """Opening and running a model imports no third-party package but these two (checked in a fresh process that forbids the rest)."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'onnx', 'google', 'ml_dtypes', 'typer', 'rich', 'onnxruntime', 'scipy', 'PIL', 'wgpu'}:
            raise ImportError(f'{name} must not be imported at run time')
sys.meta_path.insert(0, Refuse())
import sardonyx, numpy as np
model = bytes.fromhex(sys.argv[1])
session = sardonyx.InferenceSession(model, providers=['ReferenceExecutionProvider'])
print(session.run(None, {'x': np.array([-1.0, 2.0], np.float32)})[0].tolist())
"""
    from onnx import TensorProto, helper
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, data.hex()], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[0.0, 2.0]", done.stderr


def test_kernel_kinds_are_few() -> None:
    from sardonyx.kernels import LIMIT, Kernel
    assert len(Kernel) <= LIMIT


def test_version_is_said_once() -> None:
    import sardonyx
    assert re.fullmatch(r"\d+\.\d+\.\d+", sardonyx.__version__)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == sardonyx.__version__
