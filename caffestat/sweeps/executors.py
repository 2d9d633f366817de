"""Where trials run: here, in processes of this machine, or on a Dask cluster. Results come as trials finish."""

from __future__ import annotations

import gc
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import PurePath
from threading import Lock
from typing import Any

from caffestat.crew import Worker, WorkerDied, ended, fork_server, replied, track_resources, uninterrupted
from caffestat.errors import CaffestatError, InputError, RunError

from .bench import Bench, Settings
from .rows import Packed, Row, pack, unpack
from .trial import Trial

__all__ = ["connect", "local_cluster", "on_cluster", "on_processes", "one_by_one", "waits_for_workers"]

Result = tuple[Trial, list[Row]]
Batch = tuple[Trial, ...]

_BATCH = 16  # trials that are sent together at most, which share the overhead
_SECONDS = 0.5  # that a batch takes, when its trials are short enough
_WAITING = 4  # batches per worker of a cluster that are queued, so that memory does not grow with the number of trials
_ATTEMPTS = 10  # to reach workers that come and go
_DEATHS = 3  # of workers, after which the trial that they ran is assumed to be the cause

# what a process imports before it runs a trial, but for the runtime, which starts a thread
_IMPORTED = ("caffestat.sweeps.executors", "caffestat.autodiff.rules", "caffestat.program.lowering", "onnx")

_WORKERS_LOG = "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED"

_DIED = "the worker that ran this trial died"

_benches: dict[str, Bench] = {}  # of this process, by the sweep
_one_at_a_time = Lock()  # a compiled net holds the params of one trial


def one_by_one(settings: Settings, trials: Iterable[Trial]) -> Generator[Result]:
    """Run trials in this process."""
    bench = Bench(settings)
    for trial in trials:
        yield trial, bench.run(trial)


def _prepare(token: str, settings: Settings) -> None:
    """Make this process ready for a sweep: what is compiled stays for all of its trials."""
    from caffestat.engine.runtime import use_threads

    use_threads(1)
    _benches[token] = Bench(settings)


def _forget(token: str) -> None:
    _benches.pop(token, None)


def _run_batch(token: str, batch: Batch) -> Packed:
    with _one_at_a_time:
        return pack((trial, _benches[token].run(trial)) for trial in batch)


def _run_here(settings: Settings, batch: Batch) -> Packed:
    """Run a batch in a process that works for one sweep."""
    if not _benches:
        _prepare("here", settings)
    return _run_batch("here", batch)


def _failed(trial: Trial, text: str) -> Result:
    end = Row(0, -1, "", "", "seconds", 0.0)
    return trial, [Row(0, -1, "", "", "error", float("nan"), text), end]


class _Queue:
    """Batches that are to be run, and how often the workers that had them have died.

    Those of workers that died come last, so that a trial that kills its worker repeatedly affects no others.
    The first batches are single trials; how long trials take decides how many of the next ones are sent together.
    """

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._new = iter(trials)
        self._size = 1
        self._again: deque[Batch] = deque()
        self._deaths: dict[str, int] = {}

    def take(self) -> Batch | None:
        """Return the next batch, None when there is no more."""
        batch = tuple(itertools.islice(self._new, self._size))
        return batch or (self._again.popleft() if self._again else None)

    def learn(self, results: Sequence[Result]) -> None:
        """Record how long the trials of a batch took."""
        seconds = sum(row.value for _, rows in results for row in rows if row.kind == "seconds")
        self._size = max(min(int(_SECONDS * len(results) / max(seconds, 1e-9)), _BATCH), 1)

    def give_back(self, batch: Batch, why: str) -> list[Result]:
        """Take the batch of a worker that died; return the trials that are given up, as errors."""
        if len(batch) > 1:
            self._again.extend((trial,) for trial in batch)
            return []
        (trial,) = batch
        deaths = self._deaths[trial.id] = self._deaths.get(trial.id, 0) + 1
        if deaths >= _DEATHS:
            return [_failed(trial, f"{why}; tried {_DEATHS} times")]
        self._again.append(batch)
        return []


