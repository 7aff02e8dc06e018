"""Every public model under wasmtime: sessions whose programs run in the module give onnxruntime's outputs, within the bounds of tests/models."""
from __future__ import annotations

from pathlib import Path

import pytest
from sardonyx.engine.binding import EngineProgram
from sardonyx.program import Program

from tests.models.test_public_models import NAMES, _actual, agree, expected

from .machine import BUILDS, WasmProgram


@pytest.mark.parametrize("build", [BUILDS[0], pytest.param(BUILDS[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_registry_model(name: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Program] = []

    class InModule(WasmProgram):
        """In place of the native engine, from the same plans."""

        def __init__(self, program: Program, constants: object, **_: object) -> None:
            ran.append(program)
            super().__init__(program, constants, build=build)  # type: ignore[arg-type]

    monkeypatch.setattr("sardonyx.providers.engine.EngineProgram", InModule)
    monkeypatch.setattr(EngineProgram, "run", None)  # nothing may reach it
    actual, wanted = _actual(name, "onnx", "CPUExecutionProvider", tmp_path), expected(name)
    assert ran, "the session made no program"
    agree(name, actual, wanted)
