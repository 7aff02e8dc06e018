"""Which variant of a product, and with which tiles: one table by shape and device limits, which what `sardonyx autotune` measured on an adapter goes before.

How to think: a GPU wants many workgroups (a few for each of its processors, say 256) of which each re-uses what it reads often (large tiles). So: the largest tile of which the product still
has enough, else the smallest. Products with few rows read every weight once: there the sum is split among invocations instead, whose parts subgroups add up where WGSL has them. A software
adapter runs invocations one after the other and pays dearly for barriers: it gets none, and quads where WGSL has them. Sizes that only the run knows count with their upper bounds.
"""
from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from ...dim import Dim
from ...model.packing import PANEL
from ..device.base import Adapter, Limits
from ..wgsl.shader import Context
from .base import most


@dataclass(frozen=True)
class Tile:
    """`variant`: register (each invocation alone), quad (a workgroup of four invocations: `rows` rows of a panel's 16 columns), workgroup (side² invocations share a tile of side · rows ×
    side · columns, `depth` steps of the sum at a time), split (16 columns of a few rows; `side` invocations share each sum) or subgroup (the same 16 columns as a packed panel has them; each of
    16 · side invocations takes whole lines of it)."""

    variant: str
    rows: int = 4
    columns: int = 4
    side: int = 8
    depth: int = 16

    def fits(self, limits: Limits) -> bool:
        """Whether a device can run it."""
        if self.variant in ("register", "quad"):
            return True
        lanes = self.side**2 if self.variant == "workgroup" else 16 * self.side
        nbytes = {"workgroup": 4 * self.depth * self.side * (self.rows + self.columns), "split": 4 * FEW * lanes, "subgroup": 16 * FEW * lanes + lanes // 8}[self.variant]
        return lanes <= limits.invocations and nbytes <= limits.workgroup_bytes


REGISTER = Tile("register")
#: Reads are what costs on software adapters: 12 for 32 multiply-adds, where REGISTER has 8 for 16. Not for convolutions: windows are long texts, which drivers take seconds over.
TALL = Tile("register", rows=8)
#: Where a quad's invocations read A for each other; of windows fewer rows, for the same reason.
QUAD, WINDOWS = Tile("quad", rows=8), Tile("quad")
#: Of bytes, where four columns are one read, and a word is taken apart for all it is multiplied with; few rows, for those are what makes its text long.
WIDE = Tile("register", columns=8)
#: Largest first.
SHARED = (Tile("workgroup", 8, 8, 16), Tile("workgroup", 4, 8, 16), Tile("workgroup", 4, 4, 16), Tile("workgroup", 8, 8, 8), Tile("workgroup", 4, 4, 8))
SPLIT = (Tile("split", side=4), Tile("split", side=16))
SUBGROUP = (Tile("subgroup", side=4), Tile("subgroup", side=8))
#: What autotune tries.
CANDIDATES = (REGISTER, TALL, WIDE, QUAD, WINDOWS, *SHARED, *SPLIT, *SUBGROUP)
#: Workgroups that keep a GPU busy.
ENOUGH = 256
#: Rows up to which the sum is split.
FEW = 4
#: Lines of a panel that give each of 128 invocations a few.
LONG = 512
#: The environment variable that names the folder of measured choices.
FOLDER = "SARDONYX_TILES"


def with_subgroups(context: Context) -> bool:
    """Whether rows are combined by subgroups: where WGSL has them, on GPUs."""
    return "subgroups" in context.features and not context.cpu


def key(context: Context, m: Dim, n: Dim, k: Dim, taps: bool) -> str:
    """What products that want the same tile have in common: sizes up to powers of two."""
    return f"{'conv' if taps else 'matmul'} {'×'.join(_bucket(most(context, size)) for size in (m, n, k))}"


def _bucket(size: float) -> str:
    return "many" if size > 8192 else str(1 << max(int(size) - 1, 0).bit_length())


def choose(context: Context, batch: Dim, m: Dim, n: Dim, k: Dim, taps: bool, lines: Dim | None = None, shared: bool = False,
           words: bool = False) -> Tile:
    """The tile of a product of m rows, n columns and k terms. `lines`: how many lines of 16 columns its weights have in a panel, where whole ones can be read; `shared`: whether a quad can do it;
    `words`: it is of words of bytes."""
    measured = context.tiles.get(key(context, m, n, k, taps))
    if measured is not None and possible(measured, context, m, taps, lines, shared):
        return measured
    rows, columns, depth = (most(context, size) for size in (m, n, k))
    if context.cpu and rows > FEW and columns > PANEL / 2 and possible(QUAD, context, m, taps, lines, shared):
        return WINDOWS if taps and not words else QUAD
    if context.cpu and words:
        return WIDE
    if context.cpu or columns <= FEW:
        return TALL if context.cpu and not taps and columns > FEW else REGISTER
    if rows <= FEW:
        few = columns / 16 < ENOUGH
        split = SPLIT[1] if few else SPLIT[0]
        if lines is not None and with_subgroups(context):
            split = SUBGROUP[1] if few and most(context, lines) >= LONG else SUBGROUP[0]
        return split if not taps and depth >= 64 and possible(split, context, m, taps, lines) else REGISTER
    fitting = [t for t in SHARED if t.fits(context.limits)]
    wide = [t for t in fitting if most(context, batch) * -(-rows // (t.side * t.rows)) * -(-columns // (t.side * t.columns)) >= ENOUGH]
    return wide[0] if wide else fitting[-1] if fitting else REGISTER


def possible(tile: Tile, context: Context, m: Dim, taps: bool, lines: Dim | None = None, shared: bool = False) -> bool:
    """Whether a product can be done so on the device."""
    if not tile.fits(context.limits) or (tile.variant in ("subgroup", "quad") and "subgroups" not in context.features) or (tile.variant == "subgroup" and lines is None):
        return False
    if tile.variant == "quad":
        return shared
    return tile.variant not in ("split", "subgroup") or (not taps and most(context, m) <= FEW)


def path_of(adapter: Adapter) -> Path:
    """Where an adapter's choices are kept."""
    folder = Path(os.environ.get(FOLDER) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sardonyx" / "tiles")
    return folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', adapter.name).strip('-').lower()}.json"


def load(adapter: Adapter) -> dict[str, Tile]:
    """What was measured on this adapter; a file that can not be read is named in a warning and ignored."""
    path = path_of(adapter)
    try:
        read = json.loads(path.read_text())["tiles"]
        found = {str(key): Tile(**tile) for key, tile in read.items()}
        if not set(found.values()) <= set(CANDIDATES):
            raise ValueError("it names tiles this version does not have")
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"{path} is ignored: {error}. `sardonyx autotune` writes it anew", stacklevel=2)
        return {}
