"""`sweep`: many variants of nets, over seeds, fillers, fields, widths and learning rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import InputError
from caffestat.options import DEFAULT_SEED, by_name, whole_number

if TYPE_CHECKING:
    from caffestat.sweeps import Trial
    from caffestat.sweeps.executors import Result
    from caffestat.sweeps.store import Store
    from caffestat.sweeps.summary import Summary

__all__ = ["sweep"]

_STORED = 256  # trials that are written together, at most
_SECONDS = 5.0  # after which results are stored, once the next one comes


def sweep(
    nets: str | Path | Sequence[str | Path],
    *,
    seeds: Iterable[int] = (DEFAULT_SEED,),
    fillers: Sequence[str] = ("",),
    changes: Mapping[str, Sequence[Any]] | None = None,
    widths: Sequence[float] = (1.0,),
    rates: Sequence[float | None] = (None,),
    solvers: Sequence[str] = ("",),
    iterations: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    data: str = "auto",
    device: str = "cpu",
    dialect: str | None = None,
    workers: int = 1,
    client: Any = None,
    resources: Mapping[str, float] | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    predict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Run every combination of the given values, and return a summary of the trials.

    nets:       files of nets or solvers
    seeds:      values of Caffe's random_seed
    fillers:    of all weights: "xavier", "gaussian:std=0.01", …, methods as "lsuv" and "autoinit"; "" for those of the
                file
    changes:    values by LAYERS.FIELD, such as {"conv*.weight_filler.std": [0.01, 0.02]}
    widths:     times num_output of the hidden layers
    rates:      base_lr; solvers: types; both instead of the solver file's
    iterations: of training, each measured; 0 for the first pass alone
    shapes, batch: of data blobs
    data:       source of data layers: "real" (files or fail), "synthetic" (N(0, 1) noise), or "auto": files for
                the nets that have them all, else noise
    device:     one of "auto", "cpu", "cuda" and "cuda:N", which each process chooses for itself
    dialect:    the fork whose layer types to use where forks define a type differently ("ssd", …)
    workers:    processes on this machine; 1 runs the trials in this process
    client:     a `distributed.Client`: the trials run on its cluster
    resources:  that each worker of the cluster must have, such as {"GPU": 1}
    output:     a folder for the results, a Parquet data set that grows as they come
    resume:     resume a folder with results: finished trials are not run again
    predict:    predict each variant's first pass, in the summary's `bands`
    progress:   called with the numbers of finished and of all trials

    A trial that fails is a row with its error; the summary says how many failed, and has the first errors. Raises a
    CaffestatError when a net cannot be read, an option cannot be used, or the cluster is lost.
    """
    from caffestat.sweeps import Sweep
    from caffestat.sweeps.spec import settings_of
    from caffestat.sweeps.store import stored

    _check_places(workers, client, resources, output, resume)
    names = [nets] if isinstance(nets, (str, Path)) else list(nets)
    changed = by_name("changes", changes)
    plan = Sweep(
        nets=list(map(str, names)),
        seeds=_values("seeds", seeds),
        fillers=_values("fillers", fillers),
        changes={path: tuple(map(str, _values(f"changes: {path}", given))) for path, given in changed.items()},
        widths=_values("widths", widths),
        rates=_values("rates", rates),
        solvers=_values("solvers", solvers),
        iterations=iterations,
        shapes=shapes or {},
        batch=batch,
    )
    settings = settings_of(plan, device, data, dialect)
    with stored(Path(output), resume) if output is not None else nullcontext() as store:
        summary = _summary(store, len(plan.seeds))
        done = store.finished() if store else ()
        left = (trial for trial in plan.trials() if not (done and trial.id in done))
        with _kept(store) as keep, closing(_run(settings, left, workers, client, resources)) as results:
            for trial, rows in results:
                keep((trial, rows))
                summary.add(trial, rows)
                if progress:
                    progress(summary.trials, plan.count)
    if predict:
        from caffestat.sweeps.predicted import bands

        summary.bands = bands(settings, summary.variants())
    return summary


def _values(option: str, given: Any) -> tuple[Any, ...]:
    """Return one text or several values as a tuple. Raises InputError for anything else, such as a number alone."""
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):
        raise InputError(f"{option}: expected a sequence of values, found {given!r:.60}")
    return tuple(given)


def _check_places(
    workers: int, client: Any, resources: Mapping[str, float] | None, output: str | Path | None, resume: bool
) -> None:
    """Raise InputError for places to run at, or to store results in, that do not go together."""
    whole_number("workers", workers)
    if resume and output is None:
        raise InputError("resume: needs the folder of results: -o FOLDER (output)")
    if resources and client is None:
        raise InputError(
            "resource: applies only to workers of a Dask cluster: --scheduler ADDRESS or --local-cluster N"
        )


def _summary(store: Store | None, seeds: int) -> Summary:
    """Return the summary of the trials that a folder has."""
    from caffestat.sweeps.summary import Summary

    summary = Summary(seeds=seeds)
    for trial, rows in store.results() if store else ():
        summary.add(trial, rows)
    return summary


@contextmanager
def _kept(store: Store | None) -> Iterator[Callable[[Result], None]]:
    """Give what takes results. Those of a few seconds are stored together, and the last ones also after Ctrl-C."""
    from caffestat.crew import uninterrupted

    chunk: list[Result] = []
    started = time.monotonic()

    def write() -> None:
        nonlocal started
        with uninterrupted():
            if store:
                store.append(chunk)
            chunk.clear()
        started = time.monotonic()

    def keep(result: Result) -> None:
        chunk.append(result)
        if len(chunk) >= _STORED or time.monotonic() - started > _SECONDS:
            write()

    try:
        yield keep
    finally:
        write()


def _run(
    settings: Any, trials: Iterator[Trial], workers: int, client: Any, resources: Mapping[str, float] | None
) -> Generator[Result]:
    import uuid

    from caffestat.sweeps import executors

    if client is not None:
        return executors.on_cluster(client, settings, trials, uuid.uuid4().hex[:12], dict(resources or {}) or None)
    if workers > 1:
        return executors.on_processes(settings, trials, workers)
    return executors.one_by_one(settings, trials)
