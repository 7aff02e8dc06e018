"""ImageDecoder: encoded files to pixels, by Pillow where it is installed."""
from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..dim import fresh
from ..errors import NotImplemented as NotImplementedHere
from ..types import DType
from .registry import Spec, operator, require

CHANNELS = {"RGB": 3, "BGR": 3, "Grayscale": 1}


@operator()
def ImageDecoder(encoded_stream: Any, *, pixel_format: str = "RGB") -> Any:
    """An encoded image (uint8 [bytes]) as uint8 [height, width, channels]; [0, 0, channels] where it can not be decoded."""
    require(pixel_format in CHANNELS, f"pixel_format '{pixel_format}' is not one of {', '.join(CHANNELS)}")
    try:
        from PIL import Image  # optional: only models that decode images need it
    except ImportError:
        raise NotImplementedHere("ImageDecoder needs Pillow: `pip install pillow` (in a page: await micropip.install('pillow'))") from None
    try:
        with Image.open(io.BytesIO(encoded_stream.tobytes())) as opened:
            # Palette, alpha and 16-bit images become plain 8-bit channels; Pillow would cut 16-bit values off at 255.
            deep = opened.mode.startswith("I")
            image = Image.fromarray((np.asarray(opened).astype(np.uint32) >> 8).astype(np.uint8)) if deep else opened
            pixels = np.asarray(image.convert("L" if pixel_format == "Grayscale" else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return np.zeros((0, 0, CHANNELS[pixel_format]), np.uint8)
    pixels = pixels.reshape(*pixels.shape[:2], CHANNELS[pixel_format])
    return np.ascontiguousarray(pixels[..., ::-1] if pixel_format == "BGR" else pixels)


@ImageDecoder.shape
def _(encoded_stream: Spec, *, pixel_format: str = "RGB") -> Spec:
    require(pixel_format in CHANNELS, f"pixel_format '{pixel_format}' is not one of {', '.join(CHANNELS)}")
    return Spec(DType.UINT8, (fresh(), fresh(), CHANNELS[pixel_format]))
