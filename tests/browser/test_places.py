"""Where the JavaScript runtime runs besides pages and workers: service workers, browser extensions (their pages and their service workers), pages with a strict Content-Security-Policy."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, Playwright

from tests.browser.asking import ask
from tests.browser.conftest import ARGUMENTS, CHROMIUM, Stored, patient
from tests.patience import SECONDS

SERVICE = """async ([options]) => {
  await navigator.serviceWorker.register('/service.js', { type: 'module', scope: '/service/' }).then(async (found) => {
    const worker = found.installing ?? found.waiting ?? found.active;
    if (worker.state !== 'activated') await new Promise((resolve) => worker.addEventListener('statechange', () => worker.state === 'activated' && resolve()));
    globalThis.service = worker;
  });
  const data = new Float32Array(await (await fetch('/models/mobilenet.in')).arrayBuffer()), { port1, port2 } = new MessageChannel();
  const answer = new Promise((resolve) => (port1.onmessage = (event) => resolve(event.data)));
  service.postMessage({ url: '/models/mobilenet.sdx', data, dims: [1, 3, 224, 224], options }, [port2]);
  const { y, ...rest } = await answer;
  return { y: y && Array.from(y), ...rest };
}"""


def close(y: list[float], mobilenet: Stored) -> None:
    np.testing.assert_allclose(y, np.frombuffer(mobilenet.path.with_suffix(".out").read_bytes(), np.float32), rtol=1e-3, atol=1e-4 * mobilenet.scale)


def test_in_a_service_worker(page: Page, address: str, mobilenet: Stored) -> None:
    """One thread and no worker, isolated or not: service workers have neither workers nor dynamic imports."""
    page.goto(address)
    found = page.evaluate(SERVICE, [{}])
    close(found["y"], mobilenet)
    assert found["engine"] == {"file": "sardonyx-relaxed.wasm", "threads": 1, "worker": False}
    refused = page.evaluate(SERVICE, [{"planner": "pyodide"}])
    assert refused["error"][0] == "NotImplemented" and "npx sardonyx convert" in refused["error"][1]
    again = page.evaluate(SERVICE, [{"cache": True}])
    close(again["y"], mobilenet)


def test_with_the_policy_of_extensions(page: Page, isolated: str, mobilenet: Stored) -> None:
    """The strictest policy that allows wasm at all, on the page and on every script: workers and threads by URL, nothing evaluated, no blob."""
    policy = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; object-src 'self'"
    page.route("**/*", lambda route: route.fulfill(response=(answer := route.fetch()), headers={**answer.headers, "content-security-policy": policy}))
    page.goto(isolated)
    found = ask(page, "ort.env.wasm.numThreads = 2; const s = await ort.InferenceSession.create('/models/mobilenet.sdx'); return { difference: await difference(s), engine: s.engine };")
    assert found["difference"] <= 1e-4 * mobilenet.scale and found["engine"] == {"file": "sardonyx-relaxed-threads.wasm", "threads": 2, "worker": True}


BACKGROUND = """import * as ort from "./sardonyx/index.js";
globalThis.answer = (async () => {
  const data = new Float32Array(await (await fetch("mobilenet.in")).arrayBuffer());
  const session = await ort.InferenceSession.create("mobilenet.sdx");
  return Array.from((await session.run({ input: new ort.Tensor("float32", data, [1, 3, 224, 224]) })).output.data);
})();
"""


def test_in_an_extension(playwright: Playwright, tmp_path: Path, runtime: Path, mobilenet: Stored) -> None:
    """A real one (manifest 3) with the policy extensions have: its service worker, and a page of its own with a worker."""
    extension = tmp_path / "extension"
    shutil.copytree(runtime, extension / "sardonyx")
    for name in ("mobilenet.sdx", "mobilenet.in"):
        shutil.copyfile(mobilenet.path.parent / name, extension / name)
    (extension / "background.js").write_text(BACKGROUND)
    (extension / "page.js").write_text(BACKGROUND.replace("return", "globalThis.engine = session.engine;\n  return"))
    (extension / "page.html").write_text('<!doctype html><title>x</title><script type="module" src="page.js"></script>')
    (extension / "manifest.json").write_text(json.dumps({
        "manifest_version": 3, "name": "sardonyx test", "version": "1", "background": {"service_worker": "background.js", "type": "module"},
        "content_security_policy": {"extension_pages": "script-src 'self' 'wasm-unsafe-eval'; object-src 'self'"}}))
    context: Any = playwright.chromium.launch_persistent_context(tmp_path / "profile", executable_path=CHROMIUM, timeout=SECONDS * 1e3, args=[
        *ARGUMENTS, f"--disable-extensions-except={extension}", f"--load-extension={extension}", "--disable-features=DisableLoadExtensionCommandLineSwitch"])
    try:
        patient(context)
        worker = context.service_workers[0] if context.service_workers else context.wait_for_event("serviceworker")
        close(worker.evaluate("() => globalThis.answer"), mobilenet)
        page = context.new_page()
        page.goto(worker.url.replace("background.js", "page.html"))
        page.wait_for_function("globalThis.answer")
        close(page.evaluate("() => globalThis.answer"), mobilenet)
        assert page.evaluate("() => globalThis.engine.worker") is True
    finally:
        context.close()
