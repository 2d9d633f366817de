"""Gradients of convolutions against torch: every form, and the choice between them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from caffestat.autodiff.rules import conv as rules
from caffestat.graph import Node
from caffestat.ops import window

from .support import difference, largest_constant, op_gradients, torch_gradients

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(11)
WEIGHT_FORMS = [
    rules.dw_depthwise,
    rules.dw_gather,
    rules.dw_gather_images,
    rules.dw_lines,
    rules.dw_phases,
    rules.dw_pitch,
    rules.dw_split,
    rules.dw_swap,
    rules.dw_taps,
]
# kernel, padding: even and odd, none, more than the kernel reaches
KERNELS = [((3, 2), (1, 0)), ((1, 1), (0, 0)), ((4, 5), (2, 1)), ((2, 2), (3, 0))]
SHAPES = [
    # channels, filters, group, stride, dilation, size: 13 and 14 leave different numbers of rows unread
    (4, 6, 1, 1, 1, (13, 11)),
    (4, 6, 2, 1, 2, (12, 14)),
    (4, 6, 2, 2, 1, (13, 14)),
    (4, 6, 1, 3, 2, (14, 16)),
    (6, 6, 6, 1, 1, (9, 10)),
    (6, 6, 6, 2, 3, (15, 14)),
    (4, 8, 4, 2, 1, (10, 13)),
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give each test the same numbers in whatever order and process the tests run."""
    RANDOM.bit_generator.state = np.random.default_rng(11).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def torch_conv(rank: int, transposed: bool = False) -> Any:
    return getattr(torch.nn.functional, f"conv{'_transpose' if transposed else ''}{rank}d")


def compare(build: Any, reference: Any, inputs: list[np.ndarray], **options: Any) -> None:
    with torch.no_grad():
        dy = normal(*reference(*map(torch.tensor, inputs)).shape)
    actual = op_gradients(build, inputs, dy, **options)
    for ours, theirs in zip(actual, torch_gradients(reference, inputs, dy), strict=True):
        assert difference(ours, theirs) < 1e-5


