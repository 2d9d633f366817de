"""Every golden case: topology, initial params bit for bit, and every tensor of one iteration, as in Caffe."""

from __future__ import annotations

import numpy as np
import pytest

from .golden import CASES, assert_close, built, run, tensors, topology

pytestmark = pytest.mark.parametrize("case", CASES)


def test_topology(case: str) -> None:
    ours, caffes = built(case), topology(case)
    names = [blob.name for blob in ours.blobs]
    for node, layer in zip(ours.nodes, caffes["layers"], strict=True):
        assert (node.name, node.type) == (layer["name"], layer["type"])
        assert [names[b] for b in node.bottoms] == layer["bottoms"]
        assert [names[t] for t in node.tops] == layer["tops"]
        assert list(node.tops) == layer["top_ids"]
        assert list(node.params) == layer["param_ids"]
        assert node.need_backward == layer["need_backward"], node.name
        assert node.bottom_need_backward == layer["bottom_need_backward"], node.name
        assert list(node.loss_weights) == pytest.approx(layer["loss_weights"])
    assert [list(blob.shape or ()) for blob in ours.blobs] == [blob["shape"] for blob in caffes["blobs"]]
    assert [names[b] for b in ours.outputs] == caffes["outputs"]


def test_params(case: str) -> None:
    ours = built(case)
    for param, caffes in zip(ours.params, topology(case)["params"], strict=True):
        assert list(param.param.shape) == caffes["shape"]
        assert (ours.nodes[param.node].name, param.index) == (caffes["layer"], caffes["index"])
        assert param.display_name == caffes["display_name"]
        assert (-1 if param.owner is None else param.owner) == caffes["owner"]
        assert (param.lr_mult, param.decay_mult) == (caffes["lr_mult"], caffes["decay_mult"])
        assert ours.nodes[param.node].param_propagate_down[param.index] == caffes["propagate_down"]


def test_initial_params_are_caffes_bit_for_bit(case: str) -> None:
    _, initial, _, _ = run(case)
    for ours, param in zip(initial, topology(case)["params"], strict=True):
        caffes = tensors(case).get(f"{param['file']}.init")
        if caffes is not None:
            np.testing.assert_array_equal(ours, caffes, err_msg=param["file"])


def test_tops(case: str) -> None:
    _, _, runner, _ = run(case)
    for name, caffes in tensors(case).items():
        if name.startswith("layer/") and ".top" in name:
            layer, top = name.removesuffix(".data").rsplit(".top", 1)
            node = int(layer.split("/")[1].split("_")[0])
            assert_close(runner.tensors["top", node, int(top)], caffes, name)


def largest_diff(case: str) -> float:
    return max(
        (float(np.abs(a).max(initial=0.0)) for name, a in tensors(case).items() if name.endswith(".diff")), default=0.0
    )


def test_bottom_diffs(case: str) -> None:
    ours, _, runner, _ = run(case)
    around = largest_diff(case)
    for name, caffes in tensors(case).items():
        if name.startswith("layer/") and ".bottom" in name:
            layer, bottom = name.removesuffix(".diff").rsplit(".bottom", 1)
            key = (int(layer.split("/")[1].split("_")[0]), int(bottom))
            if ours.nodes[key[0]].need_backward and ours.nodes[key[0]].bottom_need_backward[key[1]]:
                found = runner.tensors.get(("bottom_diff", *key), np.zeros_like(caffes))
                assert_close(found, caffes, name, around)


def test_params_after_the_iteration(case: str) -> None:
    ours, _, runner, _ = run(case)
    around = largest_diff(case)
    for number, param in enumerate(topology(case)["params"]):
        data = tensors(case).get(f"{param['file']}.data")
        if data is not None:
            assert_close(runner.values[number], data, f"{param['file']}.data")
        diff = tensors(case).get(f"{param['file']}.diff")
        key = ours.params[number].node, ours.params[number].index
        if diff is not None and ours.params[number].owner is None and runner.gradients:
            last = min(
                (p for p, q in enumerate(ours.params) if number in (p, q.owner)), key=lambda p: ours.params[p].node
            )
            key = ours.params[last].node, ours.params[last].index
            assert_close(
                runner.tensors.get(("param_diff", *key), np.zeros_like(diff)), diff, f"{param['file']}.diff", around
            )
