"""Mutated packages in a build with address and undefined-behaviour sanitizers (fuzz_packages.c, by the system's gcc): nothing is read or written outside its memory, nothing leaks."""
from __future__ import annotations

import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sardonyx.engine.build import CORE, SOURCE

from tests.engine.packages import devices, feeds, random_package
from tests.engine.test_packages import mutate, raw

FLAGS = ("-std=gnu17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fwrapv", "-fno-strict-aliasing", "-w", f"-I{SOURCE}")
#: What packages of Maps need. map_bytes.c is clang's dialect: a stand-in says that no Map is one of bytes.
FAMILIES = ("map", "expr", "convert", "finish", "copy", "table")
STAND_IN = """#include "map_bytes.h"
int SX_NAME(sx_bytes_form_of)(const sx_call *call, sx_bytes_form *form) { (void)call; form->form = 0; return 0; }
int SX_NAME(sx_bytes_tile)(const sx_bytes_form *form, const sx_tile *tile) { (void)form, (void)tile; return 0; }
"""


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: its sanitizers come with their own run time, ziglang's do not")
    folder = tmp_path_factory.mktemp("asan")
    (folder / "stand_in.c").write_text(STAND_IN)
    units = [(SOURCE / f"{name}.c", ("-DSX_ISAS_X=X(sse)",)) for name in (*CORE, "host_posix")]
    units += [(path, ("-msse4.2", "-mpopcnt", "-DSX_ISA=sse", "-DSX_WITH_map", "-DSX_WITH_copy")) for path in (*[SOURCE / f"{name}.c" for name in FAMILIES], folder / "stand_in.c")]
    units.append((Path(__file__).with_name("fuzz_packages.c"), ()))

    def compiled(unit: tuple[Path, tuple[str, ...]]) -> str:
        made = folder / f"{unit[0].stem}.o"
        subprocess.run(["gcc", *FLAGS, *unit[1], "-c", str(unit[0]), "-o", str(made)], check=True, timeout=900)
        return str(made)
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, units))
    subprocess.run(["gcc", "-fsanitize=address,undefined", *objects, "-lpthread", "-lm", "-o", str(folder / "fuzz")], check=True, timeout=900)
    return folder / "fuzz"


def test_mutated_packages(fuzzer: Path) -> None:
    """4,000 of them, a third with damaged programs inside."""
    rng = np.random.default_rng(1)
    seeds = [raw(p) for p, _ in feeds(rng).values()] + [raw(random_package(rng)) for _ in range(20)] + [raw(devices())]
    stream = [p.tobytes() for p in seeds]
    for _ in range(4000):
        p = seeds[int(rng.integers(len(seeds)))]
        stream.append(mutate(p, rng, int(p[3 + 2 * 13]) if rng.random() < 0.7 else len(p)))
    done = subprocess.run([str(fuzzer)], input=b"".join(struct.pack("<q", len(d)) + d for d in stream), capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    every, opened, ran = map(int, done.stdout.split())
    assert every == len(stream) and opened > 500 and ran > 400
