"""A class or an op that lacks a part is named: at registration, or where the part is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from caffestat import api
from caffestat.errors import NetError
from caffestat.graph import Graph
from caffestat.layers import Layer, Shape, base, layer
from caffestat.lint import Job, check_file, selected

NET = """layer { name: "data" type: "Input" top: "x" top: "y" input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "f"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "ours" type: "Ours" bottom: "f" top: "o" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "o" bottom: "y" top: "l" }
"""


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "_TYPES", {name: base.layer_dialects(name) for name in base.layer_types()})
    yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path / "net.prototxt"


def register(op: str, domain: str = "", *constants: int) -> None:
    @layer("Ours")
    class Ours(Layer):
        def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
            return (bottoms[0],)

        def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
            return (g.emit(op, bottoms[0], *(g.constant(value, "int64") for value in constants), domain=domain),)


def test_a_class_without_tops_or_lower_is_not_registered() -> None:
    class Half(Layer):
        def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
            return (bottoms[0],)

    with pytest.raises(ValueError, match=r"'Ours': class .*Half does not define lower"):
        layer("Ours")(Half)
    with pytest.raises(ValueError, match="does not define tops and lower"):
        layer("Ours")(type("Nothing", (Layer,), {}))


def test_an_op_without_a_moments_rule_is_a_named_gap(path: Path) -> None:
    register("CumSum", "", 1)
    found = check_file(str(path), Job(selected((), ())))
    assert any("op CumSum" in issue.message and issue.layer == "ours" for issue in found)
    report = api.analyze(path, predict=True)
    assert report.layers[-1].tops[0].mean_abs is not None


def test_an_op_of_an_unknown_domain_is_an_error_that_names_it(path: Path) -> None:
    register("Own", "somebody.else")
    with pytest.raises(NetError, match=r"layer 'ours'.*op Own is of domain 'somebody\.else', which the runtime lacks"):
        api.analyze(path)
