"""Trained models: chosen layers are drawn again, everything else stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffestat.api
import caffestat.net
from caffestat.errors import InputError
from caffestat.program import open_file
from caffestat.rewriting import change_of
from caffestat.rewriting.caffemodel import rewrite_caffemodel
from caffestat.schema import NetParameter, read_binary

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MODEL = GOLDEN / "lenet_like" / "snap_iter_2.caffemodel"
NET = GOLDEN / "lenet_like" / "net.prototxt"

UNKNOWN = bytes([0xC2, 0x3E, 4]) + b"fork"  # field 1000, a string
V1_NET = """
input: "x"
input_shape { dim: 2 dim: 6 }
layers { name: "a" type: INNER_PRODUCT bottom: "x" top: "a" inner_product_param { num_output: 4
  weight_filler { type: "gaussian" std: 0.1 } bias_filler { value: 0.5 } } }
layers { name: "b" type: INNER_PRODUCT bottom: "a" top: "b" inner_product_param { num_output: 3 } }
"""


def values(message: Any) -> dict[str, list[np.ndarray]]:
    layers = (*message.layer, *message.layers)
    return {layer.name: [np.array(blob.double_data or blob.data) for blob in layer.blobs] for layer in layers}


def rewrite(path: Path, change: Any, seed: int = 7, **options: Any) -> Any:
    message = NetParameter()
    message.ParseFromString(rewrite_caffemodel(path, change, seed, **options).data)
    return message


def test_draws_the_chosen_layers_and_leaves_the_others() -> None:
    before = read_binary(MODEL, NetParameter)
    after = rewrite(MODEL, change_of("xavier", layers=["ip*"]))
    old, new = values(before), values(after)
    changed = {name for name in old for a, b in zip(old[name], new[name], strict=True) if not np.array_equal(a, b)}
    assert changed == {"ip1", "ip2"}
    assert not new["ip1"][1].any()  # the net's bias filler: constant 0
    for layer in (*before.layer, *after.layer):
        for blob in layer.blobs:
            blob.ClearField("data")
    assert before == after


def test_values_are_those_of_fill_with_the_same_seed() -> None:
    after = values(rewrite(MODEL, change_of("msra", layers=["ip1"])))
    filled = caffestat.fill(str(NET), seed=7, filler="msra", layers=["ip1"])
    for param in filled.params:
        np.testing.assert_array_equal(after["ip1"][param.index], param.values.ravel())


def test_the_net_can_come_from_a_file() -> None:
    file = open_file(str(NET))
    change = change_of("gaussian:std=0.25", bias="constant:3", layers=["ip2"])
    one, other = rewrite(MODEL, change, file=file), rewrite(MODEL, change)
    assert one == other
    assert set(values(one)["ip2"][1]) == {3.0}
    assert np.std(values(one)["ip2"][0]) == pytest.approx(0.25, rel=0.1)


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    change = change_of("xavier")
    path = tmp_path / "new.caffemodel"
    first = rewrite_caffemodel(MODEL, change, 7)
    path.write_bytes(first.data)
    again = rewrite_caffemodel(path, change, 7)
    assert len(first.changes) == 8
    assert again.changes == []
    assert again.data == first.data
    assert rewrite_caffemodel(path, change, 8).changes


def v1_model(tmp_path: Path) -> Path:
    """A V1 model with legacy shapes, one blob in double precision, and fields that only a fork knows."""
    message = NetParameter(name="old")
    for name, shape in (("a", (4, 6)), ("b", (3, 4))):
        layer = message.layers.add(name=name)
        weight = layer.blobs.add(num=1, channels=1, height=shape[0], width=shape[1])
        weight.data.extend(np.arange(shape[0] * shape[1]))
        bias = layer.blobs.add(num=1, channels=1, height=1, width=shape[0])
        bias.double_data.extend([0.1] * shape[0])
        bias.MergeFromString(UNKNOWN)
        layer.MergeFromString(UNKNOWN)
    message.MergeFromString(UNKNOWN)
    path = tmp_path / "old.caffemodel"
    path.write_bytes(message.SerializeToString())
    return path


def test_old_models_and_what_forks_add_survive(tmp_path: Path) -> None:
    path, net = v1_model(tmp_path), tmp_path / "net.prototxt"
    net.write_text(V1_NET)
    source = open_file(str(net))
    result = rewrite_caffemodel(path, change_of("xavier", layers=["a"]), 7, source)
    assert result.data.count(UNKNOWN) == path.read_bytes().count(UNKNOWN) == 5
    before, after = read_binary(path, NetParameter), NetParameter()
    after.ParseFromString(result.data)
    a, b = after.layers
    assert (a.blobs[0].num, a.blobs[0].height, a.blobs[0].width) == (1, 4, 6)
    assert not a.blobs[0].HasField("shape")
    assert list(a.blobs[1].double_data) == [0.5] * 4
    assert not a.blobs[1].data
    assert b == before.layers[1]
    assert [str(change.place) for change in result.changes] == [
        "a (InnerProduct) weight",
        "a (InnerProduct) bias",
    ]


def test_says_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no layer in it is selected; see --layer, --type and --net"):
        rewrite_caffemodel(MODEL, change_of("xavier", layers=["fc*"]), 7)
    path, net = v1_model(tmp_path), tmp_path / "net.prototxt"
    net.write_text(V1_NET.replace("dim: 6", "dim: 5"))
    expected = r"layer 'a' has a blob of shape \(1, 1, 4, 6\); .*net\.prototxt:4:1 expects \(4, 5\)"
    with pytest.raises(InputError, match=expected):
        rewrite_caffemodel(path, change_of("xavier"), 7, open_file(str(net)))
    (tmp_path / "text.caffemodel").write_text("name: 'x'")
    with pytest.raises(InputError, match="found what looks like text"):
        rewrite_caffemodel(tmp_path / "text.caffemodel", change_of("xavier"), 7)
