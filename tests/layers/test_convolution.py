"""Convolutions against Caffe, against torch, and in what they declare."""

import itertools

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import Filler

from .golden import check_golden, golden_layers
from .harness import make, run

SHAPE = (2, 4, 6, 5)
KINDS = ("Convolution", "Deconvolution", "Im2col")


def layer(params, type_name="Convolution", count=1):
    names = " ".join(f'bottom: "x{i}" top: "y{i}"' for i in range(count))
    return make(f'name: "l" type: "{type_name}" {names} convolution_param {{ {params} }}')


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("case", "name"), golden_layers("conv conv_nd deconv misc_layers lenet_like v0net v1net shared_params", *KINDS)
)
def test_golden(case, name):
    check_golden(case, name)


CONFIGS = [
    ("Convolution", "num_output: 6 kernel_size: 3", SHAPE, {}),
    ("Convolution", "num_output: 6 kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 2", SHAPE, {}),
    ("Convolution", "num_output: 6 kernel_size: 3 kernel_size: 2 dilation: 1 dilation: 2 pad: 1", SHAPE, {}),
    ("Convolution", "num_output: 8 kernel_size: 3 stride: 2 pad: 1 group: 4 bias_term: false", SHAPE, {}),
    ("Convolution", "num_output: 3 kernel_size: 1 stride: 2", SHAPE, {}),
    ("Convolution", "num_output: 3 kernel_size: 2 stride: 3", (2, 4, 9), {}),
    ("Convolution", "num_output: 3 kernel_size: 2 pad: 1", (2, 4, 3, 5, 6), {}),
    ("Convolution", "axis: -3 num_output: 3 kernel_size: 2", (2, 3, 4, 6, 5), {"axis": 2}),
    ("Deconvolution", "num_output: 6 kernel_size: 3", SHAPE, {}),
    ("Deconvolution", "num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 2", SHAPE, {}),
    ("Deconvolution", "num_output: 6 kernel_size: 2 stride: 3 bias_term: false", SHAPE, {}),
    ("Deconvolution", "num_output: 3 kernel_size: 3 dilation: 2 stride: 2 pad: 2", SHAPE, {}),
    ("Deconvolution", "num_output: 3 kernel_size: 2 stride: 2", (2, 4, 7), {}),
]


@pytest.mark.parametrize(("type_name", "params", "shape", "extra"), CONFIGS)
def test_against_torch(type_name, params, shape, extra):
    torch = pytest.importorskip("torch")
    it = layer(params, type_name)
    axis = extra.get("axis", 1)
    declared = it.params([shape])
    x, weights = values(*shape), [values(*p.shape, seed=i + 1) for i, p in enumerate(declared)]
    at = it.geometry([shape]).window
    dims = len(shape) - axis - 1
    stem = "conv" if type_name == "Convolution" else "conv_transpose"
    function = getattr(torch.nn.functional, f"{stem}{dims}d")
    leaves = [torch.tensor(v, requires_grad=True) for v in (x, *weights)]
    flat = leaves[0].reshape(-1, *shape[axis:])
    bias = leaves[2] if len(leaves) > 2 else None
    group = it.proto.convolution_param.group
    y = function(flat, leaves[1], bias, stride=at.strides, padding=at.begins, dilation=at.dilations, groups=group)
    dy = values(*it.tops([shape])[0], seed=9)
    y.backward(torch.tensor(dy).reshape(y.shape))
    result = run(it, [x], weights, [dy])
    np.testing.assert_allclose(result.tops[0], y.detach().numpy().reshape(dy.shape), rtol=1e-4, atol=1e-5)
    for found, leaf in zip([result.bottoms[0], *result.params], leaves, strict=True):
        np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_several_bottoms_share_the_weights():
    it = layer("num_output: 3 kernel_size: 3", count=2)
    weights = [values(*p.shape, seed=3) for p in it.params([SHAPE] * 2)]
    bottoms, dys = [values(*SHAPE, seed=i) for i in (0, 1)], [values(2, 3, 4, 3, seed=i) for i in (4, 5)]
    both = run(it, bottoms, weights, dys)
    alone = [run(layer("num_output: 3 kernel_size: 3"), [x], weights, [dy]) for x, dy in zip(bottoms, dys, strict=True)]
    for index in (0, 1):
        np.testing.assert_allclose(both.tops[index], alone[index].tops[0], rtol=1e-5)
        np.testing.assert_allclose(both.bottoms[index], alone[index].bottoms[0], rtol=1e-4, atol=1e-5)
        total = alone[0].params[index] + alone[1].params[index]
        np.testing.assert_allclose(both.params[index], total, rtol=1e-4, atol=1e-5)


def test_no_spatial_axes():
    """With the channels last there is nothing to slide over: a product with the weights."""
    it = layer("axis: -1 num_output: 3 kernel_size: 1")
    weight, bias = [values(*p.shape, seed=1) for p in it.params([(2, 5, 4)])]
    assert weight.shape == (3, 4)
    x = values(2, 5, 4)
    np.testing.assert_allclose(run(it, [x], [weight, bias]).tops[0], x @ weight.T + bias, rtol=1e-5, atol=1e-6)


