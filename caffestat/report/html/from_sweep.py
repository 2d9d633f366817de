"""The page of a sweep: the numbers of the variants over depth, with their spread over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from caffestat.sweeps import Trial
from caffestat.sweeps.summary import Spread, Summary

from ..scales import TITLES
from .charts import Chart, Line, embed
from .from_history import bare_page
from .page import require_extra, write

__all__ = ["render_sweep"]

_STYLES = ("measured", "predicted", "third", "fourth", "limit")
_LEGEND = 16  # letters
_Key = tuple[int, str, str]


def render_sweep(summary: Summary, title: str) -> str:
    """Return a sweep as one HTML file: of the best variants the mean over the seeds, of a single one its spread too.

    Raises InputError where the extra `caffestat[report]` is not installed.
    """
    require_extra()
    order = [choice.variant for choice in summary.choices()]
    page = bare_page() | {"title": title, "about": list(_about(summary))}
    return write(page, embed(list(_charts(summary, order[: len(_STYLES)])), [], []))


def _about(summary: Summary) -> Iterator[str]:
    yield f"{summary.trials} trials, {summary.seconds:.1f} s of work, {len(summary.errors)} failed"
    choices = summary.choices()
    if len(choices) > len(_STYLES):
        yield f"the charts show the best {len(_STYLES)} of {len(choices)} variants"
    for number, choice in enumerate(choices, 1):
        yield f"{number}. {choice.variant.variant}: {choice.reason}"


def _charts(summary: Summary, variants: list[Trial]) -> Iterator[Chart]:
    """Yield a chart for each kind of number, of the last iteration."""
    for kind, title in TITLES.items():
        found = [_numbers(summary, variant, kind) for variant in variants]
        keys = sorted({key for numbers in found for key in numbers})
        lines = [
            Line(name, _column(numbers, keys, lambda spread: spread.mean), style, range(len(keys)))
            for name, numbers, style in zip(_short([v.variant for v in variants]), found, _STYLES, strict=False)
        ]
        if len(found) == 1:
            lines += _band(found[0], keys)
        yield Chart(title, lines, x_title=title, names=[f"{layer}/{name}" for _, layer, name in keys])


def _short(names: list[str]) -> list[str]:
    """Return names that fit into a legend: the place in the order, and what a name does not share with all others."""
    if len(names) == 1:
        return ["mean"]
    parts = [name.split(" · ") for name in names]
    shared = set.intersection(*map(set, parts))
    own = (" · ".join(part for part in found if part not in shared) for found in parts)
    return [f"{i} {name[:_LEGEND]}".strip() for i, name in enumerate(own, 1)]


def _numbers(summary: Summary, variant: Trial, kind: str) -> dict[_Key, Spread]:
    found = summary.of(variant).items()
    return {(value.depth, value.layer, value.name): spread for value, spread in found if value.kind == kind}


def _band(numbers: dict[_Key, Spread], keys: list[_Key]) -> list[Line]:
    """Return the smallest and the largest value over the seeds."""
    least = _column(numbers, keys, lambda spread: spread.least)
    most = _column(numbers, keys, lambda spread: spread.most)
    return [Line("least", least, "third", range(len(keys))), Line("most", most, "third", range(len(keys)))]


def _column(numbers: dict[_Key, Spread], keys: list[_Key], read: Callable[[Spread], float]) -> list[float | None]:
    """Return one number for each key; None where a variant lacks it or no seed gave a finite one."""
    return [read(numbers[key]) if key in numbers and numbers[key].count else None for key in keys]
