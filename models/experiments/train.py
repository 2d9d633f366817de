"""Trains the experiments and writes one page about them: `python models/experiments/train.py [ITERATIONS]`.

For each net the page shows what the first iteration measures and theory predicts, layer by layer, and the curves of the
training. It is written to page.html beside this file.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import digits

import caffestat
from caffestat.errors import CaffestatError
from caffestat.files import replace_file
from caffestat.report import Report, TopRow
from caffestat.training.events import EndTest, Iteration

HERE = Path(__file__).parent
PAGE = HERE / "page.html"
WIDTH, HEIGHT, MARGIN = 520, 200, 40

STORIES = {
    "relu_xavier": (
        "ReLU, xavier",
        "Each layer keeps about 0.7 of the amplitude, forward and backward. Nothing vanishes, nothing explodes, and "
        "the net learns as soon as it runs.",
    ),
    "relu_gaussian": (
        "ReLU, gaussian of std 0.7",
        "The same net with a badly chosen filler: n·Var(w) is 35 to 70 and more, so amplitudes grow layer by layer "
        "into the millions. ReLU is the same function at any scale and bounds nothing. The gradient is clipped, but "
        "the first updates still throw the weights far off, the units die, and the loss stays at ln 10 = 2.303: a "
        "uniform guess.",
    ),
    "sigmoid_gaussian": (
        "Sigmoid, the same gaussian",
        "Sigmoid bounds what the bad filler does: all outputs lie around 1/2 whatever comes in. The gradient pays: the "
        "slope is 1/4 at most, and it fades on its way down. The net stands still for some hundred iterations, then "
        "learns.",
    ),
    "tanh_xavier": (
        "Tanh, xavier",
        "Xavier was derived for functions of slope 1 at 0, such as tanh: signal and gradient keep their amplitude as "
        "long as tanh is nearly linear.",
    ),
}


@dataclass
class Run:
    """What one training gave: the losses by iteration, and accuracy by iteration."""

    name: str
    report: Report
    losses: list[tuple[int, float]] = field(default_factory=list)
    accuracy: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


def train(name: str, iterations: int | None) -> Run:
    """Predict and measure the first iteration of a net, then train it."""
    solver = HERE / f"{name}_solver.prototxt"
    run = Run(name, caffestat.analyze(solver, predict=True, data="real", device="cpu"))
    started = time.monotonic()
    for event in caffestat.train(solver, iterations=iterations, data="real", device="cpu"):
        if isinstance(event, Iteration):
            run.losses.append((event.iteration, event.loss))
        elif isinstance(event, EndTest):
            run.accuracy += [(event.iteration, o.value) for o in event.outputs if o.name == "accuracy"]
            print(f"{name}: iteration {event.iteration}, accuracy {run.accuracy[-1][1]:.3f}", flush=True)
    run.seconds = time.monotonic() - started
    return run


def chart(points: Sequence[tuple[int, float]], title: str, top: float | None = None) -> str:
    """Return an SVG line chart; values that are not finite are left out."""
    kept = [(x, y) for x, y in points if math.isfinite(y)]
    if not kept:
        return ""
    largest_x = max(x for x, _ in kept) or 1
    largest = top or max(y for _, y in kept) or 1.0
    across, up = (WIDTH - 2 * MARGIN) / largest_x, (HEIGHT - 2 * MARGIN) / largest
    line = " ".join(f"{MARGIN + x * across:.1f},{HEIGHT - MARGIN - min(y, largest) * up:.1f}" for x, y in kept)
    axis = f"M{MARGIN},{MARGIN} V{HEIGHT - MARGIN} H{WIDTH - MARGIN}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img"><title>{escape(title)}</title>'
        f'<path d="{axis}" fill="none" stroke="currentColor"/>'
        f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="1.5"/>'
        f'<text x="{MARGIN}" y="{MARGIN - 12}">{escape(title)}</text>'
        f'<text x="{MARGIN - 4}" y="{MARGIN + 4}" text-anchor="end">{largest:.3g}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - MARGIN + 16}" text-anchor="end">{largest_x}</text></svg>'
    )


def smoothed(points: Sequence[tuple[int, float]], window: int = 10) -> list[tuple[int, float]]:
    """Return running means, so that a curve of single batches can be read."""
    values = [y for _, y in points]
    return [(x, sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1)) for i, (x, _) in enumerate(points)]


def table(report: Report) -> str:
    """Return the first iteration of the layers with weights: |x| and |dx|, predicted and measured."""
    head = "".join(f"<th>{name}</th>" for name in ("layer", "|x| predicted", "measured", "|dx| predicted", "measured"))
    rows = "".join(cells(row_values(report, index)) for index, row in enumerate(report.layers) if row.params)
    return f"<table><tr>{head}</tr>{rows}</table>"


def row_values(report: Report, index: int) -> Iterable[object]:
    row = report.layers[index]
    top = last_writer(report, index)
    below = row.bottom_diffs[0] if row.bottom_diffs else None
    yield row.name
    yield from (top.predicted, top.mean_abs)
    yield from (below.predicted, below.mean_abs) if below else (None, None)


def last_writer(report: Report, index: int) -> TopRow:
    """Return the top as it leaves the layer and the activation that works in place on it."""
    top = report.layers[index].tops[0]
    for row in report.layers[index + 1 : index + 2]:
        top = row.tops[0] if row.tops and row.tops[0].name == top.name else top
    return top


def cells(values: Iterable[object]) -> str:
    shown = ["" if v is None else f"{v:.3g}" if isinstance(v, float) else escape(str(v)) for v in values]
    return f"<tr>{''.join(f'<td>{text}</td>' for text in shown)}</tr>"


def section(run: Run) -> str:
    title, story = STORIES[run.name]
    final = f"{run.accuracy[-1][1]:.3f}" if run.accuracy else "unknown"
    pace = f"{len(run.losses)} iterations in {run.seconds:.0f} s"
    return (
        f"<section><h2>{escape(title)}</h2><p>{escape(story)}</p><p>Accuracy at the end: {final}; {pace}.</p>"
        f"{chart(smoothed(run.losses), 'training loss, mean of 10 iterations', 4.0)}"
        f"{chart(run.accuracy, 'test accuracy', 1.0)}<h3>The first iteration</h3>{table(run.report)}</section>"
    )


def page(runs: Sequence[Run]) -> str:
    """Return the page: the comparison first, then each net."""
    columns = ("net", "loss at the start", "loss at the end", "accuracy at the end")
    ends = [(run, run.accuracy[-1][1] if run.accuracy else None) for run in runs]
    rows = "".join(cells([STORIES[run.name][0], run.losses[0][1], run.losses[-1][1], end]) for run, end in ends)
    head = "".join(f"<th>{name}</th>" for name in columns)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>One net, four beginnings</title>'
        "<style>body{font:16px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "td,th{padding:.1rem .8rem;text-align:right}td:first-child,th:first-child{text-align:left}"
        "svg text{font-size:12px;fill:currentColor}</style>"
        "<h1>One net, four beginnings</h1><p>Eight 3x3 convolutions and two inner products learn digits. Only the "
        "nonlinearity and the filler of the weights differ; data, order, seed and solver are the same.</p>"
        f"<table><tr>{head}</tr>{rows}</table>{''.join(map(section, runs))}</html>\n"
    )


def main(arguments: list[str]) -> None:
    """Train all nets and write the page."""
    iterations = int(arguments[0]) if arguments else None
    try:
        digits.make()
        runs = [train(name, iterations) for name in STORIES]
    except CaffestatError as error:
        sys.exit(f"error: {error}")
    replace_file(PAGE, page(runs).encode())
    print(f"{PAGE} is written")


if __name__ == "__main__":
    main(sys.argv[1:])