def test_im2col():
    x, dy = values(2, 3, 5, 4), values(2, 18, 3, 2, seed=1)
    it = layer("kernel_h: 2 kernel_w: 3 stride: 2 pad: 1", "Im2col")
    result = run(it, [x], dys=[dy])
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    expected, dx = np.zeros_like(dy), np.zeros_like(padded)
    for c, i, j in itertools.product(range(3), range(2), range(3)):
        rows, columns = slice(i, i + 5, 2), slice(j, j + 3, 2)
        expected[:, (c * 2 + i) * 3 + j] = padded[:, c, rows, columns]
        dx[:, c, rows, columns] += dy[:, (c * 2 + i) * 3 + j]
    np.testing.assert_array_equal(result.tops[0], expected)
    np.testing.assert_allclose(result.bottoms[0], dx[:, :, 1:-1, 1:-1], rtol=1e-5, atol=1e-6)
    with pytest.raises(NetError, match="needs a spatial axis after axis 2"):
        layer("axis: 2 kernel_size: 1", "Im2col").tops([(2, 3, 5)])


def test_params():
    weight, bias = layer("num_output: 6 group: 2 kernel_h: 3 kernel_w: 5").params([SHAPE])
    assert (weight.role, weight.shape, weight.fan_in, weight.fan_out) == ("weight", (6, 2, 3, 5), 30, 45)
    assert (bias.role, bias.shape, bias.fan_in, bias.fan_out) == ("bias", (6,), 1, 1)
    assert not weight.written
    assert weight.filler == Filler(type="constant", value=0)
    (weight,) = layer('num_output: 6 kernel_size: 3 bias_term: false weight_filler { type: "msra" }').params([SHAPE])
    assert (weight.filler.type, weight.written) == ("msra", True)


def test_params_of_deconvolution():
    """What Caffe's fillers take for fan-in is fan-out here; an output sees a stride-th of the taps on each axis."""
    weight, bias = layer("num_output: 6 group: 2 kernel_size: 4 stride: 2", "Deconvolution").params([SHAPE])
    assert (weight.shape, weight.fan_in, weight.fan_out) == ((4, 3, 4, 4), 2 * 16 // 4, 3 * 16)
    assert bias.shape == (6,)


def test_macs():
    lenet = layer("num_output: 20 kernel_size: 5")
    assert lenet.macs([(3, 1, 28, 28)]) == 3 * 20 * 24 * 24 * 25
    assert layer("num_output: 6 kernel_size: 3 group: 2", count=2).macs([SHAPE] * 2) == 2 * (2 * 6 * 4 * 3) * 2 * 9
    assert layer("num_output: 6 kernel_size: 3 stride: 2", "Deconvolution").macs([SHAPE]) == 2 * 4 * 6 * 5 * 6 * 9


REFUSED = [
    ("Convolution", "kernel_size: 3", "num_output must be positive"),
    ("Convolution", "num_output: 4", "kernel_size is given once, or once per spatial axis .2.; found 0 values"),
    ("Convolution", "num_output: 4 kernel_size: [2, 2, 2]", "found 3 values"),
    ("Convolution", "num_output: 4 kernel_size: 0", "kernel_size must be positive"),
    ("Convolution", "num_output: 4 kernel_h: 3", r"kernel_size must be positive on every spatial axis; found \[3, 0\]"),
    ("Convolution", "num_output: 4 kernel_size: 2 kernel_h: 2 kernel_w: 2", "kernel_size is given as well"),
    ("Convolution", "num_output: 4 kernel_size: 2 stride_h: 2 stride: 1 stride_w: 1", "stride is given as well"),
    ("Convolution", "num_output: 4 kernel_size: 2 stride: 0", "stride must be positive"),
    ("Convolution", "num_output: 4 kernel_size: 2 dilation: 0", "dilation must be positive"),
    ("Convolution", "num_output: 4 kernel_size: 3 dilation: 3", r"covers \[7, 7\] elements, .* bottom's \[6, 5\]"),
    ("Convolution", "num_output: 4 kernel_size: 8 pad: 1", r"bottom's \[8, 7\]"),
    ("Convolution", "num_output: 6 kernel_size: 2 group: 3", "found group 3, 4 channels, num_output 6"),
    ("Convolution", "num_output: 6 kernel_size: 2 group: 4", "found group 4, 4 channels, num_output 6"),
    ("Convolution", "num_output: 6 kernel_size: 2 group: 0", "found group 0"),
    ("Convolution", "num_output: 6 kernel_size: 2 axis: 4", "axis 4 is out of range"),
    ("Deconvolution", "num_output: 6 kernel_size: 2 pad: 3", r"leaving \[1, 0\]"),
]


@pytest.mark.parametrize(("type_name", "params", "found"), REFUSED)
def test_refuses(type_name, params, found):
    with pytest.raises(NetError, match=rf"net.prototxt:7: layer 'l' \({type_name}\): .*{found}"):
        layer(params, type_name).tops([SHAPE])


def test_refuses_bottoms():
    with pytest.raises(NetError, match=r"bottom 0 has \(2, 4, 6, 5\), bottom 1 has \(2, 4, 6, 6\)"):
        layer("num_output: 3 kernel_size: 3", count=2).tops([SHAPE, (2, 4, 6, 6)])
    with pytest.raises(NetError, match=r"as many tops as bottoms \(2\); found 1"):
        layer("num_output: 3 kernel_size: 3").tops([SHAPE, SHAPE])
    with pytest.raises(NetError, match="kernel_h and kernel_w stand for kernel_size when there are two spatial axes"):
        layer("num_output: 3 kernel_h: 3 kernel_w: 2").tops([SHAPE[:3]])