def on_processes(settings: Settings, trials: Iterable[Trial], workers: int) -> Generator[Result]:
    """Run trials in processes of this machine. The trials of a process that dies are run again in another one."""
    context = fork_server(_IMPORTED)
    here = _Processes(_Queue(trials), lambda: Worker(context, partial(_run_here, settings)), workers)
    with ended(here.crew):
        while here.fill():
            for worker in replied(here.running):
                results = here.take(worker)
                here.fill()  # before others look at the results
                yield from results


class _Processes:
    """Processes of this machine, and the batches that they run."""

    def __init__(self, queue: _Queue, start: Callable[[], Worker], count: int) -> None:
        self.crew: list[Worker] = []
        self.running: dict[Worker, Batch] = {}
        self._queue, self._start, self._count = queue, start, count

    def fill(self) -> bool:
        """Give batches to all; False when none is left and none is run."""
        while len(self.running) < self._count and (batch := self._queue.take()):
            worker = self._idle()
            self.running[worker] = batch
            worker.send(batch)
        return bool(self.running)

    def _idle(self) -> Worker:
        worker = next((worker for worker in self.crew if worker not in self.running), None)
        if worker is None:
            worker = self._start()
            self.crew.append(worker)
        return worker

    def take(self, worker: Worker) -> Sequence[Result]:
        """Return the results of a batch; if its process has died, those of trials that are given up."""
        batch = self.running.pop(worker)
        try:
            packed, error = worker.receive()
        except WorkerDied:
            self.crew.remove(worker)
            worker.end()
            return self._queue.give_back(batch, _DIED)
        if error:
            raise error
        results = unpack(packed)
        self._queue.learn(results)
        return results


def connect(scheduler: str, **security: Any) -> Any:
    """Return a client of a Dask scheduler. Raises InputError when dask is not installed or no scheduler answers.

    security: paths of `tls_ca_file`, `tls_client_cert`, `tls_client_key`, for a scheduler at tls://
    """
    try:
        from distributed import Client
        from distributed.security import Security
    except ImportError as error:
        raise InputError("a Dask cluster needs dask: pip install 'caffestat[sweep]'") from error
    given = {name: value for name, value in security.items() if value}
    try:
        return Client(scheduler, security=Security(**given) if given else None, timeout=10)
    except (OSError, TimeoutError, TypeError, ValueError) as error:  # TypeError: a tls:// address without certificates
        why = str(error)
    gc.collect()  # closes the half-made client: were it collected while another one starts, both would wait forever
    raise InputError(f"--scheduler {scheduler}: cannot connect: {why}")


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """Yield a client of a Dask cluster of processes on this machine, which never get Ctrl-C.

    Raises InputError when dask is not installed.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise InputError("a Dask cluster needs dask: pip install 'caffestat[sweep]'") from error
    dask.config.set({_WORKERS_LOG: "critical"})  # as they end, they would print tracebacks of what they do not finish
    track_resources()
    settings = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    any_port = {"dashboard_address": ":0"}  # the usual one may be another cluster's, of which Dask would warn
    with uninterrupted():
        client = Client(n_workers=workers, processes=True, scheduler_kwargs=any_port, **settings)
    try:
        yield client
    finally:
        with uninterrupted():
            client.close()


def waits_for_workers(client: Any, resources: dict[str, float]) -> bool:
    """Tell whether no worker of a cluster has the resources, so that trials begin when one with them joins."""
    found = client.run(lambda dask_worker: dict(dask_worker.state.total_resources), on_error="ignore")
    return not any(all(own.get(name, 0) >= amount for name, amount in resources.items()) for own in found.values())


def on_cluster(
    client: Any, settings: Settings, trials: Iterable[Trial], token: str, resources: dict[str, float] | None = None
) -> Generator[Result]:
    """Run trials on a Dask cluster. The nets are sent once to each worker, also to those that join later.

    token:     names the sweep on the workers
    resources: that a worker must have, such as {"GPU": 1}

    Raises RunError when the scheduler is lost; what was finished before has been yielded.
    """
    _prepare_workers(client, token, settings)
    queue = _Queue(trials)
    running: dict[Any, Batch] = {}
    numbers = itertools.count()

    def fill() -> None:
        window = max(sum(client.nthreads().values()), 1) * _WAITING
        while len(running) < window and (batch := queue.take()):
            key = (_task_name(batch[0]), token, next(numbers))
            future = client.submit(_run_batch, token, batch, key=key, pure=False, resources=resources)
            running[future] = batch

    try:
        yield from _collect(client, queue, running, fill)
    except CancelledError as error:
        raise _lost("its tasks were cancelled") from error
    except (OSError, TimeoutError) as error:
        raise _lost(error) from error
    finally:
        _dismiss_workers(client, token)


def _task_name(trial: Trial) -> str:
    """Return the name of a task in Dask's dashboard: the same for trials that differ in the seed alone."""
    kind = "train" if trial.iterations else "first pass"
    return f"{kind} {PurePath(trial.net).name}{trial.variant[len(trial.net) :]}"


