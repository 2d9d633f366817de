"""Single layers of the golden cases: on Caffe's bottoms, params and top gradients they must give what Caffe gave."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from caffestat.net.rules import State, filter_layers
from caffestat.net.source import read_net
from caffestat.net.splits import insert_splits
from caffestat.schema import to_text

from .harness import TRAIN, make, run

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@functools.cache
def case(name: str) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Return a case's topology, tensors, and layers by name."""
    folder = GOLDEN / name
    topology = json.loads((folder / "topology.json").read_text())
    source = read_net(str(folder / "net.prototxt"))
    entries = insert_splits(filter_layers(source.layers, State(TRAIN)))
    return topology, np.load(folder / "tensors.npz"), {entry.proto.name: entry.proto for entry in entries}


def golden_layers(names: str, *types: str) -> list[tuple[str, str]]:
    """Return (case, layer) for each layer of these types in the cases, given as one string of names."""
    return [(name, e["name"]) for name in names.split() for e in case(name)[0]["layers"] if e["type"] in types]


def check_golden(name: str, layer: str, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    """Run one layer of a case and compare tops, gradients and changed params with Caffe's."""
    topology, tensors, protos = case(name)
    entry = next(e for e in topology["layers"] if e["name"] == layer)
    bottoms = [_before(name, entry["id"], blob) for blob in entry["bottom_ids"]]
    infos = [topology["params"][number] for number in entry["param_ids"]]
    dys = [_top_diff(name, entry, top) for top in range(len(entry["top_ids"]))]
    params = [tensors[info["file"] + ".init"] for info in infos]
    later = [_later(name, entry["id"], blob) for blob in entry["top_ids"]]
    result = run(make(to_text(protos[layer])), bottoms, params, dys, later=later)

    def close(found: np.ndarray, key: str) -> None:
        np.testing.assert_allclose(found, tensors[key], rtol, atol, err_msg=key)

    prefix = f"layer/{entry['id']:03d}_{layer}"
    for index, top in enumerate(result.tops):
        close(top, f"{prefix}.top{index}.data")
    for index, info in enumerate(infos):
        close(result.updates.get(index, params[index]), f"{info['file']}.data")
    if not entry["need_backward"]:
        return
    for index, needed in enumerate(entry["bottom_need_backward"]):
        if needed:
            close(result.bottoms[index], f"{prefix}.bottom{index}.diff")
    shared = {info["owner"] for info in topology["params"]}  # their gradients are sums over several layers
    for info, found in zip(infos, result.params, strict=True):
        if info["propagate_down"] and info["owner"] < 0 and info["id"] not in shared:
            close(found, f"{info['file']}.diff")


def _before(name: str, layer: int, blob: int) -> np.ndarray:
    """Return what a blob holds just before a layer runs: its last writer's top."""
    topology, tensors, _ = case(name)
    writer = [e for e in topology["layers"][:layer] if blob in e["top_ids"]][-1]
    return tensors[f"layer/{writer['id']:03d}_{writer['name']}.top{writer['top_ids'].index(blob)}.data"]


def _later(name: str, layer: int, blob: int) -> np.ndarray | None:
    """Return what in-place layers after this one leave in a top, None when there are none."""
    topology, tensors, _ = case(name)
    if not any(blob in e["top_ids"] for e in topology["layers"][layer + 1 :]):
        return None
    array: np.ndarray = tensors[next(b["file"] for b in topology["blobs"] if b["id"] == blob) + ".data"]
    return array


def _top_diff(name: str, entry: dict[str, Any], top: int) -> np.ndarray:
    """Return a top's gradient when its layer's backward pass begins: its loss weight, or what its reader left there."""
    topology, tensors, _ = case(name)
    blob = entry["top_ids"][top]
    shape = tensors[f"layer/{entry['id']:03d}_{entry['name']}.top{top}.data"].shape
    for reader in topology["layers"][entry["id"] + 1 :]:
        if blob in reader["bottom_ids"]:
            key = f"layer/{reader['id']:03d}_{reader['name']}.bottom{reader['bottom_ids'].index(blob)}.diff"
            return tensors[key] if key in tensors else np.zeros(shape, np.float32)
    return np.full(shape, entry["loss_weights"][top], np.float32)
