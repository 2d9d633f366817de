"""Reports and pages that several tests look at, made once."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import caffestat
from caffestat.report import Report

MODELS = Path(__file__).resolve().parents[3] / "models"

HOSTILE = ("</script><img src=x onerror=alert(1)>", "<!--<script>", "&lt;b&gt;\\u2028\\\\", "{{data}}", "a'b`${1}`")


def chain(nonlinearity: str, filler: str) -> str:
    """Return a net of ten convolutions, each with a nonlinearity in place, an inner product and a loss."""
    fill = f"weight_filler {{ {filler} }}"
    lines = [
        'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {',
        "  shape { dim: 2 dim: 3 dim: 11 dim: 9 } shape { dim: 2 }",
        '  data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" min: 0 max: 9.99 } } }',
    ]
    bottom, kind = "data", nonlinearity.lower()
    for number in range(1, 11):
        name = f"conv{number}"
        param = f"convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 {fill} }}"
        lines += [
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"',
            f"  {param} }}",
            f'layer {{ name: "{kind}{number}" type: "{nonlinearity}" bottom: "{name}" top: "{name}" }}',
        ]
        bottom = name
    product = f'type: "InnerProduct" bottom: "{bottom}" top: "fc" inner_product_param {{ num_output: 10 {fill} }}'
    lines += [f'layer {{ name: "fc" {product} }}']
    lines += ['layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }']
    return "\n".join(lines)


RELU_XAVIER = chain("ReLU", 'type: "xavier"')
SIGMOID_GAUSSIAN = chain("Sigmoid", 'type: "gaussian" std: 0.01')


@cache
def experiment() -> Report:
    """Return ten convolutions with xavier before ReLU, measured and predicted, with all detail."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relu_xavier.prototxt"
        path.write_text(RELU_XAVIER)
        return caffestat.analyze(path, predict=True, detail=True, device="cpu")


@cache
def experiment_page() -> str:
    return experiment().to_html()


@cache
def static(name: str) -> Report:
    """Return a net of models/, not run."""
    return caffestat.analyze(MODELS / name, static=True, detail=True)


@cache
def deep(layers: int) -> str:
    """Return a net of this many layers: residual blocks of Convolution, BatchNorm and ReLU."""
    text = ['layer { name: "x0" type: "Input" top: "x0" input_param { shape { dim: 1 dim: 4 dim: 6 dim: 5 } } }']
    block = 0
    while len(text) + 8 <= layers:
        block += 1
        text += _block(block)
    end = f"x{block}"
    while len(text) < layers:
        name = f"end{len(text)}"
        text.append(f'layer {{ name: "{name}" type: "Power" bottom: "{end}" top: "{name}" }}')
        end = name
    return "\n".join(text)


def _block(number: int) -> list[str]:
    lines, bottom = [], f"x{number - 1}"
    for part in "ab":
        name = f"c{number}{part}"
        param = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"
        lines += [
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {param} }}',
            f'layer {{ name: "{name}n" type: "BatchNorm" bottom: "{name}" top: "{name}" }}',
            f'layer {{ name: "{name}r" type: "ReLU" bottom: "{name}" top: "{name}" }}',
        ]
        bottom = name
    add = f'layer {{ name: "x{number}" type: "Eltwise" bottom: "x{number - 1}" bottom: "{bottom}" top: "x{number}" }}'
    return [*lines, add]
