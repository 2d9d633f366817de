"""Steps over time, one after the other: an ONNX Scan whose body a function emits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["emit_scan"]

Step = Callable[["Graph", Sequence[str], Sequence[str]], tuple[Sequence[str], Sequence[str]]]


def emit_scan(
    g: Graph,
    step: Step,
    states: Sequence[str],
    scanned: Sequence[str],
    reads: Sequence[str] = (),
    reverse: bool = False,
) -> list[str]:
    """Run `step(graph, states, slices)` over the first axis of what is scanned, backwards for `reverse`.

    It returns the new states and its results. reads: values from outside that it reads.
    Returns the last states, then the results of all steps, stacked along a first axis.
    """
    from caffestat.graph.bodies import close_body, with_captured

    inner = g.inner()
    inner.specs |= {name: g.specs[name] for name in reads}
    old = [inner.input("state", g.shape(state), g.specs[state].dtype) for state in states]
    slices = [inner.input("slice", g.shape(value)[1:], g.specs[value].dtype) for value in scanned]
    new, results = step(inner, old, slices)
    inner.infer()
    shapes = [(g.shape(scanned[0])[0], *inner.shape(result)) for result in results]
    body = close_body(inner, g, [*old, *slices], [*new, *results], "step")
    way = int(reverse)
    how: dict[str, Any] = {"scan_input_directions": [way] * len(scanned), "num_scan_inputs": len(scanned)}
    how["scan_output_directions"] = [way] * len(results)
    found = g.emit_many("Scan", *states, *scanned, count=len(new) + len(results), body=body, **how)
    g.nodes[-1] = with_captured(g.nodes[-1])
    for value, shape in zip(found, [*(g.shape(state) for state in states), *shapes], strict=True):
        g.declare(value, shape)
    return found
