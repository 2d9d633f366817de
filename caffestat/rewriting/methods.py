"""Policies that look at the whole net: stds that are solved, and weights that no filler states."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from caffestat.fillers import Filler, Stream
from caffestat.net import Net
from caffestat.program import from_net
from caffestat.rewriting.net_params import place_of
from caffestat.rewriting.policy import Policy, Undecided
from caffestat.rewriting.selection import Change

__all__ = ["SolvedStds", "apply_methods"]


class SolvedStds:
    """The stds that `autoinit` gives the weights of a net; nothing is solved before somebody asks."""

    def __init__(self, net: Net, change: Change) -> None:
        self._net = net
        self._policies = dict(_policies(net, change))
        self._found: dict[float, dict[int, object]] = {}

    def __call__(self, number: int, target: float) -> float:
        """Return the std of a param. Raises Undecided when there is none."""
        owner = self._net.owner(number)
        if target not in self._found:
            self._found[target] = self._solve(target)
        found = self._found[target].get(owner)
        if not isinstance(found, float):
            raise Undecided(f"no std is solved for it: {found or 'the layer has another weight'}")
        return found

    def _solve(self, target: float) -> dict[int, object]:
        from caffestat.initialization import solve

        program = from_net(self._net)
        for number, policy in self._policies.items():
            if policy.states_numbers:
                program.params[number] = replace(program.params[number], filler=policy.filler)
        numbers = [number for number, policy in self._policies.items() if policy.is_solved]
        return dict(solve(program, numbers, target))


def _policies(net: Net, change: Change) -> Iterator[tuple[int, Policy]]:
    """Yield the policy of each param that has one."""
    for number, entry in enumerate(net.params):
        policy = change.policy(place_of(net, number), entry.param.filler if entry.param.written else None)
        if policy is not None:
            yield number, policy


def apply_methods(net: Net, change: Change, values: list[np.ndarray], seed: int) -> dict[int, Policy]:
    """Overwrite weights by those of `orthogonal` and `lsuv`; return which, by number. Their fillers say so too.

    values  by number, as `draw_params` returns them
    seed    of the matrices and, for lsuv, of the data

    Raises a CaffestatError when the net cannot be run.
    """
    methods = {number: policy for number, policy in _policies(net, change) if policy.draws_values}
    for number, policy in methods.items():
        _orthogonal(net, number, policy, values, seed)
    scaled = [number for number, policy in methods.items() if policy.type == "lsuv"]
    if scaled:
        _scale(net, values, scaled, seed)
    for number, policy in methods.items():
        values[number] = values[net.owner(number)].reshape(values[number].shape)
        entry = net.params[number]
        entry.param = replace(entry.param, filler=Filler(policy.type), written=True)
    return methods


def _orthogonal(net: Net, number: int, policy: Policy, values: list[np.ndarray], seed: int) -> None:
    from caffestat.initialization import orthogonal

    gain = float(dict(policy.fields).get("gain", 1))
    if policy.type == "orthogonal" and not policy.fields:
        gain = math.sqrt(from_net(net).flow.nonlinearity(net.params[number].node).weight_gain)
    random = np.random.default_rng([seed, number])
    values[number] = orthogonal(values[number].shape, random, gain, _groups(net, number))


def _groups(net: Net, number: int) -> int:
    """Return how many blocks of outputs of a convolution read channels of their own."""
    entry = net.params[number]
    shape, bottom = entry.param.shape, net.nodes[entry.node].bottom_shapes[0]
    is_grouped = len(shape) > 2 and bottom is not None and entry.param.fan_in == math.prod(shape[1:])
    return bottom[1] // shape[1] if is_grouped and bottom and len(bottom) > 1 else 1


def _scale(net: Net, values: list[np.ndarray], numbers: list[int], seed: int) -> None:
    from caffestat.initialization import lsuv
    from caffestat.program.feeds import Feeds

    program = from_net(net)
    forward = program.forward()
    feeds = Feeds(Stream(seed), np.random.default_rng(seed)).of(forward)
    lsuv(program, values, numbers, feeds, forward)
