"""What people open: the site `sardonyx bundle` writes, and the demo pages. They work with and without isolation headers, offline after a visit, and axe finds nothing to complain about."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import sardonyx as ort
from playwright.sync_api import Browser, Page, expect
from sardonyx.converter.cli.app import app
from sardonyx.converter.cli.serve import ISOLATION, Server
from typer.testing import CliRunner

from tests.browser.packages import NPM, pyodide
from tests.models import generated
from tests.models.registry import fetch


def complaints(page: Page) -> list[str]:
    """What axe says against the page."""
    page.add_script_tag(content=(NPM / "axe-core" / "axe.min.js").read_text())
    found: list[str] = page.evaluate("axe.run().then(({violations}) => violations.map((v) => `${v.id}: ${v.help} (${v.nodes.map((n) => n.target).join(', ')})`))")
    return found


#: All that the page itself loaded is in the service worker's cache, which goes on filling after the page is done: what the page's workers loaded, too, when it has stopped growing.
KEPT = """async () => {
  const cache = await caches.open((await caches.keys()).find((name) => name.startsWith("sardonyx-site-")));
  const urls = performance.getEntriesByType("resource").map((entry) => entry.name).filter((url) => new URL(url).origin === location.origin && !url.startsWith("blob:"));
  const kept = await Promise.all([location.href, ...urls].map((url) => cache.match(url, { ignoreVary: true })));
  const size = async () => (await cache.keys()).length, before = await size();
  await new Promise((wake) => setTimeout(wake, 1500));
  return kept.every(Boolean) && before === (await size());
}"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    generated.mobilenet_v2(folder / "mobilenet.onnx", batch=1)
    done = CliRunner().invoke(app, ["bundle", str(folder / "mobilenet.onnx"), "-o", str(folder / "site"), "--title", "A <model>"])
    assert done.exit_code == 0, done.output
    return folder / "site"


@pytest.mark.parametrize("headers", [ISOLATION, {}], ids=["isolated", "plain"])
def test_bundle(browser: Browser, bundle: Path, headers: dict[str, str]) -> None:
    with Server({"/": bundle}, headers=headers) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.address)
        expect(page.locator("#status")).to_contain_text("Ready")
        page.wait_for_function("crossOriginIsolated && document.getElementById('status').textContent.startsWith('Ready')")  # the service worker gives it where the host does not
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#status")).to_contain_text("ms on sardonyx-relaxed")
        assert page.locator("#outputs td").first.text_content() == "output" and page.title() == "A <model>"
        assert complaints(page) == []
        page.wait_for_function(KEPT)
        address = server.address
    page.goto(address)  # the server is gone
    expect(page.locator("#status")).to_contain_text("Ready")
    context.close()


PYTHON = """async (code) => {
  const { loadPyodide } = await import('./pyodide/pyodide.mjs');
  const python = await loadPyodide({ indexURL: new URL('pyodide/', location.href).href });
  await python.loadPackagesFromImports(code);
  python.FS.writeFile('model.sdx', new Uint8Array(await (await fetch('model.sdx')).arrayBuffer()));
  const lock = await (await fetch('pyodide/pyodide-lock.json')).json();
  return { y: Array.from((await python.runPythonAsync(code)).toJs()), packages: Object.keys(lock.packages) };
}"""


