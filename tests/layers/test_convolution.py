import pytest
from .golden import check_golden, golden_layers


@pytest.mark.parametrize(
    ("case", "name"),
    golden_layers(
        "conv conv_nd deconv misc_layers lenet_like v0net v1net shared_params", "Convolution", "Deconvolution", "Im2col"
    ),
)
def test_golden(case, name):
    check_golden(case, name)
