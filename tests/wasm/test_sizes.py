"""What a page downloads: each module at most 480 KB, and 170 KB as servers send it."""
from __future__ import annotations

import brotli
import pytest

from .machine import BUILDS, module, module_bytes

RAW, COMPRESSED = 480_000, 170_000


@pytest.mark.parametrize("build", [b + end for b in BUILDS for end in ("", "-threads")])
def test_sizes(build: str) -> None:
    raw = module_bytes(build)
    compressed = len(brotli.compress(raw, quality=11, lgwin=24))
    assert len(raw) <= RAW and compressed <= COMPRESSED, f"{build}: {len(raw):,} bytes, {compressed:,} compressed; what grew: link without -s and -Map=FILE"


@pytest.mark.parametrize("build", BUILDS)
def test_needs_nothing_but_a_clock(build: str) -> None:
    assert {i.name for i in module(build).imports} == {"now"}
    assert {i.name for i in module(f"{build}-threads").imports} == {"now", "memory"}
