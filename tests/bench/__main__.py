"""`python -m tests.bench [SECTION…]`: run the benchmarks, print a table, write results.json and results.md. The exit code is 1 where a bar is missed."""
from __future__ import annotations

import sys
from collections.abc import Callable

from . import foundation
from .measure import Row, table, write

SECTIONS: dict[str, Callable[[], list[Row]]] = {"foundation": foundation.run}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise SystemExit(f"unknown section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    results = {}
    for name in names or SECTIONS:
        print(f"\n## {name}\n", flush=True)
        results[name] = SECTIONS[name]()
        print(table(results[name]), flush=True)
    if not names:
        write(results)
    missed = [row.what for rows in results.values() for row in rows if row.verdict == "FAIL"]
    print(f"\n{len(missed)} bars missed{': ' + '; '.join(missed) if missed else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
