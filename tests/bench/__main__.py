"""`python -m tests.bench [SECTION…] [--only PART…] [--quick] [--providers NAME…]`: run the benchmarks, print tables, write results.json and results.md. The exit code is 1 where a bar is missed.

Sections that ran whole replace theirs in the result files and leave the others; with --only or --quick nothing is written.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

from . import engine, foundation, rounded
from .measure import Row, known, table, write

#: Each makes tables, with their titles, one after the other.
SECTIONS: dict[str, Callable[[engine.Options], Iterable[tuple[str, list[Row]]]]] = {"foundation": lambda options: [("foundation", foundation.run())], "engine": engine.run, "bf16": rounded.run}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if none is named")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help='engine: only rows whose "section: name" has this in it; may be repeated')
    parser.add_argument("--quick", action="store_true", help="engine: fewer repetitions")
    parser.add_argument("--providers", action="append", default=[], metavar="NAME", help="engine: what our sessions list, instead of the default; may be repeated")
    given = parser.parse_args(words)
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown:
        raise SystemExit(f"unknown section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    options = engine.Options(tuple(given.only), given.quick, tuple(given.providers))
    results: dict[str, list[Row]] = {}
    for name in given.sections or SECTIONS:
        for title, rows in SECTIONS[name](options):
            print(f"\n## {title}\n\n{table(rows)}", flush=True)
            results[title] = rows
            if options == engine.Options():
                write(known() | results)  # what was measured is kept, should a later part be stopped
    missed = [f"{title}: {row.what}" for title, rows in results.items() for row in rows if row.verdict == "FAIL"]
    print(f"\n{len(missed)} bars missed{': ' + '; '.join(missed) if missed else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
