"""The build steps of a wheel: `pip install` compiles the engine, `make wheels` cross-compiles it. setuptools loads this file by its path, so it imports the standard library and setuptools only.

SARDONYX_TARGET chooses what a wheel is for, a row of build.WHEELS ("linux-aarch64"); by default this machine.
SARDONYX_WASM=1 adds the WebAssembly modules, so that `sardonyx bundle` needs no compiler.
The wheel for Pyodide is wasm/wheel.py's.
"""
from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


def _build() -> ModuleType:
    """build.py beside this file; the package itself is not importable while it is built."""
    name = "sardonyx_engine_build"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("build.py"))
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def target() -> str:
    """What the wheel is for, as a row of build.WHEELS."""
    return os.environ.get("SARDONYX_TARGET") or str(_build().host_wheel())


class BuildPy(build_py):
    """Copies the packages and puts the engine beside its binding. An editable install builds the checkout's own engine, if the compiler is there."""

    def run(self) -> None:
        engine = _build()
        if self.editable_mode:
            super().run()
            if importlib.util.find_spec("ziglang") is not None:
                engine.build()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # a library of another target, or a module deleted since, must not leak into this wheel
        super().run()
        folder = Path(self.build_lib) / "sardonyx" / "engine" / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        for file in engine.wheel_files(target(), wasm=os.environ.get("SARDONYX_WASM") == "1"):
            shutil.copyfile(file, folder / file.name)

    def get_source_files(self) -> list[str]:
        """Without what was built: an sdist holds sources only."""
        return [f for f in super().get_source_files() if f"engine{os.sep}lib{os.sep}" not in f]


class Wheel(bdist_wheel):
    """Tags the wheel for its platform, for any Python 3: the engine is reached through ctypes."""

    def finalize_options(self) -> None:
        self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>."""
        tags: dict[str, Any] = _build().WHEELS
        return "py3", "none", tags[target()][1]


def main(folder: str) -> None:
    """Build the wheels of all platforms into `folder`."""
    for name in _build().WHEELS:
        environment = {**os.environ, "SARDONYX_TARGET": name, "SARDONYX_WASM": "1"}
        subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, "."], check=True, env=environment)
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
