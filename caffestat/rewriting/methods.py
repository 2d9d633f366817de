"""Policies that look at the whole net: stds that are solved, and weights that no filler states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from caffestat.fillers import Filler, Stream, stated
from caffestat.net import Net
from caffestat.program import Program, from_net
from caffestat.rewriting.net_params import place_of
from caffestat.rewriting.policy import Policy, Undecided
from caffestat.rewriting.selection import Change

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves
    from caffestat.initialization.methods import Method

__all__ = ["Applied", "SolvedStds", "apply_methods", "apply_to_net", "policies_of"]


class SolvedStds:
    """The stds that `autoinit` gives the weights of a program; they are solved when first asked for.

    policies  of the params that have one, by number
    """

    def __init__(self, program: Program, policies: Mapping[int, Policy]) -> None:
        self._program, self._policies = program, policies
        self._found: dict[Method, dict[int, object]] = {}

    def __call__(self, number: int, method: Method) -> float:
        """Return the std of a param. Raises Undecided when there is none, InputError when the method does not apply."""
        if method not in self._found:
            self._found[method] = self._solve(method)
        found = self._found[method].get(self._program.owner(number))
        if not isinstance(found, float):
            raise Undecided(f"autoinit finds no std for it: {found or 'the layer has another weight'}")
        return found

    def _solve(self, method: Method) -> dict[int, object]:
        from caffestat.initialization import solve

        numbers = [number for number, policy in self._policies.items() if policy.is_solved]
        return dict(solve(self._with_fillers(), numbers, method["target"], method["fixup"]))

    def _with_fillers(self) -> Program:
        """Return the program with the fillers of the policies that state their numbers."""
        params = list(self._program.params)
        for number, policy in self._policies.items():
            if policy.states_numbers:
                params[number] = replace(params[number], filler=policy.filler, stored=None)
        return replace(self._program, params=params)

    def curves(self) -> Curves | None:
        """Return what is predicted before and after; None where nothing was solved."""
        from caffestat.initialization.curves import Curves, predicted_curve

        pairs = ((n, method, std) for method, found in self._found.items() for n, std in found.items())
        solved = {n: stated(method.density(std)) for n, method, std in pairs if isinstance(std, float)}
        if not solved:
            return None
        after = self._with_fillers()
        for number, param in enumerate(after.params):
            if after.owner(number) in solved:
                kind, fields = solved[after.owner(number)]
                filler = Filler(kind, **fields)  # type: ignore[arg-type]
                after.params[number] = replace(param, filler=filler, stored=None)
        return Curves("predicted", predicted_curve(self._program), predicted_curve(after))


def policies_of(net: Net, change: Change) -> dict[int, Policy]:
    """Return the policy of each param that has one."""
    return dict(_policies(net, change))


def _policies(net: Net, change: Change) -> Iterator[tuple[int, Policy]]:
    for number, entry in enumerate(net.params):
        policy = change.policy(place_of(net, number), entry.param.filler if entry.param.written else None)
        if policy is not None:
            yield number, policy


@dataclass(frozen=True)
class Applied:
    """What methods that draw values did: the params that they filled, by number, and the curves."""

    filled: Mapping[int, Method]
    curves: Curves | None = None


def apply_methods(
    program: Program,
    policies: Mapping[int, Policy],
    values: Sequence[np.ndarray],
    seed: int,
    notes: MutableSequence[str],
) -> Applied:
    """Overwrite params by those of methods that draw values; those of a shared weight for all that share it.

    values  by number, as `Program.values` returns them; arrays that change are written to
    seed    of the matrices and of data that is not available
    notes   gets lines about layers that could not be treated

    Raises a CaffestatError when the program cannot be run.
    """
    methods = {number: policy.method for number, policy in policies.items() if policy.draws_values and policy.method}
    if not methods:
        return Applied({})
    from caffestat.initialization.curves import Curves, measured_curve, predicted_curve
    from caffestat.initialization.methods import draw
    from caffestat.program.feeds import Feeds

    feeds = Feeds(Stream(seed), np.random.default_rng(seed), notes=notes)
    is_measured = any(method.is_measured for method in methods.values())

    def curve():  # type: ignore[no-untyped-def]
        return measured_curve(program, values, feeds) if is_measured else predicted_curve(program, values)

    before = curve()
    numbers = draw(program, methods, values, feeds, seed, notes)
    after = curve()
    owned = {program.owner(number): method for number, method in methods.items()}
    rows = {program.params[number].row: method for number, method in methods.items()}
    filled = {number: owned.get(number) or rows.get(program.params[number].row) for number in numbers}
    other = next(iter(methods.values()))
    curves = Curves("measured" if is_measured else "predicted", before, after)
    return Applied({number: method or other for number, method in filled.items()}, curves)


def apply_to_net(net: Net, change: Change, values: list[np.ndarray], seed: int, notes: MutableSequence[str]) -> Applied:
    """Overwrite the params of a net as `apply_methods` does. Their fillers say so too."""
    program = from_net(net)
    applied = apply_methods(program, policies_of(net, change), values, seed, notes)
    for number, entry in enumerate(net.params):
        method = applied.filled.get(net.owner(number))
        if method is not None:
            values[number] = values[net.owner(number)].reshape(values[number].shape)
            entry.param = replace(entry.param, filler=Filler(method.name), written=True)
    return applied
