"""How near predictions of ONNX models come to what is measured: freshly initialised nets of four kinds."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import caffestat
from caffestat.report import Report

from ..graph.models import model, value


class Net:
    """A model under construction: every method appends nodes and returns the name of what they compute."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}

    def op(self, op: str, *inputs: str | np.ndarray, **attributes: object) -> str:
        names = [self.stored(x) if isinstance(x, np.ndarray) else x for x in inputs]
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], **attributes))
        return name

    def stored(self, array: np.ndarray) -> str:
        name = f"w{len(self.arrays)}"
        self.arrays[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def drawn(self, std: float, *shape: int) -> np.ndarray:
        return std * self.random.standard_normal(shape)

    def spread(self, bound: float, *shape: int) -> np.ndarray:
        return self.random.uniform(-bound, bound, shape)

    def conv(self, x: str, inputs: int, outputs: int, size: int = 3, **attributes: object) -> str:
        w = self.drawn(math.sqrt(2 / (inputs * size * size)), outputs, inputs, size, size)
        return self.op("Conv", x, w, pads=[size // 2] * 4, **attributes)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        bound = 1 / math.sqrt(inputs)  # as torch.nn.Linear does
        return self.op("Add", self.op("MatMul", x, self.spread(bound, inputs, outputs)), self.spread(bound, outputs))

    def batch_norm(self, x: str, channels: int) -> str:
        ones, zeros = np.ones(channels), np.zeros(channels)
        return self.op("BatchNormalization", x, ones, zeros, zeros, ones)

    def layer_norm(self, x: str, channels: int) -> str:
        return self.op("LayerNormalization", x, np.ones(channels), np.zeros(channels))

    def shaped(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, np.array(shape))


def conv_net(seed: int) -> onnx.ModelProto:
    net = Net(seed)
    x = net.op("Relu", net.conv("x", 3, 32))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", net.conv(x, 32, 64))
    x = net.op("Relu", net.conv(x, 64, 48, strides=[2, 2]))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    y = net.dense(x, 48, 60)
    return model(net.nodes, {"x": (8, 3, 24, 20)}, [y], net.arrays)


def perceptron(seed: int) -> onnx.ModelProto:
    net = Net(seed)
    x = net.op("Gelu", net.dense("x", 100, 200))
    x = net.op("Tanh", net.dense(x, 200, 180))
    x = net.dense(x, 180, 150)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    y = net.dense(x, 150, 20)
    return model(net.nodes, {"x": (16, 100)}, [y], net.arrays)


def residual_net(seed: int) -> onnx.ModelProto:
    """Weights drawn for the ReLUs, two blocks, BatchNormalization in inference mode."""
    net = Net(seed)
    x, channels = net.op("Relu", net.batch_norm(net.conv("x", 3, 32), 32)), 32
    for outputs, stride in ((32, 1), (64, 2)):
        inner = net.op("Relu", net.batch_norm(net.conv(x, channels, outputs, strides=[stride, stride]), outputs))
        inner = net.batch_norm(net.conv(inner, outputs, outputs), outputs)
        if stride > 1:
            x = net.batch_norm(net.conv(x, channels, outputs, size=1, strides=[stride, stride]), outputs)
        x, channels = net.op("Relu", net.op("Add", inner, x)), outputs
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    y = net.dense(x, channels, 60)
    return model(net.nodes, {"x": (8, 3, 16, 12)}, [y], net.arrays)


PERMS = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])  # of queries, keys and values


def transformer(seed: int, mask: float = -math.inf) -> onnx.ModelProto:
    """Embeddings, a block of attention with 4 heads, causal unless `mask` is 0, and one of GELUs, logits."""
    net = Net(seed)
    batch, rows, width, heads = 4, 24, 96, 4
    x = net.op("Gather", net.drawn(1.0, 300, width), "ids")
    x = net.op("Add", x, net.drawn(0.02, rows, width))
    normed = net.layer_norm(x, width)
    parts = [net.shaped(net.dense(normed, width, width), batch, rows, heads, width // heads) for _ in range(3)]
    q, k, v = (net.op("Transpose", p, perm=perm) for p, perm in zip(parts, PERMS, strict=True))
    scores = net.op("Div", net.op("MatMul", q, k), np.array(math.sqrt(width // heads)))
    weights = net.op("Softmax", net.op("Add", scores, np.triu(np.full((rows, rows), mask), 1)))
    mixed = net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    x = net.op("Add", x, net.dense(net.shaped(mixed, batch, rows, width), width, width))
    inner = net.op("Gelu", net.dense(net.layer_norm(x, width), width, 4 * width))
    x = net.layer_norm(net.op("Add", x, net.dense(inner, 4 * width, width)), width)
    y = net.dense(x, width, 300)
    return model(net.nodes, [value("ids", (batch, rows), TensorProto.INT64)], [y], net.arrays)


NETS = {
    "conv net": conv_net,
    "perceptron": perceptron,
    "residual net": residual_net,
    "transformer": lambda seed: transformer(seed, 0.0),
    "causal transformer": transformer,
}
NEAR = {"causal transformer": 0.7}  # the share of gradients within 25 %: its rows differ by how many others they see


def errors(reports: list[Report]) -> dict[str, list[float]]:
    """Return |predicted / measured - 1|, both means over draws of the weights, of values, their gradients and those of
    weights.
    """
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    expected: dict[tuple[str, str], list[float]] = defaultdict(list)
    for report in reports:
        for layer in report.layers:
            cells = [("value", top.name, top.mean_abs, top.predicted) for top in layer.tops]
            cells += [("gradient", d.name, d.mean_abs, d.predicted) for d in layer.bottom_diffs]
            cells += [
                ("weights", p.name, p.diff_mean_abs, p.diff_predicted) for p in layer.params if p.role == "weight"
            ]
            for kind, name, found, predicted in cells:
                assert predicted is not None, name
                if math.isfinite(found):  # what a mask of -inf was added to is not
                    measured[kind, name].append(found)
                    expected[kind, name].append(predicted)
    result: dict[str, list[float]] = defaultdict(list)
    for key, values in measured.items():
        result[key[0]].append(abs(np.mean(expected[key]) / np.mean(values) - 1))
    return result


@pytest.mark.parametrize("name", NETS)
def test_predictions_come_near(name: str, tmp_path: Path) -> None:
    reports = []
    for seed in range(5):
        path = tmp_path / f"model{seed}.onnx"
        path.write_bytes(NETS[name](seed).SerializeToString())
        reports.append(caffestat.analyze(str(path), predict=True, device="cpu", seed=seed))
    assert not any("not predicted" in note for note in reports[0].notes)
    found = errors(reports)
    assert np.median(found["value"]) < 0.05
    assert max(found["value"]) < 0.2
    assert np.median(found["gradient"]) < 0.1
    assert np.mean(np.array(found["gradient"]) < 0.25) >= NEAR.get(name, 0.95)
    assert np.median(found["weights"]) < 0.2
