"""The nonlinearity that a layer's output meets."""

from __future__ import annotations

import pytest

from caffestat.fillers import Filler
from caffestat.ops import LINEAR, Nonlinearity
from caffestat.rewriting.caffe_steps import caffe_step
from caffestat.rewriting.follow import Step, follow

RELU = Nonlinearity(True)


def steps(text: str) -> list[Step]:
    """Read "Type bottom,bottom>top,top; …"."""
    lines = (line.split() for line in text.split(";"))
    return [
        caffe_step(kind, *(tuple(name for name in side.split(",") if name) for side in flow.split(">")))
        for kind, flow in lines
    ]


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
    assert follow(steps(net), 0) == follower


def test_slopes_count_as_their_mean_square() -> None:
    def slope(*arguments: object) -> Nonlinearity | None:
        return caffe_step(*arguments).nonlinearity  # type: ignore[arg-type]

    assert slope("ReLU", ("a",), ("a",), 0.5) == Nonlinearity(True, 0.25)
    assert slope("PReLU", ("a",), ("a",)) == Nonlinearity(True, 0.0625)
    assert slope("PReLU", ("a",), ("a",), 0.0, Filler("uniform", min=0.0, max=3.0)) == Nonlinearity(True, 3.0)
    assert slope("PReLU", ("a",), ("a",), 0.0, Filler("gaussian", mean=3.0, std=4.0)) == Nonlinearity(True, 25.0)
