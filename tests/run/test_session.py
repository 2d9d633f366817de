"""Sessions: what of a graph reaches the runtime."""

import numpy as np

from caffestat.graph import Graph
from caffestat.run import Session


def test_params_that_no_output_depends_on_are_left_out():
    """The runtime drops them from the model, and then refuses their values."""
    g = Graph()
    read, unread = g.param("read", (2,)), g.param("unread", (3,))
    g.emit("Abs", unread)
    g.outputs = [g.emit("Neg", read)]
    arrays = {read: np.float32([1, 2]), unread: np.zeros(3, np.float32)}
    np.testing.assert_array_equal(Session(g, arrays).run({})[g.outputs[0]], [-1, -2])
