"""Filter: what follows it runs on the selected items, as if the others had never been in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffestat

HEAD = """
layer { name: "data" type: "Input" top: "x" top: "t" top: "s" top: "u"
  input_param { shape { dim: 7 dim: 5 } shape { dim: 7 dim: 3 } shape { dim: 7 dim: 1 } shape { dim: 7 } } }
layer { name: "before" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
layer { name: "pick" type: "Filter" bottom: "y" bottom: "t" bottom: "u" bottom: "s" top: "a" top: "b" top: "v" }
"""
SELECTED = """
layer { name: "data" type: "Input" top: "x" top: "b" top: "v"
  input_param { shape { dim: 4 dim: 5 } shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "before" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } }
"""
TAIL = """
layer { name: "drop" type: "Dropout" bottom: "a" top: "a" }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "b" top: "loss" }
"""
SECOND = """
layer { name: "step" type: "Threshold" bottom: "v" top: "w" threshold_param { threshold: 0.5 } }
layer { name: "again" type: "Filter" bottom: "ip" bottom: "w" top: "ip2" propagate_down: true propagate_down: false }
layer { name: "sum" type: "Reduction" bottom: "ip2" top: "sum" reduction_param { operation: SUMSQ } loss_weight: 0.5 }
"""
RANDOM = np.random.default_rng(8)
X, T = (RANDOM.normal(size=(7, width)).astype(np.float32) for width in (5, 3))
S = np.array([[0], [2], [0.5], [0], [-1], [0], [1]], np.float32)
U = np.array([0, 0, 1, 0, 1, 0, 1], np.float32)
KEPT = [1, 2, 4, 6]


def lines(folder: Path, text: str, **arrays: np.ndarray) -> dict[str, str]:
    """Return what debug prints, by what it is about."""
    path = folder / "net.prototxt"
    path.write_text(text)
    printed = caffestat.debug(str(path), inputs=arrays, device="cpu", seed=3)
    return dict(line.rsplit(": ", 1) for line in printed)


@pytest.mark.parametrize("tail", [TAIL, TAIL + SECOND])
def test_as_if_only_the_selected_items_were_in_the_batch(tmp_path: Path, tail: str) -> None:
    found = lines(tmp_path, HEAD + tail, x=X, t=T, s=S, u=U)
    alone = lines(tmp_path, SELECTED + tail, x=X[KEPT], b=T[KEPT], v=U[KEPT])
    common = found.keys() & alone.keys()
    assert {name for name in alone if "data" not in name.split(",")[0] and "before" not in name} <= common
    after = {name for name in common if "Layer data," not in name and "Layer before," not in name}
    assert {name: found[name] for name in after} == {name: alone[name] for name in after}


def test_what_the_filter_passes_on(tmp_path: Path) -> None:
    learns = HEAD.replace('"Power"', '"Scale"').replace(
        "power_param { scale: 2 }", "scale_param { filler { value: 2 } }"
    )
    found = lines(tmp_path, learns + TAIL, x=X, t=T, s=S, u=U)
    assert float(found["    [Forward] Layer pick, top blob a data"]) == pytest.approx(
        2 * np.abs(X[KEPT]).mean(), rel=1e-5
    )
    assert float(found["    [Forward] Layer pick, top blob v data"]) == 0.75
    into, out = (
        float(found[f"    [Backward] Layer {name} diff"]) for name in ("drop, bottom blob a", "pick, bottom blob y")
    )
    assert out == pytest.approx(into * 4 / 7, rel=1e-5)


def test_the_selection_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(HEAD + TAIL)
    report = caffestat.analyze(str(path), inputs={"s": S}, device="cpu")
    told = f"{path}:5:1: layer 'pick' selects 4 of the 7 items of this batch; the layers after it run on those"
    assert report.notes[-1] == told
    none = caffestat.analyze(str(path), inputs={"s": np.zeros_like(S)}, device="cpu")
    assert none.notes[-1].endswith(
        "selects none of the 7 items of this batch; the layers after it run on as many zeros"
    )
    assert [top.mean_abs for layer in none.layers if layer.name == "pick" for top in layer.tops] == [0, 0, 0]


def test_what_cannot_take_as_few_items(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    fixed = 'layer { name: "fixed" type: "Reshape" bottom: "a" top: "r" reshape_param { shape { dim: 7 dim: 5 } } }'
    across = """layer { name: "across" type: "InnerProduct" bottom: "a" top: "r"
      inner_product_param { num_output: 2 axis: 0 weight_filler { type: "xavier" } } }"""
    for tail, problem in ((fixed, "'fixed'"), (across, "'across'.*would need")):
        path.write_text(HEAD + tail)
        with pytest.raises(caffestat.CaffestatError, match=problem):
            caffestat.analyze(str(path), inputs={"s": S}, device="cpu")


def test_each_pass_of_a_solver_selects_anew(tmp_path: Path) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text(
        """net_param {
      layer { name: "x" type: "DummyData" top: "x" top: "r" dummy_data_param { shape { dim: 9 dim: 2 } shape { dim: 9 }
        data_filler { type: "constant" value: 3 } data_filler { type: "uniform" min: -1 max: 1 } } }
      layer { name: "step" type: "Threshold" bottom: "r" top: "s" }
      layer { name: "pick" type: "Filter" bottom: "x" bottom: "s" top: "a" }
      layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip"
        inner_product_param { num_output: 1 weight_filler { type: "constant" value: 1 } } }
      layer { name: "sum" type: "Reduction" bottom: "ip" top: "sum" loss_weight: 1 } }
    iter_size: 3 base_lr: 0.1 lr_policy: "fixed" """
    )
    printed = list(caffestat.debug(str(path), device="cpu", seed=6))
    shares = [float(line.rsplit(": ", 1)[1]) for line in printed if "top blob s data" in line]
    sums = [float(line.rsplit(": ", 1)[1]) for line in printed if "top blob sum data" in line]
    assert len(set(shares)) > 1
    assert sums == pytest.approx([6 * 9 * share for share in shares], rel=1e-4)
