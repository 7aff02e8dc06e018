"""The engine's kernel tests (tests/engine: random strided views, every type, special numbers, empty tensors, wrong data) on the device, with and without barriers, against the interpreter.

A step the device refuses (doubles, integers that are not proved to fit 32 bits) is left out; a test all of whose steps are refused is skipped with the reason.
"""
from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sardonyx.errors import RuntimeException
from sardonyx.lowering import CannotLower

from tests.engine import against as against_module
from tests.engine import one_step, test_compact, test_fft, test_linalg, test_nbits, test_resize, test_rnn, test_sample, test_scan, test_trees
from tests.engine.one_step import OneStep, compare

#: Module → tests. Only those that run steps by `OneStep` and `against`.
CASES: dict[Any, tuple[str, ...]] = {
    test_rnn: ("test_random", "test_float_types", "test_activations", "test_many_blocks_and_chunks", "test_empty", "test_nan_stays_in_its_sequence", "test_input_share_given",
               "test_eight_bit_recurrence"),
    test_resize: ("test_random", "test_images", "test_same_size_and_empty", "test_zero_weights_leave_infinities_alone"),
    test_sample: ("test_grid_sample", "test_grid_sample_of_integers_and_nothing", "test_roi_align", "test_max_roi_pool", "test_wrong_images_raise"),
    test_compact: ("test_nonzero", "test_nonzero_of_many", "test_unique", "test_unique_of_special_floats", "test_boxes", "test_no_limit_is_none_and_bad_limits_are_errors"),
    test_fft: ("test_lengths", "test_random", "test_special"),
    test_linalg: ("test_random", "test_singular_and_special"),
    test_nbits: ("test_random", "test_rounded_activations_stay_near", "test_infinities_and_nan"),
    test_scan: ("test_running_sums_and_products", "test_linear_attention", "test_empty_attention"),
    test_trees: ("test_modes", "test_one_target_of_several", "test_edges", "test_strings_of_nodes"),
}
#: Those with the most shaders, for `make test-all`.
SLOW = {(test_rnn, "test_activations"), (test_rnn, "test_many_blocks_and_chunks"), (test_fft, "test_lengths"), (test_nbits, "test_random"), (test_compact, "test_nonzero_of_many")}
#: WGSL's functions are within a few ulp; sums go in another order.
RTOL, ATOL = 4e-6, 2e-6
#: What int64 arrays hold between the elements of a view.
HOLE = np.full(8, one_step.CANARY, np.uint8).view(np.int64)[0]


@pytest.fixture
def on_device(device: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`OneStep` runs on the device."""
    if device.adapter.name.startswith("SwiftShader"):
        pytest.skip("on lavapipe only: these are thousands of shaders")
    from sardonyx.webgpu.executor import WebGpuProgram
    from sardonyx.webgpu.recording import record
    before, ran, refused = device.adapter, [], []

    def run(made: OneStep, cpu: bool = True) -> list[Any]:
        device.adapter = dataclasses.replace(before, is_cpu=cpu)
        try:
            program = WebGpuProgram(device, made.program, made.constants)
            try:
                outputs = program.run([np.where(x == HOLE, 0, x) if x.dtype == np.int64 else x for x in made.arrays])
            except RuntimeException as reason:
                if "32 bits" in str(reason):
                    raise CannotLower(str(reason)) from None
                raise
            finally:
                program.close()
            return [r.window(y).copy() for r, y in zip(made.results, outputs, strict=True)]
        finally:
            device.adapter = before

    def differ(made: OneStep) -> bool:
        """Whether a GPU gets other shaders than a software adapter."""
        one, other = (record(made.program, made.constants, device.limits, cpu)[0].shaders for cpu in (True, False))
        return one != other

    def check(made: OneStep, rtol: float = 0.0, atol: float = 0.0) -> None:
        want = made.expected()
        try:
            for cpu in (True, False) if differ(made) else (True,):
                for w, found in zip(want, run(made, cpu), strict=True):
                    compare(found, w, max(rtol, RTOL), max(atol, ATOL, ATOL * _scale(w)), f"{'barrier-free' if cpu else 'workgroup'}: {made.program.steps[0].kind.name}")
            ran.append(made)
        except CannotLower as reason:
            refused.append(str(reason))

    def run_where_taken(made: OneStep, isa: str | None = None, threads: int = 1) -> list[Any]:
        try:
            return run(made)
        except CannotLower as reason:
            pytest.skip(str(reason))
    monkeypatch.setattr(OneStep, "check", check)
    monkeypatch.setattr(OneStep, "run", run_where_taken)
    for module in (against_module, one_step):
        monkeypatch.setattr(module, "engines", lambda: ["the device"])
    yield
    if refused and not ran:
        pytest.skip(f"refused: {refused[0]}")


def _scale(array: np.ndarray) -> float:
    """The largest magnitude of finite floats: sums of large numbers that cancel leave errors of their size."""
    numbers = np.abs(array.astype(np.float64)) if array.dtype.kind not in "iub" else np.zeros(0)
    return float(numbers[np.isfinite(numbers)].max(initial=0))


def _moved(original: Any, slow: bool) -> Callable[..., None]:
    """A copy of a test that runs on the device."""
    made = types.FunctionType(original.__code__, original.__globals__, original.__name__, original.__defaults__, original.__closure__)
    made.__annotations__ = dict(original.__annotations__)
    made.pytestmark = [*getattr(original, "pytestmark", []), pytest.mark.usefixtures("on_device"), *([pytest.mark.slow] if slow else [])]  # type: ignore[attr-defined]
    return made


for _module, _names in CASES.items():
    for _name in _names:
        globals()[f"{_name}_of_{_module.__name__.rpartition('test_')[2]}"] = _moved(getattr(_module, _name), (_module, _name) in SLOW)
