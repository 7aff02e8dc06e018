"""`make conformance` (`python -m tests.conformance.coverage [EXECUTOR…]`): runs the suite on every executor, or on those named, and writes COVERAGE.md (of the others, their last run) and the
lists of known failures.

A failure's reason is kept from the committed list where there is one (people write those); a new failure gets its error message and the command exits with 1,
so that nobody commits an unexplained regression by accident.
"""
from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from .executors import EXECUTORS, known_failures
from .runner import run_suite
from .suite import CACHE, Case, load

ROOT = Path(__file__).resolve().parents[2]


def table(cases: list[Case], results: dict[str, dict[int, str]]) -> list[str]:
    """Rows `| operator | cases | executor passed … |` (columns named strict: passed without a node on NumPy); a case counts for the operators named in its model, its own (node cases) first."""
    by_operator = _by_operator(cases)
    rows = [f"| operator | cases | {' | '.join(results)} |", f"|---|--:|{'--:|' * len(results)}"]
    for operator, indices in sorted(by_operator.items()):
        rows.append(f"| {operator} | {len(indices)} | {' | '.join(str(sum(not found[i] for i in indices)) for found in results.values())} |")
    return rows


def _by_operator(cases: list[Case]) -> dict[str, list[int]]:
    """Operator → its node cases."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, case in enumerate(cases):
        if case.kind == "node" and "_expanded" not in case.name:
            for operator in case.operators:
                found[operator].append(i)
    return found


def _progress(executor: str, total: int) -> Callable[[int], None]:
    """A line that counts, on a terminal; nothing in a log."""
    if not sys.stdout.isatty():
        return lambda done: None
    return lambda done: print(f"\r{executor}: {done} of {total}", end="" if done < total else "\n", flush=True)


def run_one(executor: str, cases: list[Case]) -> int:
    """Run an executor, keep its results in `.cache`, rewrite its list of known failures; how many failures are new."""
    places: dict[int, str] = {}
    found = run_suite(executor, range(len(cases)), progress=_progress(executor, len(cases)), places=places)
    known = known_failures(executor)
    failed = {cases[i].name: known.get(cases[i].name, why) for i, why in sorted(found.items()) if why}
    path = Path(__file__).parent / "failures" / f"{executor}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(failed, indent=1, sort_keys=True) + "\n")
    kept = _kept(executor)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"date": str(date.today()), "found": found, "places": places}))
    print(f"{executor}: {len(cases) - len(failed)} passed, {sum(place == 'strict' for place in places.values())} strict", flush=True)
    return len(set(failed) - set(known))


def _kept(executor: str) -> Path:
    return CACHE / "results" / f"{executor}.json"


def main(names: Sequence[str]) -> None:
    """Run the named executors (none: all), write what is known of all, and exit with 1 where a case failed that was not known to."""
    cases = load()
    new = sum(run_one(executor, cases) for executor in names or EXECUTORS)
    write(cases)
    if new:
        sys.exit(f"{new} failures have no reason yet: edit tests/conformance/failures/*.json")


def write(cases: list[Case]) -> None:
    """COVERAGE.md from each executor's last run."""
    results: dict[str, dict[int, str]] = {}
    summary: list[str] = []
    reasons: list[str] = []
    hosts: dict[str, Counter[str]] = {}
    for executor in EXECUTORS:
        if not _kept(executor).exists():
            continue
        kept = json.loads(_kept(executor).read_text())
        results[executor] = found = {int(i): why for i, why in kept["found"].items()}
        places = {int(i): place for i, place in kept["places"].items()}
        failed = {cases[i].name: known_failures(executor).get(cases[i].name, why) for i, why in sorted(found.items()) if why}
        strict, without = (sum(place == kind for place in places.values()) for kind in ("strict", "no kernel"))
        covered = sum(any(places.get(i) == "strict" for i in chosen) for chosen in _by_operator(cases).values())
        summary.append(f"| {executor} | {len(cases) - len(failed)} | {len(failed)} | {strict if places else ''} | {without if places else ''} | {covered if places else ''} | {kept['date']} |")
        if places:
            results[f"{executor}, strict"] = {i: "" if places.get(i) == "strict" else "host" for i in found}
            hosts[executor] = Counter(why.split(": ")[-1].split(" of '")[0] for why in places.values() if why not in ("strict", "no kernel"))
        reasons += [f"| {executor} | {name} | {why.replace('|', '/')} |" for name, why in sorted(failed.items())]
    import onnx
    text = [f"# Conformance: the backend suite of onnx {onnx.__version__}", "",
            f"Written by `make conformance` from a run of all {len(cases)} cases on each executor, compared by onnx's own `assert_similar_outputs`.",
            "For orientation, on the same cases: onnx.reference passes 2,015, onnxruntime 1.32.0 (CPU) 1,855.", "",
            "Strict: no node of the case runs on a NumPy body; cases without a kernel step (everything is known at planning) are counted apart.", "",
            "| executor | passed | failed | strict | no kernel step | operators with a strict pass | run on |", "|---|--:|--:|--:|--:|--:|---|", *summary, "",
            "## Remaining failures", "", "| executor | case | reason |", "|---|---|---|", *reasons, "",
            "## Why nodes run on the host", "", "| executor | reason | cases |", "|---|---|--:|",
            *(f"| {executor} | {why} | {count} |" for executor, found in hosts.items() for why, count in found.most_common()), "",
            "## Node cases by operator", "", "Expanded functions are left out here (they count above).", "", *table(cases, results), ""]
    (ROOT / "COVERAGE.md").write_text("\n".join(text))
    print("\n".join(summary))


if __name__ == "__main__":
    main(sys.argv[1:])