def test_bundle_with_python(page: Page, tmp_path: Path) -> None:
    """Python, numpy and sardonyx from the folder alone: a page of its own, and the bundle's page for a size its programs are not for."""
    generated.mobilenet_v2(tmp_path / "mobilenet.onnx")
    assert CliRunner().invoke(app, ["convert", str(tmp_path / "mobilenet.onnx"), "--plan", "batch=3..4"]).exit_code == 0
    done = CliRunner().invoke(app, ["bundle", str(tmp_path / "mobilenet.sdx"), "-o", str(tmp_path / "site"), "--pyodide-from", str(pyodide())])
    assert done.exit_code == 0 and "Pyodide 314" in done.output, done.output
    elsewhere: list[str] = []
    with Server({"/": tmp_path / "site"}) as server:
        page.route(lambda url: not url.startswith((server.address, "data:", "blob:")), lambda route: (elsewhere.append(route.request.url), route.abort()))
        page.goto(server.address)
        code = "import numpy as np, sardonyx as ort\nx = np.full((1, 3, 224, 224), 0.5, np.float32)\nort.InferenceSession('model.sdx').run(None, {'input': x})[0].ravel()"
        found = page.evaluate(PYTHON, code)
        wanted = ort.InferenceSession(str(tmp_path / "mobilenet.onnx")).run(None, {"input": np.full((1, 3, 224, 224), 0.5, np.float32)})[0].ravel()
        np.testing.assert_allclose(found["y"], wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
        assert sorted(found["packages"]) == ["flatbuffers", "micropip", "numpy", "sardonyx"]
        expect(page.locator("#status")).to_contain_text("Ready")
        page.get_by_role("button", name="Run").click()  # batch 1
        expect(page.locator("#status")).to_contain_text("ms on sardonyx-relaxed")
    assert not elsewhere


@pytest.mark.parametrize("name", ["", "files.html", "read.html", "voice.html", "similar.html", "python.html", "convert.html", "speed.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(browser: Browser, demo: str, name: str, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 390, "height": 800})  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(demo + name)
    expect(page.locator("nav a[aria-current=page]")).to_have_count(1)
    assert complaints(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page is wider than a phone"
    context.close()


def test_files(page: Page, demo: str, tmp_path: Path) -> None:
    page.goto(demo + "files.html")
    expect(page.locator("#status")).to_contain_text("Ready")
    picture = tmp_path / "misnamed.txt"
    picture.write_bytes(Path(__file__).read_bytes())
    page.locator("#input").set_input_files([str(picture)])
    expect(page.locator("#rows td").nth(2)).to_have_text("python")
    expect(page.locator("#status")).to_contain_text("in a worker")
    assert complaints(page) == []


def test_files_on_the_gpu(page: Page, demo: str) -> None:
    """The switch: a software adapter is taken when it is asked for, and there is a way back."""
    page.goto(demo + "files.html")
    expect(page.locator("#status")).to_contain_text("WebAssembly")
    page.get_by_role("link", name="Run on the GPU instead").click()
    expect(page.locator("#status")).to_contain_text("WebGPU")
    page.locator("#input").set_input_files([{"name": "misnamed.txt", "mimeType": "text/plain", "buffer": Path(__file__).read_bytes()}])
    expect(page.locator("#rows td").nth(2)).to_have_text("python")
    expect(page.get_by_role("link", name="Run on the CPU instead")).to_be_visible()
    assert complaints(page) == []


def test_read(page: Page, demo: str) -> None:
    """The ticket that the page draws: lines of several sizes, light on dark, one at a slant."""
    page.goto(demo + "read.html")
    expect(page.locator("#sample")).to_be_enabled(timeout=60_000)
    page.get_by_role("button", name="made-up").click()
    expect(page.locator("#status")).to_contain_text("lines of text")
    found = page.locator("#rows td.name").all_inner_texts()
    assert complaints(page) == []
    assert found == ["SARDONYX EXPRESS", "Platform 7", "Departure 14:35", "Reserved seat in the quiet carriage", "Price: 29.90 EUR", "Keep this ticket", "valid today only"]
    page.locator("#input").set_input_files([{"name": "no.png", "mimeType": "image/png", "buffer": b"not a picture"}])
    expect(page.locator("#status")).to_contain_text("not a picture this browser can read")


def test_similar(page: Page, demo: str) -> None:
    """The map's numbers are those of the tokens below, by onnxruntime; the tokens of plain words, accents, signs and unknown ones are BERT's."""
    page.goto(demo + "similar.html")
    expect(page.locator("#compare")).to_be_enabled(timeout=60_000)
    tokens = page.evaluate("""async (texts) => {
        const { Tokenizer } = await import('./words.js');
        const tokenizer = new Tokenizer(await (await fetch('models/minilm-vocabulary.json')).json());
        return texts.map((text) => tokenizer.encode(text));
    }""", ["Hello, World!", "unaffable", "Café", "\u2603", "The cat sleeps.", "A kitten is napping."])
    assert tokens[:4] == [[101, 7592, 1010, 2088, 999, 102], [101, 14477, 20961, 3468, 102], [101, 7668, 102], [101, 100, 102]]
    session = onnxruntime.InferenceSession(str(fetch("minilm")), providers=["CPUExecutionProvider"])
    vectors = []
    for row in tokens[4:]:
        ids = np.array([row], np.int64)
        mean = np.asarray(session.run(["onnx::Shape_422"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])[0].mean(0)
        vectors.append(mean / np.linalg.norm(mean))
    page.locator("#text").fill("The cat sleeps.\nA kitten is napping.")
    page.locator("#text").press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("2 sentences in")
    assert complaints(page) == []
    assert abs(float(page.locator("#rows td").nth(1).inner_text()) - float(vectors[0] @ vectors[1])) < 0.006


def test_speed(browser: Browser, demo: str) -> None:
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    page.goto(demo + "speed.html")
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#status")).to_contain_text("onnxruntime-web from this site")
    assert page.locator("#rows tr").count() == 5 and page.locator("#rows tr:first-child td").count() == 6
    lines = page.locator("#report").input_value().splitlines()
    assert "WebAssembly" in lines[0] and "Chrom" in lines[0] and lines[2].count("|") == lines[-3].count("|") == 8 and lines[-3].startswith("| MobileNetV2") and "Geometric mean" in lines[-1]
    context.route("**/ort.wasm.min.mjs", lambda route: route.abort())  # neither the site nor the CDN
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#status")).to_contain_text("neither on this site")
    context.close()


def test_speed_without_a_comparison(browser: Browser, demo: str) -> None:
    """onnxruntime-web is there and runs none of the models: no number is made up, a sentence says why."""
    context = browser.new_context(service_workers="block")
    context.route("**/models/*.onnx", lambda route: route.abort())
    page = context.new_page()
    page.goto(demo + "speed.html?models=magika")
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#status")).to_contain_text("Done. WebAssembly")
    last = page.locator("#report").input_value().splitlines()[-1]
    assert last == "Geometric mean of the ratios: – (onnxruntime-web runs none of these models here, so there is nothing to compare)." and last in page.locator("#status").inner_text()
    assert page.locator("#rows td").all_inner_texts()[1:3] == ["–", "–"] and "NaN" not in page.locator("#report").input_value()
    context.close()


def test_speed_on_the_gpu(page: Page, demo: str) -> None:
    """A software adapter is measured when it is asked for, and the report says that it is one."""
    page.goto(demo + "speed.html?models=silero-vad,magika")
    expect(page.locator("#device option")).to_have_count(2)
    assert page.locator("#device").input_value() == "cpu", "a processor that plays a GPU is nobody's choice"
    page.locator("#device").select_option("gpu")
    expect(page.locator("#threads")).to_be_hidden()
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#status")).to_contain_text("Done. WebGPU (")
    report = page.locator("#report").input_value()
    assert "swiftshader" in report.lower() and "a processor that plays a GPU" in report and report.splitlines()[2].endswith("| dispatches |")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == report
    assert complaints(page) == []


#: What is done on a page, and what it then says.
DONE = {"files": (None, "Ready"), "read": ("#sample", "7 lines of text"), "voice": ("#sample", "2 pieces of speech"), "similar": ("#compare", "sentences in"), "python": ("#run", "Done in"),
        "convert": ("#input", "It opens in this page's runtime"), "speed": ("#run", "Done. WebAssembly")}


@pytest.mark.parametrize("name", list(DONE))
def test_pages_work_offline_after_one_visit(browser: Browser, demo: str, name: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    button, says = DONE[name]

    def use() -> None:
        if button is not None:
            expect(page.locator(button)).to_be_enabled(timeout=60_000)
            if name == "convert":
                page.locator(button).set_input_files([str(fetch("silero-vad-ifless"))])
            else:
                page.locator(button).click()
        expect(page.locator("#status")).to_contain_text(says)

    page.goto(f"{demo}{name}.html")
    use()
    page.wait_for_function(KEPT)
    context.set_offline(True)
    page.reload()
    use()
    context.close()


def test_voice(page: Page, demo: str) -> None:
    page.goto(demo + "voice.html")
    expect(page.locator("#status")).to_contain_text("Ready")
    page.get_by_role("button", name="made-up").click()
    expect(page.locator("#status")).to_contain_text("2 pieces of speech")
    assert complaints(page) == []
    spoken = [(0.6, 1.88), (2.78, 3.9)]  # speak.js: where the two phrases lie
    for text, (begin, end) in zip(page.locator("#segments li").all_inner_texts(), spoken, strict=True):
        found = [float(word) for word in text.replace("s to", "").split()[:2]]
        assert abs(found[0] - begin) < 0.15 and abs(found[1] - end) < 0.25, text


def test_python(page: Page, demo: str) -> None:
    page.goto(demo + "python.html")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#output")).to_contain_text("speech in silence: [[0.")
    expect(page.locator("#status")).to_contain_text("Done")
    assert complaints(page) == []


def test_convert(page: Page, demo: str, bundle: Path) -> None:
    page.goto(demo + "convert.html")
    page.locator("#input").set_input_files([str(bundle.parent / "mobilenet.onnx")])
    expect(page.locator("#status")).to_contain_text("It opens in this page's runtime")
    expect(page.locator("#download")).to_have_attribute("download", "mobilenet.sdx")
    assert complaints(page) == []
    page.locator("#input").set_input_files([{"name": "no.onnx", "mimeType": "", "buffer": b"not a model"}])
    expect(page.locator("#status")).to_contain_text("not an ONNX file")
