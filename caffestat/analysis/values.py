"""Two ONNX models on the same inputs, value by value: where the second parts from the first, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from caffestat.engine import CPU, Compiled, Device
from caffestat.errors import InputError
from caffestat.fillers import Stream
from caffestat.graph import Spec
from caffestat.graph.load import Model
from caffestat.graph.straight import quantized_pairs
from caffestat.graph.widen import with_wide_ends
from caffestat.program.feeds import Feeds
from caffestat.program.from_onnx import from_onnx, settle_drawn

__all__ = ["ValueDifference", "compare_models"]


@dataclass(frozen=True)
class ValueDifference:
    """How far a value of model b is from that of model a. NaN at the same place in both is no difference.

    name, other  the value's name in a and in b
    op           what computes it in a
    matched      "name" or "position"
    largest      max |a|
    max_error    max |a - b|, infinite where only one is NaN or infinite
    mean_error   mean |a - b|
    cosine       a·b / (|a| |b|); 1 where both are 0
    sqnr         10 log10(Σ a² / Σ (a - b)²), in dB; infinite where nothing differs
    limit        atol + rtol · max |a|
    """

    name: str
    other: str
    op: str
    matched: str
    shape: tuple[int, ...]
    largest: float
    max_error: float
    mean_error: float
    cosine: float
    sqnr: float
    limit: float

    @property
    def parts(self) -> bool:
        """Whether the largest error exceeds the limit."""
        return not self.max_error <= self.limit


def compare_models(
    a: Model,
    b: Model,
    inputs: Mapping[str, np.ndarray],
    rtol: float,
    atol: float,
    seed: int,
    device: Device = CPU,
    compute: str = "float32",
) -> list[ValueDifference]:
    """Run two models on the same inputs and compare the floating-point values that both compute, in a's order.

    Values are matched by name; the outputs without a match, and values between matched ones whose op and shape agree,
    by position. What other ops compute and round to integers counts as rounded: a quantizer leaves out the Relu whose
    work the range of the integers does. Inputs that are not given are drawn for a, and fed to b by name, else by
    position.

    inputs:  arrays by a's names
    compute: the type that b is computed in, see `engine.Compiled`

    Raises InputError when b's inputs do not take a's data or no value can be matched.
    """
    fed = _draw(a, inputs, seed)
    sides = [_Side(a, fed, device), _Side(b, _same_inputs(a, b, fed), device, compute)]
    pairs = _pairs(*sides)
    if not pairs:
        raise InputError("the models have no value in common, neither by name nor by position")
    results = [side.run(names) for side, names in zip(sides, zip(*pairs, strict=True), strict=True)]
    alike = set(_named_alike(*sides))
    return [
        _difference(sides[0].ops[pair[0]], pair, pair in alike, results[0][pair[0]], results[1][pair[1]], rtol, atol)
        for pair in pairs
    ]


def _draw(model: Model, given: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return what the inputs of a model hold."""
    forward = from_onnx(model, "").forward()
    return Feeds(Stream(seed), np.random.default_rng(seed), model.unpinned(given)).of(forward)


