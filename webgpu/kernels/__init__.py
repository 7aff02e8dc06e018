"""One module for each group of kernel kinds; `build(step, context)` gives the dispatches of a step. A module's functions register themselves by `@kernel(kind)`."""
from __future__ import annotations

from . import attention, compact, conv, fourier, gather, map, matmul, order, pool, resize, rnn, rows, sample, spectra, trees  # noqa: F401  they fill the table of kernels
from .base import KERNELS, Step, build

__all__ = ["KERNELS", "Step", "build"]
