"""Small programs of our own around audio models: voice activity, notes of a melody. The same results as on onnxruntime, and the right ones."""
from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import sardonyx

from . import signals
from .registry import fetch
from .test_public_models import PROVIDERS
from .vad import Detector

LOWEST = 21  # the MIDI number of basic-pitch's first note


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("rate", [16000, 8000])
def test_vad_finds_the_same_segments(rate: int, provider: str) -> None:
    path = str(fetch("silero-vad"))
    sound = signals.dialogue(rate)
    ours = Detector(sardonyx.InferenceSession(path, providers=[provider]), rate)
    theirs = Detector(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), rate)
    segments = ours.segments(sound)
    assert segments == theirs.segments(sound)
    spoken = [(1.0, 2.5), (3.5, 4.5)]
    assert len(segments) == len(spoken)
    for found, made in zip(segments, spoken, strict=True):
        assert found == pytest.approx(made, abs=0.25)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_basic_pitch_hears_the_melody(provider: str) -> None:
    pitches = [60, 64, 67, 72, 65]
    sound = signals.melody(pitches, 0.35, 22050)
    feed = {"serving_default_input_2:0": np.pad(sound, (0, 43844 - sound.size))[None, :, None]}
    ours = sardonyx.InferenceSession(fetch("basic-pitch"), providers=[provider]).run(["StatefulPartitionedCall:1"], feed)[0][0]
    theirs = onnxruntime.InferenceSession(fetch("basic-pitch"), providers=["CPUExecutionProvider"]).run(["StatefulPartitionedCall:1"], feed)[0][0]
    frames = (np.arange(len(pitches)) * 0.35 + 0.17) * 172 / (43844 / 22050)
    assert (ours[frames.astype(int)].argmax(-1) + LOWEST).tolist() == pitches
    active = ours.max(-1) > 0.3
    np.testing.assert_array_equal(ours[active].argmax(-1), theirs[active].argmax(-1))
