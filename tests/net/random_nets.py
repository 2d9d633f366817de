"""Random valid nets over Caffe's layer types, as prototxt text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from caffestat import net
from caffestat.errors import NetError
from caffestat.net.source import net_source
from caffestat.prototext import parse

from .random_layers import IN_PLACE, UNARY, filler, maybe, message, plain

__all__ = ["DIFFERENTIABLE", "KINDS", "random_net"]

Shape = tuple[int, ...]

BATCHES = ((2, 3, 5, 6), (3, 4, 6, 7), (2, 6, 4, 5), (4, 3, 7, 8), (5, 4), (3, 5, 4), (2, 3, 4, 5, 3))
SIGNALS = ('type: "gaussian" std: 1',) * 12 + (
    'type: "uniform" min: -1 max: 1',
    'type: "gaussian" std: 8',
    'type: "gaussian" std: 40',
    'type: "constant" value: 0',
    'type: "constant" value: -0.5',
)
LARGEST = 4000  # elements of a blob
LEGACY = 4  # axes that some losses take at most
LEARNING = ("Convolution", "Deconvolution", "InnerProduct", "Scale", "Bias", "PReLU")
BLIND = ("Accuracy", "ArgMax", "Threshold", "Embed", "BatchReindex", "Filter", "InfogainLoss")  # abort when forced

Recipe = Callable[["Growing", str], object]


def shape_text(shape: Sequence[int]) -> str:
    return f"{{ {' '.join(f'dim: {size}' for size in shape)} }}"


class Growing:
    """A net's text so far, and the shapes of the blobs that further layers may read."""

    def __init__(self, r: Random, kinds: Sequence[str], tricks: bool, forced: bool) -> None:
        self.r = r
        self.kinds = kinds
        self.tricks = tricks
        self.forced = forced
        self.layers: list[str] = []
        self.shapes: dict[str, Shape] = {}
        self.read: set[str] = set()
        self.dead: set[str] = set()  # blobs that no loss may depend on
        self.source(r.choice(BATCHES), r.choice(SIGNALS) if tricks else SIGNALS[0])
        self.sources = set(self.shapes)  # blobs that no layer may work on in place

    def name(self) -> str:
        return f"b{len(self.layers)}"

    def source(self, shape: Shape, written: str) -> str:
        """Add a DummyData layer and return its top, which is for whoever asked only."""
        name = self.name()
        params = message("dummy_data_param", shape=shape_text(shape), data_filler=f"{{ {written} }}")
        self.layers.append(f'layer {{ name: "{name}" type: "DummyData" top: "{name}" {params} }}')
        self.shapes[name] = shape
        return name

    def numbers(self, shape: Shape, below: int) -> str:
        """Add labels: numbers of which the integer part counts."""
        return self.hidden(self.source(shape, f'type: "uniform" min: 0 max: {below - 0.001}'))

    def noise(self, shape: Shape) -> str:
        if self.tricks and self.r.random() < 0.1:  # no noise but zeros, as `caffe train` leaves its inputs
            return self.hidden(self.add("Input", [], message("input_param", shape=shape_text(shape)))[0])
        return self.hidden(self.source(shape, 'type: "gaussian" std: 1'))

    def bits(self, shape: Shape) -> str:
        """Add a blob of zeros and ones; under force_backward, which Threshold does not take, of numbers below 2."""
        if self.forced:
            return self.numbers(shape, 2)
        (top,) = self.add("Threshold", [self.numbers(shape, 3)], "threshold_param { threshold: 1 }")
        return self.hidden(top)

    def hidden(self, blob: str) -> str:
        self.dead.add(blob)
        return blob

    def live(self) -> list[str]:
        return [name for name, shape in self.shapes.items() if shape and name not in self.dead]

    def learned(self, shape: Shape) -> str:
        """Add a Parameter layer, so that a gradient arrives at a second bottom."""
        tops = self.add("Parameter", [], message("parameter_param", shape=shape_text(shape)))
        self.sources.update(tops)
        return tops[0] if tops else self.noise(shape)

    def add(
        self, kind: str, bottoms: Sequence[str], params: str = "", tops: int = 1, in_place: bool = False
    ) -> list[str]:
        """Append a layer and return its tops; none when it does not fit."""
        name = self.name()
        names = [bottoms[0]] if in_place else [name, *(f"{name}_{k}" for k in range(1, tops))][:tops]
        ends = " ".join([*(f'bottom: "{b}"' for b in bottoms), *(f'top: "{t}"' for t in names)])
        text = f'layer {{ name: "{name}" type: "{kind}" {ends} {params} }}'
        shapes = self.shapes_with(text, bottoms)
        if shapes is None or any(not 0 < math.prod(shapes[top]) <= LARGEST for top in names):
            return []
        self.layers.append(text)
        self.read.update(bottoms)
        # a weight counts as a reader
        (self.read.update if "loss_weight" in params else self.read.difference_update)(names)
        self.shapes.update({top: shapes[top] for top in names})
        return names

    def shapes_with(self, text: str, bottoms: Sequence[str]) -> dict[str, Shape] | None:
        """Return the shapes that a layer gives to the blobs; None when it does not fit."""
        inputs = [
            f'layer {{ name: "i{b}" type: "Input" top: "{b}" input_param {{ shape {shape_text(self.shapes[b])} }} }}'
            for b in dict.fromkeys(bottoms)
        ]
        source = net_source(parse("\n".join([*inputs, text]).encode(), "random"))
        try:
            return {blob.name: blob.shape for blob in net.build(source).blobs if blob.shape is not None}
        except NetError:
            return None

    def grow(self) -> None:
        """Add one random layer to one of the latest blobs, or nothing when the choice does not fit."""
        blob, kind = self.r.choice(self.live()[-4:]), self.r.choice(self.kinds)
        if kind in RECIPES:
            RECIPES[kind](self, blob)
        else:
            unary(self, kind, blob)

    def alike(self, blob: str, *also: str) -> list[str]:
        """Return live blobs of the same shape, the blob itself when there is no other."""
        return [b for b in self.live() if self.shapes[b] == self.shapes[blob] and b not in (blob, *also)] or [blob]


