"""Compile graphs with onnxruntime and run them: devices, compiled graphs, statistics. Knows nothing of Caffe.

A loop with changing params compiles once. Params, feeds and states are inputs; what is kept stays on the device:

    >>> import numpy as np
    >>> from caffestat.engine import CPU, Compiled
    >>> from caffestat.graph import Graph
    >>> g = Graph()
    >>> x, w = g.input("x", (2, 3)), g.param("w", (3,))
    >>> loss = g.emit("ReduceSum", g.emit("Mul", x, w), keepdims=0, hint="loss")
    >>> step = g.emit("Mul", g.emit("ReduceSum", x, g.ints(0), keepdims=0), g.constant(0.1))
    >>> updated = g.emit("Sub", w, step, hint="w/updated")
    >>> g.outputs = [loss, updated]
    >>> compiled = Compiled(g, CPU)
    >>> feeds = {"x": np.ones((2, 3), np.float32)}
    >>> params = {"w": compiled.put(np.ones(3, np.float32))}
    >>> for _ in range(3):
    ...     outputs = compiled.run(feeds, params, keep=[updated])
    ...     params = {"w": outputs[updated]}
    ...     print(f"{float(outputs[loss]):.1f}")
    6.0
    4.8
    3.6
    >>> print(params["w"].numpy().round(1))
    [0.4 0.4 0.4]
    >>> list(compiled.run(feeds, params, outputs=[loss]))  # a set of outputs is compiled when it is first asked for
    ['loss']
"""

from typing import TYPE_CHECKING

from caffestat.lazy import lazily

from .device import CPU, Device, choose_device

if TYPE_CHECKING:
    from .compiled import Compiled
    from .statistics import Statistics

__all__ = ["CPU", "Compiled", "Device", "Statistics", "choose_device"]

__getattr__ = lazily(__name__, {"compiled": ["Compiled"], "statistics": ["Statistics"]})
