"""A small voice activity detector over silero's model, for any runtime with onnxruntime's session interface."""
from __future__ import annotations

from typing import Any

import numpy as np


class Detector:
    """Speech segments of a sound. session: an InferenceSession of silero_vad.onnx. rate: 16000 or 8000."""

    def __init__(self, session: Any, rate: int = 16000, start: float = 0.5, end: float = 0.35, pause: float = 0.2) -> None:
        self.session, self.rate, self.start, self.end = session, rate, start, end
        self.chunk, self.context = (512, 64) if rate == 16000 else (256, 32)
        self.pause = int(pause * rate)

    def probabilities(self, sound: np.ndarray) -> np.ndarray:
        """How likely each chunk is speech. sound: float32[N] → float32[N / chunk, rounded up]."""
        chunks = -(-sound.size // self.chunk)
        padded = np.pad(sound, (self.context, chunks * self.chunk - sound.size))
        state, found = np.zeros((2, 1, 128), np.float32), []
        for i in range(chunks):
            window = padded[None, i * self.chunk:i * self.chunk + self.context + self.chunk]
            probability, state = self.session.run(None, {"input": window, "state": state, "sr": np.array(self.rate, np.int64)})
            found.append(probability[0, 0])
        return np.array(found, np.float32)

    def segments(self, sound: np.ndarray) -> list[tuple[float, float]]:
        """(start, end) in seconds. Speech begins above `start` and ends where it stays below `end` for `pause` seconds."""
        found: list[tuple[float, float]] = []
        begin = quiet = -1
        for i, probability in enumerate(self.probabilities(sound)):
            at = i * self.chunk
            if probability >= self.start:
                begin, quiet = (at if begin < 0 else begin), -1
            elif probability < self.end and begin >= 0:
                quiet = at if quiet < 0 else quiet
                if at - quiet >= self.pause:
                    found.append((begin / self.rate, quiet / self.rate))
                    begin = quiet = -1
        return found if begin < 0 else [*found, (begin / self.rate, (sound.size if quiet < 0 else quiet) / self.rate)]
