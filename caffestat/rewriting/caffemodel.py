"""Draws new weights of chosen layers in a trained model, and changes nothing else in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from caffestat.errors import Finding, InputError
from caffestat.errors import Place as FilePlace
from caffestat.fillers import Stream
from caffestat.net import Net, NetSource, build, draw_params
from caffestat.net.upgrade import Entry, upgrade
from caffestat.options import NetOptions
from caffestat.program import NetFile
from caffestat.rewriting.methods import apply_to_net
from caffestat.rewriting.net_params import place_of, refill
from caffestat.rewriting.policy import Wanted
from caffestat.rewriting.selection import Change
from caffestat.rewriting.text import Changed, Rewritten
from caffestat.schema import NetParameter, read_binary
from caffestat.schema.blobs import blob_shape, fits, set_values

__all__ = ["rewrite_caffemodel"]


def rewrite_caffemodel(
    path: Path,
    change: Change,
    seed: int,
    file: NetFile | None = None,
    options: NetOptions | None = None,
) -> Rewritten:
    """Return the model with new weights and biases in the chosen layers: biases by their policy, else the net's filler.

    The values are those that `fill` draws for the whole net with the same seed. Layers go by their names, as in Caffe.

    file     has the net; default: the layers that the model itself holds
    options  how the net is built

    Raises InputError when the model cannot be read, no layer in it is chosen, or a blob does not fit the net.
    """
    message = read_binary(path, NetParameter)
    options = options or NetOptions()
    net = file.build(options) if file else build(_own_source(message, str(path)), None, options.shapes, options.batch)
    refilled, lines = refill(net, change), list[str]()
    chosen = refilled.chosen
    _with_biases(net, chosen)
    values = draw_params(net, Stream(seed))
    applied = apply_to_net(net, change, values, seed, lines)
    chosen |= {number: Wanted(method.name) for number, method in applied.filled.items()}
    blobs = {number: blob for number, blob in _blobs(message, net, str(path)) if _owner(net, number) in chosen}
    if not blobs:
        raise InputError(f"{path}: no layer in it is selected; see --layer, --type and --net")
    notes = [*refilled.notes, *(Finding(FilePlace(str(path)), line) for line in lines)]
    result = Rewritten(b"", notes=notes, curves=applied.curves or refilled.curves)
    for number, blob in blobs.items():
        if _redraw(blob, values[number]):
            after = chosen.get(number, chosen[_owner(net, number)])
            result.changes.append(Changed(FilePlace(str(path)), place_of(net, number), "stored values", after))
    result.data = message.SerializeToString()
    return result


def _own_source(message: Any, path: str) -> NetSource:
    bare = NetParameter()
    bare.CopyFrom(message)
    for layer in (*bare.layer, *bare.layers):
        layer.ClearField("blobs")
    place = FilePlace(path)
    old = [Entry(layer, None, place) for layer in bare.layers]
    new = [Entry(layer, None, place) for layer in bare.layer]
    header, layers, findings = upgrade(bare, old, new, place)
    return NetSource(path, header, tuple(layers), tuple(findings))


def _with_biases(net: Net, chosen: dict[int, Wanted]) -> None:
    """Add the biases of layers whose weights are chosen: a trained bias is of no use to new weights."""
    for node in net.nodes:
        if any(number in chosen and place_of(net, number).role == "weight" for number in node.params):
            for number in node.params:
                if place_of(net, number).role == "bias":
                    chosen.setdefault(number, Wanted(net.params[number].param.filler.type))


def _owner(net: Net, number: int) -> int:
    owner = net.params[number].owner
    return number if owner is None else owner


def _blobs(message: Any, net: Net, path: str) -> Iterator[tuple[int, Any]]:
    """Yield the model's blob for each param of the net, for layers that both have. Raises InputError for a misfit."""
    layers: dict[str, Any] = {}
    for layer in (*message.layers, *message.layer):
        core = layer.layer if layer.DESCRIPTOR.name == "V1LayerParameter" and layer.HasField("layer") else layer
        layers.setdefault(core.name, core)
    for node in net.nodes:
        found = layers[node.name].blobs if node.name in layers else ()
        for number, blob in zip(node.params, found, strict=False):
            shape = net.params[number].param.shape
            if not fits(blob, shape):
                problem = f"layer {node.name!r} has a blob of shape {blob_shape(blob)}; {node.place} expects {shape}"
                raise InputError(f"{path}: {problem}")
            yield number, blob


def _redraw(blob: Any, values: np.ndarray) -> bool:
    """Put the values into a blob; return whether they are others than before."""
    before = blob.SerializeToString()
    set_values(blob, values)
    return bool(blob.SerializeToString() != before)
