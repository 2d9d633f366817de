"""Caffe's layer types: one class each, one file per family. Importing this package registers them all."""

from . import (  # noqa: F401  registers their layer types
    accuracy,
    convolution,
    data,
    forks,
    inner_product,
    loss,
    math,
    neuron,
    normalization,
    pooling,
    recurrent,
    scale,
    shape,
)
from .base import (
    Layer,
    Move,
    Param,
    Shape,
    Unrolled,
    default_filler,
    fork_type,
    layer,
    layer_class,
    layer_dialects,
    layer_types,
    read_param,
    reference_of,
    similar_type,
    to_filler,
    type_name,
)
from .data import Source
from .plugins import load_plugin

__all__ = [
    "Layer",
    "Move",
    "Param",
    "Shape",
    "Source",
    "Unrolled",
    "default_filler",
    "fork_type",
    "layer",
    "layer_class",
    "layer_dialects",
    "layer_types",
    "load_plugin",
    "read_param",
    "reference_of",
    "similar_type",
    "to_filler",
    "type_name",
]
