"""Weights at zero that nothing changes: frozen layers without a filler, and files of weights that lack layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat import api
from caffestat.errors import InputError
from caffestat.lint import Issue

from .nets import CONV, DATA, FC, LOSS, issues

FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"
UP = """layer { name: "up" type: "Deconvolution" bottom: "c" top: "up" param { lr_mult: 0 }
  convolution_param { num_output: 64 kernel_size: 4 stride: 2 pad: 1 bias_term: false } }
"""


def net(middle: str = UP, top: str = "up") -> str:
    return DATA + CONV("c", "x") + middle + FC("fc", top) + LOSS.format("fc")


def found(folder: Path, text: str, code: str = "CS005", **how: object) -> list[Issue]:
    return issues(folder, text, code, **how)  # type: ignore[arg-type]


def test_a_frozen_layer_at_zero_starves_what_lies_before_it(tmp_path: Path) -> None:
    (issue,) = found(tmp_path, net())
    assert (issue.layer, issue.severity) == ("up", "error")
    assert "the gradient of all layers before it" in issue.message
    assert issue.fix == 'weight_filler { type: "bilinear" } with group: 64 num_output: 64'


def test_a_frozen_convolution_too(tmp_path: Path) -> None:
    (issue,) = found(tmp_path, net(CONV("d", "c", "", param=FROZEN), "d"))
    assert (issue.layer, issue.severity, issue.fix) == ("d", "error", 'weight_filler { type: "xavier" }')


def test_frozen_layers_in_front_expect_pretrained_weights(tmp_path: Path) -> None:
    text = DATA + CONV("f", "x", "", param=FROZEN) + CONV("c", "f") + FC("fc", "c") + LOSS.format("fc")
    assert found(tmp_path, text) == []


def test_given_weights_must_hold_frozen_layers(tmp_path: Path) -> None:
    front = DATA + CONV("f", "x", "", param=FROZEN) + CONV("c", "f") + FC("fc", "c") + LOSS.format("fc")
    (tmp_path / "donor.prototxt").write_text(DATA + CONV("c", "x") + FC("fc", "c") + LOSS.format("fc"))
    donor = front.replace('name: "f"', 'name: "other"')
    (tmp_path / "donor.prototxt").write_text(donor)
    api.fill(str(tmp_path / "donor.prototxt"), tmp_path / "donor.caffemodel")
    weights = [str(tmp_path / "donor.caffemodel")]
    (issue,) = found(tmp_path, front, weights=weights)
    assert (issue.layer, issue.severity) == ("f", "error")
    assert "the given weights have none for this layer" in issue.message
    report = api.analyze(tmp_path / "net.prototxt", static=True, weights=weights)
    assert any(note.endswith("weights of 2 layers taken, none for f") for note in report.notes)


def test_a_run_reports_gradients_that_are_all_zero(tmp_path: Path) -> None:
    (issue,) = found(tmp_path, net(), "CS033", run=True)
    assert (issue.layer, issue.severity) == ("up", "error")
    assert "the gradients of all 2 weights" in issue.message
    assert issue.fix == "give this layer nonzero weights"
    assert found(tmp_path, net(CONV("d", "c"), "d"), "CS033", run=True) == []
    dead = 'layer { name: "r" type: "ReLU" bottom: "c" top: "r" }\n'
    low = CONV("c", "x", more="bias_filler { value: -99 }")
    (issue,) = found(tmp_path, DATA + low + dead + FC("fc", "r") + LOSS.format("fc"), "CS033", run=True)
    assert (issue.layer, issue.fix) == ("r", "raise its inputs above 0")


def test_static_analysis_reads_the_weights(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(net(CONV("d", "c"), "d"))
    with pytest.raises(InputError, match=r"absent\.caffemodel"):
        api.analyze(tmp_path / "net.prototxt", static=True, weights=["absent.caffemodel"])


def test_equal_counts_of_another_shape_are_to_be_reshaped(tmp_path: Path) -> None:
    (tmp_path / "fc.prototxt").write_text(DATA + FC("fc", "x") + LOSS.format("fc"))
    api.fill(str(tmp_path / "fc.prototxt"), tmp_path / "fc.caffemodel")
    conv = 'layer { name: "fc" type: "Convolution" bottom: "x" top: "fc" convolution_param { num_output: 10 %s } }'
    (tmp_path / "conv.prototxt").write_text(DATA + conv % "kernel_h: 9 kernel_w: 7")
    with pytest.raises(InputError, match=r"both hold 1890 values: reshape the blob"):
        api.analyze(tmp_path / "conv.prototxt", weights=[str(tmp_path / "fc.caffemodel")])
    (tmp_path / "conv.prototxt").write_text(DATA + conv % "kernel_size: 3")
    with pytest.raises(InputError, match=r"rename the layer"):
        api.analyze(tmp_path / "conv.prototxt", weights=[str(tmp_path / "fc.caffemodel")])
