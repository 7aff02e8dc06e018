"""What each public model is run on: a script per model, a generator that yields feeds and is sent the outputs (so that state flows and decoding loops close).

Several sizes where a model's dimensions are symbolic. Values are realistic: speech for speech models, text for text models, the bytes of files for magika.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from . import signals
from .registry import fetch

Feed = dict[str, Any]
Script = Generator[Feed, list[Any], None]
ARABIC = ("السلام عليكم", "ذهب الولد إلى المدرسة في الصباح الباكر", "كتاب")
NAMES = ("محمد", "عبد الرحمن", "فاطمة")


def play(script: Script, run: Callable[[Feed], list[Any]]) -> list[list[Any]]:
    """The outputs of every step of a script."""
    steps: list[list[Any]] = []
    feed = next(script, None)
    while feed is not None:
        steps.append(run(feed))
        try:
            feed = script.send(steps[-1])
        except StopIteration:
            feed = None
    return steps


def magika() -> Script:
    """The first and last 1,024 bytes of files, without the white space around them; 256 pads."""
    rows = []
    for path in signals.some_files(5):
        data = path.read_bytes()
        start, end = np.full(1024, 256, np.int32), np.full(1024, 256, np.int32)
        head, tail = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
        start[:len(head)], end[1024 - len(tail):] = list(head), list(tail)
        rows.append(np.concatenate([start, end]))
    yield {"bytes": np.stack(rows)}
    yield {"bytes": rows[0][None]}


def ocr_det() -> Script:
    """A page of text, normalised as the package does, in two sizes that are multiples of 32; and two images at once."""
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for lines, shape in ((["Hello sardonyx", "12345"], (160, 288)), (["ONNX"], (96, 160))):
        page = np.full((*shape, 3), 255, np.uint8)
        text = signals.text_image(lines)[:shape[0], :shape[1]]
        page[:text.shape[0], :text.shape[1]] = text
        x = ((page / 255 - mean) / deviation).transpose(2, 0, 1)[None].astype(np.float32)
        yield {"x": x}
    yield {"x": np.concatenate([x, x[..., ::-1]])}


def _line(text: str, width: int) -> np.ndarray:
    image = signals.text_image([text], 30, 8)[8:56, :width]
    line = np.full((48, width, 3), 255, np.uint8)
    line[:image.shape[0], :image.shape[1]] = image
    return ((line / 255 - 0.5) / 0.5).transpose(2, 0, 1).astype(np.float32)


def ocr_rec() -> Script:
    """Lines of text 48 high, in two widths."""
    yield {"x": _line("sardonyx", 160)[None]}
    yield {"x": np.stack([_line("Hello", 96), _line("2026", 96)])}


def ocr_cls() -> Script:
    """A line of text as it is and upside down."""
    line = _line("which way up?", 192)
    yield {"x": line[None]}
    yield {"x": np.stack([line, line[:, ::-1, ::-1]])}


def _vad(rate: int, with_rate: bool, batch: int = 1) -> Callable[[], Script]:
    """Chunks of a dialogue, every sixth of them, each with the end of the one before, state from step to step."""
    def script() -> Script:
        chunk, context = (512, 64) if rate == 16000 else (256, 32)
        sound = np.stack([signals.dialogue(rate, seed) for seed in range(batch)])
        state = np.zeros((2, batch, 128), np.float32)
        for start in range(chunk * 25, sound.shape[1] - chunk, chunk * 6):
            feed = {"input": sound[:, start - context:start + chunk], "state": state} | ({"sr": np.array(rate, np.int64)} if with_rate else {})
            _, state = yield feed
    return script


def _both(*scripts: Callable[[], Script]) -> Callable[[], Script]:
    """One script after the other."""
    def script() -> Script:
        for one in scripts:
            yield from one()
    return script


def vad_sequence() -> Script:
    """A second and a half of the dialogue in one run, and a shorter piece that goes on with its state."""
    windows = np.lib.stride_tricks.sliding_window_view(signals.dialogue(), 576)[::512]
    _, h, c = yield {"input": windows[20:67], "h": np.zeros((1, 1, 128), np.float32), "c": np.zeros((1, 1, 128), np.float32)}
    yield {"input": windows[67:80], "h": h, "c": c}


def basic_pitch() -> Script:
    """Two seconds of melody."""
    sound = signals.melody([60, 64, 67, 72], 0.5, 22050)[:43844]
    yield {"serving_default_input_2:0": np.pad(sound, (0, 43844 - sound.size))[None, :, None]}


def smart_turn() -> Script:
    """Eight seconds that end in speech, and eight that end in silence."""
    turns = [np.concatenate([np.zeros(128000 - 48000, np.float32), signals.speech(3)]), np.concatenate([signals.speech(5, seed=1), np.zeros(48000, np.float32)])]
    for turn in turns:
        yield {"input_features": signals.log_mel(turn)[None]}


def _tashkeel(name: str, tokens: int) -> Callable[[], Script]:
    """Arabic letters as numbers, sentences of three lengths, and two sentences at once."""
    def script() -> Script:
        def ids(text: str) -> list[int]:
            return [3 + ord(letter) % (tokens - 3) for letter in text]
        for text in ARABIC:
            yield {name: np.array([ids(text)], np.int64)}
        yield {name: np.array([ids(ARABIC[1]), ids(ARABIC[1][::-1])], np.int64)}
    return script


def centerface() -> Script:
    """Ten small images."""
    yield {"input.1": 255 * np.stack([signals.photo(32, 32, seed) for seed in range(10)])}


def _romanizer_ids() -> tuple[np.ndarray, np.ndarray]:
    """Names as a batch, padded: (ids int64[N, L], mask bool[N, L])."""
    tokens = json.loads(fetch("romanizer-vocab").read_text())["tokens"]
    number = {token: i for i, token in enumerate(tokens)}
    rows = [[number["<EG>"], *(number[letter] for letter in name), number["<EOS>"]] for name in NAMES]
    width = max(map(len, rows))
    ids = np.array([row + [0] * (width - len(row)) for row in rows], np.int64)
    return ids, ids != 0


def romanizer_encoder() -> Script:
    """Three names at once, and one alone."""
    ids, mask = _romanizer_ids()
    yield {"src": ids, "src_mask": mask}
    yield {"src": ids[2:, :6], "src_mask": mask[2:, :6]}


def romanizer_decoder() -> Script:
    """Eight greedy steps from a memory as large as the encoder's."""
    ids, mask = _romanizer_ids()
    rng = np.random.default_rng(0)
    memory, hidden = (rng.standard_normal(shape).astype(np.float32) * 0.5 for shape in ((*ids.shape, 256), (len(ids), 2, 256)))
    prefix = np.ones((len(ids), 1), np.int64)
    for _ in range(8):
        scores, hidden = yield {"prefix": prefix, "memory": memory, "src_mask": mask, "hidden": hidden}
        prefix = np.concatenate([prefix, scores.argmax(-1)[:, None]], 1)


