"""Unmodified third-party packages give the same final results on sardonyx, through `as_onnxruntime()`, as on the real onnxruntime. Each run is a fresh process."""
from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .programs import OCR_LINES
from .registry import unpack

ROOT = Path(__file__).resolve().parents[2]


def run(program: str, runtime: str, package: str) -> Any:
    """What the program printed."""
    command = [sys.executable, "-m", "tests.models.programs", program, runtime, str(unpack(package))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout)


def both(program: str, package: str, needs: tuple[str, ...] = ()) -> Any:
    """The result, which both runtimes agree on; scores within 2e-3 (onnxruntime itself is 6e-4 from the float64 value on one of magika's)."""
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{program} needs {', '.join(missing)}, which is not installed here")
        pytest.skip(f"{program} needs {', '.join(missing)}")
    ours, theirs = run(program, "sardonyx", package), run(program, "onnxruntime", package)
    assert ours["result"] == theirs["result"]
    assert ours["scores"] == pytest.approx(theirs["scores"], abs=2e-3)
    return ours["result"]


def test_magika() -> None:
    labels = [row[1] for row in both("magika", "magika", ("click", "dotenv"))]
    assert {"python", "toml", "makefile", "shell"} <= set(labels), labels


def test_rapidocr() -> None:
    found = both("rapidocr", "rapidocr-onnxruntime", ("cv2", "pyclipper", "shapely", "yaml", "six", "tqdm", "PIL"))
    texts = [text.replace(" ", "") for _, text in found]
    assert texts == [line.replace(" ", "") for line in OCR_LINES]


def test_tashkeel() -> None:
    marked = both("tashkeel", "text2tashkeel")
    assert all(any("ً" <= letter <= "ْ" for letter in text) for text in marked), "vowel marks were added"


def test_romanizer() -> None:
    assert "Mohamed" in both("romanizer", "arabic-name-romanizer")[0]


@pytest.mark.slow
def test_silero_vad() -> None:
    segments = both("silero-vad", "silero-vad", ("torch", "packaging"))
    assert len(segments) == 2
