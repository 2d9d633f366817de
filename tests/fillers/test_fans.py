import math

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.fillers import VARIANCE_NORMS, caffe_fans, fan, msra_std, xavier_spread


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((5, 6, 3, 2), (36, 30)), ((11, 20), (20, 11)), ((7,), (1, 7)), ((1,), (1, 1)), ((2, 3, 4, 5, 7), (420, 280))],
)
def test_caffe_fans(shape, fans):
    assert caffe_fans(shape) == fans


def test_a_scalar_blob_has_no_fans():
    with pytest.raises(InputError, match="at least one axis"):
        caffe_fans(())


@pytest.mark.parametrize(("norm", "n"), list(zip(VARIANCE_NORMS, [36, 30, 33], strict=True)))
def test_fan_by_norm(norm, n):
    assert fan((5, 6, 3, 2), norm) == n


def test_fans_are_rounded_to_float32():
    wide = 2**24 + 1
    assert fan((wide, 2), "FAN_OUT") == float(np.float32(wide)) != wide
    assert fan((2, wide), "AVERAGE") == float(np.float32(wide + 2) / np.float32(2)) != (wide + 2) / 2


def test_the_mean_of_an_odd_sum_is_not_rounded_to_an_integer():
    assert fan((7,), "AVERAGE") == 4
    assert fan((3, 2), "AVERAGE") == 2.5


def test_an_unknown_norm_is_named():
    with pytest.raises(InputError, match=r'"fan_in".*FAN_IN, FAN_OUT, AVERAGE'):
        fan((3, 2), "fan_in")


def test_spreads_are_rounded_to_float32():
    spread = xavier_spread(7)
    assert spread.scale == np.float32(math.sqrt(float(np.float32(3) / np.float32(7))))
    assert spread.std == pytest.approx(math.sqrt(1 / 7), rel=1e-7)
    assert msra_std(7) == np.float32(math.sqrt(float(np.float32(2) / np.float32(7))))


def test_spreads_are_those_of_float32_arithmetic():
    fans = np.arange(1, 3001, dtype=np.float32)
    assert [xavier_spread(float(n)).scale for n in fans] == np.sqrt(np.float32(3) / fans).tolist()
    assert [msra_std(float(n)) for n in fans] == np.sqrt(np.float32(2) / fans).tolist()
