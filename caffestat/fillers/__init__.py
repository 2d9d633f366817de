"""Caffe's random fillers without Caffe: the mt19937 stream, its distributions, the fillers and the fans they use."""

from caffestat.fillers import forks, gabor, types  # noqa: F401  they register the fillers
from caffestat.fillers.c_random import CRandom
from caffestat.fillers.densities import Constant, Density, Normal, Sample, Uniform
from caffestat.fillers.distributions import bernoulli, uniform
from caffestat.fillers.fans import VARIANCE_NORMS, Spread, caffe_fans, fan, msra_std, of_norm, xavier_spread
from caffestat.fillers.fillers import (
    Filler,
    FillerType,
    density,
    fill,
    filler_type,
    filler_types,
    problem,
    random_types,
    register,
    type_of_gain,
)
from caffestat.fillers.gaussian import gaussian
from caffestat.fillers.stream import Stream
from caffestat.fillers.types import stated

__all__ = [
    "VARIANCE_NORMS",
    "CRandom",
    "Constant",
    "Density",
    "Filler",
    "FillerType",
    "Normal",
    "Sample",
    "Spread",
    "Stream",
    "Uniform",
    "bernoulli",
    "caffe_fans",
    "density",
    "fan",
    "fill",
    "filler_type",
    "filler_types",
    "gaussian",
    "msra_std",
    "of_norm",
    "problem",
    "random_types",
    "register",
    "stated",
    "type_of_gain",
    "uniform",
    "xavier_spread",
]
