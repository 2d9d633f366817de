"""The densities of fillers against what the fillers draw."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.fillers import Filler, Stream, fill
from caffestat.fillers.expected import expected_counts

SHAPE = (40, 25, 3, 7)

FILLERS = (
    Filler("uniform", min=-0.5, max=2.0),
    Filler("gaussian", mean=0.3, std=0.2),
    Filler("xavier", variance_norm="FAN_OUT"),
    Filler("msra", variance_norm="AVERAGE"),
)


@pytest.mark.parametrize("filler", FILLERS, ids=lambda filler: filler.type)
def test_counts_are_those_of_drawn_values(filler: Filler) -> None:
    values = fill(Stream(7), filler, SHAPE)
    counts, edges = np.histogram(values, 12)
    expected = expected_counts(filler, SHAPE, edges[0], edges[-1], 12, values.size)
    assert sum(expected) == pytest.approx(values.size, rel=2e-3)
    assert counts == pytest.approx(np.array(expected), abs=5 * float(np.sqrt(np.max(expected))))


def test_fillers_without_a_density_have_no_counts() -> None:
    for filler in (Filler("constant", value=1), Filler("positive_unitball"), Filler("gaussian", sparse=3)):
        assert expected_counts(filler, SHAPE, -1, 1, 12, 100) == []
