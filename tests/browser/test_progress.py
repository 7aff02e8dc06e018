"""The one progress callback, phase by phase, and stopping in each phase: a typed error at once, nothing left behind, and the next session works."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import sardonyx as ort
from playwright.sync_api import Page, Route

from tests.browser.asking import ask
from tests.browser.conftest import Stored
from tests.patience import SECONDS

#: In the page: `events` of a session's creation; `kept`: what each engine that was made had as memory.
EVENTS = """
  const told = async (source, options = {}) => {
    const events = [], session = await ort.InferenceSession.create(source, { ...options, progress: ({ phase, loaded, total }) => events.push([phase, loaded, total]) });
    await session.release();
    return events;
  };
"""
WATCH = """
  globalThis.memories = [];
  const { instantiate } = WebAssembly;
  WebAssembly.instantiate = async (...given) => {
    const made = await instantiate(...given);
    memories.push(new WeakRef(made.exports.memory));
    return made;
  };
"""


def orderly(events: list[list[Any]], *sizes: int) -> None:
    """Every phase goes from 0 to its total and not back; bytes come before programs are opened, and the engine is compiled before that. `sizes`: of the files, one after the other."""
    phases = {phase: [(loaded, total) for name, loaded, total in events if name == phase] for phase in ("download", "compile", "plan")}
    assert sum(map(len, phases.values())) == len(events)
    loaded = [one for one, _ in phases["download"]]
    assert loaded == sorted(loaded) and loaded[0] > 0 and phases["download"][-1] == (sum(sizes), sum(sizes)), events
    totals = [sum(sizes[:n + 1]) for n in range(len(sizes))]
    assert all(total in totals and one <= total for one, total in phases["download"]), events
    assert phases["compile"] == phases["plan"] == [(0, 1), (1, 1)], events
    names = [(name, one) for name, one, _ in events]
    assert names.index(("compile", 0)) < names.index(("compile", 1)) < names.index(("plan", 0)) and names.index(("download", loaded[0])) < names.index(("plan", 0)), events


@pytest.mark.parametrize("proxy", [False, True])
def test_phases(page: Page, isolated: str, small: str, models: Path, proxy: bool) -> None:
    """Of whatever a model comes from, a stream of unknown length and the cache too; where a phase has nothing to do it passes all the same."""
    ort.convert(models / "small.onnx", models / "split.sdx", external_data=True)
    page.goto(isolated)
    found = ask(page, EVENTS + """
      Object.assign(ort.env.wasm, { proxy: given[1], numThreads: 1 });
      const data = await bytes('small.sdx');
      const stream = () => new ReadableStream({ start(to) {
        for (let at = 0; at < data.byteLength; at += 50000) to.enqueue(new Uint8Array(data.slice(at, at + 50000)));
        to.close();
      } });
      return { first: await told(given[0]), again: await told(given[0]), bytes: await told(data), blob: await told(new Blob([data])), stream: await told(stream()),
               fetched: await told(given[0], { cache: true }), cached: await told(given[0], { cache: true }), split: await told('/models/split.sdx', { externalData: ['/models/split.sdx.data'] }) };
    """, [small, proxy])
    size = (models / "small.sdx").stat().st_size
    split = [(models / name).stat().st_size for name in ("split.sdx", "split.sdx.data")]
    assert split[1] > 200_000
    for what, events in found.items():
        orderly(events, *(split if what == "split" else [size]))


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("phase", ["download", "compile", "plan"])
def test_stopped(page: Page, faulty: str, mobilenet: Stored, phase: str, proxy: bool) -> None:
    """While bytes come (slowly), while the engine does not come at all, when programs were opened and the rest of the bytes comes."""
    held: list[Route] = []
    if phase == "compile":
        page.route("**/*.wasm", lambda route: held.append(route))
    page.goto(faulty)
    error = ask(page, WATCH + """
      Object.assign(ort.env.wasm, { proxy: given[1], numThreads: 1 });
      const stop = new AbortController(), enough = () => stop.abort(new Error('enough'));
      if (given[0] !== 'compile') return failure(() => ort.InferenceSession.create('/slow/mobilenet.sdx', { signal: stop.signal, progress: ({ phase }) => phase === given[0] && enough() }));
      const later = ({ phase }) => phase === 'download' && setTimeout(enough, 50); // when the first bytes are there, it is the engine that is waited for
      return failure(() => ort.InferenceSession.create('/models/mobilenet.sdx', { signal: stop.signal, progress: later }));
    """, [phase, proxy])
    assert error[0] == "AbortError" and error[2] and "enough" in error[1]
    for route in held:
        route.continue_()
    end = time.monotonic() + SECONDS
    while page.workers and time.monotonic() < end:
        page.wait_for_timeout(20)
    assert not page.workers
    found = ask(page, """
      const turn = () => new Promise((wake) => setTimeout(wake, 20));
      const left = async () => { // a reference that was looked at keeps its memory until the turn is over
        for (let tries = 0; tries < 200; tries++) {
          await turn();
          gc();
          await turn();
          if ((given || memories.length) && memories.every((one) => !one.deref())) return 0;
        }
        return memories.length || 'no engine was made';
      };
      return { left: await left(), works: await difference(await ort.InferenceSession.create('/models/mobilenet.sdx')) };
    """, proxy)
    assert found["left"] == 0 and found["works"] <= 1e-4 * mobilenet.scale
