"""The description of a convolution: its shapes, and the convolution that takes its gradients back."""

from __future__ import annotations

import numpy as np

from caffestat.autodiff import backward
from caffestat.engine import Compiled
from caffestat.graph import Graph, Node, convolution_of

NODE = Node("Conv", ("x", "w"), ("y",), {"dilations": [2, 1], "pads": [1, 0, 3, 1], "group": 2})
X, W, Y = (2, 6, 9, 7), (4, 3, 3, 2), (2, 4, 9, 7)


def test_the_shapes_of_its_image_and_weights() -> None:
    found = convolution_of(NODE, X, Y, W)
    assert (found.x_shape, found.w_shape, found.window.ends) == (X, W, (3, 1))
    assert not found.is_depthwise


def test_turned_twice_is_the_same() -> None:
    found = convolution_of(NODE, X, Y, W)
    assert found.turned().turned() == found != found.turned()


def test_turned_takes_gradients_back() -> None:
    """dx is the convolution of dy with the filters turned around and their axes swapped, here with dilation."""
    node = Node("Conv", ("x", "w"), ("y",), {"dilations": [2, 1], "pads": [1, 0, 3, 1]})
    back = convolution_of(node, (2, 3, 9, 7), (2, 4, 9, 7), (4, 3, 3, 2)).turned()
    g = Graph()
    x, w, dy = g.input("x", (2, 3, 9, 7)), g.input("w", (4, 3, 3, 2)), g.input("dy", (2, 4, 9, 7))
    turned = g.input("turned", back.w_shape)
    y = g.emit("Conv", x, w, kernel_shape=[3, 2], **node.attributes)
    g.infer()
    pads = [*back.window.begins, *back.window.tails]
    dx = g.emit("Conv", dy, turned, kernel_shape=[3, 2], dilations=[2, 1], pads=pads)
    g.outputs = [backward(g, {y: dy}, [x])[x] or "", dx]
    random = np.random.default_rng(7)
    feeds = {name: random.normal(size=spec.shape).astype(np.float32) for name, spec in g.inputs.items()}
    feeds["turned"] = np.ascontiguousarray(feeds["w"].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])
    expected, found = Compiled(g).run(feeds).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
