"""Checks of a solver's own fields. Their facts are those of `caffestat.training`, which refuses with the same words."""

from __future__ import annotations

from collections.abc import Iterator

from caffestat.training import doubts, faults

from ..context import Context
from ..issue import SEE_MESSAGE
from ..registry import Found, Needs, check


@check("CS030", "refused-solver", "error", Needs.TEXT)
def refused_solver(context: Context) -> Iterator[Found]:
    """A solver that Caffe refuses, or that cannot train.

    An unknown or missing `lr_policy`, a field that the policy needs and lacks or cannot take, an unknown `type`,
    momentum with AdaGrad or RMSProp, test nets and `test_iter` of different number, `iter_size: 0`, a negative rate, a
    `test_net` or a file of `weights` that does not exist (`--weights` replaces those of the solver), a
    `snapshot_prefix` in a folder that cannot be written, `snapshot_format: HDF5` for layers with `/` in their names.
    Caffe stops at some of these at the start, at others after the first iteration or at the first snapshot.
    `caffestat train` and `debug` refuse them before anything runs.

    Example: `lr_policy: "step"` without `stepsize`.

    Fix: as the message says. Where another run makes the `weights` first: `# caffestat: ignore[CS030] from stage 1`.
    """
    found = (*faults(context.solver), *context.missing_weights) if context.solver else ()
    for fault in found:
        yield Found(fault.place, "", fault.message, SEE_MESSAGE)


@check("CS031", "doubtful-solver", "warning", Needs.TEXT)
def doubtful_solver(context: Context) -> Iterator[Found]:
    """A solver that Caffe accepts without a warning, but that is probably not intended.

    No `base_lr` (the default is 0) or no `max_iter` (the default is 0 as well), a momentum of 1 or more, stepvalues
    that do not ascend, fields that the policy or the solver's type ignores.

    Example: `lr_policy: "multistep"` with a `stepsize`.

    Fix: as the message says.
    """
    for doubt in doubts(context.solver) if context.solver else ():
        yield Found(doubt.place, "", doubt.message, SEE_MESSAGE)
