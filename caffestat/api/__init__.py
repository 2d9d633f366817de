"""The verbs that the command line and `import caffestat` share, one module each.

Importing this package imports neither numpy nor a runtime: each verb imports what it needs when it is called.
"""

from .analyze import analyze
from .calibrate import calibrate
from .check import check, fix
from .compare import compare, compare_values
from .convert import convert
from .debug import DebugLog, debug, debug_log
from .diagnose import diagnose
from .explain import explain
from .fill import fill
from .gradient import gradient
from .layers import list_layers
from .plugin import load_plugin
from .rewrite import rewrite
from .sweep import sweep
from .train import train
from .upgrade import upgrade

__all__ = [
    "DebugLog",
    "analyze",
    "calibrate",
    "check",
    "compare",
    "compare_values",
    "convert",
    "debug",
    "debug_log",
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
