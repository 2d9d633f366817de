"""External ONNX models: what feeds them, what their loss is, what a run measures, and the Report of it."""

from .losses import LOSSES
from .measure import Measurement, measure
from .predict import Prediction, predict
from .report import build

__all__ = ["LOSSES", "Measurement", "Prediction", "build", "measure", "predict"]
