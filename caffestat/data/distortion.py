"""SSD's resizing, noise and colour distortion of images.

OpenCV 4.6 and 5.0 give the same JPEG files, CLAHE, histograms, blurs and sizes; CUBIC's pixels can differ by 1, and
once in a million those of a changed hue or saturation.

(weiliu89/caffe, branch ssd: src/caffe/util/im_transforms.cpp)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.fillers import Stream
from caffestat.fillers.distributions import uniform
from caffestat.lazy import np
from caffestat.schema.forks.ssd_pb2 import ResizeParameter

from .images import nearest, resize
from .reader import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Box = NDArray[np.float32]

__all__ = ["Draws", "add_noise", "distort", "fitted_box", "new_size", "resized"]

WARP, FIT_SMALL_SIZE = ResizeParameter.WARP, ResizeParameter.FIT_SMALL_SIZE
PADDING = {
    ResizeParameter.MIRRORED: "reflect",
    ResizeParameter.REPEAT_NEAREST: "edge",
}
BGR2YCRCB, YCRCB2BGR = "COLOR_BGR2YCrCb", "COLOR_YCrCb2BGR"


class Draws:
    """What is drawn while images are read: from the reading thread's stream, and from the C library's generator."""

    def __init__(self, stream: Stream, outer: Stream) -> None:
        self._stream = stream
        self._c_random = outer.c_random

    def between(self, low: float, high: float) -> np.float32:
        """Return a float32 number from low to high."""
        return np.float32(uniform(self._stream, 1, low, high)[0])

    def below(self, n: int) -> int:
        """Return a number from 0 to n - 1."""
        return self._stream.word() % n

    def weighted(self, shares: Sequence[float]) -> int:
        """Return an index, each as likely as its share says. (roll_weighted_die)"""
        sums = np.cumsum(np.array(shares, np.float32), dtype=np.float32)
        return int(np.searchsorted(sums, self.between(0, float(sums[-1]))))

    def order(self, n: int) -> list[int]:
        """Return the numbers from 0 to n - 1 in an order of the C library's generator."""
        return self._c_random.shuffled(range(n))


# ---- sizes -----------------------------------------------------------------------------------------------------------


def new_size(p: Any, image: Sequence[int]) -> tuple[int, int]:
    """Return height and width that an image (C, H, W) is resized to, without a draw. (InferNewSize)"""
    if p.resize_mode != FIT_SMALL_SIZE:
        return p.height, p.width
    aspect = np.float32(image[2]) / np.float32(image[1])
    if aspect < np.float32(p.width) / np.float32(p.height):
        return int(np.float32(p.width) / aspect), p.width
    return p.height, int(aspect * np.float32(p.height))


def resized(image: Image, p: Any, draws: Draws) -> Image:
    """Return an image (C, H, W) as resize_param asks for: warped, or with its aspect kept. (ApplyResize)

    Raises ValueError when nothing is left of it.
    """
    scaled = _interpolation(p, draws)
    if p.resize_mode in (WARP, FIT_SMALL_SIZE):
        return scaled(image, *new_size(p, image.shape))
    aspect = np.float32(image.shape[2]) / np.float32(image.shape[1])
    if aspect > np.float32(p.width) / np.float32(p.height):
        size = int(np.floor(np.float32(p.width) / aspect)), p.width
    else:
        size = p.height, int(np.floor(aspect * np.float32(p.height)))
    if min(size) < 1:
        raise ValueError(f"of shape {image.shape}, of which resize_param leaves {size[0]} x {size[1]} pixels")
    return _padded(scaled(image, *size), p)


def _padded(image: Image, p: Any) -> Image:
    spare = [(0, 0), *((more // 2, more - more // 2) for more in (p.height - image.shape[1], p.width - image.shape[2]))]
    if p.pad_mode != ResizeParameter.CONSTANT:
        padded: Image = np.pad(image, spare, PADDING[p.pad_mode])  # type: ignore[call-overload]  # the mode is a str
        return padded
    values = np.broadcast_to(np.clip(np.rint(p.pad_value or [0]), 0, 255), len(image)).astype(np.uint8)
    inside = np.pad(np.ones(image.shape[1:], bool), spare[1:])
    return np.where(inside, np.pad(image, spare), values[:, None, None])


def _interpolation(p: Any, draws: Draws) -> Callable[[Image, int, int], Image]:
    """Return how an image is resized: of several interp_mode one is drawn, of one too."""
    if not p.interp_mode:
        return resize
    count = len(p.interp_mode)
    mode = p.interp_mode[draws.weighted([float(np.float32(1) / np.float32(count))] * count)]
    own = {ResizeParameter.LINEAR: resize, ResizeParameter.NEAREST: nearest}
    return own[mode] if mode in own else _of_opencv(ResizeParameter.Interp_mode.Name(mode))


def _of_opencv(name: str) -> Callable[[Image, int, int], Image]:
    cv2 = _opencv(f"images with interp_mode: {name}")
    flag = getattr(cv2, f"INTER_{name}")

    def scaled(image: Image, height: int, width: int) -> Image:
        return _planes(cv2.resize(_pixels(image), (width, height), interpolation=flag))

    return scaled


def fitted_box(box: Box, p: Any, image: Sequence[int]) -> Box:
    """Return a box (x1, y1, x2, y2) of an image (C, H, W) as it lies in the resized one. (UpdateBBoxByResizePolicy)"""
    old = np.array(image[:0:-1], np.float32)
    new = np.array([p.width, p.height], np.float32)
    aspect = old[0] / old[1]
    is_wide = bool(aspect > new[0] / new[1])
    padding = np.zeros(2, np.float32)
    if p.resize_mode == FIT_SMALL_SIZE:
        new = np.array(
            [aspect * new[1], new[1]] if aspect >= new[0] / new[1] else [new[0], new[0] / aspect], np.float32
        )
    elif p.resize_mode != WARP:
        across = np.float32(0) if is_wide else (new[0] - aspect * new[1]) / 2
        padding = np.array([across, (new[1] - new[0] / aspect) / 2 if is_wide else 0], np.float32)
    corners = box.reshape(2, 2) * old * (new - 2 * padding) / old
    least, most = padding + np.maximum(corners[0], 0), padding + np.minimum(corners[1], new)
    return np.concatenate([least / new, most / new]).astype(np.float32)


# ---- noise and colours -----------------------------------------------------------------------------------------------


def add_noise(image: Image, p: Any, draws: Draws) -> Image:
    """Return an image (C, H, W) with what noise_param asks for, in the reference's order. (ApplyNoise)

    Raises ValueError for changes of colours of an image that has none. convert_to_lab is left out.
    """
    cv2 = _opencv("images with noise_param")
    if p.decolorize or p.convert_to_hsv:
        _require_colours(image, "decolorize and convert_to_hsv")
    pixels = _pixels(image)
    if p.decolorize:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if p.gauss_blur:
        pixels = cv2.GaussianBlur(pixels, (7, 7), 1.5)
    if p.hist_eq:
        pixels = _on_luma(cv2, pixels, cv2.equalizeHist)
    if p.clahe:
        pixels = _on_luma(cv2, pixels, cv2.createCLAHE(clipLimit=4).apply)
    if p.jpeg > 0:
        pixels = cv2.imdecode(
            cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(p.jpeg)])[1], cv2.IMREAD_COLOR
        )
    if p.erode:
        pixels = cv2.erode(pixels, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3), (1, 1)))
    if p.posterize:
        pixels = pixels // 64 * 64 + 32
    if p.inverse:
        pixels = 255 - pixels
    if p.saltpepper:
        pixels = _salted(pixels, p.saltpepper_param, draws)
    return _planes(cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV) if p.convert_to_hsv else pixels)


