"""Initialisations that look at the whole net: solved from the theory, orthonormal, scaled by data.

autoinit    std of each layer solved so that the predicted second moment behind it is 1; no data, no run
orthogonal  semi-orthogonal matrices
lsuv        orthogonal, then scaled until the measured variance behind each layer is 1
krahenbuhl  every output has mean β and variance 1 on the data, and all layers learn at one rate
"""

from .autoinit import Unsolved, solve
from .krahenbuhl import KrahenbuhlOptions, krahenbuhl
from .lsuv import LsuvOptions, lsuv
from .orthogonal import orthogonal

__all__ = ["KrahenbuhlOptions", "LsuvOptions", "Unsolved", "krahenbuhl", "lsuv", "orthogonal", "solve"]
