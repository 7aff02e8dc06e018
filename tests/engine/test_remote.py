"""The kernel tests on builds Python can not load: aarch64 under qemu-user (NEON, dotprod, i8mm; processors with some of them), this machine's with undefined-behaviour traps and with the thread
sanitizer, which is the race check of the pool."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sardonyx.engine.binding import EngineProgram
from sardonyx.engine.build import compile_units, link

from .models import MODELS, feeds, planned
from .one_step import compare
from .remote import BUILDS, SANITIZE, RemoteProgram, process

ROOT = Path(__file__).resolve().parents[2]
#: Test modules whose programs go through tests/engine/remote.py.
MODULES = ("map", "math", "reductions", "movement", "scatter", "sort", "scan", "fft", "linalg", "resize", "sample", "rnn", "trees", "compact", "random", "integer", "nbits", "requantise")


@pytest.mark.slow
def test_what_processors_have() -> None:
    """Instruction sets are found by what the processor says it has."""
    for build, isas in (("cortex-a72", ["neon"]), ("neoverse-n1", ["dotprod", "neon"]), ("aarch64", ["i8mm", "dotprod", "neon"])):
        assert process(build).isas == isas


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_kernels(build: str) -> None:
    files = [f"tests/engine/test_{m}.py" for m in MODULES if (ROOT / f"tests/engine/test_{m}.py").exists()]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files], cwd=ROOT, env={**os.environ, "SARDONYX_REMOTE": build}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_models(build: str, name: str) -> None:
    """Whole programs: packed products, convolutions, norms and attention; one and three threads bit for bit."""
    made, given = planned(name), feeds(name, np.random.default_rng(3))
    want = EngineProgram(made.program, made.constants, threads=1).run(given)
    for isa in process(build).isas:
        found = []
        for threads in (1, 3):
            outputs = [np.zeros_like(y) for y in want]
            RemoteProgram(build, isa, made.program, made.constants, threads).run(given, outputs=outputs)
            found.append([y.tobytes() for y in outputs])
            for y, w in zip(outputs, want, strict=True):
                compare(y, w, 1e-4, 1e-4, f"{name} on {isa}@{build}")
        assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("build", ["tsan", "ubsan"])
def test_races_of_the_pool(build: str) -> None:
    """Six threads run one program at once, most without the pool, which one of them has at a time; budgets leave steps in the middle; one is terminated again and again."""
    for name in sorted(MODELS):
        made, given = planned(name), feeds(name, np.random.default_rng(3))
        want = EngineProgram(made.program, made.constants, threads=1).run(given)
        program = RemoteProgram(build, process(build).isas[0], made.program, made.constants, 3)
        assert program.together(given, want, callers=6, rounds=20) == 0, name


@pytest.mark.slow
def test_a_race_is_found(tmp_path: Path) -> None:
    """The thread sanitizer of the compiler does work here, and a race it finds ends the program."""
    source = tmp_path / "race.c"
    source.write_text("""#include <pthread.h>
int shared;
static void *work(void *arg) { for (int i = 0; i < 1000; i++) shared++; return arg; }
int main(void) { pthread_t t; pthread_create(&t, 0, work, 0); work(0); pthread_join(t, 0); return 0; }
""")
    target, _, options, _ = BUILDS["tsan"]
    made = link(target, compile_units(target, [("race", source, ())], BUILDS["tsan"][1]), "race", options)
    done = subprocess.run([str(made)], env={**os.environ, **SANITIZE}, capture_output=True, text=True)
    assert done.returncode == 66 and "data race" in done.stderr


@pytest.mark.slow
def test_undefined_behaviour_is_found(tmp_path: Path) -> None:
    """As units of the engine are compiled: a wrong index ends the program."""
    source = tmp_path / "wrong.c"
    source.write_text("int a[4];\nint main(int n, char **v) { (void)v; return a[n + 5]; }\n")
    target, flags, options, _ = BUILDS["ubsan"]
    made = link(target, compile_units(target, [("wrong", source, ())], flags), "wrong", options)
    assert subprocess.run([str(made)]).returncode < 0
