"""The state that a net starts in: stored statistics of zero, the initial loss, and limits on measured values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from caffestat import api
from caffestat.analysis import Prediction
from caffestat.lint.context import Outlook

from .nets import ACT, CONV, DATA, FC, LOSS, issues

GAUSS = 'weight_filler {{ type: "gaussian" std: {} }}'
NORM = 'layer {{ name: "{0}" type: "BatchNorm" bottom: "{1}" top: "{0}" batch_norm_param {{ {2} }} }}\n'


def normalized(setting: str = "use_global_stats: true", conv: str = CONV("c", "x")) -> str:
    return DATA + conv + NORM.format("bn", "c", setting) + FC("fc", "bn") + LOSS.format("fc")


def test_statistics_that_nobody_has_stored(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, normalized(), "CS024")
    assert (found.layer, found.severity) == ("bn", "error")
    assert found.numbers["factor"] == pytest.approx(1e-5**-0.5)
    assert "it multiplies its input by 316" in found.message


@pytest.mark.parametrize("setting", ["", "use_global_stats: false"])
def test_the_batch_s_statistics_are_not_reported(tmp_path: Path, setting: str) -> None:
    assert issues(tmp_path, normalized(setting), "CS024") == []


def test_statistics_out_of_a_file_are_not_reported_and_those_that_it_lacks_are(tmp_path: Path) -> None:
    weights = {}
    for name, text in (("all", normalized("")), ("none", DATA + CONV("c", "x") + FC("fc", "c") + LOSS.format("fc"))):
        (tmp_path / f"{name}.prototxt").write_text(text)
        weights[name] = str(tmp_path / f"{name}.caffemodel")
        api.fill(str(tmp_path / f"{name}.prototxt"), Path(weights[name]))
    assert issues(tmp_path, normalized(), "CS024", weights=[weights["all"]]) == []
    assert [issue.layer for issue in issues(tmp_path, normalized(), "CS024", weights=[weights["none"]])] == ["bn"]


def test_nets_that_wait_for_weights_are_not_reported(tmp_path: Path) -> None:
    frozen = CONV("c", "x", "", param="param { lr_mult: 0 } param { lr_mult: 0 }")
    assert issues(tmp_path, normalized(conv=frozen), "CS024") == []


def test_a_layer_on_statistics_of_zero_does_not_normalize(tmp_path: Path) -> None:
    """Three of them multiply by 3e7: the signal explodes, predicted, and no BatchNorm makes up for it."""
    text, blob = DATA, "x"
    for index in range(3):
        text += CONV(f"c{index}", blob) + NORM.format(f"b{index}", f"c{index}", "use_global_stats: true")
        blob = f"b{index}"
    text += FC("fc", blob) + LOSS.format("fc")
    (found,) = issues(tmp_path, text, "CS015")
    assert found.layer == "b2"
    assert issues(tmp_path, text.replace("use_global_stats: true", ""), "CS015") == []


def test_a_high_loss_tells_the_expected_one_and_the_cap(tmp_path: Path) -> None:
    text = (
        DATA + CONV("c", "x", GAUSS.format(3)) + ACT("ReLU", "c") + FC("fc", "c", GAUSS.format(1)) + LOSS.format("fc")
    )
    (found,) = issues(tmp_path, text, "CS025")
    assert found.layer == "loss"
    assert found.numbers["expected"] == pytest.approx(math.log(10))
    assert found.numbers["capped"] == pytest.approx(0.9 * 0.85, abs=0.15)
    assert "of the samples are at Caffe's cap of 87.3365" in found.message
    (run,) = issues(tmp_path, text, "CS025", run=True)
    assert run.numbers["loss"] >= found.numbers["loss"]


def test_a_run_tells_a_measured_loss_that_is_lower_than_the_predicted_one(tmp_path: Path) -> None:
    (run,) = issues(tmp_path, normalized(), "CS025", run=True)
    assert re.match(r"the loss starts at 77\.1 \(predicted; 65\.5 measured\), ", run.message)


def test_the_loss_s_normalizer_counts(tmp_path: Path) -> None:
    """normalization: NONE sums over four samples: four times ln K is nothing to report."""
    summed = LOSS.format("fc").replace('top: "loss"', 'top: "loss" loss_param { normalization: NONE }')
    text = DATA + CONV("c", "x") + ACT("ReLU", "c") + FC("fc", "c")
    assert issues(tmp_path, text + summed, "CS025") == []
    assert issues(tmp_path, text + summed, "CS025", high_loss=0.5)[0].numbers["expected"] == pytest.approx(
        4 * math.log(10)
    )


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every prediction of tops and gradients away, so that only what is measured is left."""
    predicted: Callable[[Outlook], Prediction] = vars(Outlook)["prediction"].fget

    def params_only(outlook: Outlook) -> Prediction:
        return Prediction(params=predicted(outlook).params)

    monkeypatch.setattr(Outlook, "prediction", property(params_only))


def stack(std: float, depth: int = 10) -> str:
    text, blob = DATA, "x"
    for index in range(depth):
        text += CONV(f"c{index}", blob, GAUSS.format(std)) + ACT("ReLU", f"c{index}")
        blob = f"c{index}"
    return text + FC("fc", blob) + LOSS.format("fc")


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize(("std", "codes"), [(0.01, ("CS014", "CS016")), (0.5, ("CS015", "CS017")), (0.059, ())])
def test_the_limits_hold_for_measured_values(tmp_path: Path, std: float, codes: tuple[str, ...]) -> None:
    limits = "CS014", "CS015", "CS016", "CS017"
    assert issues(tmp_path, stack(std), *limits) == []
    found = issues(tmp_path, stack(std), *limits, run=True)
    assert sorted(issue.code for issue in found) == list(codes)
    assert all("(measured)" in issue.message for issue in found)


@pytest.mark.usefixtures("blind")
def test_a_large_gradient_norm_is_reported_of_a_run(tmp_path: Path) -> None:
    text = DATA + CONV("c", "x", GAUSS.format(1e-3)) + ACT("ReLU", "c") + FC("fc", "c", GAUSS.format(1e-3))
    text += LOSS.format("fc").replace('top: "loss"', 'top: "loss" loss_weight: 1e9')
    (found,) = issues(tmp_path, text, "CS017", run=True)
    assert "the gradient's L2 norm" in found.message
    assert found.numbers["ratio"] > 1e6
