"""The nonlinearity that a layer's output meets."""

from __future__ import annotations

import random

import pytest

from caffestat.ops import LINEAR, Nonlinearity
from caffestat.program import Dataflow, NamedStep
from caffestat.prototext import parse
from caffestat.rewriting.text import step_of
from caffestat.rewriting.text_layers import text_layers

RELU = Nonlinearity(True)


def layer(kind: str, bottoms: str, tops: str, params: str = "") -> str:
    names = [f'bottom: "{name}"' for name in bottoms.split(",") if name]
    names += [f'top: "{name}"' for name in tops.split(",") if name]
    return f'layer {{ type: "{kind}" {" ".join(names)} {params} }}'


def read(text: str) -> list[NamedStep]:
    return [step_of(found) for found in text_layers(parse(text.encode()))]


def steps(text: str) -> list[NamedStep]:
    """Read "Type bottom,bottom>top,top; …"."""
    lines = (line.split() for line in text.split(";"))
    return read("\n".join(layer(kind, *flow.split(">")) for kind, flow in lines))


@pytest.mark.parametrize(
    ("net", "follower"),
    [
        ("Convolution x>a; ReLU a>a", RELU),
        ("Convolution x>a; ReLU a>b", RELU),
        ("Convolution x>a; BatchNorm a>a; Scale a>s; Dropout s>s; ReLU s>r", RELU),
        ("Convolution x>a; Pooling a>p; ReLU p>p", RELU),
        ("Convolution x>a; Split a>b,c; Convolution b>d; ReLU c>e", RELU),
        ("Convolution x>a; Convolution a>b; ReLU b>b", LINEAR),
        ("Convolution x>a; TanH a>a; ReLU a>a", LINEAR),
        ("Convolution x>a; ReLU x>y", LINEAR),
        ("InnerProduct x>a; SoftmaxWithLoss a,label>loss; Accuracy a,label>acc", LINEAR),
        ("InnerProduct x>a; Accuracy a,label>acc; Sigmoid a>s", LINEAR),
        ("Convolution x>a; ForksOwn a>a; ReLU a>a", RELU),  # in place: whatever it is, it passes on
        ("Convolution x>a; ForksOwn a>b; ReLU b>b", LINEAR),
        ("Convolution x>a; Input >a; ReLU a>a", LINEAR),  # another blob of that name
        ("Convolution x>a; ELU a>a", RELU),
        ("Convolution x>a", LINEAR),
    ],
)
def test_finds_the_first_nonlinearity_that_reads_the_output(net: str, follower: Nonlinearity) -> None:
    assert Dataflow.of_names(steps(net)).nonlinearity(0) == follower


def test_forks_types_are_known_by_their_old_names() -> None:
    old = """layers { name: "c" type: CONVOLUTION bottom: "x" top: "a" }
    layers { name: "r" type: %s bottom: "a" top: "a" } layers { name: "d" type: CONVOLUTION bottom: "a" top: "b" }"""
    for name, follower in (("RELUPLUS", RELU), ("RELU", RELU), ("NOBODYS", LINEAR)):
        assert Dataflow.of_names(read(old % name)).nonlinearity(0) == follower


def test_agrees_with_a_walk_over_all_steps() -> None:
    rng = random.Random(4)
    kinds = ("Convolution", "ReLU", "Dropout", "Pooling", "TanH", "Split", "Concat")
    for _ in range(300):
        text = "; ".join(f"{rng.choice(kinds)} {rng.choice('abcd')}>{rng.choice('abcd')}" for _ in range(9))
        for index in range(9):
            assert Dataflow.of_names(steps(text)).nonlinearity(index) == walked(steps(text), index), (text, index)


def walked(steps: list[NamedStep], index: int) -> Nonlinearity:
    values = set(steps[index].tops)
    for step in steps[index + 1 :]:
        reads = not values.isdisjoint(step.bottoms)
        if reads and step.activation is not None:
            return step.activation
        values = values | set(step.tops) if reads and step.passes else values - set(step.tops)
    return LINEAR


@pytest.mark.parametrize(
    ("text", "slope_square"),
    [
        (layer("ReLU", "a", "a", "relu_param { negative_slope: 0.5 }"), 0.25),
        ('layers { type: RELU bottom: "a" top: "a" relu_param { negative_slope: 0.5 } }', 0.25),
        (layer("PReLU", "a", "a"), 0.0625),
        (layer("PReLU", "a", "a", 'prelu_param { filler { type: "uniform" min: 0 max: 3 } }'), 3.0),
        (layer("PReLU", "a", "a", 'prelu_param { filler { type: "gaussian" mean: 3 std: 4 } }'), 25.0),
        (layer("PReLU", "a", "a", 'prelu_param { filler { type: "ours" } unknown: 3 }'), 0.0),
    ],
)
def test_slopes_count_as_their_mean_square(text: str, slope_square: float) -> None:
    assert read(text)[0].activation == Nonlinearity(True, slope_square)


def test_a_clip_is_a_rectifier_when_it_cuts_at_zero() -> None:
    texts = (layer("Clip", "a", "a", f"clip_param {{ min: {low} max: 6 }}") for low in (0, -6))
    first, second = read("".join(texts))
    assert (first.activation, second.activation) == (Nonlinearity(True), Nonlinearity(False))
