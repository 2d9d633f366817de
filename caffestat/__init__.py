"""caffestat: what a Caffe network does to its signal, without building Caffe."""

__version__ = "0.1.0"
