"""Conditional random fields as layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.fillers import Filler, Stream
from caffestat.lazy import np
from caffestat.schema.forks import segmentation_pb2

from ..base import Layer, Param, Shape, layer
from ..loss import FLT_MIN
from .lattice import Filter, Lattice
from .squash import softmax
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["DenseCRF", "MultiStageMeanfield", "MultiStageMeanfieldOfTvg"]

MOST_DETECTIONS = 2 * 100
PARTS = (("shares", 1), ("norm", 0))  # and the axis of the points
USUAL = {"spatial": 3.0, "bilateral": 5.0}  # what the repository's own spatial.par and bilateral.par hold


@layer("MultiStageMeanfield", dialect="crfrnn")
class MultiStageMeanfield(Layer):
    """num_iterations steps of q = u - M (W_s F_s + W_b F_b) softmax(q) of mean field inference in a dense CRF.

    Bottoms: scores u and first scores q [N, C, H, W], images [N, 3, H, W], through which no gradient passes. The
    filters F are means over all pixels on a permutohedral lattice, weighted by Gaussians of places / theta_gamma, or of
    places / theta_alpha and colours / theta_beta. Params [1, 1, C, C]: W_s and W_b with the numbers of the files
    spatial.par and bilateral.par on their diagonals, 3 and 5 without these files, which the reference needs, and M with
    -1. The reference reads the numbers as double into float, which is undefined.
    (Seaball/crfasrnn_newercaffe, src/caffe/layers/multi_stage_meanfield.cpp)
    """

    adds = segmentation_pb2.CrfLayerParameter
    num_bottoms = (3, 3)
    num_tops = (1, 1)
    decides = True
    decisive = slice(2, 3)

    @property
    def settings(self) -> Any:
        return self.added.multi_stage_meanfield_param

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        scores, first, image = bottoms[:3]
        if len(scores) != 4 or first != scores or image != (scores[0], 3, *scores[2:]):
            raise self.error(f"expected scores (N, C, H, W) twice and images (N, 3, H, W), found shapes {bottoms}")
        if self.settings.num_iterations < 2:
            raise self.error("expected num_iterations above 1 in multi_stage_meanfield_param")
        return (scores,)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        classes = bottoms[0][1]
        roles = ("spatial weight", "bilateral weight", "compatibility")
        return tuple(self.matrix(role, (1, 1, classes, classes)) for role in roles)

    def matrix(self, role: str, shape: Shape) -> Param:
        """Return a param that `draw_params` fills."""
        return Param(role, shape, Filler(), False, shape[-1], shape[-2])

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        classes = bottoms[0][1]
        diagonals = [self.weights("spatial", classes), self.weights("bilateral", classes), np.full(classes, -1)]
        return [np.diag(values).astype(np.float32)[None, None] for values in diagonals]

    def weights(self, name: str, classes: int) -> np.ndarray:
        """Return the first weights of a filter, one for each class."""
        path = self.named_file(f"{name}.par")
        return np.full(classes, USUAL[name]) if path is None else self.numbers(self.text_of(path), str(path), classes)

    def text_of(self, path: Path) -> str:
        try:
            return read_regular(path).decode()
        except (OSError, InputError, UnicodeDecodeError) as error:
            raise self.error(f"cannot read the weights from {str(path)!r}: {error}") from error

    def numbers(self, text: str, origin: str, classes: int) -> np.ndarray:
        """Return the first numbers of a text. Raises NetError when there are fewer than classes."""
        try:
            values = np.array([float(word) for word in text.split()[:classes]])
        except ValueError as error:
            raise self.error(f"{origin}: expected {classes} numbers: {error}") from error
        if len(values) < classes:
            raise self.error(f"{origin}: expected {classes} numbers, one for each class, found {len(values)}")
        return values

    @property
    def left_out(self) -> str:
        missing = " and ".join(f"{name}.par" for name in USUAL if self.named_file(f"{name}.par") is None)
        return f"file not found: {missing}; the usual weights 3 and 5 are used" if missing else ""

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return the lattice of places and colours: its vertices, shares, neighbours and norm."""
        images = bottoms[0]
        p = self.settings
        colours = images.transpose(0, 2, 3, 1).reshape(len(images), -1, 3) / np.float32(p.theta_beta)
        places = _places(images.shape, p.theta_alpha)
        return _joined([self.lattice(np.concatenate([places, colour], 1)) for colour in colours])

    def lattice(self, features: np.ndarray) -> Lattice:
        p = self.settings
        try:
            return Lattice.of(features)
        except InputError as error:
            thetas = f"theta_alpha {p.theta_alpha:g}, theta_beta {p.theta_beta:g}, theta_gamma {p.theta_gamma:g}"
            raise self.error(f"{thetas}: {error}") from error

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        scores = g.shape(bottoms[0])
        n, classes, height, width = scores
        spatial = _joined([self.lattice(_places(scores, self.settings.theta_gamma))] * n)
        fixed = [g.constant(part, part.dtype) for part in spatial]
        lattices = [Filter.emit(g, parts, classes) for parts in (fixed, self.input_decisions(g))]
        *filters, compatibility = (
            g.reshape(param, *g.shape(param)[-2:]) for param in self.matrices(g, params, classes)
        )
        unary, q = (self.rows(g, bottom, classes) for bottom in bottoms[:2])
        for _ in range(self.settings.num_iterations):
            p = g.declare(g.emit("Softmax", q, axis=1), (n * height * width, classes))
            parts = [
                g.emit("MatMul", lattice(g, p), g.transpose(weights, 1, 0))
                for lattice, weights in zip(lattices, filters, strict=True)
            ]
            pairwise = g.emit("MatMul", g.emit("Add", *parts), g.transpose(compatibility, 1, 0))
            q = g.emit("Sub", unary, pairwise)
        return [g.transpose(g.reshape(q, n, height, width, classes), 0, 3, 1, 2)]

    def matrices(self, g: Graph, params: Sequence[str], classes: int) -> Sequence[str]:
        """Return the weights of both filters and the compatibility."""
        return params

    def rows(self, g: Graph, x: str, classes: int) -> str:
        """Emit scores [N, C, H, W] as rows of classes."""
        n, _, height, width = g.shape(x)
        return g.reshape(g.transpose(x, 0, 2, 3, 1), n * height * width, classes)


