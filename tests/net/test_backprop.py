"""Which layers and bottoms need backward: what Caffe's own tests and net.cpp, Init, expect."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.net import Net, build, load
from caffestat.net.source import NetSource

DATA = """layer { name: "data" type: "DummyData" top: "x" top: "label"
  dummy_data_param { shape { dim: 5 dim: 2 dim: 3 dim: 4 } shape { dim: 5 %s } } }
"""
PRODUCT = 'layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" inner_product_param { num_output: %d } %s }\n'
LOSS = 'layer { name: "loss" type: "%s" bottom: "ip" bottom: "%s" top: "loss" %s }\n'
FORCE = "force_backward: true\n"
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"


@pytest.fixture
def made(tmp_path: Path):
    def make(text: str) -> Net:
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        source = load(str(path))
        assert isinstance(source, NetSource)
        return build(source)

    return make


def flags(net: Net) -> dict[str, tuple[bool, list[bool]]]:
    """Return need_backward of each layer of the file and of its bottoms."""
    kept = [node for node in net.nodes if not node.layer.is_inserted]
    return {node.name: (node.need_backward, list(node.bottom_need_backward)) for node in kept}


def blobs(net: Net) -> dict[str, bool]:
    return {blob.name: blob.need_backward for blob in net.blobs}


@pytest.mark.parametrize("skips", [False, True])
def test_skip_propagate_down(made, skips: bool) -> None:
    """test_net.cpp, TestSkipPropagateDown: labels that a loss does not ask the gradient of cost no backward pass."""
    asked = f"propagate_down: true propagate_down: {'false' if skips else 'true'} loss_weight: 0.1"
    text = (
        DATA % ""
        + 'layer { name: "silence" type: "Silence" bottom: "label" }\n'
        + PRODUCT % ("innerproduct", "x", "ip", 1, "")
        + PRODUCT % ("fake", "x", "fake", 1, "")
        + 'layer { name: "argmax" type: "ArgMax" bottom: "fake" top: "guess" }\n'
        + LOSS % ("SigmoidCrossEntropyLoss", "guess", asked)
    )
    found = flags(made(text))
    assert [name for name, (needed, _) in found.items() if needed] == [
        "innerproduct",
        *([] if skips else ["fake", "argmax"]),
        "loss",
    ]
    assert found["loss"][1] == [True, not skips]


@pytest.mark.parametrize(
    ("force", "kind", "product", "bottoms"),
    [
        ("", "SoftmaxWithLoss", [False], [True, False]),  # TestBottomNeedBackward
        (FORCE, "SoftmaxWithLoss", [True], [True, False]),  # TestBottomNeedBackwardForce
        (FORCE, "EuclideanLoss", [True], [True, True]),  # TestBottomNeedBackwardEuclideanForce
    ],
)
def test_bottom_need_backward(made, force: str, kind: str, product: list[bool], bottoms: list[bool]) -> None:
    dims = "dim: 7" if kind == "EuclideanLoss" else ""
    net = made(force + DATA % dims + PRODUCT % ("ip", "x", "ip", 7, "") + LOSS % (kind, "label", ""))
    assert flags(net) == {"data": (bool(force), []), "ip": (True, product), "loss": (True, bottoms)}
    assert blobs(net) == {"x": product[0], "label": bottoms[1], "ip": True, "loss": True}


@pytest.mark.parametrize("force", ["", FORCE])
def test_a_label_with_weights_under_it(made, force: str) -> None:
    """test_net.cpp, TestBottomNeedBackwardTricky; force_backward takes no flag back."""
    text = DATA % "dim: 1" + PRODUCT % ("a", "x", "ip", 9, "") + PRODUCT % ("b", "label", "guess", 1, "")
    assert flags(made(force + text + LOSS % ("SoftmaxWithLoss", "guess", "")))["loss"] == (True, [True, True])


def test_force_backward_leaves_labels_that_a_loss_skips(made) -> None:
    text = DATA % "dim: 1" + PRODUCT % ("a", "x", "ip", 9, "") + PRODUCT % ("b", "label", "guess", 1, "")
    net = made(FORCE + text + LOSS % ("SoftmaxWithLoss", "guess", "propagate_down: true propagate_down: false"))
    assert flags(net)["loss"] == (True, [True, False])
    assert blobs(net)["guess"]  # its own flag stays


def test_no_gradient_is_asked_of_what_no_loss_depends_on(made) -> None:
    aside = PRODUCT % ("low", "x", "low", 3, "") + PRODUCT % ("high", "low", "high", 3, "")
    net = made(DATA % "" + aside + PRODUCT % ("ip", "x", "ip", 9, "") + LOSS % ("SoftmaxWithLoss", "label", ""))
    found = flags(net)
    assert (found["low"], found["high"], found["ip"]) == ((False, [False]), (False, [False]), (True, [False]))


def test_a_chain_of_layers_behind_a_skipped_bottom(made) -> None:
    """All that only a skipped bottom leads to is skipped with it; a flag that the file asks for stays as it is."""
    guess = PRODUCT % ("fake", "x", "fake", 1, "") + 'layer { name: "half" type: "Power" bottom: "fake" top: "half" }\n'
    top = 'layer { name: "bent" type: "ReLU" bottom: "label" top: "bent" propagate_down: true }\n'
    for chain, name, expected in ((guess, "half", (False, [False])), (top, "bent", (False, [True]))):
        asked = "propagate_down: true propagate_down: false"
        text = DATA % "dim: 1" + chain + PRODUCT % ("ip", "x", "ip", 1, "") + LOSS % ("EuclideanLoss", name, asked)
        assert flags(made(text))[name] == expected


def test_frozen_layers_above_data_need_no_backward(made) -> None:
    learned = "param { lr_mult: 2 } param { lr_mult: 0 }"
    text = DATA % "" + PRODUCT % ("frozen", "x", "low", 3, FROZEN) + PRODUCT % ("ip", "low", "ip", 9, learned)
    for force, frozen in (("", False), (FORCE, True)):
        net = made(force + text + LOSS % ("SoftmaxWithLoss", "label", ""))
        assert flags(net)["frozen"] == (frozen, [frozen])
        assert [node.param_propagate_down for node in net.nodes[1:3]] == [[frozen, frozen], [True, frozen]]