def specs(g: Growing, count: int) -> str:
    """Param specs of a learning layer, now and then."""
    texts = [message("param", lr_mult=g.r.choice((0, 1, 1, 2)), decay_mult=maybe(g.r, 0.3, 0)) for _ in range(count)]
    return " ".join(texts) if g.tricks and g.r.random() < 0.3 else ""


def unary(g: Growing, kind: str, blob: str) -> None:
    params = UNARY[kind](g.r, g.shapes[blob])
    if params is None:
        return
    in_place = g.tricks and kind in IN_PLACE and blob not in g.read | g.sources and g.r.random() < 0.4
    if g.tricks and kind in LEARNING:
        params += f" {specs(g, 1)}"
        down = ("", "", "", "", "", " propagate_down: true", " propagate_down: false")
        # of Scale it would leave a product where the gradient of its bottom is looked for
        params += g.r.choice(down[:-1] if kind == "Scale" else down)
    if g.r.random() < 0.04:
        params += f" loss_weight: {g.r.choice((0.1, 0.02, 0))}"
    g.add(kind, [blob], params, in_place=in_place)


# ---- layers of several bottoms or tops -------------------------------------------------------------------------------


def concat(g: Growing, blob: str) -> None:
    shape = g.shapes[blob]
    axis = g.r.randrange(len(shape))
    fitting = [b for b in g.live() if _same_but(axis, g.shapes[b], shape)]
    bottoms = [blob, *g.r.sample(fitting, min(len(fitting), g.r.randint(0, 2)))]
    g.add("Concat", bottoms, message("concat_param", axis=g.r.choice((axis, axis - len(shape)))))


def _same_but(axis: int, a: Shape, b: Shape) -> bool:
    return len(a) == len(b) and a[:axis] + a[axis + 1 :] == b[:axis] + b[axis + 1 :]


def eltwise(g: Growing, blob: str) -> None:
    bottoms = [blob, g.r.choice(g.alike(blob))]
    if g.r.random() < 0.4:
        bottoms.append(g.r.choice(g.alike(*bottoms)))
    coeffs = [g.r.choice((1, 0.5, -2)) for _ in bottoms]
    params = (
        "",
        message("eltwise_param", operation="SUM", coeff=coeffs),
        message("eltwise_param", operation="PROD"),
        message("eltwise_param", operation="PROD", stable_prod_grad=False),
        message("eltwise_param", operation="MAX"),
    )
    g.add("Eltwise", bottoms, g.r.choice(params))


def slices(g: Growing, blob: str) -> None:
    axis = g.r.randrange(len(g.shapes[blob]))
    size = g.shapes[blob][axis]
    tops = g.r.randint(1, min(size, 3))
    points = sorted(g.r.sample(range(1, size), tops - 1))
    even = size % tops == 0 and g.r.random() < 0.4
    g.add("Slice", [blob], message("slice_param", axis=axis, slice_point=[] if even else points), tops)


