"""The golden training cases: solvers with what real Caffe logged, and the params and history that it ended with."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(os.environ.get("CAFFESTAT_GOLDEN_TRAINING", Path(__file__).parent.parent / "golden" / "training"))
DEVICE = os.environ.get("CAFFESTAT_TEST_DEVICE", "cpu")
CASES = sorted(path.parent.name for path in FOLDER.glob("*/runs.json"))

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])|(?<![\w.])-?(?:nan|inf)(?!\w)")
TIMES = re.compile(r"\([^ ]+ iter/s, [^ ]+s/([^ ]+) iters\)")


def spread(case: str) -> dict[str, Any]:
    """Return how far Caffe's own kernels differ."""
    return json.loads((FOLDER / "spread.json").read_text())[case]


def runs(case: str) -> list[dict[str, Any]]:
    """Return the runs of a case in order."""
    return json.loads((FOLDER / case / "runs.json").read_text())


def text_of(line: str) -> str:
    """Return a line without its numbers; the timing figures count as text."""
    return NUMBER.sub("#", TIMES.sub("(times)", line))


def numbers_of(line: str) -> list[float]:
    """Return the numbers of a line."""
    return [float(number) for number in NUMBER.findall(TIMES.sub("", line))]


def signs_of_nan(line: str) -> list[str]:
    """Return the NaNs of a line as they are spelled."""
    return re.findall(r"(?<![\w.])-?nan(?!\w)", line)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest value, NaN and infinities being equal to themselves."""
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    assert (np.isnan(found) == np.isnan(expected)).all()
    if not finite.any():
        return 0.0
    largest = float(np.abs(expected[finite]).max())
    return float(np.abs(found[finite].astype(np.float64) - expected[finite]).max()) / (largest or 1.0)
