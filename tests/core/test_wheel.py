"""A built wheel holds everything: it is unpacked into an empty folder and a model is converted and run from there."""
from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import io, sys
assert all('/work' not in p or 'site-packages' in p for p in sys.path[:1]), sys.path
import sardonyx
assert sardonyx.__file__.startswith(sys.argv[1]), sardonyx.__file__
assert sardonyx.get_available_providers()[-1] == 'CPUExecutionProvider', 'the wheel has no engine'
from onnx import TensorProto, helper
import numpy as np
graph = helper.make_graph([helper.make_node('Exp', ['x'], ['y'])], 'g', [helper.make_tensor_value_info('x', TensorProto.FLOAT, ['n'])], [helper.make_tensor_value_info('y', TensorProto.FLOAT, ['n'])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
target = io.BytesIO()
sardonyx.convert(model.SerializeToString(), target)
session = sardonyx.InferenceSession(target.getvalue())
print(session.run(None, {'x': np.zeros(3, np.float32)})[0].tolist(), {row.provider for row in session.explain()})
"""


def test_wheel_is_complete(tmp_path: Path) -> None:
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would take over files of an earlier build
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)], capture_output=True, text=True)
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    wheels = list(tmp_path.glob("sardonyx-*-py3-none-*linux*.whl"))
    assert wheels, done.stderr
    folder = tmp_path / "site"
    with zipfile.ZipFile(wheels[0]) as archive:
        names = set(archive.namelist())
        archive.extractall(folder)
    expected = {f"sardonyx/{p.relative_to(ROOT / 'core')}" for p in (ROOT / "core").rglob("*.py")} | {f"sardonyx/{p.relative_to(ROOT)}" for p in (ROOT / "converter").rglob("*.py")}
    assert expected <= names, sorted(expected - names)
    assert {"sardonyx/py.typed", "sardonyx/model/sdx.fbs", "sardonyx/engine/src/sardonyx.h"} <= names
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder)], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(folder), "PATH": "/usr/bin"})
    assert run.stdout.strip() == "[1.0, 1.0, 1.0] {'CPUExecutionProvider'}", run.stdout + run.stderr
