"""Chromium (Debian's), pages on loopback with and without cross-origin isolation, the runtime and the wheel as users get them."""
from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sardonyx.converter.cli.serve import ISOLATION, Server
from sardonyx.wasm.runtime import copy_runtime
from sardonyx.wasm.wheel import build_wheel, dependency_wheel

from tests.browser.packages import NPM, OLD, pyodide
from tests.models.registry import CACHE

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
PAGES = Path(__file__).parent / "pages"


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """pytest-playwright's hook: the browser that apt installed."""
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": ARGUMENTS}


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what is missing instead of failing in the middle of a fixture."""
    if shutil.which(CHROMIUM) is None:
        for item in items:
            if "tests/browser" in item.nodeid.replace("\\", "/"):
                item.add_marker(pytest.mark.skip(reason="no chromium: .ci/setup test"))
