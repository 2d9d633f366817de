"""The filler that a check's fix writes is the one that `rewrite --filler auto` writes, for every nonlinearity."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.layers import Layer, layer_class, layer_types
from caffestat.lint import Job, fix_file, selected
from caffestat.rewriting import change_of, rewrite_text

from .nets import ACT, CONV, DATA, FC, LOSS

QUANT = 'quant_param {{ forward_func: "{0}" backward_func: "{0}" }}'
PARAMS = {
    "Quant": [QUANT.format("relu"), QUANT.format("hard_tanh")],
    "Clip": ["clip_param { min: 0 max: 6 }", "clip_param { min: -1 max: 1 }"],
    "ELU": ["", "elu_param { alpha: 0.3 }"],
    "PReLU": ["", 'prelu_param { filler { type: "uniform" min: 0 max: 0.5 } }'],
    "ReLU": ["", "relu_param { negative_slope: 0.5 }"],
}
FUSED = {"OCLCRHWCN", "OCLHWCNInnerProduct", "OCLPoolingHWCN"}  # another layer with a ReLU behind it
ACTIVATIONS = [
    (name, params)
    for name in sorted({*layer_types()} - FUSED)
    if (cls := layer_class(name)) and cls.nonlinearity is not Layer.nonlinearity and not cls.auto_tops
    for params in PARAMS.get(name, [""])
]


def net(kind: str, params: str, between: str = "") -> str:
    activation = ACT(kind, "c").replace(" }\n", f" {params} }}\n")
    return DATA + CONV("c", "x", "") + between + activation + FC("fc", "c") + LOSS.format("fc")


def both(tmp_path: Path, text: str) -> tuple[bytes, bytes]:
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    fixed = fix_file(str(path), Job(selected(("CS005",), ()))).after
    return fixed, rewrite_text(text.encode(), str(path), change_of("auto", only_missing=True)).data


@pytest.mark.parametrize(("kind", "params"), ACTIVATIONS)
def test_every_nonlinearity(tmp_path: Path, kind: str, params: str) -> None:
    fixed, rewritten = both(tmp_path, net(kind, params))
    assert fixed == rewritten
    assert fixed.count(b"weight_filler") == 2


@pytest.mark.parametrize(
    ("kind", "params", "filler"),
    [
        ("ELU", "", b'type: "msra"'),
        ("ReLU", "relu_param { negative_slope: 0.5 }", b'type: "gaussian" std: 0.24343225'),
        ("TanH", "", b'type: "xavier"'),
        ("Clip", "clip_param { min: -1 max: 1 }", b'type: "xavier"'),
    ],
)
def test_what_is_written(tmp_path: Path, kind: str, params: str, filler: bytes) -> None:
    fixed, _ = both(tmp_path, net(kind, params))
    assert b"weight_filler { " + filler + b" }" in fixed


@pytest.mark.parametrize(
    "between",
    [
        'type: "BatchNorm"',
        'type: "Pooling" pooling_param { kernel_size: 2 }',
        'type: "Scale"',
        'type: "Dropout"',
        'type: "LRN"',
        'type: "Power"',
    ],
)
def test_what_passes_is_the_same(tmp_path: Path, between: str) -> None:
    text = DATA + CONV("c", "x", "") + f'layer {{ name: "b" bottom: "c" top: "b" {between} }}\n'
    fixed, rewritten = both(tmp_path, text + ACT("ReLU", "b") + FC("fc", "b") + LOSS.format("fc"))
    assert fixed == rewritten
    assert (b'"msra"' in fixed) is (between not in ('type: "LRN"', 'type: "Power"'))