@layer("MultiStageMeanfield", dialect="tvg")
class MultiStageMeanfieldOfTvg(MultiStageMeanfield):
    """The same, of batch 1, its weights out of spatial_filter_weights_str and bilateral_filter_weights_str.

    Further bottom: the image's number; further params, for detections, and top [1, 1, 1, 200], zeros: detections and
    superpixels are not computed. With is_no_class_weights the filters have one weight each, the first, and M is fixed.
    (torrvision/caffe-tvg, src/caffe/layers/multi_stage_meanfield.cpp)
    """

    num_bottoms = (3, 4)
    num_tops = (2, 2)
    left_out = ""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        if p.detection_potentials_enabled or p.ho_potentials_enabled:
            self.why_uncomputed = "the files of its detections or superpixels are not read"
        (scores,) = super().tops(bottoms)
        if scores[0] != 1:
            raise self.error(f"expected scores of one image, found {scores[0]}")
        return scores, (1, 1, 1, MOST_DETECTIONS)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        classes, layers = bottoms[0][1], self.settings.ho_num_layers if self.settings.HasField("ho_num_layers") else 1
        further = {
            "detection weight": classes,
            "detection y weight": classes,
            "superpixel weight": layers,
            "unused": layers,
        }
        return (*super().params(bottoms), *(self.matrix(role, (1, 1, 1, size)) for role, size in further.items()))

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        further = [np.zeros(param.shape, np.float32) for param in params[3:]]
        return [*super().draw_params(stream, params, bottoms), *further]

    def weights(self, name: str, classes: int) -> np.ndarray:
        count = 1 if self.settings.is_no_class_weights else classes
        field = f"{name}_filter_weights_str"
        values = self.numbers(getattr(self.settings, field), field, count)
        return np.concatenate([values, np.zeros(classes - count)])

    def matrices(self, g: Graph, params: Sequence[str], classes: int) -> Sequence[str]:
        if not self.settings.is_no_class_weights:
            return params[:3]
        eye = np.eye(classes)[None, None]
        firsts = [g.emit("Slice", param, *(g.ints(*at) for at in ((0, 0), (1, 1), (2, 3)))) for param in params[:2]]
        scaled = [g.emit("Mul", first, g.constant(eye)) for first in firsts]
        return [g.declare(value, eye.shape) for value in (*scaled, g.constant(-eye))]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [*super().lower(g, bottoms, params), g.constant(np.zeros((1, 1, 1, MOST_DETECTIONS)))]


