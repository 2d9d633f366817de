import csv
from pathlib import Path

import numpy as np
import pytest

from caffestat.fillers.ziggurat import exponential_strips, exponential_table, normal_strips, normal_table

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(("table", "name"), [(normal_table, "normal"), (exponential_table, "exponential")])
def test_the_computed_table_is_the_reference_one_to_the_last_bit(table, name):
    with (GOLDEN / f"ziggurat_{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert table().x.tolist() == [float(row["x"]) for row in rows]
    assert table().y.tolist() == [float(row["y"]) for row in rows]


@pytest.mark.parametrize(("table", "strips"), [(normal_table, normal_strips), (exponential_table, exponential_strips)])
def test_all_strips_have_the_same_area(table, strips):
    x, y = table()
    area = x[:-1] * np.diff(y)
    np.testing.assert_allclose(area[1:], area[1], rtol=1e-12)
    np.testing.assert_allclose(strips().width[1:] * strips().height[1:], -np.diff(x)[1:] * np.diff(y)[1:], rtol=1e-6)


def test_strip_zero_is_the_box_and_the_tail():
    x, y = exponential_table()
    np.testing.assert_allclose(x[0] * y[1], x[1] * y[1] + np.exp(-x[1]), rtol=1e-14)
