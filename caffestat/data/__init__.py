"""Where the values of data blobs come from: the files that a layer names.

Packages that read files are imported when a file of their kind is opened.
"""

from .opening import open_reader, register_reader
from .prefetch import Prefetch
from .reader import DataUnavailableError, Reader

__all__ = ["DataUnavailableError", "Prefetch", "Reader", "open_reader", "register_reader"]
