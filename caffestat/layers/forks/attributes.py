"""Number plates and faces: what is read in them, how right it is, and the cosines that tell faces apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import centers_pb2

from ..base import TRAIN, Layer, Param, Shape, layer, read_param
from ..loss import is_label
from .ssd import AnnotatedData, MultiBoxLoss
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "CcpdData",
    "CosinL2Normalize",
    "DetectionCcpdOutput",
    "FaceAttriEvaluate",
    "FaceAttributeData",
    "Identity2Verify",
    "LpEvaluate",
    "MultiBoxSSDLoss",
]

SIGNS = 7  # of a number plate
POINTS, ANGLES = 10, 3  # values of a face: x of five points, their y, yaw, pitch and roll
LEAST_SQUARE = 1e-11  # added to the square of a norm


@layer("MultiBoxSSDLoss", dialect="centers")
class MultiBoxSSDLoss(MultiBoxLoss):
    """SSD's MultiBoxLoss under another name. (yuqj1991/caffe_train, multibox_loss_layer.cpp)"""


class _LabeledImages(AnnotatedData):
    """Images of a database whose labels [N, values] are not read."""

    data_kind = ""
    why_unread = "the contents of its records are not read"

    def values(self) -> int:
        """Return how many values a label has."""
        raise NotImplementedError

    def written_shape(self, index: int) -> Shape | None:
        return (self.batch_size(), self.values()) if index else self.image_shape()

    def top_shape(self, index: int, name: str) -> Shape | None:
        images = self.shape_overrides.get(self.proto.top[0])
        if index and images and name not in self.shape_overrides:
            return (images[0], self.values())
        return super().top_shape(index, name)

    def is_of_yolo(self) -> bool:
        return True  # its label's first axis counts images

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return None


@layer("ccpdData", dialect="centers")
class CcpdData(_LabeledImages):
    """Images of number plates and the indices of their signs [N, 7]. (yuqj1991/caffe_train, ccpd_data_layer.cpp)"""

    num_tops = (1, 2)

    def values(self) -> int:
        return SIGNS

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return random.integers(0, 20, shape).astype(np.float32) if top else None


@layer("faceAttributeData", dialect="centers")
class FaceAttributeData(_LabeledImages):
    """Images of faces, and their points, angles, sex and glasses [N, 15]; TEST: with their size [N, 17].

    (yuqj1991/caffe_train, face_attribute_data_layer.cpp)
    """

    num_tops = (1, 2)

    def values(self) -> int:
        return POINTS + ANGLES + (2 if self.phase == TRAIN else 4)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if not top:
            return None
        labels = random.uniform(0, 1, shape).astype(np.float32)
        labels[:, POINTS : POINTS + ANGLES] = random.uniform(-60, 60, (shape[0], ANGLES))
        labels[:, POINTS + ANGLES :] = random.integers(0, 2, labels[:, POINTS + ANGLES :].shape)
        labels[:, POINTS + ANGLES + 2 :] = 128
        return labels


def _largest(scores: np.ndarray) -> np.ndarray:
    """Return the index of each row's largest value above 0, else 0."""
    return np.maximum(scores, 0).argmax(-1)


