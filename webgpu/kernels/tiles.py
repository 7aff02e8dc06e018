"""Which variant of a product, and with which tiles: one table by shape and device limits, which what `sardonyx autotune` measured on an adapter goes before.

How to think: a GPU wants many workgroups (a few for each of its processors, say 256) of which each re-uses what it reads often (large tiles). So: the largest tile of which the product still
has enough, else the smallest. Products with few rows read every weight once: there the sum is split among invocations instead, whose parts subgroups add up where WGSL has them. A software
adapter runs invocations one after the other and pays dearly for barriers: it gets none, and quads where WGSL has them. Sizes that only the run knows count with their upper bounds.

Sessions that plan (`Context.several`) bind one plan to every size: there a product whose rows only the run knows is a dispatch for each of the ranges of rows that want different tiles, and sizes say
which of them has workgroups. All compile at the first run, none later. Recordings in files have one dispatch: a page's first run is what counts there.
"""
from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...dim import Dim, Expr, Undecidable, dim_max, dim_min, symbols
from ...model.packing import PANEL
from ..device.base import Adapter, Limits
from ..wgsl.shader import Built, Context
from .base import least, most


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
#: Ranges of rows a product may be made for: one, few, some, many.
RANGES = 4
#: Columns that are reckoned with where only the run knows how many.
SQUARE = 256
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


def in_ranges(context: Context, size: Dim, ends: Sequence[int], write: Callable[[Context], Built]) -> list[Built]:
    """What `write` gives for each of the ranges of a size that end at `ends` (rising) and beyond: of them the one has workgroups that the size is in."""
    made = []
    for known, condition in ranges_of(context, size, ends):
        built = write(known)
        built.groups = built.groups * condition
        made.append(built)
    return made


def ranges_of(context: Context, size: Dim, ends: Sequence[int]) -> list[tuple[Context, Dim]]:
    """The ranges of a size that end at `ends` (rising) and beyond, as far as it can lie in them: (what is known where it does, 1 where it does and 0 where not). One where the size is a number."""
    if not context.several or not isinstance(size, Expr):
        return [(context, 1)]
    low, high = least(context, size, one=True), most(context, size)
    try:
        found: list[tuple[Context, Dim]] = []
        begin = -1
        for end in ends:
            if low <= end < high:
                found.append((replace(context, caps={**context.caps, size: end}), _within(size, begin, end)))
                begin = end
        return [*found, (context, _within(size, begin, None))]
    except Undecidable:   # an expression that is too long to be compared with anything
        return [(context, 1)]


def _within(size: Dim, begin: int, end: int | None) -> Dim:
    """1 where begin < size ≤ end, else 0."""
    above: Dim = 1 if begin < 0 else dim_min(1, dim_max(0, size - begin))
    return above if end is None else above * dim_min(1, dim_max(0, end + 1 - size))


def _large(context: Context, fitting: Sequence[Tile], batch: Dim, columns: float) -> tuple[Tile, int]:
    """The tile of a product of many rows, and up to how many it has too few of them to keep a GPU busy: those take the smallest. Two tiles for all of them, because each is a shader to compile."""
    tile = next((t for t in fitting if t.side * t.columns < 2 * columns), fitting[-1])
    beside = least(context, batch, one=True) * -(-columns // (tile.side * tile.columns))
    return tile, int(max(0, -(-ENOUGH // (2 * max(1, beside))) - 1)) * tile.side * tile.rows


def ends_of(context: Context, batch: Dim, rows: Dim, n: Dim, form: Callable[[Context], Hashable]) -> list[int]:
    """Where ranges of a product's rows end that get a dispatch of their own: where its form (tile, rows of a block) changes there. A few rows are one where they are usual."""
    ends = [1] if context.cpu else [1, FEW] if context.decoding else [FEW]
    ends = ends if may_be_few(context, rows) else []
    fitting = [t for t in SHARED if t.fits(context.limits)]
    if fitting and not context.cpu:
        ends += [end for end in (_large(context, fitting, batch, _columns(context, n))[1],) if end > FEW]
    forms = [form(replace(context, caps={**context.caps, rows: end})) for end in ends] + [form(context)]
    return [end for end, this, following in zip(ends, forms, forms[1:], strict=False) if this != following]


def _columns(context: Context, n: Dim) -> float:
    """How many columns are reckoned with."""
    return min(SQUARE, most(context, n)) if context.several and isinstance(n, Expr) else most(context, n)


def may_be_few(context: Context, rows: Dim) -> bool:
    """Whether few rows are usual where only the run knows how many: a batch by itself; a decoder's tokens. Not the positions of a batch: that is one word, or an image of one pixel."""
    return context.decoding or len(symbols(rows)) == 1


def choose(context: Context, batch: Dim, m: Dim, n: Dim, k: Dim, taps: bool, lines: Dim | None = None, shared: bool = False,
           words: bool = False) -> Tile:
    """The tile of a product of m rows, n columns and k terms. `lines`: how many lines of 16 columns its weights have in a panel, where whole ones can be read; `shared`: whether a quad can do it;
    `words`: it is of words of bytes."""
    measured = context.tiles.get(key(context, m, n, k, taps))
    if measured is not None and possible(measured, context, m, taps, lines, shared):
        return measured
    rows, columns, depth = most(context, m), _columns(context, n), most(context, k)
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
    if fitting and context.several and isinstance(m, Expr):
        large, end = _large(context, fitting, batch, columns)
        return large if rows > end else fitting[-1]
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
