"""caffestat: what a Caffe network does to its signal, without building Caffe.

    report = caffestat.analyze("net.prototxt")
    for line in caffestat.debug("solver.prototxt"): ...

The verbs are described in `caffestat.api`, the Report in `caffestat.report`, all errors in `caffestat.errors`.
"""

from typing import TYPE_CHECKING

from caffestat.errors import CaffestatError
from caffestat.lazy import lazily

if TYPE_CHECKING:
    from caffestat.api.analyze import analyze
    from caffestat.api.calibrate import calibrate
    from caffestat.api.check import check, fix
    from caffestat.api.compare import compare, compare_values
    from caffestat.api.convert import convert
    from caffestat.api.debug import debug
    from caffestat.api.diagnose import diagnose
    from caffestat.api.explain import explain
    from caffestat.api.fill import fill
    from caffestat.api.gradient import gradient
    from caffestat.api.layers import list_layers
    from caffestat.api.plugin import load_plugin
    from caffestat.api.rewrite import rewrite
    from caffestat.api.sweep import sweep
    from caffestat.api.train import train
    from caffestat.api.upgrade import upgrade

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

__getattr__ = lazily(__name__, {"api": set(__all__) - {"CaffestatError", "__version__"}})
