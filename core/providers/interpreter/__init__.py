"""A NumPy interpreter of Programs: the second executor every engine is compared with. It runs the packed tables, not the graph: binds sizes, lays views over
one arena of bytes, and does each kernel kind in a few lines. Slow, and only for tests and for finding out which side is wrong.

`poison` fills the arena with a byte pattern first, so that reading what was never written shows.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...errors import NotImplemented as NotImplementedHere
from ...errors import Terminated
from ...graph import Tensor
from ...program import Program
from . import basic, dense  # noqa: F401  they fill the table of kernels
from .call import KERNELS, Call, Memory


class Interpreter:
    """Runs one Program with its constants."""

    def __init__(self, program: Program, constants: Sequence[Tensor], poison: int = 0xA5) -> None:
        self.program, self.constants, self.poison = program, constants, poison

    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None) -> list[np.ndarray]:
        """The outputs for inputs that satisfy the program's guards. `terminated` is polled between steps."""
        sizes = self.program.bind([x.shape for x in inputs], inputs)
        outputs = [np.empty([sizes[d] for d in port.dims], port.dtype.numpy) for port in self.program.outputs]
        arena = np.full(sizes[self.program.arena] if self.program.arena >= 0 else 0, self.poison, np.uint8)
        memory = Memory(self.program, sizes, arena, [np.ascontiguousarray(x) for x in inputs], outputs, [np.ascontiguousarray(t.numpy()) for t in self.constants])
        with np.errstate(all="ignore"):
            for step in self.program.steps:
                if terminated is not None and terminated():
                    raise Terminated("the run was stopped by RunOptions.terminate")
                body = KERNELS.get(step.kind)
                if body is None:
                    raise NotImplementedHere(f"the interpreter has no {step.kind.name.lower()} kernel")
                body(Call(step, memory))
        return outputs