def operand(kind: str) -> Recipe:
    """Scale and Bias with a second bottom."""

    def add(g: Growing, blob: str) -> None:
        shape = g.shapes[blob]
        axis = g.r.randrange(len(shape))
        covered = shape[axis : axis + g.r.randint(1, len(shape))]
        fitting = [b for b in g.live() if g.shapes[b] == covered and b != blob]
        other = g.r.choice(fitting or [g.learned(covered), g.noise(covered)])
        bias = g.r.random() < 0.4 if kind == "Scale" else None
        g.add(kind, [blob, other], message(f"{kind.lower()}_param", axis=axis, bias_term=bias))

    return add


def twin_convolution(g: Growing, blob: str) -> None:
    """Two bottoms under one set of weights."""
    params = UNARY["Convolution"](g.r, g.shapes[blob])
    if params:
        g.add(g.r.choice(("Convolution", "Deconvolution")), [blob, g.r.choice(g.alike(blob))], params, 2)


def shared(g: Growing, blob: str) -> None:
    """Two layers under one set of weights, or PERMISSIVE, of weights of the same count."""
    other, kind = g.r.choice(g.alike(blob)), g.r.choice(("InnerProduct", "Convolution", "Scale")[: 2 + g.tricks])
    params, name = UNARY[kind](g.r, g.shapes[blob]), g.name()
    if params and g.add(kind, [blob], f'{params} param {{ name: "{name}" }}'):
        mode = ""
        if kind == "InnerProduct":
            mode = "share_mode: PERMISSIVE"
            was = "transpose: true" in params
            params = params.replace(f"transpose: {str(was).lower()}", f"transpose: {str(not was).lower()}")
        g.add(kind, [other], f'{params} param {{ name: "{name}" {mode} }}')


def mask(g: Growing, blob: str) -> None:
    if len(g.shapes[blob]) == 4:
        g.add("Pooling", [blob], "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", 2)


def crop(g: Growing, blob: str) -> None:
    shape = g.shapes[blob]
    axis = g.r.randrange(len(shape))
    sizes = [g.r.randint(1, size) for size in shape]
    offsets = [g.r.randint(0, whole - size) for whole, size in zip(shape, sizes, strict=True)][axis:]
    reference = g.noise(tuple(sizes))
    g.add("Crop", [blob, reference], message("crop_param", axis=axis, offset=offsets))


def reindex(g: Growing, blob: str) -> None:
    g.add("BatchReindex", [blob, g.numbers((g.r.randint(1, 5),), g.shapes[blob][0])])


def select(g: Growing, blob: str) -> None:
    """Filter, all items selected: the shapes of others only the data tells."""
    others = [b for b in g.live() if g.shapes[b][0] == g.shapes[blob][0]]
    selector = g.hidden(g.source(g.shapes[blob][:1], 'type: "uniform" min: 0.5 max: 2'))
    g.add("Filter", [blob, g.r.choice(others), selector], tops=2)


def embed(g: Growing, blob: str) -> None:
    rows = g.r.randint(2, 7)
    params = message(
        "embed_param",
        input_dim=rows,
        num_output=g.r.randint(2, 5),
        bias_term=g.r.random() < 0.6,
        weight_filler=filler(g.r),
        bias_filler=plain(g.r),
    )
    g.add("Embed", [g.numbers(g.r.choice(((3,), (4, 2), (2, 3, 2))), rows)], params)


def positive(g: Growing, blob: str) -> str | None:
    tops = g.add(g.r.choice(("Sigmoid", "BNLL", "Softmax")), [blob])
    return tops[0] if tops else None


def log(g: Growing, blob: str) -> None:
    bottom = positive(g, blob)
    if bottom:
        texts = ("", "log_param { base: 2 }", "log_param { base: 3 scale: 0.5 shift: 0.2 }")
        g.add("Log", [bottom], g.r.choice(texts))


def root(g: Growing, blob: str) -> None:
    """Powers that only positive values have."""
    bottom = positive(g, blob)
    if bottom:
        g.add("Power", [bottom], message("power_param", power=g.r.choice((-1, 0.5, 1.5)), shift=0.1))


def recurrent(kind: str, states: int) -> Recipe:
    def add(g: Growing, blob: str) -> None:
        shape, size = g.shapes[blob], g.r.randint(2, 4)
        if len(shape) < 3 or shape[0] > 6:
            return
        exposed = states if g.tricks and g.r.random() < 0.3 else 0
        static = [g.noise((shape[1], 3))] if g.r.random() < 0.4 else []
        first = [g.noise((1, shape[1], size)) for _ in range(exposed)]
        params = message(
            "recurrent_param",
            num_output=size,
            weight_filler=filler(g.r),
            bias_filler=plain(g.r),
            expose_hidden=maybe(g.r, 1, True) if exposed else None,
        )
        tops = g.add(kind, [blob, g.bits(shape[:2]), *static, *first], params, 1 + exposed)
        # exposed states, and all states of a single timestep, are the unrolled net's own: nothing may write over them
        g.sources.update(tops if shape[0] == 1 else tops[1:])

    return add


