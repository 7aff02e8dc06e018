"""What goes wrong in browsers besides a bad download (test_runtime.py): typed, catchable, saying what to do, and the next session works."""
from __future__ import annotations

import hashlib
import re

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.asking import ask
from tests.browser.conftest import Stored
from tests.browser.faults import Faulty

#: Lower the maximum of a module's memory to as many pages: the only thing a page can do that is like a device with little memory.
LOWER = """
  const lowered = async (url, most) => {
    const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
    const number = (at) => { let value = 0, shift = 0, byte; do { byte = bytes[at++]; value += (byte & 127) * 2 ** shift; shift += 7; } while (byte & 128); return [value, at]; };
    for (let at = 8; at < bytes.length; ) {
      const id = bytes[at], [size, body] = number(at + 1);
      if (id === 5) {
        const flags = bytes[body + 1], [least, next] = number(body + 2);
        const kept = [1, 1, ...leb(least), ...leb(Math.max(least, most))], end = body + size;
        return new Uint8Array([...bytes.subarray(0, at), 5, kept.length, ...kept, ...bytes.subarray(end)]);
      }
      at = body + size;
    }
  };
  const leb = (n) => { const made = []; do { made.push((n & 127) | (n > 127 ? 128 : 0)); n = Math.floor(n / 128); } while (n); return made; };
"""


@pytest.mark.parametrize("proxy", [False, True])
def test_memory_refuses_to_grow(page: Page, plain: str, mobilenet: Stored, proxy: bool) -> None:
    """A memory of 8 MB can not hold the model, one of 20 MB can not hold its run; the engine as it is can."""
    page.goto(plain)
    found = ask(page, LOWER + """
      ort.env.wasm.proxy = given;
      const create = () => ort.InferenceSession.create('/models/mobilenet.sdx');
      const engine = '/sardonyx/sardonyx-relaxed.wasm', errors = {};
      ort.env.wasm.wasmBinary = await lowered(engine, 128);
      errors.create = await failure(create);
      ort.env.wasm.wasmBinary = await lowered(engine, 288);
      const tight = await create();
      errors.run = await failure(() => difference(tight));
      await tight.release();
      ort.env.wasm.wasmBinary = undefined;
      return { errors, works: await difference(await create()) };
    """, proxy)
    for what, (kind, text, ours) in found["errors"].items():
        assert kind == "MemoryLimit" and ours and re.search(r"bytes", text), (what, kind, text)
    assert found["works"] <= 1e-4 * mobilenet.scale


def test_no_memory_to_share(page: Page, isolated: str, mobilenet: Stored) -> None:
    def scarce(route):  # type: ignore[no-untyped-def]
        route.fulfill(response=(answer := route.fetch()), body="WebAssembly.Memory = function () { throw new RangeError('could not allocate memory'); };\n" + answer.text())

    page.route("**/sardonyx/index.js", scarce)
    page.goto(isolated)
    found = ask(page, """
      ort.env.wasm.numThreads = 2;
      const shared = await failure(() => ort.InferenceSession.create('/models/mobilenet.sdx'));
      ort.env.wasm.numThreads = 1;
      return { shared, works: await difference(await ort.InferenceSession.create('/models/mobilenet.sdx')) };
    """)
    assert found["shared"][0] == "MemoryLimit" and "numThreads = 1" in found["shared"][1]
    assert found["works"] <= 1e-4 * mobilenet.scale


def test_browsers_that_can_not(page: Page, isolated: str, mobilenet: Stored) -> None:
    """Without SIMD, without WebAssembly, without relaxed SIMD; with a module that is none, or is not there."""
    page.goto(isolated)
    found = ask(page, """
      const create = () => ort.InferenceSession.create('/models/mobilenet.sdx'), { validate } = WebAssembly, whole = WebAssembly, errors = {};
      WebAssembly.validate = () => false;
      errors.simd = await failure(create);
      WebAssembly.validate = (bytes) => bytes.length > 40 && validate(bytes); // the shorter one asks for relaxed SIMD
      const older = await create(), made = [older.engine.file, await difference(older)];
      WebAssembly.validate = validate;
      delete globalThis.WebAssembly;
      errors.wasm = await failure(create);
      globalThis.WebAssembly = whole;
      ort.env.wasm.wasmPaths = '/nowhere/';
      errors.missing = await failure(create);
      ort.env.wasm.wasmPaths = { wasm: '/sardonyx/index.js' };
      errors.other = await failure(create);
      ort.env.wasm.wasmPaths = undefined;
      return { errors, made, works: await difference(await create()) };
    """)
    errors = found["errors"]
    assert all(kind == "EngineUnavailable" and ours for kind, _, ours in errors.values()), errors
    assert "no SIMD" in errors["simd"][1] and "Safari 16.4" in errors["simd"][1] and "no WebAssembly" in errors["wasm"][1]
    assert "wasmPaths" in errors["missing"][1] and "index.js" in errors["other"][1]
    assert found["made"][0].startswith("sardonyx-simd128") and found["made"][1] <= 1e-4 * mobilenet.scale and found["works"] <= 1e-4 * mobilenet.scale


def test_content_types(page: Page, plain: str, mobilenet: Stored) -> None:
    """Hosts that know neither .wasm nor .sdx: it works, one line in the console says what is slower."""
    for pattern, kind in (("**/*.wasm", "text/plain"), ("**/*.sdx", "text/html")):
        page.route(pattern, lambda route, kind=kind: route.fulfill(response=(answer := route.fetch()), headers={**answer.headers, "content-type": kind}))
    lines: list[str] = []
    page.on("console", lambda message: lines.append(message.text))
    page.goto(plain)
    found = ask(page, "ort.env.logLevel = 'info'; return difference(await ort.InferenceSession.create('/models/mobilenet.sdx'));")
    assert found <= 1e-4 * mobilenet.scale and sum("application/wasm" in line for line in lines) == 1, lines


