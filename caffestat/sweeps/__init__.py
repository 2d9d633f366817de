"""Sweeps: many variants of nets, over seeds, fillers, fields, widths and rates; run here, in processes or on a cluster.

Importing this package imports neither numpy nor a runtime.
"""

from .trial import Sweep, Trial, as_seeds

__all__ = ["Sweep", "Trial", "as_seeds"]
