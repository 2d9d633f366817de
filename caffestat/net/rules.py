"""Which layers a net has in a given state: include and exclude rules. (net.cpp, FilterNet and StateMeetsRule)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from caffestat.errors import NetError
from caffestat.layers import TEST, TRAIN

from .upgrade import Entry

__all__ = ["NEVER", "TEST", "TRAIN", "State", "filter_layers", "meets"]

NEVER = 2**31 - 1
"""The min_level of a rule that holds in no state: one for a phase that only forks have."""


@dataclass(frozen=True)
class State:
    """Caffe's NetState: the phase (TRAIN or TEST), the level, and the set of stages."""

    phase: int = TRAIN
    level: int = 0
    stages: tuple[str, ...] = ()


def meets(state: State, rule: Any) -> bool:
    """Tell whether the state satisfies every condition of a NetStateRule."""
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and set(rule.stage) <= set(state.stages)
        and set(rule.not_stage).isdisjoint(state.stages)
    )


def _is_included(state: State, entry: Entry) -> bool:
    proto = entry.proto
    if proto.include and proto.exclude:
        raise NetError(
            f"layer {proto.name!r}: has both include and exclude rules; Caffe takes one kind only", entry.place
        )
    if proto.include:
        return any(meets(state, rule) for rule in proto.include)
    return not any(meets(state, rule) for rule in proto.exclude)


def filter_layers(layers: Iterable[Entry], state: State) -> list[Entry]:
    """Return the layers that take part in the state.

    Raises NetError for a layer with both kinds of rules.
    """
    return [entry for entry in layers if _is_included(state, entry)]
