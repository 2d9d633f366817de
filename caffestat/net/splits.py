"""Split insertion: a blob that several layers read gets a Split layer with Caffe's names. (insert_splits.cpp)"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from caffestat.errors import NetError
from caffestat.schema import LayerParameter
from caffestat.schema.caffe_pb2 import TEST, TRAIN, Phase

from .rules import NEVER
from .upgrade import Entry

__all__ = ["insert_splits", "without_unknown_bottoms"]

Top = tuple[int, int]  # layer index, top index


def _split_name(blob: str, producer: str, top: int) -> str:
    return f"{blob}_{producer}_{top}_split"


def _unknown_bottom(
    entry: Entry, bottom: str, layers: Sequence[Entry], known: dict[str, Top], everything: Sequence[Entry]
) -> NetError:
    """Return the error for a bottom that no layer before this one produces, with the likeliest cause."""
    later = next((e for e in layers if bottom in e.proto.top), None)
    present = {id(e.text) for e in layers}
    absent = (e for e in everything if bottom in e.proto.top and id(e.text) not in present)
    excluded = next((e for e in absent if bottom not in e.proto.bottom), None)
    close = difflib.get_close_matches(bottom, known, n=1)
    if excluded is not None and later in (None, entry):
        hint = f"layer {excluded.proto.name!r} at {excluded.place} produces it, but {_when(excluded)}"
    elif later is entry:
        hint = "the layer itself produces it: give the top another name or name an earlier blob as bottom"
    elif later is not None:
        hint = (
            f"layer {later.proto.name!r} at {later.place} produces it, but comes later: "
            "a layer can only read blobs made above it"
        )
    elif close:
        hint = f"did you mean {close[0]!r}?"
    else:
        hint = f"no layer produces it{_way_out(entry)}"
    index = list(entry.proto.bottom).index(bottom)
    return NetError(f"layer {entry.proto.name!r}: unknown bottom blob {bottom!r} (bottom {index}): {hint}", entry.place)


def _when(entry: Entry) -> str:
    """Return in words in which state the rules of a layer hold, and the options for it."""
    rules = [dict(_conditions(rule)) for rule in entry.proto.include or entry.proto.exclude]
    states = " or ".join(" and ".join(rule) or "every state" for rule in rules)
    if not entry.proto.include:
        return f"not in {states}, where its exclude rules hold"
    options = " or ".join(" ".join(filter(None, rule.values())) for rule in rules if any(rule.values()))
    return f"only in {states}" + (f": use {options}" if options else "")


def _way_out(entry: Entry) -> str:
    """Return a clause with the option that leaves out a layer of one phase, as losses of a deploy net are."""
    phases = {rule.phase if rule.HasField("phase") else None for rule in entry.proto.include}
    for phase, other in ((TRAIN, "test"), (TEST, "train")):
        if phases == {phase}:
            return f"; the layer is only in {Phase.Name(phase)}: use --phase {other}"
    return ""


def _conditions(rule: Any) -> Iterator[tuple[str, str]]:
    """Yield each condition of a NetStateRule in words, with the option that meets it, "" for none."""
    if rule.HasField("phase"):
        phase = Phase.Name(rule.phase)
        yield phase, f"--phase {phase.lower()}"
    for stage in rule.stage:
        yield f"stage {stage!r}", f"--stage {stage}"
    for stage in rule.not_stage:
        yield f"a state without stage {stage!r}", ""
    if rule.min_level == NEVER:
        yield "a phase that only forks have", ""
    elif rule.HasField("min_level"):
        until = f" to {rule.max_level}" if rule.HasField("max_level") else ""
        yield f"levels from {rule.min_level}{until}", f"--level {rule.min_level}"
    elif rule.HasField("max_level"):
        yield f"levels up to {rule.max_level}", f"--level {rule.max_level}"


def _sources(
    layers: Sequence[Entry], everything: Sequence[Entry]
) -> tuple[list[list[Top]], Counter[Top], dict[Top, float]]:
    """Return the top that each bottom reads, how often each top is used, and the loss weights, which count as a use.

    Raises NetError for a bottom that no earlier layer produces.
    """
    last: dict[str, Top] = {}
    sources: list[list[Top]] = []
    uses: Counter[Top] = Counter()
    weights: dict[Top, float] = {}
    for index, entry in enumerate(layers):
        proto = entry.proto
        for bottom in proto.bottom:
            if bottom not in last:
                raise _unknown_bottom(entry, bottom, layers, last, everything)
        sources.append([last[bottom] for bottom in proto.bottom])
        uses.update(sources[-1])
        last.update((top, (index, position)) for position, top in enumerate(proto.top))
        for top, weight in zip(proto.top, proto.loss_weight, strict=False):
            weights[last[top]] = weight
            uses[last[top]] += bool(weight)
    return sources, uses, weights


def _split_layer(entry: Entry, top: int, count: int, weight: float) -> Entry:
    blob = entry.proto.top[top]
    name = _split_name(blob, entry.proto.name, top)
    split = LayerParameter(name=name, type="Split", bottom=[blob], top=[f"{name}_{k}" for k in range(count)])
    if weight:
        split.loss_weight.extend([weight, *[0.0] * (count - 1)])
    return Entry(split, None, entry.place, is_inserted=True)


def without_unknown_bottoms(
    layers: Sequence[Entry], faults: list[NetError], everything: Sequence[Entry] = ()
) -> list[Entry]:
    """Return the layers without the bottoms that no earlier layer produces; a blob that is missing is one fault.

    A layer that lacks one says so in `fault`.
    """
    known: dict[str, Top] = {}
    told: set[str] = set()
    result = []
    for index, entry in enumerate(layers):
        missing = [name for name in dict.fromkeys(entry.proto.bottom) if name not in known]
        if missing:
            errors = [_unknown_bottom(entry, name, layers, known, everything) for name in missing]
            faults += [error for name, error in zip(missing, errors, strict=True) if name not in told]
            told.update(missing)
            proto = LayerParameter()
            proto.CopyFrom(entry.proto)
            proto.ClearField("propagate_down")
            proto.bottom[:] = [name for name in proto.bottom if name in known]
            entry = replace(entry, proto=proto, fault=errors[0].message)
        known.update((top, (index, position)) for position, top in enumerate(entry.proto.top))
        result.append(entry)
    return result


def insert_splits(layers: Sequence[Entry], everything: Sequence[Entry] = ()) -> list[Entry]:
    """Return the layers with Split layers behind every top that is used more than once; the input stays as it is.

    A Split has its producer's place. everything: the layers of all states, for messages
    Raises NetError for a bottom that no earlier layer produces.
    """
    sources, uses, weights = _sources(layers, everything)
    handed_out: Counter[Top] = Counter()
    result = []
    for index, entry in enumerate(layers):
        proto = LayerParameter()
        proto.CopyFrom(entry.proto)
        for position, source in enumerate(sources[index]):
            if uses[source] > 1:
                producer = layers[source[0]].proto.name
                name = _split_name(proto.bottom[position], producer, source[1])
                proto.bottom[position] = f"{name}_{handed_out[source]}"
                handed_out[source] += 1
        result.append(replace(entry, proto=proto))
        for top in range(len(proto.top)):
            key = (index, top)
            if uses[key] > 1:
                result.append(_split_layer(entry, top, uses[key], weights.get(key, 0.0)))
                if weights.get(key):
                    proto.ClearField("loss_weight")
                    handed_out[key] += 1
    return result
