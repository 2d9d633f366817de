"""Nets to initialise, and what a run measures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffestat import net as nets
from caffestat.analysis import Runner
from caffestat.fillers import Stream
from caffestat.net.source import net_source
from caffestat.program import Program, from_net
from caffestat.program.feeds import Feeds
from caffestat.prototext import parse

__all__ = ["block_net", "learn", "program_of", "residual", "stack", "variances", "weights"]

DATA = """layer { name: "data" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 16 dim: 5 dim: 9 dim: 7 } shape { dim: 16 } } }
"""
ENDING = """layer {{ name: "fc" type: "InnerProduct" bottom: "{0}" top: "fc"
  inner_product_param {{ num_output: 11 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }}
"""


def conv(name: str, bottom: str, outputs: int = 48, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ '
        f'num_output: {outputs} kernel_size: 3 pad: 1 weight_filler {{ type: "gaussian" std: 0.3 }} {more} }} }}\n'
    )


def act(kind: str, blob: str) -> str:
    return f'layer {{ name: "{kind}_{blob}" type: "{kind}" bottom: "{blob}" top: "{blob}" }}\n'


def stack(kind: str = "ReLU", depth: int = 6, more: str = "") -> str:
    text, blob = DATA, "x"
    for index in range(depth):
        text += conv(f"c{index}", blob, more=more) + act(kind, f"c{index}")
        blob = f"c{index}"
    return text + ENDING.format(blob)


def residual(blocks: int = 3) -> str:
    """Blocks y = x + conv(relu(conv(x))), and a Concat of two of them at the end."""
    text, blob = DATA + conv("s", "x"), "s"
    for index in range(blocks):
        text += conv(f"a{index}", blob) + act("ReLU", f"a{index}") + conv(f"b{index}", f"a{index}")
        text += f'layer {{ name: "e{index}" type: "Eltwise" bottom: "{blob}" bottom: "b{index}" top: "e{index}" }}\n'
        blob = f"e{index}"
    text += f'layer {{ name: "cat" type: "Concat" bottom: "s" bottom: "{blob}" top: "cat" }}\n' + conv("z", "cat")
    return text + ENDING.format("z")


def program_of(text: str) -> Program:
    return from_net(nets.build(net_source(parse(text.encode(), "net.prototxt"))))


def weights(program: Program) -> list[int]:
    return [number for number, param in enumerate(program.params) if param.role == "weight"]


def variances(program: Program, values: Sequence[np.ndarray], seed: int = 3) -> dict[str, tuple[float, float]]:
    """Return (variance, second moment) of the top of each row with weights, before anything overwrites it."""
    runner = Runner(program, values, forward_only=True, fetch=("top",))
    runner.run(Feeds(Stream(seed), np.random.default_rng(seed)).of(runner.forward))
    rows = {program.params[number].row for number in weights(program)}
    tops = {program.rows[row].name: runner.tensors["top", row, 0] for row in rows}
    return {name: (float(top.var()), float((top.astype(np.float64) ** 2).mean())) for name, top in tops.items()}


def block_net(blocks: int, convolutions: int = 2) -> str:
    """Blocks y = x + conv(relu(… conv(x))), of so many convolutions each, without biases."""
    text, blob = DATA + conv("s", "x", more="bias_term: false"), "s"
    for index in range(blocks):
        inner = blob
        for number in range(convolutions):
            name = f"c{index}_{number}"
            text += conv(name, inner, more="bias_term: false") + (
                act("ReLU", name) if number < convolutions - 1 else ""
            )
            inner = name
        text += f'layer {{ name: "e{index}" type: "Eltwise" bottom: "{blob}" bottom: "{inner}" top: "e{index}" }}\n'
        blob = f"e{index}"
    return text + ENDING.format(blob)


def learn(
    program: Program, values: Sequence[np.ndarray], batches: Sequence[Mapping[str, np.ndarray]], rate: float, steps: int
) -> list[float]:
    """Return the loss before each step of gradient descent, and behind the last; the values are changed in place."""
    runner, losses = Runner(program, values, changing=True), []
    for index in range(steps + 1):
        step = runner.step(batches[index % len(batches)], measure=False)
        losses.append(float(step.loss))
        for number, diff in step.diffs.items():
            values[number] -= np.float32(rate) * diff
    return losses
