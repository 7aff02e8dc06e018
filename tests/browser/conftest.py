"""Chromium (Debian's), pages on loopback with and without cross-origin isolation, the runtime and the wheel as users get them."""
from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sardonyx as ort
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import Browser, BrowserContext, expect
from sardonyx.converter.cli.serve import ISOLATION, Server
from sardonyx.wasm.runtime import copy_runtime
from sardonyx.wasm.wheel import build_wheel, dependency_wheel

from tests.browser.faults import FaultyServer
from tests.browser.packages import NPM, OLD, pyodide
from tests.browser.webgpu import keep  # noqa: F401  (a fixture)
from tests.models import generated
from tests.models.registry import CACHE
from tests.patience import SECONDS

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
             "--enable-unsafe-webgpu",  # navigator.gpu on SwiftShader
             "--js-flags=--expose-gc"]
PAGES = Path(__file__).parent / "pages"


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """pytest-playwright's hook: the browser that apt installed."""
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": ARGUMENTS}


def patient(context: BrowserContext) -> BrowserContext:
    """Every wait on its pages takes as long as it takes on a busy machine."""
    context.set_default_timeout(SECONDS * 1e3)
    context.set_default_navigation_timeout(SECONDS * 1e3)
    return context


@pytest.fixture(scope="session")
def browser(browser: Browser) -> Browser:
    """pytest-playwright's, patient in all that it opens; and so are expectations."""
    expect.set_options(timeout=SECONDS * 1e3)
    browser.on("context", lambda context: patient(context) and None)
    return browser


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JavaScript runtime as the npm package holds it."""
    folder = tmp_path_factory.mktemp("runtime")
    copy_runtime(folder)
    return folder


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel for Pyodide and the one dependency that Pyodide does not carry."""
    folder = tmp_path_factory.mktemp("wheels")
    build_wheel(folder)
    dependency_wheel(folder, "flatbuffers")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for model files of the tests."""
    return tmp_path_factory.mktemp("models")


def mounts(runtime: Path, wheels: Path, models: Path) -> dict[str, Path]:
    """What the test servers serve."""
    return {"/": PAGES, "/sardonyx/": runtime, "/wheels/": wheels, "/models/": models, "/pyodide/": pyodide(), "/pyodide-old/": pyodide(OLD), "/npm/": NPM, "/cache/": CACHE / "models"}


@pytest.fixture(scope="session")
def isolated(runtime: Path, wheels: Path, models: Path) -> Iterator[str]:
    """Address of a server that sends COOP and COEP."""
    with Server(mounts(runtime, wheels, models), headers=ISOLATION) as server:
        yield server.address


@pytest.fixture(scope="session")
def plain(runtime: Path, wheels: Path, models: Path) -> Iterator[str]:
    """Address of a server that does not: how most hosts are."""
    with Server(mounts(runtime, wheels, models), headers={}) as server:
        yield server.address


@pytest.fixture(params=["isolated", "plain"])
def address(request: pytest.FixtureRequest) -> str:
    """Both servers, one after the other."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the demo pages."""
    sys.path.insert(0, str(ROOT / "web-demo"))
    from build import build  # type: ignore[import-not-found]
    folder = tmp_path_factory.mktemp("demo")
    build(folder, pyodide())
    with Server({"/": folder}) as server:
        yield server.address


@dataclass(frozen=True)
class Stored:
    """MobileNetV2 with its input and Python's output, in the models folder."""

    path: Path
    scale: float

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture(scope="session")
def mobilenet(models: Path) -> Stored:
    source = models / "mobilenet.onnx"
    generated.mobilenet_v2(source, batch=1)
    ort.convert(source, models / "mobilenet.sdx")
    x = np.random.default_rng(3).normal(size=(1, 3, 224, 224)).astype(np.float32)
    y = ort.InferenceSession(str(source)).run(None, {"input": x})[0]
    (models / "mobilenet.in").write_bytes(x.tobytes())
    (models / "mobilenet.out").write_bytes(y.tobytes())
    return Stored(models / "mobilenet.sdx", float(np.abs(y).max()))


@pytest.fixture(scope="session")
def faulty(runtime: Path, wheels: Path, models: Path, mobilenet: Stored) -> Iterator[str]:
    with FaultyServer(mounts(runtime, wheels, models)) as server:
        yield server.address


@pytest.fixture(scope="session")
def small(models: Path) -> str:
    """A product of 256 × 256: runs in microseconds."""
    weights = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])], [numpy_helper.from_array(weights, "w")])
    source = models / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    ort.convert(source, models / "small.sdx")
    return "/models/small.sdx"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what is missing instead of failing in the middle of a fixture."""
    if shutil.which(CHROMIUM) is None:
        for item in items:
            if "tests/browser" in item.nodeid.replace("\\", "/"):
                item.add_marker(pytest.mark.skip(reason="no chromium: .ci/setup test"))