def check_conv(shape: Any, kernel: Any, padding: Any, **options: Any) -> None:
    channels, filters, group, stride, dilation, size = shape
    inputs = [normal(3, channels, *size), normal(filters, channels // group, *kernel), normal(filters)]
    rank = len(size)
    how = {"strides": [stride] * rank, "dilations": [dilation] * rank, "pads": [*padding, *padding], "group": group}

    def reference(x: Any, w: Any, b: Any) -> Any:
        return torch_conv(rank)(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=group)

    compare(lambda g, *names: g.emit("Conv", *names, **how), reference, inputs, **options)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize(("kernel", "padding"), KERNELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conv(shape: Any, kernel: Any, padding: Any, provider: str) -> None:
    check_conv(shape, kernel, padding, provider=provider)


@pytest.mark.parametrize("size", [(3, 5), (16, 17)], ids=["few places", "many places"])
def test_1x1_is_a_product(size: tuple[int, int]) -> None:
    check_conv((4, 6, 1, 1, 1, size), (1, 1), (0, 0))


def test_conv_with_constant_weights() -> None:
    check_conv(SHAPES[1], *KERNELS[0], constants=(1, 2))


def suits(form: Any, shape: Any) -> bool:
    channels, filters, group, stride, *_ = shape
    needs = {
        rules.dw_depthwise: group == channels == filters,
        rules.dw_phases: group == channels == filters,
        rules.dw_pitch: stride == 1,
        rules.dw_gather: group == 1,
        rules.dw_lines: group == 1,
        rules.dw_split: group > 1,
    }
    return needs.get(form, True)


@pytest.mark.parametrize(
    ("form", "shape"),
    [(form, shape) for form, shape in product(WEIGHT_FORMS, SHAPES) if suits(form, shape)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_every_form_of_the_weights_gradient(form: Any, shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = rules.weight_form

    def chosen(provider: str, convolution: Any) -> Any:
        inner = form is rules.dw_split and convolution.group == 1
        return choose(provider, convolution) if inner else form

    monkeypatch.setattr(rules, "weight_form", chosen)
    for kernel, padding in KERNELS:
        check_conv(shape, kernel, padding)


@pytest.mark.parametrize(("form", "group"), [(rules.dw_taps, 1), (rules.dw_taps, 2), (rules.dw_lines, 1)])
@pytest.mark.parametrize("sizes", [(6, 4), (4, 6)], ids=["fewer filters", "more filters"])
def test_the_larger_operand_goes_first_over_long_rows(
    form: Any, group: int, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "_LONG_ROW", 1)
    monkeypatch.setattr(rules, "weight_form", lambda *_: form)
    check_conv((*sizes, group, 2, 1, (13, 14)), (3, 2), (1, 0))


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("size", [(11,), (6, 5, 7)], ids=str)
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_and_three_spatial_axes(stride: int, group: int, size: tuple[int, ...], provider: str) -> None:
    rank = len(size)
    check_conv((4, 4, group, stride, 1, size), (3, 2, 4)[:rank], (1, 0, 1)[:rank], provider=provider)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pads", [[2, 0, 1, 3], [0, 1, 2, 0]], ids=str)
def test_pads_differ_at_begin_and_end(pads: list[int], stride: int, provider: str) -> None:
    top, left, bottom, right = pads

    def reference(x: Any, w: Any) -> Any:
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, (left, right, top, bottom)), w, stride=stride)

    inputs = [normal(2, 3, 9, 8), normal(5, 3, 3, 4)]
    compare(lambda g, x, w: g.emit("Conv", x, w, pads=pads, strides=[stride] * 2), reference, inputs, provider=provider)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize(("stride", "dilation", "extra"), [(1, 1, 0), (2, 1, 1), (2, 3, 0), (3, 2, 2)])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv_transpose(group: int, stride: int, dilation: int, extra: int, provider: str) -> None:
    inputs = [normal(3, 4, 5, 6), normal(4, 1 if group == 4 else 3, 4, 3), normal(group if group == 4 else 3 * group)]
    how = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [1, 2, 1, 2], "group": group}

    def reference(x: Any, w: Any, b: Any) -> Any:
        options = {"stride": stride, "padding": (1, 2), "output_padding": extra, "groups": group, "dilation": dilation}
        return torch_conv(2, transposed=True)(x, w, b, **options)

    def build(g: Any, *names: str) -> str:
        return str(g.emit("ConvTranspose", *names, output_padding=[extra] * 2, **how))

    compare(build, reference, inputs, provider=provider)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_automatic_padding_is_worked_out(op: str, auto_pad: str) -> None:
    """The op is linear in x and in w, so Σ dy · op(u, w) = Σ dx · u for any u, and likewise for w."""
    x, w = normal(2, 3, 8, 7), normal(*((5, 3) if op == "Conv" else (3, 5)), 3, 4)
    sizes = {("Conv", "VALID"): (3, 2), ("ConvTranspose", "VALID"): (17, 16)}
    dy = normal(2, 5, *sizes.get((op, auto_pad), (4, 4) if op == "Conv" else (16, 14)))

    def gradients(x: np.ndarray, w: np.ndarray) -> list[np.ndarray]:
        return op_gradients(lambda g, x, w: g.emit(op, x, w, auto_pad=auto_pad, strides=[2, 2]), [x, w], dy)

    _, dx, dw = gradients(x, w)
    for _ in range(3):
        u, v = normal(*x.shape), normal(*w.shape)
        assert np.vdot(gradients(u, w)[0], dy) == pytest.approx(np.vdot(dx, u), rel=1e-4, abs=1e-3)
        assert np.vdot(gradients(x, v)[0], dy) == pytest.approx(np.vdot(dw, v), rel=1e-4, abs=1e-3)


def test_output_shape_is_worked_out() -> None:
    """ConvTranspose with output_shape: the padding follows from it, the odd element in front."""
    x, w = normal(2, 3, 5, 4), normal(3, 5, 3, 2)
    explicit, implied = {"pads": [1, 1, 0, 0]}, {"output_shape": [10, 7]}
    dy = normal(2, 5, 10, 7)

    def gradients(how: dict[str, Any]) -> list[np.ndarray]:
        return op_gradients(lambda g, x, w: g.emit("ConvTranspose", x, w, strides=[2, 2], **how), [x, w], dy)

    for ours, theirs in zip(gradients(implied), gradients(explicit), strict=True):
        assert difference(ours, theirs) < 1e-6


def test_window_of_an_even_total_of_padding() -> None:
    node = Node("Conv", (), (), {"auto_pad": "SAME_LOWER", "strides": [2]})
    assert window(node, (8,), (4,), (3,)).begins == (1,)
    assert window(node, (7,), (4,), (3,)).begins == (1,)
    assert window(node, (7,), (4,), (2,)).begins == (1,)


def test_indices_read_every_tap_of_every_place() -> None:
    node = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 0, 0]}
    image = window(node, (4, 5), (2, 3), (2, 2))
    assert image.padded == (5, 5)  # the last row of 4 + 1 is not read, and so not padded either
    assert image.indices().tolist()[0] == [0, 2, 5, 7]
    assert image.indices().tolist()[-1] == [12, 14, 17, 19]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_constants_stay_linear_on_long_axes(channels: int, stride: int) -> None:
    """A kernel of 300 taps over 9,000 elements: a table of what each place reads would have 2.6 M entries."""
    inputs = [normal(2, channels, 9000), normal(channels, 1, 300), normal(channels)]
    how = {"strides": [stride], "group": channels}

    def build(g: Any, *names: str) -> str:
        return g.emit("Conv", *names, **how)

    def reference(x: Any, w: Any, b: Any) -> Any:
        return torch_conv(1)(x, w, b, stride=stride, groups=channels)

    compare(build, reference, inputs)
    assert largest_constant(build, inputs) <= 2 * channels * 9000 * 2


def test_constants_of_depthwise_convolutions_stay_linear_on_wide_images() -> None:
    inputs = [normal(1, 2, 3, 4000), normal(2, 1, 2, 5)]

    def build(g: Any, *names: str) -> str:
        return g.emit("Conv", *names, group=2)

    compare(build, lambda x, w: torch_conv(2)(x, w, groups=2), inputs)
    assert largest_constant(build, inputs) <= 2 * 2 * 3 * 4000
