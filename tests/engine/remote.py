"""Builds of the engine that Python can not load, behind a pipe (runner.c): aarch64 under qemu-user, and this machine's with sanitizers.

`engines()` is what tests of kernels run on: the instruction sets of this machine, or, where SARDONYX_REMOTE names builds ("aarch64", "ubsan", "tsan"), those of that build:
"neon@aarch64", … tests/engine/test_remote.py runs the kernel tests so.
"""
from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sardonyx.engine.binding import EngineProgram, constant, error_of, isas
from sardonyx.engine.build import SOURCE, TARGETS, Target, compile_units, host_target, link, units
from sardonyx.errors import SardonyxError
from sardonyx.graph import Tensor
from sardonyx.program import Program

_AARCH64 = replace(TARGETS["linux", "aarch64"], triple="aarch64-linux-musl")  # static: needs no system of that processor
#: Build → (target, flags for every unit, linker options, command in front of the program).
BUILDS: dict[str, tuple[Target, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "aarch64": (_AARCH64, (), ("-static", "-s"), ("qemu-aarch64", "-cpu", "max")),
    "cortex-a72": (_AARCH64, (), ("-static", "-s"), ("qemu-aarch64", "-cpu", "cortex-a72")),   # NEON only
    "neoverse-n1": (_AARCH64, (), ("-static", "-s"), ("qemu-aarch64", "-cpu", "neoverse-n1")),  # and dotprod
    "ubsan": (host_target(), ("-DSX_GUARDED", "-fsanitize=undefined", "-fno-sanitize=alignment", "-fsanitize-trap=undefined"), ("-lpthread",), ()),
    "tsan": (host_target(), ("-DSX_GUARDED", "-fsanitize=thread"), ("-fsanitize=thread", "-lpthread"), ()),
}
SANITIZE = {"TSAN_OPTIONS": "halt_on_error=1"}  # a race ends the program


class Runs(Protocol):
    """A program that can run."""

    def run(self, inputs: Sequence[np.ndarray], *, outputs: Sequence[np.ndarray], **how: Any) -> object:
        """Writes the outputs. `how`: EngineProgram's."""


@cache
def runner(build: str) -> Path:
    """The runner's executable, compiled."""
    target, extra, options, _ = BUILDS[build]
    main = ("runner", Path(__file__).with_name("runner.c"), (f"-I{SOURCE}",))
    return link(target, compile_units(target, [*units(target), main], extra), f"runner-{build}", options)


class Process:
    """A runner. It is started once a build and serves one program after the other."""

    def __init__(self, build: str) -> None:
        command = BUILDS[build][3]
        if command and shutil.which(command[0]) is None:
            raise RuntimeError(f"{command[0]} is not installed: apt-get install -y --no-install-recommends qemu-user")
        self.build = build
        self.pipe = subprocess.Popen([*command, str(runner(build))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **SANITIZE})
        self.send(b"I")
        self.isas = self.receive(self.number()).decode().split()

    def send(self, *parts: bytes | memoryview) -> None:
        assert self.pipe.stdin is not None
        try:
            for part in parts:
                self.pipe.stdin.write(part)
            self.pipe.stdin.flush()
        except BrokenPipeError:
            self.fail()

    def fail(self) -> None:
        """The runner has died: a sanitizer's finding or a crash."""
        raise AssertionError(f"the runner '{self.build}' ended with {self.pipe.wait(120)}")

    def receive(self, count: int) -> bytes:
        assert self.pipe.stdout is not None
        found = self.pipe.stdout.read(count)
        if len(found) != count:
            self.fail()
        return found

    def number(self) -> int:
        return int(struct.unpack("<i", self.receive(4))[0])

    def status(self) -> None:
        code, text = self.number(), self.receive(self.number()).decode()
        if code:
            raise error_of(code, text)


@cache
def process(build: str) -> Process:
    """The build's one process; dead ones are not restarted: their tests have failed."""
    return Process(build)


def _block(data: bytes | np.ndarray) -> tuple[bytes, bytes]:
    raw = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
    return struct.pack("<Q", len(raw)), raw


class RemoteProgram:
    """A program behind the pipe."""

    def __init__(self, build: str, isa: str, program: Program, constants: Sequence[Tensor], threads: int) -> None:
        self.process, self.program = process(build), program
        self.opened = (program.pack(), [constant(program, i, t) for i, t in enumerate(constants)], self.process.isas.index(isa), threads)
        self.names = [name for name, _ in BUILDS[build][0].isas]
        packed, data, _, threads = self.opened
        self.process.send(b"O", *_block(packed), struct.pack("<iiI", self.names.index(isa) + 1, threads, len(data)), *(part for x in data for part in _block(x)))
        self.process.status()

    def run(self, inputs: Sequence[np.ndarray], *, outputs: Sequence[np.ndarray], **how: Any) -> None:
        """Writes the outputs, whose memory goes to the runner and back."""
        dims = [d for x in inputs for d in x.shape]
        self.process.send(b"R", struct.pack("<I", len(dims)), struct.pack(f"<{len(dims)}q", *dims), struct.pack("<I", len(inputs)), *(p for x in inputs for p in _block(x)),
                          struct.pack("<I", len(outputs)), *(p for y in outputs for p in _block(y)))
        failed = None
        try:
            self.process.status()
        except SardonyxError as error:
            failed = error
        for y in outputs:
            y.reshape(-1).view(np.uint8)[:] = np.frombuffer(self.process.receive(y.nbytes), np.uint8)
        if failed is not None:
            raise failed


    def together(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], callers: int, rounds: int) -> int:
        """What runner.c's 'C' says of that many runs at once."""
        dims = [d for x in inputs for d in x.shape]
        self.process.send(b"C", struct.pack("<III", callers, rounds, len(dims)), struct.pack(f"<{len(dims)}q", *dims), struct.pack("<I", len(inputs)), *(p for x in inputs for p in _block(x)),
                          struct.pack("<I", len(outputs)), *(p for y in outputs for p in _block(y)))
        self.process.status()
        return self.process.number()


@cache
def engines() -> tuple[str, ...]:
    """What tests of kernels run on."""
    builds = [b for b in os.environ.get("SARDONYX_REMOTE", "").split(",") if b]
    return tuple(f"{isa}@{b}" for b in builds for isa in process(b).isas) or tuple(isas())


def opened(program: Program, constants: Sequence[Tensor], engine: str | None, threads: int) -> Runs:
    """A program on one of `engines()`; None: the first."""
    isa, _, build = (engine or engines()[0]).partition("@")
    return RemoteProgram(build, isa, program, constants, threads) if build else EngineProgram(program, constants, isa=isa, threads=threads)
