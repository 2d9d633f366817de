"""Runs one layer alone: builds it from text, lowers it, differentiates it and computes it in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.autodiff import backward
from caffestat.errors import Place
from caffestat.fillers import Stream
from caffestat.graph import Graph
from caffestat.graph.expand import expand
from caffestat.layers import Layer
from caffestat.net.aliasing import Memory
from caffestat.net.dialects import choose
from caffestat.net.upgrade import Entry
from caffestat.program.lowering import lower_unrolled
from caffestat.prototext import parse
from caffestat.schema import UnknownField, caffe_pb2, from_document

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST


@dataclass
class Result:
    """What a layer computed, and the gradients of bottoms and params.

    feeds: what it drew. updates: the params it changed, by index.
    """

    tops: list[np.ndarray]
    bottoms: list[np.ndarray]
    params: list[np.ndarray]
    feeds: list[np.ndarray]
    updates: dict[int, np.ndarray]


def make(text: str, phase: int = TRAIN, dialect: str | None = None) -> Layer:
    """Return the layer that a prototxt message (without `layer {` and `}`) describes."""
    document = parse(b"layer {" + text.encode() + b"}", "net.prototxt")
    message, findings = from_document(document, caffe_pb2.NetParameter)
    (written,) = document.fields[0].values
    entry = Entry(message.layer[0], written, Place("net.prototxt", 7))
    unknown = [finding for finding in findings if isinstance(finding, UnknownField)]
    choice = choose([entry], unknown, dialect).get(id(written))
    assert choice is not None, entry.proto.type
    assert set(choice.addition.fields) == {finding.field for finding in unknown}, findings
    assert choice.addition.findings == ()
    layer = choice.cls(entry.proto, phase, entry.place)
    layer.text = written
    if choice.cls.adds:
        layer.added = choice.addition.message
    if layer.auto_tops:
        layer.top_count = max(layer.top_count, layer.num_tops[0])
    return layer


def compute(
    g: Graph, feeds: dict[str, np.ndarray], params: dict[str, np.ndarray], provider: str = "cpu"
) -> list[np.ndarray]:
    """Run a graph on the CPU and return its outputs."""
    import onnxruntime

    model = expand(g, g.outputs, provider).to_onnx(params).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    read = {value.name for value in session.get_inputs()}  # what a layer's decisions replace is not
    return list(session.run(g.outputs, {name: array for name, array in feeds.items() if name in read}))


def run(
    layer: Layer,
    bottoms: Sequence[np.ndarray],
    params: Sequence[np.ndarray] = (),
    dys: Sequence[np.ndarray] | None = None,
    seed: int = 1,
    later: Sequence[np.ndarray | None] = (),
    provider: str = "cpu",
) -> Result:
    """Compute the tops, and the gradients for the top gradients `dys` (ones when left out).

    later: what in-place layers after this one have written over its tops.
    provider: whose forms to use; the CPU runs them all.
    """
    bottoms = [np.asarray(b, np.float32) for b in bottoms]
    params = [np.asarray(p, np.float32) for p in params]
    shapes = [b.shape for b in bottoms]
    if layer.decides and not layer.lowers_undecided:
        layer = layer.deciding(bottoms[layer.decisive], shapes, np.random.default_rng(seed))
    g = Graph()
    names = [g.input(f"bottom{i}", b.shape) for i, b in enumerate(bottoms)]
    weights = [g.param(f"param{i}", p.shape) for i, p in enumerate(params)]
    assert [p.shape for p in layer.params(shapes)] == [p.shape for p in params]
    before = len(g.inputs)
    unrolled = layer.unrolled(shapes)
    memory = Memory(g)
    lowered = lower_unrolled(memory, layer, unrolled, names, weights)[1] if unrolled else layer.lower(g, names, weights)
    tops = [g.declare(v, s) for v, s in zip(lowered, layer.tops(shapes), strict=True)]
    drawn = dict(zip(list(g.inputs)[before:], layer.draw_feeds(Stream(seed), shapes), strict=True))
    held = dict(zip(tops, tops, strict=True))
    held |= {top: g.constant(over) for top, over in zip(tops, later, strict=False) if over is not None}
    stored = memory.all_stored() | held | {names[i]: held[top] for i, top in enumerate(tops) if layer.is_in_place(i)}
    dys = [np.ones(s, np.float32) for s in layer.tops(shapes)] if dys is None else dys
    seeds = {top: g.constant(dy) for top, dy in zip(tops, dys, strict=True)}
    wanted = [*names, *weights]
    found = backward(g, seeds, wanted, stored=stored)
    zeros = {v: g.constant(np.zeros(g.shape(v), np.float32)) for v in wanted}
    outputs = [*tops, *(found[v] or zeros[v] for v in wanted)]
    outputs += g.updates.values()
    g.outputs = [g.emit("Identity", v) for v in outputs]
    feeds = {**dict(zip(names, bottoms, strict=True)), **drawn}
    results = compute(g, feeds, dict(zip(weights, params, strict=True)), provider)
    cut, end = len(tops), len(tops) + len(names)
    for result, shape in zip(results, layer.tops(shapes), strict=False):
        assert result.shape == shape, (result.shape, shape)
    updates = {weights.index(name): results[end + len(weights) + i] for i, name in enumerate(g.updates)}
    return Result(results[:cut], results[cut:end], results[end : end + len(weights)], list(drawn.values()), updates)
