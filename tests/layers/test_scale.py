import pytest

from .golden import check_golden, golden_layers


@pytest.mark.parametrize(
    ("case", "name"), golden_layers("lrn batchnorm mvn inplace scale_bias v0net v1net", "Scale", "Bias")
)
def test_golden(case, name):
    check_golden(case, name)
