"""Zhang et al. 2019: a step changes what a residual net computes by as much, however many branches it has."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from caffestat.fillers import Stream
from caffestat.initialization import solve

from .nets import block_net, learn, program_of, weights

DEPTHS = (2, 6, 18)
STEPS, RATE = 8, 0.002


@cache
def losses(blocks: int, fixup: bool, seed: int = 1) -> tuple[float, ...]:
    """Return the loss over a few steps on one batch; without fixup the std of every layer is that of He et al."""
    program = program_of(block_net(blocks))
    random, values = np.random.default_rng(seed), [v.copy() for v in program.values(Stream(seed), [])]
    solved = solve(program, weights(program), fixup=True) if fixup else {}
    for number in weights(program):
        std = solved.get(number, (2 / np.prod(values[number].shape[1:])) ** 0.5)
        assert isinstance(std, float)
        values[number][...] = std * random.standard_normal(values[number].shape)
    batch = {
        "x": random.standard_normal((16, 5, 9, 7)).astype(np.float32),
        "label": random.integers(0, 11, 16).astype(np.float32),
    }
    return tuple(learn(program, values, [batch], RATE, STEPS))


def test_the_loss_falls_by_as_much_at_any_depth() -> None:
    """The first step moves the classifier only, the second the last layers of all branches, the third all layers."""
    first, *deeper = (np.array(losses(blocks, True)) for blocks in DEPTHS)
    fallen = first[0] - first[1:]
    assert np.all(fallen > 0.2) and fallen[-1] > 3 * fallen[0]
    for other in deeper:
        assert other[0] == pytest.approx(first[0], rel=1e-5)  # log(classes): all logits are 0
        assert other[0] - other[1:] == pytest.approx(fallen, rel=0.15)


def test_with_he_s_std_it_depends_on_the_depth() -> None:
    shallow, deep = losses(DEPTHS[0], False), losses(DEPTHS[-1], False)
    assert not abs(deep[1] - deep[0]) < 100 * abs(shallow[1] - shallow[0])
