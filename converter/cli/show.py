"""How the commands speak: one look for tables, sizes, types, errors and progress. Plain text of a stable width where there is no terminal."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from sardonyx.dim import Expr, symbols
from sardonyx.types import MapType, OptionalType, SequenceType, SparseTensorType, TensorType

#: Columns where neither a terminal nor COLUMNS says how many there are.
WIDTH = 100


def console(stderr: bool = False) -> Console:
    """Markup and highlighting are off: names of models contain brackets, numbers and colons."""
    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() or os.environ.get("COLUMNS", "").isdigit() else WIDTH
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def say(text: str = "", style: str = "") -> None:
    """One line on stdout; a long one is not broken, so that it can be searched for."""
    console().print(Text(text, style), soft_wrap=True)


def paragraph(text: str) -> None:
    """Less important prose, broken at the width."""
    _put(Text(text, "dim"))


def error(text: str) -> None:
    """One line on stderr."""
    console(stderr=True).print(Text("error: ", "bold red") + Text(" ".join(text.split())), soft_wrap=True)


def note(text: str) -> None:
    """One line on stderr that is not an error."""
    console(stderr=True).print(Text(" ".join(text.split()), "yellow"), soft_wrap=True)


def heading(text: str, detail: str = "") -> None:
    """The title of a table or block."""
    console().print(Text.assemble("\n", (text, "bold"), f"  {detail}" if detail else ""), soft_wrap=True)


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Name and value pairs in two columns; empty values are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value not in ("", None):
            grid.add_row(name, str(value))
    _put(grid)


def table(titles: Sequence[str], rows: Iterable[Iterable[Any]], styles: Iterable[str | None] | None = None) -> None:
    """A table. A column title that begins with `>` aligns right. What does not fit is folded, never cut; a column without content is left out."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(titles)) if i == 0 or any(row[i] for row in cells)]
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="cyan")
    for title in (titles[i] for i in kept):
        right = title.startswith(">")
        made.add_column(title.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row, style in zip(cells, _forever(styles), strict=False):
        made.add_row(*(row[i] for i in kept), style=style)
    _put(made)


def _put(renderable: Any) -> None:
    """Print; without the spaces rich pads with where they can not be seen anyway."""
    target = console()
    if target.is_terminal:
        target.print(renderable)
        return
    with target.capture() as captured:
        target.print(renderable)
    target.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _forever(styles: Iterable[str | None] | None) -> Iterator[str | None]:
    yield from styles or ()
    while True:
        yield None


def columns(words: Iterable[str]) -> None:
    """Many short words, in as many columns as fit."""
    from rich.columns import Columns
    _put(Columns([Text(word) for word in words], padding=(0, 2), column_first=True))


def size(count: float) -> str:
    """Bytes for people: `3.1 MB` (powers of 1000, as file managers count)."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def number(value: float) -> str:
    """A float for people: four digits."""
    return f"{value:.4g}"


def milliseconds(seconds: float) -> str:
    """`3.1 ms`, `2.4 s`."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def plural(count: int, what: str) -> str:
    """`1 node`, `3 nodes`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def dim(value: Any) -> int | str | None:
    """A size for people and for JSON: a number, the text of a symbolic size, None for one without a name."""
    if not isinstance(value, Expr):
        return int(value)
    return None if any(s.name.startswith("?") for s in symbols(value)) else str(value)


def type_text(kind: Any) -> str:
    """`float[batch, 3, ?, ?]`, `seq(string[...])`."""
    if isinstance(kind, (TensorType, SparseTensorType)):
        sizes = "[...]" if kind.shape is None else "[" + ", ".join("?" if (d := dim(s)) is None else str(d) for s in kind.shape) + "]"
        text = f"{kind.dtype.text if kind.dtype else '?'}{sizes}"
        return f"sparse({text})" if isinstance(kind, SparseTensorType) else text
    if isinstance(kind, (SequenceType, OptionalType)):
        return f"{'seq' if isinstance(kind, SequenceType) else 'optional'}({type_text(kind.element)})"
    if isinstance(kind, MapType):
        return f"map({kind.key.text}, {type_text(kind.value)})"
    return "?"


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str, float], None] | None]:
    """A progress bar on stderr for callbacks (what, fraction); None where nobody would see it. It vanishes at the end."""
    target = console(stderr=True)
    if quiet or not target.is_terminal:
        yield None
        return
    with Progress(TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn(), console=target, transient=True) as bar:
        task = bar.add_task("read", total=1.0)
        yield lambda what, fraction: bar.update(task, description=what, completed=fraction)
