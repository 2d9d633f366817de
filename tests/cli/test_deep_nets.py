"""Nets on which a walk along every path never ends, or runs out of stack: every command takes linear time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from click.testing import CliRunner

from caffestat.cli import main

DIAMONDS, RELUS = 60, 1200
LIMIT = 60  # seconds; each command takes about one

BEGINNING = """\
layer { name: "in" type: "DummyData" top: "x" top: "label" dummy_data_param {
  shape { dim: 2 dim: 3 dim: 4 dim: 5 } shape { dim: 2 } data_filler { type: "gaussian" } data_filler { value: 1 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "y0"
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "msra" } } }
"""
DIAMOND = """\
layer {{ name: "a{0}" type: "ReLU" bottom: "y{0}" top: "a{0}" }}
layer {{ name: "b{0}" type: "TanH" bottom: "y{0}" top: "b{0}" }}
layer {{ name: "s{0}" type: "Eltwise" bottom: "a{0}" bottom: "b{0}" top: "y{1}"
  eltwise_param {{ coeff: 0.5 coeff: 0.5 }} }}
"""
RELU = 'layer {{ name: "r{0}" type: "ReLU" bottom: "y{0}" top: "y{1}" }}\n'
ENDING = """\
layer {{ name: "f" type: "InnerProduct" bottom: "y{0}" top: "f"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "l" }}
"""


def text(block: str, times: int) -> str:
    return BEGINNING + "".join(block.format(i, i + 1) for i in range(times)) + ENDING.format(times)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with both nets."""
    monkeypatch.chdir(tmp_path)
    Path("diamonds.prototxt").write_text(text(DIAMOND, DIAMONDS))
    Path("relus.prototxt").write_text(text(RELU, RELUS))
    return tmp_path


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """Fail a test that takes long, in place of waiting for ever."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still running after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def caffestat_(command: str) -> str:
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("net", ["diamonds", "relus"])
@pytest.mark.parametrize(
    "command",
    [
        "analyze --static",
        "analyze --static --predict",
        "check",
        "rewrite --filler auto",
        "fill -o w.caffemodel",
        "convert -o m.onnx",
        "convert --backward -o m.onnx",
        "upgrade -o up.prototxt",
    ],
)
def test_commands_that_run_nothing(net: str, command: str) -> None:
    caffestat_(f"{command} {net}.prototxt")


@pytest.mark.parametrize("command", ["analyze --predict", "check --run", "debug"])
def test_commands_that_run_the_net(command: str) -> None:
    caffestat_(f"{command} diamonds.prototxt")


def test_commands_that_read_logs() -> None:
    Path("d.log").write_text(caffestat_("debug diamonds.prototxt"))
    caffestat_("diagnose d.log --net diamonds.prototxt")
    caffestat_("compare d.log diamonds.prototxt")


@pytest.mark.parametrize("net", ["diamonds", "relus"])
def test_commands_on_models(net: str) -> None:
    caffestat_(f"convert {net}.prototxt -o m.onnx")
    caffestat_("analyze --static --predict m.onnx")
    caffestat_("rewrite --filler msra m.onnx")
