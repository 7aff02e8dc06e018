"""Third-party programs, unmodified, each for a fresh process: `python -m tests.models.programs NAME RUNTIME PACKAGES…` prints {"result", "scores"} as JSON.

RUNTIME: `sardonyx` (as_onnxruntime(), and the real onnxruntime must not have been imported) or `onnxruntime`. PACKAGES: folders with the packages' files.
"""
from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import signals

#: What a program found, which two runtimes must agree on, and how sure it was, which may differ in the fourth digit.
Result = tuple[Any, list[float]]
OCR_LINES = ("sardonyx runs models", "Invoice No. 20261123", "Total: 1,499.00 EUR")


def magika() -> Result:
    """The predicted type of files of this repository and of some bytes, through the package's three ways in."""
    from magika import Magika
    tool = Magika()
    paths = signals.some_files(10)
    results = [*tool.identify_paths(paths), tool.identify_bytes(b"#!/bin/sh\nfor f in *.txt; do\n  echo \"$f\"\ndone\n" * 4), tool.identify_stream(io.BytesIO(paths[0].read_bytes()))]
    return [[str(r.dl.label), str(r.output.label), str(r.output.mime_type)] for r in results], [r.score for r in results]


def rapidocr() -> Result:
    """Lines of text and their boxes on a page."""
    from rapidocr_onnxruntime import RapidOCR
    page = signals.text_image(list(OCR_LINES), 32, 24).copy()
    found, _ = RapidOCR()(page)
    return [[[[round(x) for x in corner] for corner in box], text] for box, text, _ in found], [float(score) for *_, score in found]


def tashkeel() -> Result:
    """Vowel marks for Arabic sentences, from two of the package's models."""
    import text2tashkeel
    return [text2tashkeel.diacritize(text, model) for model in ("rawi-ensemble", "bilstm-int8") for text in ("السلام عليكم", "ذهب الولد إلى المدرسة")], []


def romanizer() -> Result:
    """Names in Latin letters, three candidates each, by beam search through encoder and decoder."""
    from arabic_name_romanizer import transliterate
    found = [transliterate(name, top_k=3) for name in ("محمد", "عبد الرحمن", "خورشيد")]
    return [[candidate.text for candidate in row] for row in found], [candidate.score for row in found for candidate in row]


def silero_vad() -> Result:
    """Speech segments of a dialogue (the package needs torch)."""
    import torch
    from silero_vad import get_speech_timestamps, load_silero_vad
    return get_speech_timestamps(torch.from_numpy(signals.dialogue()), load_silero_vad(onnx=True)), []


PROGRAMS: dict[str, Callable[[], Result]] = {"magika": magika, "rapidocr": rapidocr, "tashkeel": tashkeel, "romanizer": romanizer, "silero-vad": silero_vad}


def main(name: str, runtime: str, *packages: str) -> None:
    """Run one program on one runtime; its own prints go to stderr."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.path[:0] = packages
    if runtime == "sardonyx":
        import sardonyx
        assert sardonyx.as_onnxruntime().active
    with contextlib.redirect_stdout(sys.stderr):
        result, scores = PROGRAMS[name]()
    import onnxruntime
    where = Path(str(onnxruntime.__file__)).resolve().parent
    ours = Path(__file__).resolve().parents[2] / "core"
    assert (where == ours) == (runtime == "sardonyx"), f"the program ran on {where}"
    real = [m for m, module in sys.modules.items() if m.startswith("onnxruntime") and Path(str(getattr(module, "__file__", None) or ours)).suffix == ".so"]
    assert bool(real) == (runtime == "onnxruntime"), real
    print(json.dumps({"result": result, "scores": scores}, ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
