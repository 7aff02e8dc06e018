"""Questions to a page: JavaScript with the package, the stored input of MobileNetV2 and a run at hand."""
from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import CDPSession, Page

#: In the page before each test: the package, the input and a run.
PRELUDE = """async (given) => {
  const ort = await import('/sardonyx/index.js');
  const bytes = async (name) => (await fetch('/models/' + name)).arrayBuffer();
  const input = async () => new ort.Tensor('float32', new Float32Array(await bytes('mobilenet.in')), [1, 3, 224, 224]);
  const difference = async (session) => {
    const wanted = new Float32Array(await bytes('mobilenet.out'));
    const { output } = await session.run({ input: await input() });
    return Math.max(...wanted.map((v, i) => Math.abs(v - output.data[i])));
  };
  const failure = async (what) => { try { await what(); return ['no error', '']; } catch (error) { return [error.name, error.message, error instanceof ort.SardonyxError]; } };
  %s
}"""


def ask(page: Page, code: str, given: Any = None) -> Any:
    return page.evaluate(PRELUDE % code, given)


class Memory(NamedTuple):
    """Bytes of a page: its JavaScript heap, and all its process has written to (WebAssembly's memories and its workers included; what the browser says of itself leaves them out)."""

    heap: int
    all: int


def memory(page: Page) -> Memory:
    """After garbage collections in the page and its sessions' workers, once it no longer falls."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    pid, found = process(page, session), []
    for _ in range(40):
        for place in (page, *(worker for worker in page.workers if worker.url.endswith("/index.js"))):  # not those that lend threads: they sleep
            place.evaluate("() => gc()")
        session.send("Memory.simulatePressureNotification", {"level": "critical"})  # what is free goes back to the system
        heap = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}["JSHeapUsedSize"]
        found.append(Memory(int(heap), written(pid)))
        if len(found) > 12 and min(one.all for one in found[-6:]) >= min(one.all for one in found[:-6]):
            break
        time.sleep(0.25)
    session.detach()
    return Memory(min(one.heap for one in found), min(one.all for one in found))


def process(page: Page, session: CDPSession) -> int:
    """The page's process: of the browser's renderers (it keeps a spare one, and may begin or end it at any time) the one that has used as much processor time as the page says."""
    browser = page.context.browser
    assert browser is not None
    page.evaluate("() => { for (const end = performance.now() + 20; performance.now() < end; ); }")
    whole = browser.new_browser_cdp_session()
    spent = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}["ProcessTime"]
    processes = [one for one in whole.send("SystemInfo.getProcessInfo")["processInfo"] if one["type"] == "renderer"]
    whole.detach()
    return int(min(processes, key=lambda one: abs(float(one["cpuTime"]) - spent))["id"])


def written(pid: int) -> int:
    """Bytes of a process that are its own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(found) << 10 for found in re.findall(r"^(?:Private_Dirty|Shared_Dirty): +(\d+)", text, re.MULTILINE))
