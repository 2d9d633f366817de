"""Mean, crop, mirror and scale: what Caffe does to each image. (data_transformer.cpp)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.fillers import Stream
from caffestat.layers.data import refuse_two_means
from caffestat.lazy import np
from caffestat.schema import BlobProto, caffe_pb2, read_binary
from caffestat.schema.blobs import blob_shape

from .reader import find

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caffestat.layers import Layer

__all__ = ["Transformer", "mean_values", "read_blob", "read_mean"]


class Transformer:
    """y = (x - mean) · scale over a crop of the image, mirrored or not.

    The crop is random in TRAIN and central in TEST; both draw from a generator of the layer's own.
    Raises DataUnavailableError when mean_file is not available, NetError when the settings contradict each other.
    """

    def __init__(self, layer: Layer, crop: tuple[int, int] | None = None) -> None:
        """Read the mean. crop: height and width of the crop, by default crop_size; zeros for none."""
        self._layer = layer
        self._param = layer.proto.transform_param
        self._crop = crop or (self._param.crop_size,) * 2
        self._random: Stream | None = None
        self._mean: NDArray[np.float32] | None = None
        refuse_two_means(layer)
        if self._param.HasField("mean_file"):
            self._mean = read_mean(layer, self._param.mean_file)

    @property
    def cuts(self) -> bool:
        """Whether it cuts images to a size; a crop of one side alone begins at the edge."""
        return all(self._crop)

    def start(self, seed: int | None) -> None:
        """Seed the generator; None when the layer needs none."""
        self._random = None if seed is None else Stream(seed)

    def shape(self, image: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape (C, H, W) that an image of this one is given.

        Raises NetError when it is smaller than the crop.
        """
        channels, height, width = image
        if height < self._crop[0] or width < self._crop[1]:
            crop = " x ".join(map(str, dict.fromkeys(self._crop)))
            raise self._layer.error(f"crop_size is {crop}, but an image is {height} x {width}")
        return (channels, self._crop[0] or height, self._crop[1] or width)

    def apply(self, image: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the float32 array (C, H, W) of an image (C, H, W). Raises NetError when it does not fit the mean."""
        return self.cut(image, *self.place(image.shape))

    def place(self, image: tuple[int, ...], is_random: bool = False) -> tuple[bool, int, int]:
        """Draw whether an image of this shape is mirrored, and the row and the column at which its crop begins.

        is_random: crops are random in TEST too
        """
        self.shape(image)
        return bool(self._param.mirror and self.draw(2)), *self.offsets(image, is_random)

    def offsets(self, image: tuple[int, ...], is_random: bool = False) -> tuple[int, int]:
        """Draw the row and the column at which the crop of an image of this shape begins."""
        _, height, width = self.shape(image)
        down, right = image[1] - height, image[2] - width
        if not self.cuts:
            return 0, 0
        if is_random or self._layer.phase == caffe_pb2.TRAIN:
            return self.draw(down + 1), self.draw(right + 1)
        return down // 2, right // 2

    def cut(
        self,
        image: NDArray[np.uint8] | NDArray[np.float32],
        mirror: bool,
        top: int,
        left: int,
        mean: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the array of an image, cut and mirrored as given; see `apply`. mean: in place of the transformer's."""
        _, height, width = self.shape(image.shape)
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        values = image[window].astype(np.float32)
        if self._mean is not None or self._param.mean_value:
            values -= (self.mean_of(image.shape) if mean is None else mean)[window]
        values *= np.float32(self._param.scale)
        return values[:, :, ::-1] if mirror else values

    def draw(self, n: int) -> int:
        """Return a number from 0 to n - 1 of the generator."""
        assert self._random is not None, "call start first"
        return self._random.word() % n

    def mean_of(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the mean as an array of the whole image's shape."""
        if self._mean is not None:
            if self._mean.shape != shape:
                found = f"the mean in {self._param.mean_file!r} has shape {self._mean.shape}"
                raise self._layer.error(f"{found}, but an image has {shape}")
            return self._mean
        return np.broadcast_to(mean_values(self._layer, shape[0]), shape)


def mean_values(layer: Layer, channels: int) -> NDArray[np.float32]:
    """Return the mean of each channel (C, 1, 1) as mean_value gives it, 0 without one. Raises NetError for others."""
    values = np.array(layer.proto.transform_param.mean_value or [0], np.float32)
    if values.size not in (1, channels):
        raise layer.error(f"mean_value is given {values.size} times; expected once, or once per channel ({channels})")
    return np.broadcast_to(values, channels).reshape(-1, 1, 1)


def read_mean(layer: Layer, path: str) -> NDArray[np.float32]:
    """Return the mean image (C, H, W) of a binary BlobProto.

    Raises DataUnavailableError when there is no such file, NetError when it is something else.
    """
    shape, values = read_blob(layer, path)
    image = (*shape, 1, 1, 1, 1)[1:4]  # Caffe reads axes 1 to 3, and those that are not there as 1
    return values[: np.prod(image)].reshape(image)


def read_blob(layer: Layer, path: str) -> tuple[tuple[int, ...], NDArray[np.float32]]:
    """Return the shape of a mean_file, and its values, as many as the shape says or more; see `read_mean`."""
    try:
        blob = read_binary(find(path, layer), BlobProto)
    except InputError as error:
        raise layer.error(f"mean_file: {error}") from error
    shape = blob_shape(blob)
    values = np.array(blob.double_data or blob.data, np.float32)
    if min(shape, default=1) < 1:
        raise layer.error(f"mean_file {path!r} has shape {shape}; expected sizes of 1 or more")
    if values.size < np.prod(shape):
        raise layer.error(f"mean_file {path!r} holds {values.size} values for shape {shape}")
    return shape, values