def _same_inputs(a: Model, b: Model, fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the data of a's inputs by b's names and in b's types."""
    rest = (name for name in a.graph.inputs if name not in b.graph.inputs)
    arrays = {}
    for name, spec in b.graph.inputs.items():
        source = name if name in fed else next(rest, None)
        if source is None:
            raise InputError(f"the second model has an input {name!r} that the first lacks: {len(fed)} inputs there")
        if fed[source].shape != spec.shape:
            shapes = f"{fed[source].shape} in the first model, {spec.shape} in the second"
            raise InputError(f"input {source!r} has the shape {shapes}: use --shape")
        arrays[name] = fed[source].astype(spec.dtype)
    return arrays


class _Side:
    """One model with its data.

    ops      what computes each floating-point value, by name, in the file's order
    rounded  by the name of a value that is rounded to integers, that of the floats which these become again
    """

    def __init__(self, model: Model, fed: Mapping[str, np.ndarray], device: Device, compute: str = "float32") -> None:
        settle_drawn(model, fed)
        self.model, self._fed, self._device, self._compute = model, fed, device, compute
        computed = {name for node in model.graph.nodes if not node.info.renames for name in node.outputs if name}
        named = ((name, n.op) for n in model.nodes for name in n.outputs if name in computed)
        self.ops = {name: op for name, op in named if self._is_float(name)}
        pairs = quantized_pairs(model.graph)
        self.rounded = {x: y for x, y in ((q.inputs[0], back.outputs[0]) for q, back in pairs) if y in self.ops}

    def _is_float(self, name: str) -> bool:
        spec = self.model.graph.specs.get(name)
        return spec is not None and spec.is_float

    def shape(self, name: str) -> tuple[int, ...]:
        return self.model.graph.shape(name)

    def run(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        graph, wide = with_wide_ends(self.model.graph, names)
        compiled = Compiled(graph, self._device, _fitting(self.model.arrays, graph.params), self._compute)
        found = compiled.run(_fitting(self._fed, graph.inputs), outputs=wide)
        return {name: found[other] for name, other in zip(names, wide, strict=True)}


def _fitting(arrays: Mapping[str, np.ndarray], specs: Mapping[str, Spec]) -> dict[str, np.ndarray]:
    """Return arrays in the types that a graph states for them."""
    return {name: array.astype(specs[name].dtype, copy=False) for name, array in arrays.items() if name in specs}


def _pairs(a: _Side, b: _Side) -> list[tuple[str, str]]:
    """Return the values of both that belong together, in a's order."""
    found = dict(_named_alike(a, b))
    outputs = zip(a.model.graph.outputs, b.model.graph.outputs, strict=False)
    found |= {one: other for one, other in outputs if _are_free(one, other, a, b, found)}
    found |= dict(_aligned(a, b, found))
    return [(one, found[one]) for one in a.ops if one in found and a.shape(one) == b.shape(found[one])]


def _named_alike(a: _Side, b: _Side) -> Iterator[tuple[str, str]]:
    for name in a.ops:
        if a.ops[name] == b.ops.get(name):
            yield name, name
        elif name in b.ops:
            yield a.rounded.get(name, name), b.rounded.get(name, name)


def _are_free(one: str, other: str, a: _Side, b: _Side, found: Mapping[str, str]) -> bool:
    return one in a.ops and other in b.ops and one not in found and other not in found.values()


def _aligned(a: _Side, b: _Side, found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the unmatched values that stand in the same order in both models, of the same op and shape."""
    taken = set(found.values())
    ones, others = [n for n in a.ops if n not in found], [n for n in b.ops if n not in taken]
    keys = [[(side.ops[n], side.shape(n)) for n in names] for side, names in ((a, ones), (b, others))]
    for i, j, count in SequenceMatcher(a=keys[0], b=keys[1], autojunk=False).get_matching_blocks():
        yield from zip(ones[i : i + count], others[j : j + count], strict=True)


def _difference(
    op: str, names: tuple[str, str], by_name: bool, one: np.ndarray, two: np.ndarray, rtol: float, atol: float
) -> ValueDifference:
    x, y = (np.ravel(array).astype(np.float64) for array in (one, two))
    with np.errstate(all="ignore"):
        error = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        error[np.isnan(error)] = np.inf
        largest = float(np.abs(x).max(initial=0.0, where=np.isfinite(x)))
        signal, noise, norms = float(x @ x), float(error @ error), float(np.linalg.norm(x) * np.linalg.norm(y))
        return ValueDifference(
            name=names[0],
            other=names[1],
            op=op,
            matched="name" if by_name else "position",
            shape=tuple(one.shape),
            largest=largest,
            max_error=float(error.max(initial=0.0)),
            mean_error=float(error.mean()) if error.size else 0.0,
            cosine=float(x @ y) / norms if norms else float(not noise),
            sqnr=float(10 * np.log10(np.float64(signal) / noise)) if noise else np.inf,
            limit=atol + rtol * largest,
        )
