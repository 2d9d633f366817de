"""Detections of persons and what each of them does, as Python code of Intel's training toolbox makes them."""

from __future__ import annotations

from collections.abc import Sequence

from caffestat.lazy import np

from ..base import Shape, layer
from .boxes import overlaps
from .proposals import Settings, read_settings
from .ssd import PLACED_ROW
from .staged import Computed

__all__ = ["ActionsDetectionOutput"]

_ROW = 8  # item, action, both scores, box


@layer("caffe.custom_layers.actions_detection_output_layer.ActionsDetectionOutputLayer", dialect="openvino")
class ActionsDetectionOutput(Computed):
    """Rows [image, action, score, score of the action, x1, y1, x2, y2]: the likeliest action where a detection lies.

    Bottoms: rows of DetectionOutputExtended, and for each anchor the scores of actions [N, H, W, actions]; top
    [1, 1, detections, 8]. use_nms: a detection that overlaps a better one by more than min_overlap adds the score of
    its action to that one's votes; the best one of all votes with 1.
    (openvinotoolkit/training_toolbox_caffe, actions_detection_output_layer.py)
    """

    num_bottoms = (2, None)

    @property
    def settings(self) -> Settings:
        """The settings of its param_str."""
        return read_settings(self.proto.python_param.param_str)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        anchors = self.settings.get("num_anchors")
        if anchors != len(bottoms) - 1:
            raise self.error(f"expected num_anchors to be {len(bottoms) - 1}, that of the bottoms, found {anchors}")
        if self.settings.get("use_nms") and "num_valid_actions" not in self.settings:
            raise self.error("expected num_valid_actions with use_nms")
        if wrong := [shape for shape in bottoms[1:] if len(shape) != 4]:
            raise self.error(f"expected scores of actions (N, H, W, actions), found shape {wrong[0]}")
        return ((1, 1, 1, _ROW),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        found = bottoms[0].reshape(-1, PLACED_ROW)
        items, anchors, columns, rows = found[:, [0, 7, 8, 9]].T.astype(int)
        scores = [bottoms[1 + a][i, y, x] for i, a, x, y in zip(items, anchors, columns, rows, strict=True)]
        actions, likely = np.argmax(scores, axis=1), np.max(scores, axis=1)
        every = np.column_stack([items, actions, found[:, 2], likely, found[:, 3:7]]).astype(np.float32)
        kept = self.merged(every) if self.settings.get("use_nms") else every
        return (kept.reshape(1, 1, -1, _ROW),)

    def merged(self, rows: np.ndarray) -> np.ndarray:
        """Return the best rows of those that overlap, each with the action that most of them vote for."""
        least, order = float(self.settings.get("min_overlap", 0.45)), np.argsort(-rows[:, 2], kind="stable")
        kept: list[int] = []
        votes: list[np.ndarray] = []
        for index in order:
            shares = overlaps(rows[index : index + 1, 4:], rows[np.array(kept, int), 4:])[0]
            winner = int(shares.argmax()) if shares.max(initial=0) > least else len(kept)
            if winner == len(kept):
                kept.append(int(index))
                votes.append(np.zeros(int(self.settings["num_valid_actions"]), np.float32))
            votes[winner][int(rows[index, 1])] += rows[index, 3] if index != order[0] else 1
        best = rows[kept]
        best[:, 1] = [vote.argmax() for vote in votes]
        return best
