"""A conditional random field whose values are not computed: its shapes are, and what is behind it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffestat
from caffestat.errors import NetError

from ..harness import make

TEXT = 'name: "l" type: "MultiStageMeanfield" bottom: "u" bottom: "q" bottom: "x" top: "y" %s'
FIELDS = "multi_stage_meanfield_param { num_iterations: 5 theta_alpha: 160 threshold: 2 }"
SHAPES = [(1, 4, 6, 7), (1, 4, 6, 7), (1, 3, 6, 7)]


def test_shapes() -> None:
    layer = make(TEXT % FIELDS)
    assert layer.tops(SHAPES) == ((1, 4, 6, 7),)
    assert make(TEXT % f'top: "z" {FIELDS}').tops(SHAPES)[1] == (1, 1, 1, 200)


@pytest.mark.parametrize(
    ("fields", "shapes", "message"),
    [
        (FIELDS, [*SHAPES[:2], (1, 3, 6, 6)], "expected scores"),
        ("", SHAPES, "num_iterations above 1"),
    ],
)
def test_what_does_not_fit(fields: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(TEXT % fields).tops(shapes)


def test_what_is_behind_it_has_shapes_but_no_values(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(
        """layer { name: "x" type: "Input" top: "x" top: "label"
             input_param { shape { dim: 1 dim: 3 dim: 6 dim: 7 } shape { dim: 1 dim: 1 dim: 6 dim: 7 } } }
           layer { name: "c" type: "Convolution" bottom: "x" top: "c"
             convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
           layer { %s }
           layer { name: "r" type: "ReLU" bottom: "y" top: "y" }
           layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }
           layer { name: "beside" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "beside" }
        """
        % (TEXT.replace('"u"', '"c"').replace('"q"', '"c"') % (FIELDS + " param { lr_mult: 0.1 }" * 3))
    )
    report = caffestat.analyze(net, device="cpu", seed=1)
    assert any("permutohedral lattice are not computed; its values" in finding.message for finding in report.findings)
    tops = {layer.name: layer.tops[0] for layer in report.layers if "split" not in layer.name}
    assert {name: top.shape for name, top in tops.items()} | {"x": None} == {
        "x": None,
        "c": (1, 4, 6, 7),
        "l": (1, 4, 6, 7),
        "r": (1, 4, 6, 7),
        "loss": (),
        "beside": (),
    }
    known = {name for name, top in tops.items() if top.mean_abs is not None}
    assert known == {"x", "c", "beside"}
    solver = tmp_path / "solver.prototxt"
    solver.write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2')
    with pytest.raises(NetError, match=r"layer 'l' .*cannot be trained: .*permutohedral"):
        list(caffestat.train(solver, device="cpu"))
