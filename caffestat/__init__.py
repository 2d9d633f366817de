"""caffestat: what a Caffe network does to its signal, without building Caffe.

    report = caffestat.analyze("net.prototxt")
    for line in caffestat.debug("solver.prototxt"): ...

The verbs are described in `caffestat.api`, the Report in `caffestat.report`, all errors in `caffestat.errors`.
"""

from caffestat.api import (
    analyze,
    calibrate,
    check,
    compare,
    compare_values,
    convert,
    debug,
    diagnose,
    explain,
    fill,
    fix,
    gradient,
    list_layers,
    load_plugin,
    rewrite,
    sweep,
    train,
    upgrade,
)
from caffestat.errors import CaffestatError

__all__ = [
    "CaffestatError",
    "__version__",
    "analyze",
    "calibrate",
    "check",
    "compare",
    "compare_values",
    "convert",
    "debug",
    "diagnose",
    "explain",
    "fill",
    "fix",
    "gradient",
    "list_layers",
    "load_plugin",
    "rewrite",
    "sweep",
    "train",
    "upgrade",
]

__version__ = "0.1.0"
