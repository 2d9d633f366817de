"""Which ops have float16 kernels."""

from __future__ import annotations

import numpy as np

from caffestat.engine.device import CPU
from caffestat.engine.kernels import Kernels
from caffestat.graph import Graph, Node


def test_a_node_with_an_input_of_unknown_shape_has_none() -> None:
    """A damaged model has such inputs."""
    kernels, graph = Kernels(CPU), Graph()
    x = graph.input("x", (2, 3), np.float16)
    assert not kernels.have(Node("Add", (x, "unknown"), ("y",)), graph)
