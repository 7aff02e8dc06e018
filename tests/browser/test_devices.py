"""The demo pages with camera and microphone: Chromium's fake devices play a picture with text and a sound with two phrases in it."""
from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser, Page, Playwright, expect

from tests.browser.conftest import ARGUMENTS, CHROMIUM, patient

SIZE = (640, 480)


def film(path: Path) -> Path:
    """Two frames of a sign, as YUV4MPEG2."""
    sign = Image.new("RGB", SIZE, "white")
    paint = ImageDraw.Draw(sign)
    paint.text((60, 110), "SARDONYX", fill="black", font=ImageFont.load_default(84))
    paint.text((60, 290), "Platform 7", fill="black", font=ImageFont.load_default(64))
    y, cb, cr = sign.convert("YCbCr").split()
    frame = b"FRAME\n" + y.tobytes() + b"".join(plane.resize((SIZE[0] // 2, SIZE[1] // 2)).tobytes() for plane in (cb, cr))
    path.write_bytes(f"YUV4MPEG2 W{SIZE[0]} H{SIZE[1]} F10:1 Ip A1:1 C420\n".encode() + 2 * frame)
    return path


def recording(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def devices(playwright: Playwright, browser: Browser, demo: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose camera and microphone are files."""
    folder = tmp_path_factory.mktemp("devices")
    page = browser.new_page()
    page.goto(demo)
    spoken = np.array(page.evaluate("async () => Array.from((await import('./speak.js')).speak(16000))"))
    page.close()
    made = playwright.chromium.launch(executable_path=CHROMIUM, args=[
        *ARGUMENTS, "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film(folder / 'sign.y4m')}",
        f"--use-file-for-fake-audio-capture={recording(folder / 'speech.wav', spoken)}"])
    yield made
    made.close()


def opened(devices: Browser, address: str, permission: str | None) -> Page:
    context = patient(devices.new_context(service_workers="block", permissions=[permission] if permission else []))
    page = context.new_page()
    page.goto(address)
    return page


def test_camera(devices: Browser, demo: str) -> None:
    page = opened(devices, demo + "read.html", "camera")
    expect(page.locator("#camera")).to_be_enabled(timeout=60_000)
    page.locator("#camera").click()
    expect(page.locator("#camera")).to_have_text("Stop")
    expect(page.locator("#rows td.name")).to_have_text(["SARDONYX", "Platform 7"])
    expect(page.locator("#status")).to_contain_text("2 lines of text")
    assert page.evaluate("[document.getElementById('picture').width, document.getElementById('picture').height]") == list(SIZE)
    page.evaluate("""() => {
      globalThis.said = 0;
      new MutationObserver((changes) => (said += changes.length)).observe(document.getElementById('status'), { childList: true });
    }""")
    page.wait_for_function("said >= 2")  # one picture after the other
    page.evaluate("() => { document.getElementById('camera').click(); said = 0; }")
    expect(page.locator("#camera")).to_have_text("Use the camera")
    page.wait_for_timeout(3000)
    assert page.evaluate("said") <= 1, "it goes on after Stop: more than the picture that was being read"
    page.context.close()


def test_microphone(devices: Browser, demo: str) -> None:
    page = opened(devices, demo + "voice.html", "microphone")
    expect(page.locator("#microphone")).to_be_enabled(timeout=60_000)
    page.locator("#microphone").click()
    expect(page.locator("#status")).to_contain_text("Listening")
    expect(page.locator("#segments li")).not_to_have_count(0)
    page.locator("#microphone").click()
    expect(page.locator("#microphone")).to_have_text("Listen to the microphone")
    page.context.close()


@pytest.mark.parametrize(("name", "button"), [("read", "camera"), ("voice", "microphone")])
def test_a_visitor_says_no(devices: Browser, demo: str, name: str, button: str) -> None:
    """No permission: the page says so and goes on with what needs none."""
    page = opened(devices, f"{demo}{name}.html", None)
    expect(page.locator(f"#{button}")).to_be_enabled(timeout=60_000)
    page.locator(f"#{button}").click()
    expect(page.locator("#status")).to_contain_text("NotAllowedError")
    page.locator("#sample").click()
    expect(page.locator("#status")).to_contain_text("ms")
    page.context.close()
