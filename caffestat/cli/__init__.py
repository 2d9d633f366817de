"""The command line: parse, call the public API, render. One module per command, imported when it is needed."""

from .main import main

__all__ = ["main"]
