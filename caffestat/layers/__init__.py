"""Caffe's layer types: one class each, one file per family. Importing this package registers them all."""

from .base import Layer, Param, Shape, layer, layer_class, layer_types, to_filler

__all__ = ["Layer", "Param", "Shape", "layer", "layer_class", "layer_types", "to_filler"]
