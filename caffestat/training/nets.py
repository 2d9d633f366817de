"""The nets of a solver, and what the test nets take from the train net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from caffestat.net import TEST, TRAIN, Net, NetSource, Node, Solver, State
from caffestat.schema import NetState

__all__ = ["parted", "shared_layers", "solver_nets"]


def solver_nets(
    solver: Solver, level: int | None = None, stages: Sequence[str] = ()
) -> Iterator[tuple[NetSource, State]]:
    """Yield the train net and the test nets with the states that they are built in.

    Each state begins with the phase, then come the net's own and the solver's. `caffe train` adds its flags to
    train_state alone, a stage of no name when it is given none. Raises what reading the files of test nets raises.
    Source: caffe.cpp, train; solver.cpp, InitTrainNet and InitTestNets.
    """
    message = solver.message
    flags = NetState(level=level or 0, stage=stages or [""])
    yield solver.net, _merged(TRAIN, solver.net.header.state, message.train_state, flags)
    for number, source in enumerate(solver.test_nets()):
        yield source, _merged(TEST, source.header.state, *message.test_state[number : number + 1])


def _merged(phase: int, *written: Any) -> State:
    state = NetState(phase=phase)
    for other in written:
        state.MergeFrom(other)
    return State(state.phase, state.level, tuple(state.stage))


def parted(train: Net, test: Net) -> Net:
    """Return the test net without the sharing of params that ends when its layers take those of the train net.

    A layer then keeps its own memory, or takes other one than the layer that it shares with.
    """
    taken: dict[int, int] = {}
    for node, target in shared_layers(train, test):
        taken.update(zip(target.params, map(train.owner, node.params), strict=True))
    ends = [taken.get(number) != taken.get(test.owner(number)) for number in range(len(test.params))]
    if not any(ends):
        return test
    params = [replace(param, owner=None) if end else param for param, end in zip(test.params, ends, strict=True)]
    return replace(test, params=params)


def shared_layers(train: Net, test: Net) -> Iterator[tuple[Node, Node]]:
    """Yield the layers of the train net whose params a test net's layer of the same name uses, and that layer.

    Raises NetError when the shapes of their params differ. (net.cpp, ShareTrainedLayersWith)
    """
    by_name = {node.name: node for node in reversed(test.nodes)}
    for node in train.nodes:
        target = by_name.get(node.name)
        if target is None or not target.is_known:
            continue
        shapes = [train.params[number].param.shape for number in node.params]
        wanted = [test.params[number].param.shape for number in target.params]
        if shapes != wanted:
            raise target.layer.error(
                f"has params of shapes {wanted}; the train net's layer of this name at {node.place} has {shapes}, "
                "and the test net takes its params from there: give one of them another name"
            )
        yield node, target
