"""Random parameters of the layer types with one bottom, as prototxt text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

__all__ = ["IN_PLACE", "UNARY", "filler", "maybe", "message", "plain"]

Shape = tuple[int, ...]
Writer = Callable[[Random, Shape], "str | None"]  # None: the bottom does not suit

FILLERS = (
    'type: "xavier"',
    'type: "msra"',
    'type: "gaussian" std: 0.3',
    'type: "gaussian" std: 0.5 sparse: 1',
    'type: "uniform" min: -0.4 max: 0.5',
    'type: "positive_unitball"',
    'type: "xavier" variance_norm: FAN_OUT',
    'type: "msra" variance_norm: AVERAGE',
    'type: "constant" value: 0.2',
)
PLAIN = (
    'type: "gaussian" std: 0.5',
    'type: "gaussian" mean: 0.2 std: 0.3',
    'type: "uniform" min: -0.5 max: 1',
    'type: "constant" value: 0.7',
)


def message(name: str, **fields: object) -> str:
    """Write a message; None leaves a field out, a list repeats it."""
    lists = {field: value if isinstance(value, list) else [value] for field, value in fields.items()}
    words = [_field(field, value) for field, values in lists.items() for value in values if value is not None]
    return f"{name} {{ {' '.join(words)} }}"


def _field(name: str, value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{name} {text}" if text.startswith("{") else f"{name}: {text}"


def maybe(r: Random, chance: float, value: object) -> object:
    """Return the value by chance, else None."""
    return value if r.random() < chance else None


def filler(r: Random) -> str:
    """A filler for weights."""
    return f"{{ {r.choice(FILLERS)} }}"


def plain(r: Random) -> str:
    """A filler that suits a blob of any shape."""
    return f"{{ {r.choice(PLAIN)} }}"


def convolution(r: Random, s: Shape) -> str | None:
    axis = r.choice((1, 1, 1, 2, -3)) if len(s) > 3 else 1
    if len(s) < 3 or not -len(s) < axis < len(s) - 1:
        return None
    channels, spatial = s[axis], len(s[axis:]) - 1
    group = r.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    window: dict[str, object] = {
        "stride": r.randint(1, 2),
        "pad": maybe(r, 0.7, [r.randint(0, 2) for _ in range(r.choice((1, spatial)))]),
    }
    if spatial == 2 and r.random() < 0.3:
        window = {name: r.randint(1, 2) for name in ("stride_h", "stride_w", "pad_h", "pad_w")}
    if spatial == 2 and r.random() < 0.3:
        window |= {"kernel_h": r.randint(1, 3), "kernel_w": r.randint(1, 3)}
    else:
        window["kernel_size"] = [r.randint(1, 3) for _ in range(r.choice((1, 1, spatial)))]
    return message(
        "convolution_param",
        num_output=group * r.randint(1, 3),
        group=group,
        axis=axis if axis != 1 else None,
        dilation=maybe(r, 0.3, r.randint(1, 2)),
        bias_term=r.random() < 0.7,
        force_nd_im2col=maybe(r, 0.2, True),
        weight_filler=maybe(r, 0.9, filler(r)),
        bias_filler=maybe(r, 0.5, plain(r)),
        **window,
    )


def inner_product(r: Random, s: Shape) -> str:
    return message(
        "inner_product_param",
        num_output=r.randint(2, 6),
        axis=r.choice((1, 1, 1, -1, len(s) - 1, 0)) if len(s) > 1 else 0,
        transpose=r.random() < 0.5,
        bias_term=r.random() < 0.7,
        weight_filler=maybe(r, 0.9, filler(r)),
        bias_filler=maybe(r, 0.5, plain(r)),
    )


def pooling(r: Random, s: Shape) -> str | None:
    method = r.choice(("MAX", "AVE"))
    if len(s) != 4:
        return None
    if r.random() < 0.15:
        return message("pooling_param", pool=method, global_pooling=True)
    mode = maybe(r, 0.3, r.choice(("FLOOR", "CEIL")))
    if r.random() < 0.6:
        kernel = r.randint(1, 4)
        stride, pad = r.randint(1, kernel + 1), maybe(r, 0.6, r.randint(0, kernel - 1))
        return message("pooling_param", pool=method, kernel_size=kernel, stride=stride, pad=pad, round_mode=mode)
    kernels = {"h": r.randint(1, 4), "w": r.randint(1, 4)}
    window = {f"kernel_{side}": k for side, k in kernels.items()}
    window |= {f"stride_{side}": r.randint(1, k + 1) for side, k in kernels.items()}
    window |= {f"pad_{side}": r.randint(0, k - 1) for side, k in kernels.items()}
    return message("pooling_param", pool=method, round_mode=mode, **window)


def lrn(r: Random, s: Shape) -> str:
    within = r.random() < 0.4
    return message(
        "lrn_param",
        norm_region="WITHIN_CHANNEL" if within else "ACROSS_CHANNELS",
        local_size=r.choice((1, 3, 5)),
        alpha=r.choice((0.01, 0.5, 1)),
        beta=r.choice((0.5, 0.75, 1)),
        k=None if within else r.choice((1, 2)),
    )


def scale(r: Random, s: Shape) -> str:
    axis = r.randint(-len(s), len(s) - 1)
    covered = -axis if axis < 0 else len(s) - axis
    return message(
        "scale_param",
        axis=axis,
        num_axes=r.choice((1, -1, 0, covered)),
        filler=maybe(r, 0.7, plain(r)),
        bias_term=maybe(r, 0.5, True),
        bias_filler=maybe(r, 0.5, plain(r)),
    )


def bias(r: Random, s: Shape) -> str:
    return message("bias_param", axis=r.randint(0, len(s) - 1), num_axes=r.choice((1, -1, 0)), filler=plain(r))


def reshape(r: Random, s: Shape) -> str:
    shapes: list[dict[str, object]] = [
        {"shape": "{ dim: 0 dim: -1 }"},
        {"shape": "{ dim: -1 }"},
        {"shape": "{ dim: 0 dim: 0 dim: -1 }"},
        {"shape": f"{{ dim: 0 dim: 1 dim: {s[-1]} dim: -1 dim: 1 }}"},
        {"shape": "{ dim: 1 }", "axis": -1, "num_axes": 0},
        {"shape": "{ dim: 1 dim: -1 }", "axis": len(s) - 1, "num_axes": 1},
        {"shape": "{ dim: -1 }", "axis": 1, "num_axes": -1},
    ]
    return message("reshape_param", **r.choice(shapes))


def axis_of(name: str) -> Writer:
    return lambda r, s: message(name, axis=r.choice((r.randint(0, len(s) - 1), -1)))


def one_of(*texts: str) -> Writer:
    return lambda r, s: r.choice(texts)


def image(*texts: str) -> Writer:
    return lambda r, s: r.choice(texts) if len(s) == 4 else None


def tile(r: Random, s: Shape) -> str:
    return message("tile_param", axis=r.randint(-len(s), len(s) - 1), tiles=r.randint(1, 3))


def reduction(r: Random, s: Shape) -> str:
    return message(
        "reduction_param",
        operation=r.choice(("SUM", "ASUM", "SUMSQ", "MEAN")),
        axis=r.randint(-1, len(s) - 1),
        coeff=r.choice((1, -0.5, 2)),
    )


def prelu(r: Random, s: Shape) -> str | None:
    shared = maybe(r, 0.5, r.random() < 0.5)
    return message("prelu_param", channel_shared=shared, filler=maybe(r, 0.7, plain(r))) if 2 <= len(s) <= 4 else None


def flatten(r: Random, s: Shape) -> str:
    first = r.randint(0, len(s) - 1)
    return message("flatten_param", axis=first, end_axis=r.choice((-1, r.randint(first, len(s) - 1))))


def im2col(r: Random, s: Shape) -> str | None:
    if len(s) < 3:
        return None
    return message(
        "convolution_param",
        kernel_size=[r.randint(1, 3) for _ in range(r.choice((1, len(s) - 2)))],
        stride=r.randint(1, 2),
        pad=r.randint(0, 1),
        dilation=maybe(r, 0.3, 2),
        force_nd_im2col=maybe(r, 0.3, True),
    )


def spp(r: Random, s: Shape) -> str:
    return message("spp_param", pyramid_height=r.randint(1, 3), pool=r.choice(("MAX", "AVE")))


def power(r: Random, s: Shape) -> str:
    whole = message("power_param", power=r.choice((0, 1, 2, 3)), scale=r.choice((0, 0.5, -1)), shift=r.choice((0, 1)))
    return r.choice((whole, whole, "", "power_param { shift: -0.3 }", "power_param { scale: 0 shift: 2 power: 1.5 }"))


def batch_norm(r: Random, s: Shape) -> str | None:
    fraction = maybe(r, 0.3, 0.9)
    stored = maybe(r, 0.3, r.random() < 0.7)
    eps = maybe(r, 0.3, 0.01)
    # the statistics of few values are close to singular: neither Caffe nor we compute them well
    enough = len(s) > 1 and math.prod(s) // s[1] > 3
    written = message("batch_norm_param", moving_average_fraction=fraction, use_global_stats=stored, eps=eps)
    return written if enough else None


UNARY: dict[str, Writer] = {
    "AbsVal": one_of(""),
    "BNLL": one_of(""),
    "BatchNorm": batch_norm,
    "Bias": bias,
    "Clip": one_of("clip_param { min: -0.6 max: 0.8 }"),
    "Convolution": convolution,
    "Deconvolution": convolution,
    "Dropout": one_of("", "dropout_param { dropout_ratio: 0.3 }"),
    "ELU": one_of("", "elu_param { alpha: 0.5 }"),
    "Exp": one_of("exp_param { scale: 0.3 }", "exp_param { base: 2 scale: 0.5 shift: 0.1 }"),
    "Flatten": flatten,
    "Im2col": im2col,
    "InnerProduct": inner_product,
    "LRN": lambda r, s: lrn(r, s) if len(s) == 4 else None,
    "MVN": one_of(
        "",
        "mvn_param { normalize_variance: false }",
        "mvn_param { across_channels: true }",
        "mvn_param { across_channels: true normalize_variance: false }",
        "mvn_param { eps: 0.1 }",
    ),
    "PReLU": prelu,
    "Pooling": pooling,
    "Power": power,
    "ReLU": one_of("", "relu_param { negative_slope: 0.2 }"),
    "Reduction": reduction,
    "Reshape": reshape,
    "SPP": lambda r, s: spp(r, s) if len(s) == 4 else None,
    "Scale": scale,
    "Sigmoid": one_of(""),
    "Softmax": axis_of("softmax_param"),
    "Split": one_of(""),
    "Swish": one_of("", "swish_param { beta: 0.7 }"),
    "TanH": one_of(""),
    "Tile": tile,
}

IN_PLACE: Sequence[str] = (
    "BNLL",
    "BatchNorm",
    "Bias",
    "Clip",
    "Dropout",
    "ELU",
    "Exp",
    "LRN",
    "MVN",
    "PReLU",
    "Power",
    "ReLU",
    "Scale",
    "Sigmoid",
    "Softmax",
    "Swish",
    "TanH",
)
