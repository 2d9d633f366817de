"""Readers of the files that data layers name.

Packages that read files are imported when a file of their kind is opened.
"""

from typing import TYPE_CHECKING

from caffestat.lazy import lazily

from .opening import open_reader, register_reader
from .reader import DataUnavailableError, Reader

if TYPE_CHECKING:
    from .prefetch import Prefetch

__all__ = ["DataUnavailableError", "Prefetch", "Reader", "open_reader", "register_reader"]

__getattr__ = lazily(__name__, {"prefetch": ["Prefetch"]})
