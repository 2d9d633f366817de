"""What a NetSource keeps: the class that each layer is taken for, chosen once for all of its builds."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest

from caffestat.layers import Layer, Shape, base, layer
from caffestat.net import build
from caffestat.net import source as module
from caffestat.net.source import NetSource, net_source
from caffestat.prototext import parse

INPUT = 'layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 } } }\n'


def source_of(text: str) -> NetSource:
    return net_source(parse((INPUT + text).encode(), "net.prototxt"))


PERMUTE = 'layer { name: "p" type: "Permute" bottom: "x" top: "y" permute_param { order: 2 order: 0 order: 1 } }'


def test_classes_are_chosen_once_for_each_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def choose(layers: object, unknown: object, dialect: str | None) -> object:
        asked.append(dialect)
        return original(layers, unknown, dialect)  # type: ignore[arg-type]

    original = module.choose
    monkeypatch.setattr(module, "choose", choose)
    source = source_of(PERMUTE)
    for dialect in (None, "ssd", None, "ssd"):
        assert build(source, dialect=dialect).nodes[1].top_shapes == ((5, 2, 3),)
    assert asked == [None, "ssd"]


def test_a_copy_that_travelled_is_built_like_its_source() -> None:
    source = source_of(PERMUTE)
    build(source)
    copy = pickle.loads(pickle.dumps(source))
    assert build(copy).nodes[1].top_shapes == ((5, 2, 3),)
    assert copy.choices().keys().isdisjoint(source.choices())


def test_a_type_that_is_registered_later_is_known_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_TYPES", {name: base.layer_dialects(name) for name in base.layer_types()})
    source = source_of('layer { name: "late" type: "RegisteredLate" bottom: "x" top: "y" }')
    assert build(source).nodes[1].top_shapes == (None,)

    @layer("RegisteredLate")
    class RegisteredLate(Layer):
        def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
            return (bottoms[0][::-1],)

        def lower(self, g: object, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
            return bottoms

    assert build(source).nodes[1].top_shapes == ((5, 3, 2),)


@pytest.mark.parametrize(("inline", "expected"), [("{}", 0), ('net_param {{ {} }} lr_policy: "fixed"', 1)])
def test_caffe_upgrades_the_batch_norms_of_files_but_not_of_solvers(inline: str, expected: float) -> None:
    layer = 'layer { name: "b" type: "BatchNorm" bottom: "x" top: "b" param { lr_mult: 0 } param { } param { } }'
    found = module.source_of(parse(inline.format(layer).encode(), "some.prototxt"))
    (entry,) = getattr(found, "net", found).layers
    assert [spec.decay_mult for spec in entry.proto.param] == [expected] * 3