def lstm_unit(g: Growing, blob: str) -> None:
    streams, size = g.r.randint(2, 4), g.r.randint(2, 3)
    bottoms = []
    for width in (size, 4 * size):
        bottoms += g.add("Scale", [g.noise((1, streams, width))], "scale_param { filler { value: 0.8 } }")
    g.add("LSTMUnit", [*bottoms, g.bits((1, streams))], "", 2)


def dead(kind: str, write: Callable[[Random, Shape], str]) -> Recipe:
    """Layers through which no gradient flows: Caffe aborts when a loss depends on them."""

    def add(g: Growing, blob: str) -> None:
        for top in g.add(kind, [blob], write(g.r, g.shapes[blob])):
            g.hidden(top)

    return add


def arg_max(r: Random, s: Shape) -> str:
    axis = maybe(r, 0.5, r.randrange(len(s)))
    return message("argmax_param", axis=axis, top_k=r.randint(1, 2), out_max_val=maybe(r, 0.5, True))


# ---- losses and what else ends a net ---------------------------------------------------------------------------------


def classified(g: Growing, blob: str, axis: int) -> tuple[str, int]:
    """Return labels for all places outside an axis, and how many classes there are."""
    shape = g.shapes[blob]
    outside = (*shape[:axis], *shape[axis + 1 :])
    shapes = [outside or (1,), (*shape[:axis], 1, *shape[axis + 1 :])]
    return g.numbers(g.r.choice(shapes), shape[axis]), shape[axis]


def normalized(r: Random, classes: int) -> str:
    return r.choice(
        (
            "",
            f"loss_param {{ ignore_label: {r.randrange(classes)} }}",
            f"loss_param {{ normalization: {r.choice(('FULL', 'VALID', 'BATCH_SIZE', 'NONE'))} }}",
            f"loss_param {{ normalization: {r.choice(('FULL', 'VALID', 'BATCH_SIZE', 'NONE'))} ignore_label: 1 }}",
            f"loss_param {{ normalize: {r.choice(('true', 'false'))} }}",
        )
    )


def weight(r: Random) -> str:
    return r.choice(("", "loss_weight: 0.5", "loss_weight: 2"))


def softmax_loss(g: Growing, blob: str) -> None:
    axis = g.r.choice((1, 1, 1, 0, -1)) % len(g.shapes[blob])
    if axis == 0 and len(g.shapes[blob]) > 1:
        return  # the labels' first axis must be the scores'
    labels, classes = classified(g, blob, axis)
    params = f"softmax_param {{ axis: {axis} }} {normalized(g.r, classes)} {weight(g.r)}"
    g.add("SoftmaxWithLoss", [blob, labels], params)


def infogain_loss(g: Growing, blob: str) -> None:
    axis = g.r.randint(1, len(g.shapes[blob])) % len(g.shapes[blob])
    if axis:
        labels, classes = classified(g, blob, axis)
        matrix = g.hidden(g.source((1, 1, classes, classes), 'type: "uniform" min: 0 max: 1'))
        params = f"infogain_loss_param {{ axis: {axis} }} {normalized(g.r, classes)}"
        g.add("InfogainLoss", [blob, labels, matrix], params if "normalize:" not in params else "")


def accuracy(g: Growing, blob: str) -> None:
    axis = g.r.randrange(len(g.shapes[blob]))
    labels, classes = classified(g, blob, axis)
    params = message(
        "accuracy_param",
        axis=axis,
        top_k=g.r.randint(1, min(classes, 3)),
        ignore_label=maybe(g.r, 0.4, g.r.randrange(classes)),
    )
    for top in g.add("Accuracy", [blob, labels], params, g.r.choice((1, 2))):
        g.hidden(top)


def euclidean_loss(g: Growing, blob: str) -> None:
    shape = g.shapes[blob]
    if len(shape) > LEGACY:
        return
    others = [b for b in g.live() if b != blob and _count(g.shapes[b]) == _count(shape) and g.shapes[b][0] == shape[0]]
    g.add("EuclideanLoss", [blob, g.r.choice(others) if others else g.noise(shape)], weight(g.r))


def _count(shape: Shape) -> int:
    return math.prod(shape)


