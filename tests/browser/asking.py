"""Questions to a page: JavaScript with the package, the stored input of MobileNetV2 and a run at hand."""
from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

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
