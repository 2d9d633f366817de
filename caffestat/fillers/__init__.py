"""Caffe's random fillers without Caffe: the mt19937 stream, its distributions, the fillers and the fans they use."""

from caffestat.fillers.c_random import CRandom
from caffestat.fillers.distributions import bernoulli, uniform
from caffestat.fillers.fans import VARIANCE_NORMS, Spread, caffe_fans, fan, msra_std, xavier_spread
from caffestat.fillers.fillers import Filler, fill, filler_types, register
from caffestat.fillers.gaussian import gaussian
from caffestat.fillers.stream import Stream

__all__ = [
    "VARIANCE_NORMS",
    "CRandom",
    "Filler",
    "Spread",
    "Stream",
    "bernoulli",
    "caffe_fans",
    "fan",
    "fill",
    "filler_types",
    "gaussian",
    "msra_std",
    "register",
    "uniform",
    "xavier_spread",
]
