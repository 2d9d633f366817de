"""Training logs with debug_info: read as streams, diagnosed, compared."""

from .compare import Difference, compare
from .diagnose import Diagnosis, Event, Trend, diagnose, expected_values
from .reader import Key, Pass, read_log, read_passes
from .show import diagnosis_lines
from .sources import at_start, measured_pass, passes_of

__all__ = [
    "Diagnosis",
    "Difference",
    "Event",
    "Key",
    "Pass",
    "Trend",
    "at_start",
    "compare",
    "diagnose",
    "diagnosis_lines",
    "expected_values",
    "measured_pass",
    "passes_of",
    "read_log",
    "read_passes",
]