def _on_luma(cv2: Any, pixels: Image, change: Callable[[Image], Image]) -> Image:
    """Return the pixels with their brightness changed."""
    if pixels.ndim == 2:
        return change(pixels)
    planes = cv2.cvtColor(pixels, getattr(cv2, BGR2YCRCB))
    planes[..., 0] = change(np.ascontiguousarray(planes[..., 0]))
    return np.asarray(cv2.cvtColor(planes, getattr(cv2, YCRCB2BGR)))


def _salted(pixels: Image, p: Any, draws: Draws) -> Image:
    """Return the pixels with some of them, drawn one by one, set to a value."""
    rows, columns = pixels.shape[:2]
    pixels = pixels.copy()
    value = np.array(p.value).astype(np.uint8)
    for _ in range(int(np.floor(np.float32(p.fraction) * np.float32(columns) * np.float32(rows)))):
        column = draws.below(columns)
        pixels[draws.below(rows), column] = value if pixels.ndim > 2 else value[0]
    return pixels


def distort(image: Image, p: Any, draws: Draws) -> Image:
    """Return an image (C, H, W) with brightness, contrast, saturation, hue and order of channels changed.

    Each is changed or not by a draw of its own, and so is whether contrast comes second or last. (ApplyDistort)
    Raises ValueError for changes of colours of an image that has none.
    """
    contrast = (_contrast, p.contrast_prob, p.contrast_lower, p.contrast_upper)
    steps: list[tuple[Callable[[Image, np.float32], Image], float, float, float]] = [
        (_brightness, p.brightness_prob, -p.brightness_delta, p.brightness_delta),
        (_saturation, p.saturation_prob, p.saturation_lower, p.saturation_upper),
        (_hue, p.hue_prob, -p.hue_delta, p.hue_delta),
    ]
    steps.insert(1 if draws.between(0, 1) > 0.5 else 3, contrast)
    for change, share, low, high in steps:
        if draws.between(0, 1) < np.float32(share):
            image = change(image, draws.between(low, high))
    if draws.between(0, 1) >= np.float32(p.random_order_prob):
        return image
    _require_colours(image, "random_order_prob")
    return image[draws.order(3)]


def _brightness(image: Image, delta: np.float32) -> Image:
    return _saturated(image + delta)


def _contrast(image: Image, factor: np.float32) -> Image:
    return _saturated(image * factor) if abs(factor - 1) > 1e-3 else image


def _saturation(image: Image, factor: np.float32) -> Image:
    return _in_hsv(image, 1, lambda plane: plane * factor)


def _hue(image: Image, delta: np.float32) -> Image:
    return _in_hsv(image, 0, lambda plane: plane + delta) if delta else image


def _in_hsv(image: Image, channel: int, change: Callable[[Any], Any]) -> Image:
    _require_colours(image, "distort_param's saturation and hue")
    cv2 = _opencv("images with distort_param")
    pixels = cv2.cvtColor(_pixels(image), cv2.COLOR_BGR2HSV)
    pixels[..., channel] = _saturated(change(pixels[..., channel].astype(np.float32)))
    return _planes(cv2.cvtColor(pixels, cv2.COLOR_HSV2BGR))


def _require_colours(image: Image, what: str) -> None:
    if len(image) != 3:
        raise ValueError(f"of {len(image)} channels; expected three for {what}")


def _saturated(values: Any) -> Image:
    """Return values as bytes: halves to even, the rest cut off, as OpenCV rounds."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _opencv(what: str) -> Any:
    return require("cv2", what, "opencv")


def _pixels(image: Image) -> Image:
    """Return an image (C, H, W) as OpenCV has it."""
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def _planes(pixels: Any) -> Image:
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))
