"""A step with given operands: the engine (every instruction set, one and two threads) against the interpreter. Where the interpreter raises, so must the engine."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sardonyx.errors import SardonyxError
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .one_step import OneStep
from .remote import engines

#: What the interpreter raises for data it does not take.
RAISED = (SardonyxError, ValueError, IndexError, OverflowError, np.linalg.LinAlgError)


def against(rng: np.random.Generator, kind: Kernel, inputs: Sequence[np.ndarray | None], outputs: Sequence[tuple[Sequence[int], Any] | None], params: dict[str, Any],
            rtol: float = 0.0, atol: float = 0.0, dense: bool = False) -> list[np.ndarray]:
    """Operands and results lie in random ways unless `dense`. Returns what the interpreter made; nothing where it raised."""
    made = OneStep(rng)
    given = [-1 if x is None else made.operand(np.asarray(x), broadcast=False, dense=dense) for x in inputs]
    wanted = [-1 if y is None else made.result(tuple(y[0]), y[1] if isinstance(y[1], DType) else DType.of(np.empty(0, y[1])), dense=dense) for y in outputs]
    made.step(kind, given, wanted, params)
    try:
        expected = made.expected()
    except RAISED:
        for isa in engines():
            try:
                made.run(isa)
            except SardonyxError:
                continue
            raise AssertionError("the interpreter raises, the engine does not") from None
        return []
    made.check(rtol, atol)
    return expected
