"""Packages: what a planned model is. Programs, and the *blocks* that connect them: which program runs when, on which tensors, on which device.

How to think
- A `Block` is straight-line: numbered *slots* hold tensors (element type, dims as numbers, memory), `segments` run one after the other, each reads slots and
  fills slots. Inputs come in slots, outputs are read
  from slots. Nothing in a block needs a graph, a planner or Python: the C engine runs blocks (engine/src/package.c), so do JavaScript (through the C engine),
  and the NumPy interpreter for tests.
- A segment is one program (DO.PROGRAM), or control flow over other blocks (DO.IF, DO.LOOP). Where data decides a size, a segment ends: the next program *binds*
  the size, either as a dim of one of its
  inputs (SizeOp.DIM) or as an element of a small integer input (SizeOp.ELEMENT: starts of a Slice, the limit of a Range, the count of a NonZero).
- `device` says who runs a program segment. A session hands segments of other devices to its host (NumPy, WebGPU) and goes on when their outputs are there.
- A package has one root block per *variant* (a range of sizes it was planned for); a run takes the first whose guards hold. Variants share programs' constants.
- Constants are numbered in the package; a program's DATA buffer n is the package's constant `programs[p].constants[n]`. In a `.sdx` a constant is a range of
  the tensor data section.

Packed bytes are little-endian int64 words in tables, verified once when opened: every index, every slot written before it is read and of one element type and
rank, blocks nested at most
MAX_DEPTH deep and without circles.
"""
from __future__ import annotations

import enum
from dataclasses import dataclass, field

from .graph import Tensor
from .program import Program

MAX_DEPTH = 16


class Device(enum.IntEnum):
    """Who runs a program segment."""

    ENGINE = 0
    WEBGPU = 1
    HOST = 2      # NumPy bodies; never stored


class Do(enum.IntEnum):
    """What a segment does."""

    PROGRAM = 0   # `program` on inputs → outputs
    IF = 1        # inputs: (cond, captured…); blocks: (then, else), both take the captured ones; outputs: the taken block's
    LOOP = 2      # see Segment.params


@dataclass(frozen=True)
class Segment:
    """One step of a block. `inputs` (-1: absent) and `outputs` (-1: not wanted) are slots.

    LOOP: inputs (trip, cond, carried × n, scanned × m, captured…), outputs (carried × n, stacked × k), blocks (body,), params (flags, n, m, k, then axis and
    direction (0 forward 1 reverse) of each
    scanned input and of each stacked output). flags bit 0: the body takes (iteration: int64, cond: bool) first and gives cond first (Loop); without it neither
    (Scan: as many rounds as the scanned inputs are long).
    Body inputs: (iteration, cond)?, carried, one slice of each scanned (its axis gone), captured; body outputs: cond?, carried, one slice of each stacked. A
    loop with no rounds gives empty stacks whose other sizes are
    the body's where they are numbers, else 0.
    """

    do: Do
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    device: Device = Device.ENGINE
    program: int = -1
    blocks: tuple[int, ...] = ()
    params: tuple[int, ...] = ()
    origin: str = ""            # the nodes it came from, for messages of control flow (programs name their steps themselves)


@dataclass
class Block:
    """Segments over `slots` slots."""

    slots: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    segments: list[Segment] = field(default_factory=list)


@dataclass
class Placed:
    """A program of a package, with which of the package's constants its DATA buffers are."""

    program: Program
    constants: tuple[int, ...]


@dataclass
class Package:
    """Everything a session needs to run a model. `variants`: root blocks, the first whose programs cover the inputs' sizes is run."""

    programs: list[Placed] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    variants: list[int] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)
    input_names: list[str] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)
