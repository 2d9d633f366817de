"""Reports and pages that several tests look at, made once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import caffestat
from caffestat.report import Report

MODELS = Path(__file__).resolve().parents[3] / "models"

HOSTILE = ("</script><img src=x onerror=alert(1)>", "<!--<script>", "&lt;b&gt;\\u2028\\\\", "{{data}}", "a'b`${1}`")


@cache
def experiment() -> Report:
    """Return ten convolutions with xavier before ReLU, measured and predicted, with all detail."""
    path = MODELS / "experiments" / "relu_xavier.prototxt"
    return caffestat.analyze(path, predict=True, detail=True, batch=2, device="cpu")


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
    text += [f'layer {{ name: "t{n}" type: "Silence" bottom: "x0_t" }}' for n in range(0)]
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
