"""The session configuration entry `session.enable_bf16`: "1" lets the C engine multiply float32 in bfloat16 (core/engine/src/gemm_bf16.c), where the machine can; "0", the default, does not.

What it does: both factors of MatMul, Gemm and convolutions (but not depthwise ones, those by Winograd's algorithm, ones of few features, nor attention and recurrent layers) are rounded to
bfloat16, to nearest even; products are exact and added in float32. A factor's relative error is at most 2^-8, so a sum of products is off by at most 2^-7 · Σ|aᵢ·bᵢ| (and float32's own
rounding), and by about 2^-8 · √K of a typical product where errors are random. Values below 2^-126 count as 0, those that round above the largest bfloat16 (3.39e38) are infinite.
"""
from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgument

if sys.platform == "emscripten":
    from ..wasm.binding import bfloat16_missing
else:
    from ..engine.binding import bfloat16_missing

BFLOAT16 = "session.enable_bf16"


class Rounding:
    """What the entry comes to here. `used`: products round to bfloat16; `notes`: what explain() says; `unmet`: what was asked for and is not done, or ""."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises InvalidArgument where the entry is neither "0" nor "1"."""
        text = str(options.get(BFLOAT16, "0")).strip()
        if text not in ("0", "1"):
            raise InvalidArgument(f"'{BFLOAT16}' must be '1' (float32 products may round their factors to bfloat16) or '0', not '{text[:40]}'")
        missing = bfloat16_missing() if text == "1" else ""
        self.used = text == "1" and not missing
        self.unmet = f"'{BFLOAT16}' is '1', but {missing}: products are computed in float32" if missing else ""
        done = f"'{BFLOAT16}' is '1': products of float32 (MatMul, Gemm, convolutions) round their factors to bfloat16 and add in float32; a profile says which steps did"
        self.notes = (self.unmet or done,) if text == "1" else ()
