import pytest
from .golden import check_golden, golden_layers


@pytest.mark.parametrize(
    ("case", "name"), golden_layers("inner_product embed lenet_like v0net v1net shared_params", "InnerProduct", "Embed")
)
def test_golden(case, name):
    check_golden(case, name)