@layer("DenseCRF", dialect="deeplab")
class DenseCRF(Computed):
    """q = softmax(u + Σ w F(q)) again and again, from softmax(u) on: inference in a dense CRF; no gradient.

    Bottoms: scores u [N, C, H, W], height and width of the images, beyond which the top is 0, and images [N, 3, H, W].
    There are filters F, means on a permutohedral lattice, of weight pos_w over places / pos_xy_std, and of bi_w over
    places / bi_xy_std and the first image's colours / bi_rgb_std, whichever the item, as in the reference. Top: q, or
    log(max(q, FLT_MIN)) without output_probability.
    (siddharthachandra/gcrf, caffe_deeplab2_lightweight/src/caffe/layers/densecrf_layer.cpp)
    """

    adds = segmentation_pb2.CrfLayerParameter
    num_bottoms = (2, 3)

    @property
    def settings(self) -> Any:
        return self.added.dense_crf_param

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, (scores, sizes), images = self.settings, bottoms[:2], bottoms[2:]
        if len(scores) != 4 or not all(scores) or sizes[:1] != scores[:1] or math.prod(sizes) < 2 * scores[0]:
            raise self.error(f"expected scores (N, C, H, W) and N sizes, found shapes {scores} and {sizes}")
        if images and images[0] != (scores[0], 3, *scores[2:]):
            raise self.error(f"expected images of shape {(scores[0], 3, *scores[2:])}, found {images[0]}")
        if len(p.pos_w) != len(p.pos_xy_std) or not len(p.bi_w) == len(p.bi_xy_std) == len(p.bi_rgb_std):
            raise self.error("expected a pos_xy_std for each pos_w, a bi_xy_std and a bi_rgb_std for each bi_w")
        if images and not p.bi_w:
            raise self.error("expected bi_w, with images")
        return (scores,)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        sizes = np.zeros(bottoms[1], np.float32).reshape(bottoms[1][0], -1)
        sizes[:, :2] = bottoms[0][2:]
        return sizes.reshape(bottoms[1]) if bottom == 1 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        scores, sizes = bottoms[0], bottoms[1].reshape(len(bottoms[0]), -1)[:, :2].astype(int)
        tops = np.zeros(scores.shape, np.float32)
        for top, u, size in zip(tops, scores, sizes, strict=True):
            high, wide = u.shape[1:] if (size >= u.shape[1:]).all() else size
            if not (0 < high <= u.shape[1] and 0 < wide <= u.shape[2]):
                raise self.error(f"expected images of at most {u.shape[1:]} pixels, found {high} x {wide}")
            q = self.inferred(u[:, :high, :wide], [images[0, :, :high, :wide] for images in bottoms[2:]])
            top[:, :high, :wide] = q if self.settings.output_probability else np.log(np.maximum(q, FLT_MIN))
        return (tops,)

    def inferred(self, u: np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return q [C, H, W] for the scores of an item and the image, if there is one."""
        lattices, rows = list(self.lattices(u.shape, images)), u.reshape(len(u), -1).T
        q = softmax(rows, 1)
        for _ in range(self.settings.max_iter):
            parts = [np.float32(weight) * lattice.norm * lattice.filtered(q) for weight, lattice in lattices]
            q = softmax(rows + sum(parts), 1)
        return np.asarray(q.T.reshape(u.shape))

    def lattices(self, shape: Shape, images: Sequence[np.ndarray]) -> Iterator[tuple[float, Lattice]]:
        """Yield weight and lattice of each filter."""
        p = self.settings
        try:
            for weight, spread in zip(p.pos_w, p.pos_xy_std, strict=True):
                yield weight, Lattice.of(_places((1, *shape), spread))
            for image in images:
                for weight, spread, colour in zip(p.bi_w, p.bi_xy_std, p.bi_rgb_std, strict=True):
                    colours = image.reshape(3, -1).T / np.float32(colour)
                    yield weight, Lattice.of(np.concatenate([_places((1, *shape), spread), colours], 1))
        except InputError as error:
            raise self.error(str(error)) from error


def _places(shape: Shape, spread: float) -> np.ndarray:
    """Return x and y of each pixel of images [N, C, H, W] in units of a spread [H · W, 2]."""
    y, x = np.indices(shape[2:])
    return (np.stack([x, y], -1).reshape(-1, 2).astype(np.float32) / np.float32(spread)).astype(np.float32)


def _joined(lattices: Sequence[Lattice]) -> list[np.ndarray]:
    """Return the parts of one lattice that holds several, which share no vertex."""
    starts = np.cumsum([0] + [lattice.next.shape[2] for lattice in lattices])
    pairs = list(zip(lattices, starts, strict=False))
    places = np.concatenate([lattice.places + start for lattice, start in pairs], 1)
    steps = np.concatenate([np.where(lattice.next > 0, lattice.next + start, start) for lattice, start in pairs], 2)
    shares, norm = (np.concatenate([getattr(lattice, name) for lattice in lattices], axis) for name, axis in PARTS)
    return [places, shares, steps, norm]
