"""External ONNX models: what feeds them, what their loss is, what a run measures, and the Report of it."""

from .losses import LOSSES
from .measure import Measurement, measure
from .predict import Prediction, predict
from .report import build
from .settle import settle_drawn

__all__ = ["LOSSES", "Measurement", "Prediction", "build", "measure", "predict", "settle_drawn"]
