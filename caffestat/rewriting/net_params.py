"""Gives the params of a built net other fillers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from caffestat.errors import Finding
from caffestat.net import Net
from caffestat.program import from_net
from caffestat.rewriting.policy import Site, Undecided, Wanted
from caffestat.rewriting.selection import Change, Place

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves

__all__ = ["Refilled", "place_of", "refill"]


@dataclass(frozen=True)
class Refilled:
    """The new fillers by number, what could not be decided, and the curves of what was solved."""

    chosen: dict[int, Wanted]
    notes: list[Finding]
    curves: Curves | None = None


def refill(net: Net, change: Change) -> Refilled:
    """Change the fillers in `net.params` by the policies; a sharer's too.

    Those that stay the same are among the new ones.
    """
    from caffestat.rewriting.methods import SolvedStds, policies_of  # imports this module

    chosen: dict[int, Wanted] = {}
    notes = []
    program = from_net(net)
    flow, solved = program.flow, SolvedStds(program, policies_of(net, change))
    for number, entry in enumerate(net.params):
        node, param = net.nodes[entry.node], entry.param
        place = place_of(net, number)
        current = param.filler if param.written else None
        policy = change.policy(place, current)
        if policy is not None and policy.draws_values:
            continue
        site = Site(
            current,
            lambda node=node: flow.nonlinearity(node.index),  # type: ignore[misc]
            lambda param=param: (param.fan_in, param.fan_out),  # type: ignore[misc]
            node.layer.mixes_channels(),
            lambda method, number=number: solved(number, method),  # type: ignore[misc]
        )
        try:
            wanted = policy.choose(site) if policy else None
        except Undecided as error:
            notes.append(Finding(node.place, f"{place} not changed: {error}"))
            continue
        if wanted is not None:
            chosen[number] = wanted
            net.params[number].param = replace(param, filler=wanted.filler, written=True)
    return Refilled(chosen, notes, solved.curves())


def place_of(net: Net, number: int) -> Place:
    """Return the place of `net.params[number]`."""
    entry = net.params[number]
    node = net.nodes[entry.node]
    is_frozen, layer = entry.lr_mult == 0, node.layer
    return Place(
        node.name, node.type, entry.param.role, is_frozen, is_recurrent=layer.is_recurrent, upsamples=layer.upsamples
    )
