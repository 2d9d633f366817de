"""Gradients of 1x1 convolutions with strides: of the elements that are read, with zeros put between them once."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.engine import CPU, Compiled
from caffestat.graph import Graph
from caffestat.graph.expand import expand

torch = pytest.importorskip("torch")

Strides = tuple[int, int]

BATCH, CHANNELS, FILTERS, GROUPS, SIZE = 3, 6, (4, 10), (1, 2), (8, 11)


def build(strides: tuple[Strides, Strides]) -> tuple[Graph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the graph of dx and dw of two convolutions of one image, its feeds and its params."""
    g = Graph()
    x = g.input("x", (BATCH, CHANNELS, *SIZE))
    seeds, params = {}, []
    for number, (filters, group, steps) in enumerate(zip(FILTERS, GROUPS, strides, strict=True)):
        params.append(g.param(f"w{number}", (filters, CHANNELS // group, 1, 1)))
        y = g.emit("Conv", x, params[-1], kernel_shape=[1, 1], group=group, strides=list(steps))
        g.infer()
        seeds[y] = g.input(f"dy{number}", g.shape(y))
    grads = backward(g, seeds, [x, *params])
    g.outputs = [grads[name] or "" for name in (x, *params)]
    random = np.random.default_rng(7)
    arrays = {name: random.normal(size=spec.shape).astype(np.float32) for name, spec in (g.inputs | g.params).items()}
    return g, {name: arrays[name] for name in g.inputs}, {name: arrays[name] for name in g.params}


@pytest.mark.parametrize("strides", [((2, 2), (2, 2)), ((3, 1), (3, 1)), ((2, 3), (2, 2)), ((2, 2), (1, 1))], ids=str)
@pytest.mark.parametrize("is_constant", [False, True], ids=["fed", "constant"])
def test_gradients_agree_with_torch(strides: tuple[Strides, Strides], is_constant: bool) -> None:
    g, feeds, params = build(strides)
    constant, fed = (params, {}) if is_constant else ({}, params)
    found = Compiled(g, CPU, constant).run(feeds, fed)
    x, *w = (torch.tensor(array.astype(np.float64), requires_grad=True) for array in (feeds["x"], *params.values()))
    ys = [
        torch.nn.functional.conv2d(x, one, stride=steps, groups=group)
        for one, steps, group in zip(w, strides, GROUPS, strict=True)
    ]
    seeds = [torch.tensor(feeds[f"dy{number}"].astype(np.float64)) for number in range(len(ys))]
    for name, expected in zip(g.outputs, torch.autograd.grad(ys, (x, *w), seeds), strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-6 * expected.abs().max().item())
    dilated = [node.op for node in expand(g, g.outputs).nodes].count("ConvTranspose")
    assert dilated == len({steps for steps in strides if max(steps) > 1})