@layer("DetectionCcpdOutput", dialect="centers")
class DetectionCcpdOutput(Computed):
    """The signs of number plates [1, 1, N, 7]: of each bottom's scores the index of the largest above 0; no gradient.

    Bottoms: scores of num_chinese, num_english and five times num_letter classes.
    (yuqj1991/caffe_train, detection_ccpd_output_layer.cpp)
    """

    adds = centers_pb2.LayerParameter
    num_bottoms = (SIGNS, SIGNS)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.lp_det_param
        classes = (p.num_chinese, p.num_english, *(p.num_letter,) * (SIGNS - 2))
        expected = [(bottoms[0][0], count) for count in classes]
        if [(shape[0], math.prod(shape[1:])) for shape in bottoms] != expected or min(classes) < 1:
            raise self.error(f"expected scores of {list(classes)} classes of as many plates, found {list(bottoms)}")
        return ((1, 1, bottoms[0][0], SIGNS),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        signs = [_largest(scores.reshape(len(scores), -1)) for scores in bottoms]
        return (np.stack(signs, 1).astype(np.float32)[None, None],)


@layer("LpEvaluate", dialect="centers")
class LpEvaluate(Computed):
    """Whether a plate or one before it was read right [1, 1, N, 1], of signs and labels of seven each; no gradient.

    N is the first bottom's first axis: 1 behind DetectionCcpdOutput, as in the reference. That a later plate counts as
    right once one was, is the reference's too. (yuqj1991/caffe_train, ccpdlp_evaluate_layer.cpp)
    """

    adds = centers_pb2.LayerParameter
    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        plates = (*bottoms[0], 1)[0]
        if min(math.prod(shape) for shape in bottoms) < plates * SIGNS:
            raise self.error(f"expected {plates} rows of {SIGNS} signs, found shapes {bottoms[0]} and {bottoms[1]}")
        return ((1, 1, plates, 1),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        plates = len(bottoms[0])
        read, labels = (bottom.ravel()[: plates * SIGNS].reshape(plates, SIGNS) for bottom in bottoms)
        right = np.logical_or.accumulate((read == labels).all(1))
        return (right.astype(np.float32).reshape(1, 1, plates, 1),)


@layer("FaceAttriEvaluate", dialect="centers")
class FaceAttriEvaluate(Computed):
    """How right faces were read [1, 1, N, 10]; no gradient. facetype: FACEATTRIBUTE.

    Five distances of points, as parts of the image's diagonal; whether sex and glasses were right, here or in a face
    before, as in the reference; the cosines of three angles' errors. Bottoms: x of five points, their y, three angles
    and two scores of sex and of glasses [N, 17], and labels of faceAttributeData [N, 17]. What shorter rows lack comes
    out of the next one, as in the reference; behind the last one it reads foreign memory, here 0.
    (yuqj1991/caffe_train, faceEvaluateLayer.cpp)
    """

    adds = centers_pb2.LayerParameter
    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.added.face_evaluate_param.facetype != centers_pb2.FaceEvaluateParameter.FACEATTRIBUTE:
            raise self.error("expected facetype: FACEATTRIBUTE; the reference has no other")
        faces, row = bottoms[0][0], POINTS + ANGLES + 4
        if any(len(shape) < 2 or shape[0] != faces or math.prod(shape[1:]) != shape[1] for shape in bottoms):
            raise self.error(f"expected rows of as many faces, found shapes {bottoms[0]} and {bottoms[1]}")
        if bottoms[1][1] != row:
            raise self.error(f"expected labels of {row} values, found shape {bottoms[1]}")
        return ((1, 1, faces, 10),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        truth = bottoms[1].reshape(len(bottoms[1]), -1).astype(float)
        end = POINTS + ANGLES
        places = np.arange(len(truth))[:, None] * bottoms[0].shape[1] + np.arange(end + 4)
        read = np.pad(bottoms[0].ravel().astype(float), (0, end + 4))[places]
        size = truth[:, end + 2 : end + 4]
        offsets = (read[:, :POINTS] - truth[:, :POINTS]).reshape(-1, 2, POINTS // 2) * size[:, :, None]
        distances = np.hypot(*offsets.swapaxes(0, 1)) / np.hypot(*size.T)[:, None]
        kinds = _largest(read[:, end : end + 4].reshape(-1, 2, 2))
        right = np.logical_or.accumulate(truth[:, end : end + 2].astype(int) == kinds)
        cosines = np.cos((read[:, POINTS:end] - truth[:, POINTS:end]) / 180 * math.pi)
        return (np.concatenate([distances, right, cosines], 1).astype(np.float32)[None, None],)


@layer("Identity2Verify", dialect="centers")
class Identity2Verify(Layer):
    """Features of items 0, 2, 4 … and of 1, 3, 5 …, and whether the labels of each two are alike (1 or 0).

    (yuqj1991/caffe_train, identity2verify_layer.cpp)
    """

    num_bottoms = (2, 2)
    num_tops = (3, 3)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        features, labels = bottoms
        if not features or features[0] % 2 or math.prod(labels) != features[0] or labels[0] != features[0]:
            raise self.error(f"expected features and labels of an even number of items, found {features} and {labels}")
        half = (features[0] // 2, *features[1:])
        return half, half, (features[0] // 2, *labels[1:])

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        halves = [_halves(g, bottom) for bottom in bottoms]
        apart = g.emit("Abs", g.emit("Sub", *halves[1]))
        alike = g.emit("Where", g.emit("Less", apart, g.constant(1)), g.constant(1), g.constant(0))
        return [*halves[0], alike]


def _halves(g: Graph, items: str) -> list[str]:
    """Emit the items of even and of odd places."""
    first, *rest = g.shape(items)
    pairs = g.reshape(items, first // 2, 2, *rest)
    chosen = [g.emit("Gather", pairs, g.constant(place, np.int64), axis=1) for place in (0, 1)]
    return [g.declare(half, (first // 2, *rest)) for half in chosen]


@layer("CosinL2Normalize", dialect="centers")
class CosinL2Normalize(Layer):
    """y[n, k] = scale · (cos of x[n] and w[k] + margin at the label); [N, num_output].

    1e-11 is added to the squares of the norms. Later passes of the reference add up the gradients of earlier ones in w;
    here each pass has its own. (yuqj1991/caffe_train, cosin_l2_normalize_innerproduct.cpp)
    """

    adds = centers_pb2.LayerParameter
    num_bottoms = (2, 2)
    filler_fields: ClassVar[Mapping[str, str]] = {"cosin_loss_param.cosin_filler": "weight"}

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        return True

    def features(self, bottoms: Sequence[Shape]) -> int:
        """Return how many values an item has."""
        axis = self.canonical_axis(self.added.cosin_loss_param.axis, len(bottoms[0]))
        return math.prod(bottoms[0][axis:])

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        p, size = self.added.cosin_loss_param, self.features(bottoms)
        return (read_param("weight", (p.num_output, size), p, "cosin_filler", size, p.num_output),)

    def mixes_channels(self) -> bool:
        return True

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return self.added.cosin_loss_param.num_output if bottom == 1 else None

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return bottoms[0][0] * math.prod(self.params(bottoms)[0].shape)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, labels = bottoms
        if not self.added.cosin_loss_param.num_output:
            raise self.error("expected a positive num_output in cosin_loss_param")
        if not x or math.prod(x) != x[0] * self.features(bottoms) or math.prod(labels) != x[0]:
            raise self.error(f"expected N rows and N labels, found shapes {x} and {labels}")
        return ((x[0], self.added.cosin_loss_param.num_output),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, items = self.added.cosin_loss_param, g.shape(bottoms[0])[0]
        x, w = (_normalized(g, name) for name in (g.reshape(bottoms[0], items, -1), params[0]))
        cosines = g.emit("Gemm", x, w, transB=1, hint=self.name)
        margins = g.emit("Where", is_label(g, bottoms[1], p.num_output), g.constant(p.margin), g.constant(0))
        return (g.emit("Mul", g.emit("Add", cosines, margins), g.constant(p.scale)),)


def _normalized(g: Graph, rows: str) -> str:
    """Emit rows divided by their norms."""
    squares = g.emit("ReduceSumSquare", rows, g.constant([1], np.int64), keepdims=1)
    return g.emit("Div", rows, g.emit("Sqrt", g.emit("Add", squares, g.constant(LEAST_SQUARE))))
