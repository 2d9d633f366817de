"""Running graphs with onnxruntime: devices, sessions, statistics. Knows nothing of Caffe."""

from .device import DEVICES, choose_device
from .session import Session
from .statistics import Statistics

__all__ = ["DEVICES", "Session", "Statistics", "choose_device"]
