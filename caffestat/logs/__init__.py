"""Training logs with debug_info: read as streams, diagnosed, compared."""

from .compare import Difference, compare
from .diagnose import Diagnosis, Event, Trend, diagnose, expected_values
from .losses import CAP, LossWatch, Signature
from .reader import Key, Output, Pass, Unread, read_log, read_passes
from .rules import RULES, Alert, Rule, rule
from .show import diagnosis_lines
from .sources import diagnose_log
from .watch import Watch

__all__ = [
    "CAP",
    "RULES",
    "Alert",
    "Diagnosis",
    "Difference",
    "Event",
    "Key",
    "LossWatch",
    "Output",
    "Pass",
    "Rule",
    "Signature",
    "Trend",
    "Unread",
    "Watch",
    "compare",
    "diagnose",
    "diagnose_log",
    "diagnosis_lines",
    "expected_values",
    "read_log",
    "read_passes",
    "rule",
]
