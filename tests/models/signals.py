"""Synthetic inputs that real models understand: speech-like sound, melodies, images of text. Seeded and the same on every machine; numpy only (text: Pillow)."""
from __future__ import annotations

from pathlib import Path

import numpy as np

#: Formant frequencies (Hz) of the vowels a e i o u; G. E. Peterson and H. L. Barney, "Control methods used in a study of the vowels", 1952 (men).
VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))


def speech(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Four vowel syllables a second with a gliding pitch: harmonics of the voice weighed by the vowel's resonances. → float32[seconds · rate]."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    syllable = (t * 4).astype(int)
    pitch = 120 + 15 * np.sin(2 * np.pi * 0.7 * t) + 3 * np.sin(2 * np.pi * 5.5 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    order = rng.integers(0, len(VOWELS), syllable.max() + 1)
    smooth = np.hanning(rate // 20) / np.hanning(rate // 20).sum()
    formants = [np.convolve(np.take([v[k] for v in VOWELS], order[syllable]), smooth, "same") for k in range(3)]
    sound = np.zeros_like(t)
    for n in range(1, min(40, rate // 2 // 140)):
        gain = sum(weight / (1 + ((n * pitch - centre) / width) ** 2) for centre, weight, width in zip(formants, (1.0, 0.6, 0.3), (80, 100, 140), strict=True))
        sound += gain * np.sin(n * phase) / n ** 0.3
    breath = 0.02 * rng.standard_normal(t.size)
    envelope = np.abs(np.sin(np.pi * 4 * t)) ** 0.5
    return (0.3 * envelope * (sound + breath) / np.abs(sound).max()).astype(np.float32)


def dialogue(rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Silence, speech, silence, speech, silence (1, 1.5, 1, 1, 1 s) with a little room noise. → float32[5.5 · rate]."""
    def gap(seconds: float) -> np.ndarray:
        return np.zeros(int(seconds * rate), np.float32)
    sound = np.concatenate([gap(1), speech(1.5, rate, seed), gap(1), speech(1, rate, seed + 1), gap(1)])
    return sound + 1e-3 * np.random.default_rng(seed).standard_normal(sound.size).astype(np.float32)


def melody(pitches: list[int], seconds: float, rate: int) -> np.ndarray:
    """One tone with six harmonics after the other, by MIDI number. → float32[len(pitches) · seconds · rate]."""
    t = np.arange(int(seconds * rate)) / rate
    envelope = np.minimum(1, t / 0.01) * np.exp(-2 * t) * np.minimum(1, (seconds - t) / 0.02)
    tones = [envelope * sum(np.sin(2 * np.pi * n * 440 * 2 ** ((p - 69) / 12) * t) / n ** 1.5 for n in range(1, 7)) for p in pitches]
    return (0.4 * np.concatenate(tones)).astype(np.float32)


def log_mel(sound: np.ndarray, bands: int = 80, rate: int = 16000) -> np.ndarray:
    """The logarithmic mel spectrogram Whisper-like models take: window 400, step 160, clipped 8 decades below the maximum. → float32[bands, len(sound) / 160]."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sound, 200, mode="reflect"), 400)[::160][:sound.size // 160]
    power = np.abs(np.fft.rfft(frames * np.hanning(401)[:400])) ** 2
    def hertz(mel: np.ndarray) -> np.ndarray:
        return 700 * (10 ** (mel / 2595) - 1)
    edges = hertz(np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2))
    frequency = np.linspace(0, rate / 2, 201)
    up = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    mel = np.log10(np.maximum(np.maximum(0, np.minimum(up, down)) @ power.T, 1e-10))
    return ((np.maximum(mel, mel.max() - 8) + 4) / 4).astype(np.float32)


def text_image(lines: list[str], height: int = 32, margin: int = 16) -> np.ndarray:
    """Black text on white in Pillow's built-in font. → uint8[H, W, 3] (BGR or RGB: they are equal)."""
    from PIL import Image, ImageDraw, ImageFont
    font = ImageFont.load_default(height)
    boxes = [font.getbbox(line) for line in lines]
    width, step = int(max(box[2] for box in boxes)) + 2 * margin, height * 2
    image = Image.new("RGB", (width, step * len(lines) + 2 * margin), "white")
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((margin, margin + row * step), line, fill="black", font=font)
    return np.asarray(image)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs of colour under a little grain. → float32[3, H, W] in 0…1."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    image = np.zeros((3, height, width))
    for _ in range(12):
        cy, cx, size = rng.random(), rng.random(), 0.05 + 0.3 * rng.random()
        image += rng.random((3, 1, 1)) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / size ** 2)
    return (image / image.max() * 0.9 + 0.1 * rng.random(image.shape)).astype(np.float32)


def some_files(count: int) -> list[Path]:
    """Files of this repository, of different kinds first."""
    root = Path(__file__).resolve().parents[2]
    kinds = ["core/graph.py", "pyproject.toml", "Makefile", "LICENSE", "README.md", "core/model/sdx.fbs", "core/engine/src/sx_kernel.h", "tests/constraints.txt", ".gitignore", "core/ops/conv.py",
             "core/dim.py", "core/types.py"]
    return [root / name for name in kinds if (root / name).is_file()][:count]
