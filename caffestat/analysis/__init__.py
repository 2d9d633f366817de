"""What is measured and predicted of programs, of Caffe nets and ONNX models alike.

Importing this package imports neither onnx nor onnxruntime nor the theory: what needs them is imported when it is asked
for.
"""

from typing import TYPE_CHECKING

from caffestat.lazy import lazily

from .measurement import Measurement, Norms

if TYPE_CHECKING:
    from .layer_gains import Gain, gains
    from .prediction import Prediction, Predictor, predict
    from .runner import Runner, Step, draw_feeds, measure

__all__ = [
    "Gain",
    "Measurement",
    "Norms",
    "Prediction",
    "Predictor",
    "Runner",
    "Step",
    "draw_feeds",
    "gains",
    "measure",
    "predict",
]

__getattr__ = lazily(
    __name__,
    {
        "layer_gains": ["Gain", "gains"],
        "prediction": ["Prediction", "Predictor", "predict"],
        "runner": ["Runner", "Step", "draw_feeds", "measure"],
    },
)
