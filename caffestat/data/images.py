"""Images as OpenCV reads them, decoded by Pillow: channels in the order blue, green, red.

Pillow and OpenCV share the JPEG and PNG decoders' rules, not their builds: values can differ by 1.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np

from .reader import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

__all__ = ["LARGEST", "decode", "nearest", "recompressed", "resize"]

LARGEST = 1 << 28
"""The most bytes of an image file."""

# What OpenCV reads and Pillow decodes by itself; for some others, EPS among them, it starts programs.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# shares of red, green and blue in gray, in units of 2^-15, and what is added before the fraction is cut off
_GRAY = (9798, 19234, 3736), 1 << 14
_GRAY_OF_PNG = (9797, 19234, 3737), 0  # libpng rounds down
_COEFFICIENT = 1 << 11  # OpenCV's bilinear weights are whole multiples of 1 / 2048


def decode(data: bytes, colour: bool | None) -> Image:
    """Return the image (C, H, W) in the bytes of a file of one of the allowed kinds.

    colour: True for three channels, False for one, None for those that the file has.
    Raises ValueError when it cannot be decoded, DataUnavailableError without Pillow.
    Source: util/io.cpp, OpenCV's imread.
    """
    pillow, ops = require("PIL.Image", "images"), require("PIL.ImageOps", "images")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about faults that do not prevent decoding
            pixels = _decoded(pillow.open(io.BytesIO(data), formats=_FORMATS), ops, colour)
    except Exception as error:  # of damaged files the decoders raise almost any
        kinds = ", ".join(_FORMATS)
        # the library's message names an object in memory
        why = "" if isinstance(error, pillow.UnidentifiedImageError) else f": {error}"
        raise ValueError(f"cannot be decoded as an image of one of the kinds {kinds}{why}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def recompressed(image: Image) -> Image:
    """Return an image (C, H, W) as it comes out of a JPEG file of quality 95, which OpenCV writes by default."""
    pillow = require("PIL.Image", "images")
    buffer = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image[2::-1].transpose(1, 2, 0))
    pillow.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    return decode(buffer.getvalue(), None)


def _decoded(image: Any, ops: Any, colour: bool | None) -> Image:
    gray = _GRAY_OF_PNG if image.format == "PNG" else _GRAY
    if colour is False:
        image.draft("L", image.size)  # a JPEG's luminance plane is taken as it is
    if colour is not None:
        image = ops.exif_transpose(image)
    return _pixels(image, colour, gray)


def _pixels(image: Any, colour: bool | None, to_gray: tuple[Sequence[int], int]) -> Image:
    """Return pixels (H, W, C), blue first."""
    if image.mode.startswith("I"):  # 16 bits of gray
        gray: Image = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)[:, :, None]
        return np.repeat(gray, 3, axis=2) if colour else gray
    if image.mode in ("1", "L") and not colour:
        return np.asarray(image.convert("L"))[:, :, None]
    if colour is None and (image.mode in ("RGBA", "LA") or "transparency" in image.info):
        return np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]]
    pixels: Image = np.asarray(image.convert("RGB"))
    if colour is not False:
        return pixels[:, :, ::-1]
    shares, rounding = to_gray
    return ((pixels @ shares + rounding) >> 15).astype(np.uint8)[:, :, None]


def resize(image: Image, height: int, width: int) -> Image:
    """Return an image (C, H, W) in another size: bilinear on pixel centres, in OpenCV's 8-bit fixed-point arithmetic.

    Source: OpenCV's resize with INTER_LINEAR, without a vendor's library in its place.
    """
    rows, columns = image.shape[1:]
    if (rows, columns) == (2 * height, 2 * width):  # OpenCV takes the mean of each block of four here
        quads = image.reshape(-1, height, 2, width, 2).astype(np.int32)
        return ((quads.sum(axis=(2, 4)) + 2) >> 2).astype(np.uint8)
    before, first, second = _weights(columns, width)
    first, second = np.where((before < 0) | (before >= columns - 1), [[_COEFFICIENT], [0]], [first, second])
    wide = image.astype(np.int32)
    across = wide[:, :, before.clip(0, columns - 1)] * first + wide[:, :, (before + 1).clip(0, columns - 1)] * second
    across >>= 4
    # down the image OpenCV keeps both shares at the border, which rounds otherwise than one share of 1
    before, first, second = _weights(rows, height)
    upper = (across[:, before.clip(0, rows - 1)] * first[:, None]) >> 16
    lower = (across[:, (before + 1).clip(0, rows - 1)] * second[:, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def nearest(image: Image, height: int, width: int) -> Image:
    """Return an image (C, H, W) in another size: for each new pixel the old one before it (OpenCV's INTER_NEAREST)."""
    down, across = (
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64), old - 1)
        for old, new in zip(image.shape[1:], (height, width), strict=True)
    )
    return image[:, down[:, None], across]


def _weights(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return for each new pixel the old one before it, and the shares of that one and of the next."""
    centre = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    before = np.floor(centre).astype(np.int64)
    share = centre - before.astype(np.float32)
    first, second = (np.rint(part * np.float32(_COEFFICIENT)).astype(np.int64) for part in (1 - share, share))
    return before, first, second
