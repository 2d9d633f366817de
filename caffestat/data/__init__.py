"""Where the values of data blobs come from."""

from .synthetic import synthetic_tops

__all__ = ["synthetic_tops"]