def _rows(*high: int) -> Callable[[], Script]:
    """Rows of whole-numbered parameters within the ranges the model was trained on: 1 and 200 of them."""
    def script() -> Script:
        rng = np.random.default_rng(0)
        for count in (1, 200):
            yield {"input": rng.integers(0, np.array(high) + 1, (count, len(high))).astype(np.float32)}
    return script


def minilm() -> Script:
    """Sentences of word numbers, one padded."""
    rng = np.random.default_rng(0)
    for batch, length in ((1, 9), (2, 33)):
        ids = rng.integers(1000, 29000, (batch, length))
        mask = np.ones_like(ids)
        mask[-1, length - 3:] = 0
        yield {"input_ids": ids, "attention_mask": mask}


def vit_focus() -> Script:
    """One image."""
    yield {"input_image": signals.photo(224, 224)[None]}


SCRIPTS: dict[str, Callable[[], Script]] = {
    "magika": magika,
    "ocr-det": ocr_det,
    "ocr-rec": ocr_rec,
    "ocr-cls": ocr_cls,
    "silero-vad": _both(_vad(16000, True), _vad(8000, True, batch=2)),
    "silero-vad-op15": _vad(16000, True),
    "silero-vad-sequence": vad_sequence,
    "silero-vad-half": _both(_vad(16000, False), _vad(16000, False, batch=3)),
    "silero-vad-ifless": _both(_vad(16000, True), _vad(8000, True)),
    "basic-pitch": basic_pitch,
    "smart-turn": smart_turn,
    "tashkeel-bilstm": _tashkeel("input_ids", 54),
    "tashkeel-rawi": _tashkeel("input", 302),
    "tashkeel-rawi-ensemble": _tashkeel("input", 236),
    "centerface": centerface,
    "romanizer-encoder": romanizer_encoder,
    "romanizer-decoder": romanizer_decoder,
    "surfaces-gradient-boosting": _rows(10, 0, 10, 200),
    "surfaces-k-neighbors": _rows(60, 3, 6, 2),
    "surfaces-k-neighbors-validity": _rows(60, 3, 6, 2),
    "minilm": minilm,
    "vit-focus": vit_focus,
}


def light(name: str) -> Callable[[], Script]:
    """The CNN classics in the onnx package: one image for the input `name`."""
    def script() -> Script:
        yield {name: signals.photo(224, 224)[None]}
    return script