def sigmoid_loss(g: Growing, blob: str) -> None:
    shape = g.shapes[blob]
    targets = g.r.choice((g.bits, lambda s: g.numbers(s, 1)))(shape)
    g.add("SigmoidCrossEntropyLoss", [blob, targets], f"{normalized(g.r, 2)} {weight(g.r)}")


def hinge_loss(g: Growing, blob: str) -> None:
    if len(g.shapes[blob]) > LEGACY:
        return
    n, classes = g.shapes[blob][0], _count(g.shapes[blob][1:])
    g.add("HingeLoss", [blob, g.numbers((n,), classes)], g.r.choice(("", "hinge_loss_param { norm: L2 }")))


def logistic_loss(g: Growing, blob: str) -> None:
    n, classes = g.shapes[blob][0], _count(g.shapes[blob][1:])
    bottom = positive(g, blob)
    if bottom and len(g.shapes[blob]) <= LEGACY:
        g.add("MultinomialLogisticLoss", [bottom, g.numbers((n,), classes)])


def contrastive_loss(g: Growing, blob: str) -> None:
    if len(g.shapes[blob]) < 2:
        return
    flat = [blob] if len(g.shapes[blob]) == 2 else g.add("Flatten", [blob])
    if flat:
        other = g.r.choice([*g.alike(flat[0]), g.noise(g.shapes[flat[0]])])
        margin = g.r.choice((1, 3, 20))
        params = message("contrastive_loss_param", margin=margin, legacy_version=maybe(g.r, 0.4, True))
        g.add("ContrastiveLoss", [flat[0], other, g.bits(g.shapes[blob][:1])], params)


def reduced(g: Growing, blob: str) -> None:
    operation, coeff = g.r.choice(("MEAN", "SUMSQ", "ASUM")), g.r.choice((0.1, -0.3))
    params = message("reduction_param", operation=operation, coeff=coeff)
    g.add("Reduction", [blob], f"loss_weight: {g.r.choice((1, 0.3))} {params}")


def silence(g: Growing, blob: str) -> None:
    g.add("Silence", [blob], tops=0)


RECIPES: dict[str, Recipe] = {
    "Accuracy": accuracy,
    "ArgMax": dead("ArgMax", arg_max),
    "BatchReindex": reindex,
    "BiasBy": operand("Bias"),
    "Concat": concat,
    "ContrastiveLoss": contrastive_loss,
    "Crop": crop,
    "Eltwise": eltwise,
    "Embed": embed,
    "Filter": select,
    "EuclideanLoss": euclidean_loss,
    "HingeLoss": hinge_loss,
    "InfogainLoss": infogain_loss,
    "LSTM": recurrent("LSTM", 2),
    "LSTMUnit": lstm_unit,
    "Log": log,
    "Mask": mask,
    "MultinomialLogisticLoss": logistic_loss,
    "RNN": recurrent("RNN", 1),
    "Root": root,
    "ScaleBy": operand("Scale"),
    "Shared": shared,
    "SigmoidCrossEntropyLoss": sigmoid_loss,
    "Slice": slices,
    "SoftmaxWithLoss": softmax_loss,
    "Threshold": dead("Threshold", lambda r, s: message("threshold_param", threshold=r.choice((0, 0.3)))),
    "Twin": twin_convolution,
}
ENDS: tuple[Recipe, ...] = (reduced, reduced, softmax_loss, euclidean_loss, sigmoid_loss, hinge_loss, silence, accuracy)
KINDS = (*UNARY, *RECIPES)
# without those of which Caffe computes another gradient, with Flatten in some places only
DIFFERENTIABLE = tuple(kind for kind in KINDS if kind not in ("Flatten", "ContrastiveLoss", "MVN"))


def random_net(r: Random, layers: int = 12, kinds: Sequence[str] = KINDS, tricks: bool = True) -> str:
    """Return the text of a random net of about so many layers, DummyData in front and losses behind.

    kinds:  the names in `UNARY` and `RECIPES` to choose from
    tricks: with layers in place, gradients held back by several means, and extreme data
    """
    forced = tricks and r.random() < 0.1
    g = Growing(r, [kind for kind in kinds if not (forced and kind in BLIND)], tricks, forced)
    for _ in range(layers):
        g.grow()
    for blob in g.live():
        if blob not in g.read and r.random() < 0.9:
            r.choice(ENDS[:-1] if forced else ENDS)(g, blob)
    reduced(g, next(reversed(g.live())))
    return "\n".join(['name: "random"', *["force_backward: true"] * forced, *g.layers, ""])
