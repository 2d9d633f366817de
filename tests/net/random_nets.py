"""Random valid nets over Caffe's layer types, as prototxt text."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from caffestat import net
from caffestat.errors import NetError
from caffestat.prototext import parse
from caffestat.net.source import net_source

Shape = tuple[int, ...]
Made = str | None  # the layer's text without name, type and bottoms; None when the bottom does not suit

FILLERS = (
    'type: "xavier"',
    'type: "msra"',
    'type: "gaussian" std: 0.3',
    'type: "gaussian" std: 0.5 sparse: 2',
    'type: "uniform" min: -0.4 max: 0.5',
    'type: "positive_unitball"',
    'type: "xavier" variance_norm: FAN_OUT',
    'type: "msra" variance_norm: AVERAGE',
    'type: "constant" value: 0.2',
)


def _filler(r: Random, field: str) -> str:
    return f"{field} {{ {r.choice(FILLERS)} }}" if r.random() < 0.9 else ""


def _plain(r: Random) -> str:
    """A filler that suits a blob of any shape."""
    return r.choice(('type: "gaussian" std: 0.5', 'type: "uniform" min: -0.5 max: 1', 'type: "constant" value: 0.7'))


def _convolution(r: Random, s: Shape) -> Made:
    if len(s) != 4:
        return None
    group = r.choice([g for g in (1, 1, 2, 3, s[1]) if s[1] % g == 0])
    kernel = f"kernel_size: {r.randint(1, 3)}" if r.random() < 0.7 else f"kernel_h: {r.randint(1, 3)} kernel_w: {r.randint(1, 3)}"
    return (
        f"convolution_param {{ num_output: {group * r.randint(1, 3)} group: {group} {kernel} stride: {r.randint(1, 2)} pad: {r.randint(0, 2)} "
        f"dilation: {r.choice((1, 1, 2))} bias_term: {r.choice(('true', 'false'))} {_filler(r, 'weight_filler')} {_filler(r, 'bias_filler') if r.random() < 0.5 else ''} }}"
    ).replace('bias_filler { type: "gaussian" std: 0.5 sparse: 2 }', "")


def _inner_product(r: Random, s: Shape) -> Made:
    axis = r.choice((1, 1, 1, -1, len(s) - 1)) if len(s) > 1 else 0
    transpose = r.choice(("true", "false"))
    return f"inner_product_param {{ num_output: {r.randint(2, 6)} axis: {axis} transpose: {transpose} {_filler(r, 'weight_filler')} }}"


def _pooling(r: Random, s: Shape) -> Made:
    if len(s) != 4:
        return None
    if r.random() < 0.15:
        return f"pooling_param {{ pool: {r.choice(('MAX', 'AVE'))} global_pooling: true }}"
    kernel = r.randint(1, 3)
    pad = r.randint(0, kernel - 1)
    mode = r.choice(("", "", "round_mode: FLOOR"))
    return f"pooling_param {{ pool: {r.choice(('MAX', 'AVE'))} kernel_size: {kernel} stride: {r.randint(1, kernel)} pad: {pad} {mode} }}"


def _lrn(r: Random, s: Shape) -> Made:
    if len(s) != 4:
        return None
    region = r.choice(("ACROSS_CHANNELS", "WITHIN_CHANNEL"))
    k = f"k: {r.choice((1, 2))}" if region == "ACROSS_CHANNELS" else ""
    return f"lrn_param {{ norm_region: {region} local_size: {r.choice((1, 3, 5))} alpha: {r.choice((0.01, 0.5, 1))} beta: {r.choice((0.5, 0.75))} {k} }}"


def _scale(r: Random, s: Shape) -> Made:
    axis = r.randint(0, len(s) - 1)
    num = r.choice((1, -1, 0, len(s) - axis))
    bias = f"bias_term: true bias_filler {{ {_plain(r)} }}" if r.random() < 0.5 else ""
    return f"scale_param {{ axis: {axis} num_axes: {num} filler {{ {_plain(r)} }} {bias} }}"


def _bias(r: Random, s: Shape) -> Made:
    axis = r.randint(0, len(s) - 1)
    return f"bias_param {{ axis: {axis} num_axes: {r.choice((1, -1, 0))} filler {{ {_plain(r)} }} }}"


def _reshape(r: Random, s: Shape) -> Made:
    return r.choice(
        (
            "reshape_param { shape { dim: 0 dim: -1 } }",
            "reshape_param { shape { dim: -1 } }",
            "reshape_param { shape { dim: 1 dim: -1 } axis: 1 num_axes: 1 }" if len(s) > 1 else "reshape_param { shape { dim: 1 dim: -1 } }",
            "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }",
        )
    )


def _axis(message: str) -> Callable[[Random, Shape], Made]:
    return lambda r, s: f"{message} {{ axis: {r.choice((r.randint(0, len(s) - 1), -1))} }}"


def _const(*texts: str) -> Callable[[Random, Shape], Made]:
    return lambda r, s: r.choice(texts)


def _four(*texts: str) -> Callable[[Random, Shape], Made]:
    return lambda r, s: r.choice(texts) if len(s) == 4 else None


def _tile(r: Random, s: Shape) -> Made:
    return f"tile_param {{ axis: {r.randint(0, len(s) - 1)} tiles: {r.randint(1, 3)} }}"


def _reduction(r: Random, s: Shape) -> Made:
    return f"reduction_param {{ operation: {r.choice(('SUM', 'ASUM', 'SUMSQ', 'MEAN'))} axis: {r.randint(0, len(s) - 1)} coeff: {r.choice((1, -0.5, 2))} }}"


def _prelu(r: Random, s: Shape) -> Made:
    shared = r.choice(("true", "false"))
    return f"prelu_param {{ channel_shared: {shared} filler {{ {_plain(r)} }} }}" if 2 <= len(s) <= 4 else None


# type -> (how to write its parameters for a bottom's shape, whether it may work in place)
UNARY: dict[str, tuple[Callable[[Random, Shape], Made], bool]] = {
    "Convolution": (_convolution, False),
    "Deconvolution": (_convolution, False),
    "InnerProduct": (_inner_product, False),
    "Pooling": (_pooling, False),
    "LRN": (_lrn, False),
    "BatchNorm": (lambda r, s: r.choice(("", "batch_norm_param { eps: 0.01 }", "batch_norm_param { use_global_stats: true }")) if len(s) > 1 else None, True),
    "Scale": (_scale, True),
    "Bias": (_bias, True),
    "ReLU": (_const("", "relu_param { negative_slope: 0.2 }"), True),
    "PReLU": (_prelu, True),
    "Sigmoid": (_const(""), True),
    "TanH": (_const(""), True),
    "ELU": (_const("", "elu_param { alpha: 0.5 }"), True),
    "Dropout": (_const("", "dropout_param { dropout_ratio: 0.3 }"), True),
    "AbsVal": (_const(""), False),
    "BNLL": (_const(""), True),
    "Swish": (_const("", "swish_param { beta: 0.7 }"), False),
    "Clip": (_const("clip_param { min: -0.6 max: 0.8 }"), False),
    "Exp": (_const("exp_param { scale: 0.3 }", "exp_param { base: 2 scale: 0.5 shift: 0.1 }"), True),
    "Power": (_const("power_param { power: 2 }", "power_param { scale: 0.5 shift: 1 }", "power_param { power: 1 shift: -0.3 }"), False),
    "Flatten": (_const("", "flatten_param { axis: 0 }"), False),
    "Reshape": (_reshape, False),
    "Softmax": (_axis("softmax_param"), True),
    "MVN": (_four("", "mvn_param { normalize_variance: false }", "mvn_param { across_channels: true }"), False),
    "Tile": (_tile, False),
    "Reduction": (_reduction, False),
    "Im2col": (_four("convolution_param { kernel_size: 2 pad: 1 }", "convolution_param { kernel_size: 3 pad: 1 stride: 2 }"), False),
    "SPP": (_four("spp_param { pyramid_height: 2 pool: MAX }", "spp_param { pyramid_height: 1 pool: AVE }"), False),
    "Split": (_const(""), False),
}


class _Growing:
    """A net's text and the blobs that may be read next."""

    def __init__(self, r: Random) -> None:
        self.r = r
        self.n, self.c, self.h, self.w = r.choice(((2, 3, 5, 6), (3, 4, 6, 7), (2, 6, 4, 5), (4, 3, 7, 8)))
        self.layers = [
            'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { '
            f"shape {{ dim: {self.n} dim: {self.c} dim: {self.h} dim: {self.w} }} shape {{ dim: {self.n} }} "
            'data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" min: 0 max: 1.999 } } }'
        ]
        self.shapes: dict[str, Shape] = {"data": (self.n, self.c, self.h, self.w)}

    @property
    def text(self) -> str:
        return "\n".join(['name: "random"', *self.layers, ""])

    def blob_shapes(self, layers: list[str]) -> dict[str, Shape]:
        """Return the shapes our builder gives; raises NetError for a layer that does not fit."""
        source = net_source(parse("\n".join(layers).encode(), "random"))
        return {blob.name: blob.shape for blob in net.build(source).blobs if blob.shape is not None}

    def add(self, kind: str, bottoms: list[str], tops: list[str], params: str) -> bool:
        """Append a layer when it fits."""
        name = f"l{len(self.layers)}"
        ends = " ".join([*(f'bottom: "{b}"' for b in bottoms), *(f'top: "{t}"' for t in tops)])
        grown = [*self.layers, f'layer {{ name: "{name}" type: "{kind}" {ends} {params} }}']
        try:
            shapes = self.blob_shapes(grown)
        except NetError:
            return False
        if any(not 0 < math.prod(shapes[top]) <= 4000 for top in tops):
            return False
        self.layers = grown
        self.shapes.update({top: shapes[top] for top in tops})
        return True

    def grow(self) -> None:
        """Add one random layer, or nothing when the choice does not fit."""
        r = self.r
        choice = r.random()
        blob = r.choice([name for name, shape in self.shapes.items() if shape][-4:])
        if choice < 0.8:
            self.unary(r.choice(list(UNARY)), blob)
        elif choice < 0.9:
            self.joined(blob)
        else:
            self.sliced(blob)

    def unary(self, kind: str, blob: str) -> None:
        write, may_be_in_place = UNARY[kind]
        params = write(self.r, self.shapes[blob])
        in_place = may_be_in_place and blob != "data" and self.is_unread(blob) and self.r.random() < 0.5
        if params is not None:
            self.add(kind, [blob], [blob if in_place else f"b{len(self.layers)}"], params)

    def is_unread(self, blob: str) -> bool:
        return not any(f'bottom: "{blob}"' in text and f'top: "{blob}"' not in text for text in self.layers)

    def joined(self, blob: str) -> None:
        others = [b for b, shape in self.shapes.items() if b != blob and shape == self.shapes[blob]]
        bottoms = [blob, self.r.choice(others) if others else blob]
        kind, params = self.r.choice(
            (
                ("Concat", f"concat_param {{ axis: {self.r.randint(0, len(self.shapes[blob]) - 1)} }}"),
                ("Eltwise", ""),
                ("Eltwise", "eltwise_param { operation: SUM coeff: 0.5 coeff: -2 }"),
                ("Eltwise", "eltwise_param { operation: PROD }"),
                ("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: false }"),
                ("Eltwise", "eltwise_param { operation: MAX }"),
            )
        )
        self.add(kind, bottoms, [f"b{len(self.layers)}"], params)

    def sliced(self, blob: str) -> None:
        axis = self.r.randint(0, len(self.shapes[blob]) - 1)
        size = self.shapes[blob][axis]
        if size > 1:
            point = self.r.randint(1, size - 1)
            n = len(self.layers)
            self.add("Slice", [blob], [f"b{n}", f"b{n}x"], f"slice_param {{ axis: {axis} slice_point: {point} }}")

    def close(self) -> None:
        """Give every blob that nobody reads a loss, or a reader without one."""
        for blob in [b for b in self.shapes if self.is_unread(b)]:
            shape, kind = self.shapes[blob], self.r.random()
            n = len(self.layers)
            if kind < 0.3 and len(shape) == 2 and shape[0] == self.n and shape[1] > 1:
                self.add("SoftmaxWithLoss", [blob, "label"], [f"loss{n}"], self.r.choice(("", "loss_weight: 0.5")))
            elif kind < 0.75 and shape:
                self.add("Reduction", [blob], [f"loss{n}"], f"loss_weight: {self.r.choice((1, 0.3))} reduction_param {{ operation: {self.r.choice(('MEAN', 'SUMSQ'))} coeff: 0.1 }}")
            elif kind < 0.9:
                self.add("Silence", [blob], [], "")
        if not any("loss" in text for text in self.layers):
            blob = [name for name, shape in self.shapes.items() if shape][-1]
            self.add("Reduction", [blob], ["loss"], "loss_weight: 1 reduction_param { operation: MEAN }")


def random_net(r: Random, layers: int = 12) -> str:
    """Return the text of a random net of about so many layers, with DummyData in front and losses behind."""
    growing = _Growing(r)
    for _ in range(layers):
        growing.grow()
    growing.close()
    return growing.text
