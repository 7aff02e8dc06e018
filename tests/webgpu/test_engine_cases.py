"""The engine's kernel tests (tests/engine: random strided views, every type, special numbers, empty tensors, wrong data) on the device, with and without barriers, against the interpreter.

A step the device refuses (doubles, integers that are not proved to fit 32 bits) is left out; a test all of whose steps are refused is skipped with the reason.
"""
from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sardonyx.lowering import CannotLower

from tests.engine import against as against_module
from tests.engine import one_step, test_rnn
from tests.engine.one_step import OneStep, compare

#: Module → tests. Only those that run steps by `OneStep` and `against`.
CASES: dict[Any, tuple[str, ...]] = {
    test_rnn: ("test_random", "test_float_types", "test_activations", "test_many_blocks_and_chunks", "test_empty", "test_nan_stays_in_its_sequence", "test_input_share_given",
               "test_eight_bit_recurrence"),
}
#: WGSL's functions are within a few ulp; sums go in another order.
RTOL, ATOL = 4e-6, 1e-6


class Refused(Exception):
    """The device does not take the step."""


@pytest.fixture
def on_device(device: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`OneStep` runs on the device."""
    if device.adapter.name.startswith("SwiftShader"):
        pytest.skip("on lavapipe only: these are thousands of shaders")
    from sardonyx.webgpu.executor import WebGpuProgram
    before, ran, refused = device.adapter, [], []

    def run(made: OneStep, cpu: bool = True) -> list[Any]:
        device.adapter = dataclasses.replace(before, is_cpu=cpu)
        try:
            program = WebGpuProgram(device, made.program, made.constants)
            try:
                outputs = program.run(made.arrays)
            finally:
                program.close()
            return [r.window(y).copy() for r, y in zip(made.results, outputs, strict=True)]
        finally:
            device.adapter = before

    def check(made: OneStep, rtol: float = 0.0, atol: float = 0.0) -> None:
        want = made.expected()
        try:
            for cpu in (True, False):
                for w, found in zip(want, run(made, cpu), strict=True):
                    compare(found, w, max(rtol, RTOL), max(atol, ATOL), f"{'barrier-free' if cpu else 'workgroup'}: {made.program.steps[0].kind.name}")
            ran.append(made)
        except CannotLower as reason:
            refused.append(str(reason))

    def run_where_taken(made: OneStep, isa: str | None = None, threads: int = 1) -> list[Any]:
        try:
            return run(made)
        except CannotLower as reason:
            raise Refused(str(reason)) from None
    monkeypatch.setattr(OneStep, "check", check)
    monkeypatch.setattr(OneStep, "run", run_where_taken)
    for module in (against_module, one_step):
        monkeypatch.setattr(module, "engines", lambda: ["the device"])
    try:
        yield
    except Refused as reason:
        pytest.skip(str(reason))
    if refused and not ran:
        pytest.skip(f"refused: {refused[0]}")


def _moved(original: Any) -> Callable[..., None]:
    """A copy of a test that runs on the device."""
    made = types.FunctionType(original.__code__, original.__globals__, original.__name__, original.__defaults__, original.__closure__)
    made.__annotations__ = dict(original.__annotations__)
    made.pytestmark = [*getattr(original, "pytestmark", []), pytest.mark.usefixtures("on_device")]  # type: ignore[attr-defined]
    return made


for _module, _names in CASES.items():
    for _name in _names:
        globals()[f"{_name}_of_{_module.__name__.rpartition('test_')[2]}"] = _moved(getattr(_module, _name))
