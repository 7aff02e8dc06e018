"""The WebAssembly modules under wasmtime: whole models beside the NumPy interpreter, and memory."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.errors import MemoryLimit
from sardonyx.providers.interpreter import Interpreter

from tests.engine.models import MODELS, feeds, planned

from .machine import BUILDS, Machine, WasmProgram


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", MODELS)
def test_models_match_the_interpreter(name: str, build: str) -> None:
    made = planned(name)
    program = WasmProgram(made.program, made.constants, build=build)
    rng = np.random.default_rng(3)
    for _ in range(3):
        given = feeds(name, rng)
        want = Interpreter(made.program, made.constants).run(given)
        for w, a in zip(want, program.run(given), strict=True):
            np.testing.assert_allclose(a, w, rtol=1e-4, atol=1e-5)
    program.close()


def test_memory_is_used_again() -> None:
    """A closed program leaves everything free, merged into few blocks; nothing grows when it is opened again and again."""
    on = Machine()
    made = planned("network")
    given = feeds("network", np.random.default_rng(0))

    def once() -> None:
        program = WasmProgram(made.program, made.constants, on=on)
        program.run(given)
        program.close()

    once()
    size, free = len(on.bytes), on.call("sx_memory_free")
    for _ in range(20):
        once()
    assert (len(on.bytes), on.call("sx_memory_free")) == (size, free)


def test_random_allocations() -> None:
    """Blocks never overlap, are aligned, keep what is written, and are merged when all are free."""
    on, rng, held = Machine(), np.random.default_rng(1), {}
    on.free(on.allocate(50_000_000))
    free = on.call("sx_memory_free")
    for turn in range(3000):
        if held and (rng.random() < 0.5 or len(held) > 60):
            at = list(held)[int(rng.integers(len(held)))]
            size, mark = held.pop(at)
            assert (on.bytes[at:at + size] == mark).all()
            on.free(at)
        else:
            size = int(rng.choice([0, 1, 63, 64, 65, int(rng.integers(1, 3_000_000))]))
            at, mark = on.allocate(size), turn % 251
            assert at % 64 == 0
            on.bytes[at:at + size] = mark
            held[at] = size, mark
    on.free(*held)
    assert on.call("sx_memory_free") == free
    assert on.allocate(49_000_000)  # one block again


@pytest.mark.parametrize("size", [2.0**32 - 1, 2.0**32, 1e300, -1.0, float("nan")])
def test_no_memory(size: float) -> None:
    on = Machine()
    assert on.call("sx_alloc", size) == 0
    with pytest.raises(MemoryLimit, match="4 GB"):
        on.allocate(1 << 32)
    on.put(b"still works")
