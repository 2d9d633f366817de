"""Changes fillers in texts and draws new weights in models; the policies that choose fillers. Upgrades old texts.

Importing this package does not import onnx; rewriting or writing an ONNX model does.
"""

from .files import Job, Outcome, find_files, rewrite_file, targets
from .filled import Filled, FilledParam, fill_net
from .selection import Change, change_of
from .text import Changed, Rewritten, rewrite_text
from .upgraded import Upgraded, upgrade_text

__all__ = [
    "Change",
    "Changed",
    "Filled",
    "FilledParam",
    "Job",
    "Outcome",
    "Rewritten",
    "Upgraded",
    "change_of",
    "fill_net",
    "find_files",
    "rewrite_file",
    "rewrite_text",
    "targets",
    "upgrade_text",
]