def _lost(why: Exception | str) -> RunError:
    return RunError(f"the connection to the Dask scheduler is lost: {why}; --resume runs the unfinished trials")


def _prepare_workers(client: Any, token: str, settings: Settings) -> None:
    """Register what prepares the workers; one that dies meanwhile breaks this, so it is tried again."""
    for attempt in range(_ATTEMPTS):
        try:
            client.register_plugin(_plugin(token, settings))
            return
        except (OSError, TimeoutError) as error:
            if attempt == _ATTEMPTS - 1 or client.status != "running":
                raise _lost(error) from error
            time.sleep(1)
        except CaffestatError:
            raise
        except Exception as error:  # as Dask passes on what a worker raises
            raise RunError(f"a worker of the cluster lacks caffestat or has another version: {error}") from error


def _dismiss_workers(client: Any, token: str) -> None:
    """Remove the sweep from the workers; those that are gone need nothing."""
    with suppress(Exception):
        client.unregister_worker_plugin(_plugin_name(token))


def _plugin_name(token: str) -> str:
    return f"caffestat-{token}"


def _plugin(token: str, settings: Settings) -> Any:
    from distributed import WorkerPlugin

    class Nets(WorkerPlugin):  # type: ignore[misc,unused-ignore]  # dask may ship no types
        """Prepares every worker, also those that join later or are restarted."""

        name = _plugin_name(token)

        def setup(self, worker: Any) -> None:
            _prepare(token, settings)

        def teardown(self, worker: Any) -> None:
            _forget(token)

    return Nets()


def _collect(client: Any, queue: _Queue, running: dict[Any, Batch], fill: Callable[[], None]) -> Iterator[Result]:
    from distributed import wait as wait_for

    fill()
    while running:
        done = wait_for(list(running), return_when="FIRST_COMPLETED").done
        for future in done:
            batch = running.pop(future)
            yield from _results(future, queue, batch)
            future.release()
        if client.status != "running":
            raise OSError("the connection has ended")
        fill()


def _results(future: Any, queue: _Queue, batch: Batch) -> Sequence[Result]:
    if future.status == "finished":
        found = unpack(future.result())
        queue.learn(found)
        return found
    return queue.give_back(batch, _why(future))


def _why(future: Any) -> str:
    """Return why a task has no result: what its code raised, or that its workers died."""
    from distributed.scheduler import KilledWorker

    error = future.exception() if future.status == "error" else None
    return _DIED if error is None or isinstance(error, KilledWorker) else f"{type(error).__name__}: {error}"