def test_a_worker_that_crashes(page: Page, plain: str, mobilenet: Stored) -> None:
    """An error outside every call ends the worker: what waits is told, so is what comes later; another session never notices."""
    page.goto(plain)
    ask(page, """
      const sessions = await Promise.all([1, 2].map(() => ort.InferenceSession.create('/models/mobilenet.sdx')));
      Object.assign(globalThis, { sessions, waiting: (async () => { for (;;) await difference(sessions[0]); })().catch((error) => [error.name, error.message, error instanceof ort.SardonyxError]) });
    """)
    first = [worker for worker in page.workers if worker.url.endswith("/index.js")][0]
    first.evaluate("() => void setTimeout(() => { throw new Error('out of luck'); })")
    found = ask(page, """
      const pending = await waiting, later = await failure(() => difference(sessions[0]));
      return { pending, later, other: await difference(sessions[1]), works: await difference(await ort.InferenceSession.create('/models/mobilenet.sdx')) };
    """)
    for kind, text, ours in (found["pending"], found["later"]):
        assert kind == "WorkerCrashed" and ours and "out of luck" in text and "Make the session again" in text
    assert max(found["other"], found["works"]) <= 1e-4 * mobilenet.scale


@pytest.mark.parametrize("proxy", [False, True])
def test_release_during_a_run(page: Page, plain: str, mobilenet: Stored, proxy: bool) -> None:
    page.goto(plain)
    found = ask(page, """
      ort.env.wasm.proxy = given;
      const session = await ort.InferenceSession.create('/models/mobilenet.sdx'), x = await input();
      const runs = [1, 2, 3].map(() => failure(() => session.run({ input: x })));
      await session.release();
      await session.release();
      return { runs: await Promise.all(runs), later: await failure(() => session.run({ input: x })), works: await difference(await ort.InferenceSession.create('/models/mobilenet.sdx')) };
    """, proxy)
    assert {kind for kind, *_ in found["runs"]} <= {"AbortError", "no error"} and found["runs"][2][0] == "AbortError", found
    assert found["later"][0] == "InvalidArgument" and found["works"] <= 1e-4 * mobilenet.scale


PARTS = """
  const parts = async () => (await (await caches.open('sardonyx-models')).keys()).map((r) => r.url.split('sardonyx-part=')[1]);
"""


def test_a_download_goes_on_at_the_next_visit(page: Page, faulty: str, mobilenet: Stored) -> None:
    """The network is lost for good in the middle; with `cache` what had come is kept, and the next visit asks for the rest only."""
    Faulty.lost.clear()
    Faulty.dead, Faulty.ranges = 100, []
    size, part = len(mobilenet.data), 1 << 20
    page.goto(faulty)
    address = f"/dead/{size // 2}/mobilenet.sdx"
    found = ask(page, PARTS + "return { error: await failure(() => ort.InferenceSession.create(given, { cache: true })), parts: await parts() };", address)
    assert found["error"][0] == "NetworkError" and "incomplete" in found["error"][1] and 0 < len(found["parts"]) * part <= size // 2 and "end" not in found["parts"], found
    Faulty.dead, Faulty.ranges = 0, []
    page.reload()
    again = ask(page, PARTS + """
      const least = [];
      const session = await ort.InferenceSession.create(given, { cache: true, progress: ({ phase, loaded, total }) => phase === 'download' && least.push([loaded, total]) });
      return { difference: await difference(session), parts: await parts(), last: least.at(-1) };
    """, address)
    assert Faulty.ranges == [f"bytes={len(found['parts']) * part}-"]
    assert again["difference"] <= 1e-4 * mobilenet.scale and again["last"] == [size, size]
    assert set(again["parts"]) == {*(str(i) for i in range(-(-size // part))), "end"}


def test_a_file_known_by_its_hash_needs_no_network(browser: Browser, plain: str, mobilenet: Stored) -> None:

    context = browser.new_context()
    page = context.new_page()
    page.goto(plain)
    wanted = hashlib.sha256(mobilenet.data).hexdigest()
    code = "return difference(await ort.InferenceSession.create(given[0], { cache: true, integrity: given[1] }));"
    first = ask(page, code, ["/models/mobilenet.sdx", wanted])
    asked: list[str] = []
    context.route("**/*.sdx*", lambda route: (asked.append(route.request.url), route.abort()))
    assert ask(page, code, ["/models/elsewhere.sdx", wanted]) == first <= 1e-4 * mobilenet.scale and not asked
    context.close()


def test_no_room_to_keep_a_model(browser: Browser, plain: str, mobilenet: Stored) -> None:
    """The device's quota is used up: the model runs, one line says that it is not kept, and nothing half is left."""
    context = browser.new_context()
    page = context.new_page()
    lines: list[str] = []
    page.on("console", lambda message: lines.append(message.text))
    page.goto(plain)
    context.new_cdp_session(page).send("Storage.overrideQuotaForOrigin", {"origin": plain.rstrip("/"), "quotaSize": 6_000_000})
    found = ask(page, PARTS + "return { difference: await difference(await ort.InferenceSession.create('/models/mobilenet.sdx', { cache: true })), parts: await parts() };")
    assert found["difference"] <= 1e-4 * mobilenet.scale and found["parts"] == []
    assert sum("not kept" in line for line in lines) == 1, lines
    context.close()
