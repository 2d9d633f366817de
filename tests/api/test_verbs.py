"""The verbs of the package take paths as text and as Path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import caffestat
from caffestat.errors import InputError

MODELS = Path(__file__).parent.parent.parent / "models"


def test_verbs_take_paths(tmp_path: Path) -> None:
    lenet = MODELS / "lenet.prototxt"
    model = tmp_path / "lenet.onnx"
    caffestat.convert(lenet, model, batch=1)
    assert caffestat.analyze(lenet, static=True).totals.params == 431_080
    assert caffestat.analyze(model, static=True).totals.params == 431_080
    assert any("conv1" in line for line in caffestat.debug(lenet, batch=1, device="cpu"))
    assert caffestat.upgrade(lenet).data == lenet.read_bytes()
    assert caffestat.fill(lenet, tmp_path / "lenet.npz", batch=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: caffestat.check(net, phase="foo"), "phase: expected one of train, test, found 'foo'"),
        (lambda net: caffestat.check(net, severity="bad"), "severity: expected one of info, warning, error"),
        (lambda net: caffestat.check(net, limits={"vanishing": 1.0}), "limits: expected one of vanish, .*'vanishing'"),
        (lambda net: caffestat.analyze(net, data="bogus"), "data: expected one of auto, real, synthetic"),
        (lambda net: caffestat.analyze(net, inputs_hold="zeroes"), "inputs_hold: expected one of noise, zeros"),
        (lambda net: caffestat.debug(net, inputs_hold="zeroes"), "inputs_hold: expected one of noise, zeros"),
        (lambda net: caffestat.convert(net, "x.onnx", phase="foo"), "phase: expected one of train, test"),
        (lambda net: caffestat.fill(net, assume_filler="foo"), "assume_filler: expected one of"),
        (lambda net: caffestat.rewrite(net, filler="xavier", seed=-1), "seed: expected an integer"),
        (lambda net: caffestat.diagnose("x.log", net=net, phase="foo"), "phase: expected one of train, test"),
        (lambda net: caffestat.explain("CS999"), "CS999"),
    ],
)
def test_options_are_validated_by_every_verb(call: Callable[[Path], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(MODELS / "lenet.prototxt")


@pytest.mark.parametrize(("name", "meant"), [("convolution", "Convolution"), ("relu", "ReLU"), ("Poolling", "Pooling")])
def test_types_are_suggested_in_any_case(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"unknown layer type '{name}'; did you mean '{meant}'"):
        caffestat.list_layers(name)


def test_explain_gives_a_list_or_a_page() -> None:
    assert caffestat.explain().count("\n") > 10
    assert caffestat.explain("CS012").startswith("## CS012")
