"""The README's blocks for the browser, as they stand there: the HTML page on a bundle's folder, the Pyodide cell with `example.org` answered from that folder."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import sardonyx as ort
from playwright.sync_api import Page, Route
from sardonyx.converter.cli.app import app
from sardonyx.converter.cli.serve import Server
from typer.testing import CliRunner

from tests.browser.conftest import ROOT
from tests.browser.packages import pyodide
from tests.models import generated

RUN = """async (code) => {
  const python = await (await import('/pyodide/pyodide.mjs')).loadPyodide({ indexURL: new URL('/pyodide/', location.href).href });
  await python.loadPackagesFromImports(code);
  return Array.from((await python.runPythonAsync(code)).toJs()[0]);
}"""


def block(language: str) -> str:
    """The section's code block of a language."""
    section = (ROOT / "README.md").read_text().split("## In a page\n")[1].split("\n## ")[0]
    found = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    generated.mobilenet_v2(folder / "model.onnx", batch=1)
    done = CliRunner().invoke(app, ["bundle", str(folder / "model.onnx"), "-o", str(folder / "site"), "--pyodide-from", str(pyodide())])
    assert done.exit_code == 0, done.output
    return folder / "site"


def close(found: list[float], site: Path) -> None:
    wanted = ort.InferenceSession(site / "model.sdx").run(None, {"input": np.zeros((1, 3, 224, 224), np.float32)})[0].ravel()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))


def test_the_page(page: Page, site: Path) -> None:
    text = block("html")
    assert len(text.splitlines()) == 6
    (site / "mine.html").write_text(text)
    with Server({"/": site}) as server:
        page.goto(server.address + "mine.html")
        page.wait_for_function("document.getElementById('out').textContent")
        close([float(word) for word in page.locator("#out").inner_text().split(",")], site)


def test_the_cell(page: Page, site: Path, plain: str) -> None:
    def answer(route: Route) -> None:
        route.fulfill(path=site / route.request.url.split("example.org/site/")[1], headers={"Access-Control-Allow-Origin": "*"})

    page.route("https://example.org/**", answer)
    page.goto(plain)
    close(page.evaluate(RUN, block("python")), site)
