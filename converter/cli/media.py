"""Images and sound as inputs: files → arrays in the shape the input asks for."""
from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sardonyx.errors import InvalidArgument
from sardonyx.graph import Value
from sardonyx.types import DType

from .show import type_text

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
AUDIO = (".wav",)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Pixels:
    """How pixels become floats: (pixel · scale − mean) / std, per channel."""

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, scale: float, mean: str, std: str) -> Pixels:
        """From the texts of the options."""
        def numbers(option: str, text: str) -> tuple[float, ...]:
            try:
                made = tuple(float(word) for word in text.split(","))
            except ValueError:
                raise InvalidArgument(f"{option} {text}: expected one number, or one a channel apart by commas, e.g. 0.485,0.456,0.406") from None
            return made
        made = cls(scale, numbers("--image-mean", mean), numbers("--image-std", std))
        if 0.0 in made.std:
            raise InvalidArgument("--image-std must not be 0: pixels are divided by it")
        return made


def read_image(path: str, value: Value, pixels: Pixels) -> np.ndarray:
    """An image in the input's shape: resized where its height and width are numbers, channels first or last as it has them, grey, RGB or RGBA."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("images need Pillow: pip install pillow") from None
    height, width, channels, layout = _image_layout(value)
    try:
        image = Image.open(path).convert(_MODES[channels])
    except OSError as error:
        raise InvalidArgument(f"input '{value.name}': '{path}' is not an image that Pillow reads ({error})") from None
    size = (width or image.width, height or image.height)
    array = np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], channels)
    if value.dtype is not DType.UINT8:
        array = _scaled(array, value, pixels)
    if layout == "CHW":
        array = array.transpose(2, 0, 1)
    elif layout == "HW":
        array = array[:, :, 0]
    return np.ascontiguousarray(array.reshape((1,) * (len(value.shape) - array.ndim) + array.shape))


def _image_layout(value: Value) -> tuple[int, int, int, str]:
    """(height, width, channels, layout) an input asks for, 0 for a size it leaves open."""
    def open_size(size: Any) -> int:
        return size if isinstance(size, int) else 0
    shape: Sequence[Any] = value.shape or ()
    if len(shape) == 2:
        return open_size(shape[0]), open_size(shape[1]), 1, "HW"
    if len(shape) in (3, 4):
        first, second, third = shape[-3:]
        if third in _MODES and first not in _MODES:
            return open_size(first), open_size(second), third, "HWC"
        if first in _MODES or not isinstance(first, int):
            return open_size(second), open_size(third), first if first in _MODES else 3, "CHW"
    raise InvalidArgument(f"input '{value.name}' is {type_text(value.type)}, which is no image: [N, C, H, W], [N, H, W, C], [C, H, W], [H, W, C] or [H, W] with 1, 3 or 4 channels")


def _scaled(array: np.ndarray, value: Value, pixels: Pixels) -> np.ndarray:
    for option, numbers in (("--image-mean", pixels.mean), ("--image-std", pixels.std)):
        if len(numbers) not in (1, array.shape[2]):
            raise InvalidArgument(f"{option} has {len(numbers)} numbers, input '{value.name}' has {array.shape[2]} channels")
    scaled = (array.astype(np.float32) * np.float32(pixels.scale) - np.array(pixels.mean, np.float32)) / np.array(pixels.std, np.float32)
    return scaled if value.dtype is not None and value.dtype.is_float else np.rint(scaled)


def read_audio(path: str, value: Value) -> np.ndarray:
    """A .wav as one channel in [-1, 1] (int16 inputs: as it is), cut or padded with silence to the input's last size where that is a number."""
    samples = _samples(path)
    if value.dtype is DType.INT16:
        samples = np.clip(np.rint(samples * 32768), -32768, 32767)
    shape: Sequence[Any] = value.shape or (None,)
    axis = next((i for i in reversed(range(len(shape))) if shape[i] != 1), len(shape) - 1)
    if isinstance(shape[axis], int):
        samples = np.pad(samples[:shape[axis]], (0, max(0, shape[axis] - len(samples))))
    sizes = [1] * len(shape)
    sizes[axis] = len(samples)
    return samples.reshape(sizes)


def _samples(path: str) -> np.ndarray:
    """The samples of a PCM .wav, channels averaged, as float64 in [-1, 1)."""
    try:
        with wave.open(path, "rb") as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise InvalidArgument(f"'{path}' is not a PCM .wav file ({error})") from None
    data = data[:len(data) // (width * channels) * (width * channels)]
    if width == 1:  # the one unsigned width
        samples = np.frombuffer(data, np.uint8).astype(np.float64) / 128 - 1
    elif width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = wide.reshape(-1).view("<i4") / 2.0 ** 31
    else:
        samples = np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)
    return samples.reshape(-1, channels).mean(1)
