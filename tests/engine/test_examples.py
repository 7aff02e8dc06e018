"""The C API from C and from ctypes: the examples are built and run on a converted model, without sardonyx's Python."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sardonyx
from onnx import parser
from sardonyx.engine.build import SOURCE, compiler, find, host_target

EXAMPLES = SOURCE.parent / "examples"
MODEL = """<ir_version: 10, opset_import: ["" : 21]> g (float[batch, seq, 6] x, int64[batch] k) => (float[batch, seq, 4] y, int64[n] big) <float[6, 4] w = {%s}> {
    a = MatMul(x, w) y = Tanh(a) b = Greater(k, one) c = NonZero(b) big = Squeeze(c, axis) }"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "m.sdx"
    weights = ", ".join(f"{v:.4g}" for v in np.random.default_rng(1).normal(size=24))
    text = (MODEL % weights).replace("{\n    a =", "<int64 one = {1}, int64[1] axis = {0}> {\n    a =", 1).replace("}> <int64", "}, int64", 1)
    sardonyx.convert(parser.parse_model(text).SerializeToString(), path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bin") / "run"
    library = find()
    command = [*compiler(), "-target", host_target().triple, "-std=c17", "-Wall", "-Wextra", "-Werror", "-I", str(SOURCE), str(EXAMPLES / "run.c"), str(library), "-Wl,-rpath," + str(library.parent),
               "-o", str(made)]
    cache = str(library.parents[1] / "zig")
    subprocess.run(command, check=True, timeout=900, env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache})
    return made


def parsed(text: str) -> dict[str, tuple[list[int], list[float]]]:
    """Lines `name [dims] values`."""
    rows = [re.fullmatch(r"(\w+) \[([^\]]*)\]\s*(.*)", line) for line in text.strip().splitlines()]
    return {m[1]: ([int(d) for d in m[2].split(",") if d.strip()], [float(v) for v in m[3].split()]) for m in rows if m is not None}


def test_from_c(program: Path, model: Path) -> None:
    done = subprocess.run([str(program), str(model), "batch=3", "seq=2"], capture_output=True, text=True, timeout=300, env={})
    assert done.returncode == 0, done.stderr
    feed = {"x": (np.arange(36) % 7 / 7).astype("f4").reshape(3, 2, 6), "k": np.arange(3)}
    wanted = sardonyx.InferenceSession(str(model)).run(None, feed)
    found = parsed(done.stdout)
    for name, want in zip(("y", "big"), wanted, strict=True):
        assert found[name][0] == list(want.shape)
        np.testing.assert_allclose(found[name][1], want.ravel(), rtol=1e-6)


def test_from_ctypes(model: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(EXAMPLES / "run-ctypes"), str(find()), str(model)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    wanted = sardonyx.InferenceSession(str(model)).run(None, {"x": np.ones((1, 1, 6), "f4"), "k": np.ones(1, np.int64)})
    np.testing.assert_allclose(parsed(done.stdout)["y"][1], wanted[0].ravel(), rtol=1e-6)


def test_what_c_refuses(program: Path, model: Path, tmp_path: Path) -> None:
    """Files without programs, of another ABI and damaged ones: an error with the command that fixes it."""
    data = model.read_bytes()
    at = int.from_bytes(data[32:40], "little")
    cases = {"other ABI": (data[:at + 4] + b"\x63" + data[at + 5:], "ABI 99.*sardonyx convert"), "no model": (b"hello" * 100, "not a .sdx file"), "cut": (data[:at + 100], "damaged"),
             "none": (data[:40] + bytes(8) + data[48:], "holds no programs.*sardonyx convert"), "damaged": (data[:at + 16] + bytes(64) + data[at + 80:], "magic")}
    for name, (raw, match) in cases.items():
        path = tmp_path / "bad.sdx"
        path.write_bytes(raw)
        done = subprocess.run([str(program), str(path)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 1 and re.search(match, done.stderr), (name, done.stderr)
