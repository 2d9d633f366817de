"""Caffe's layer types: one class each, one file per family. Importing this package registers them all.

Those of `forks` are imported when a net, a plugin or a list asks for more than Caffe's own.
"""

from . import (  # noqa: F401  registers their layer types
    accuracy,
    convolution,
    data,
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
    TEST,
    TRAIN,
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
    own_class,
    read_param,
    reference_of,
    registrations,
    similar_type,
    to_filler,
    type_name,
)
from .data import Source
from .plugins import load_plugin, loaded_plugins

__all__ = [
    "TEST",
    "TRAIN",
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
    "loaded_plugins",
    "own_class",
    "read_param",
    "reference_of",
    "registrations",
    "similar_type",
    "to_filler",
    "type_name",
]
