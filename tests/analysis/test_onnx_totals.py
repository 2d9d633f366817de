"""Params and multiply-adds of a known network, as its authors publish them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import NodeProto, helper

import caffestat

from ..graph.models import model

# expansion, channels, repeats, first stride: table 2 of Sandler et al. 2018 (MobileNetV2)
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2:
    """The graph, built node by node; `value` is the last value and `channels` how many it has."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.value, self.channels = "x", 3
        self.conv(32, 3, 2)
        for expansion, channels, repeats, stride in BLOCKS:
            for index in range(repeats):
                self.block(expansion, channels, stride if index == 0 else 1)
        self.conv(1280, 1)
        self.emit("GlobalAveragePool")
        self.emit("Flatten")
        self.emit("Gemm", self.zeros(1000, 1280), self.zeros(1000), transB=1)

    def emit(self, op: str, *inputs: str, **attributes: object) -> None:
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.value, *inputs], [name], **attributes))
        self.value = name

    def zeros(self, *shape: int) -> str:
        name = f"w{len(self.arrays)}"
        self.arrays[name] = np.zeros(shape, np.float32)
        return name

    def conv(self, channels: int, kernel: int, stride: int = 1, group: int = 1, relu: bool = True) -> None:
        weight = self.zeros(channels, self.channels // group, kernel, kernel)
        self.emit("Conv", weight, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group)
        self.channels = channels
        self.emit("BatchNormalization", *(self.zeros(channels) for _ in range(4)))
        if relu:
            self.emit("Relu")

    def block(self, expansion: int, channels: int, stride: int) -> None:
        before, width, keeps = self.value, self.channels * expansion, stride == 1 and channels == self.channels
        if expansion > 1:
            self.conv(width, 1)
        self.conv(width, 3, stride, group=width)
        self.conv(channels, 1, relu=False)
        if keeps:
            self.emit("Add", before)


def test_mobilenet_v2(tmp_path: Path) -> None:
    """3,504,872 params and 0.301 G multiply-adds: torchvision 0.29.2, mobilenet_v2, at 224 x 224."""
    net = MobileNetV2()
    path = tmp_path / "mobilenet_v2.onnx"
    proto = model(net.nodes, {"x": (1, 3, 224, 224)}, [net.value], net.arrays)
    path.write_bytes(proto.SerializeToString())
    report = caffestat.analyze(str(path), static=True)
    assert report.totals.params == 3_504_872
    assert round(report.totals.macs / 1e9, 3) == 0.301
    assert report.totals.is_complete
    convolutions = [layer for layer in report.layers if layer.type == "Conv"]
    assert convolutions[0].followed_by == "Relu"
    depthwise = convolutions[1].params[0]
    assert (depthwise.shape, depthwise.fan_in, depthwise.fan_out) == ((32, 1, 3, 3), 9, 9)
