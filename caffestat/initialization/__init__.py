"""Initialisations that look at the whole net: solved from the theory, orthonormal, scaled by data.

autoinit    std of each layer solved so that the predicted second moment behind it is 1; no data, no run
orthogonal  semi-orthogonal matrices
lsuv        orthogonal, then scaled until the measured variance behind each layer is 1
"""

from .autoinit import Unsolved, solve
from .lsuv import lsuv
from .orthogonal import orthogonal

__all__ = ["Unsolved", "lsuv", "orthogonal", "solve"]
