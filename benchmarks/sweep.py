"""First-pass trials per second: here, in processes, and on a local Dask cluster.

    python benchmarks/sweep.py [--trials 400] [--net models/lenet.prototxt]
    python benchmarks/sweep.py --saturation [--seconds 0.03] [--workers 1,4,16,64]
    python benchmarks/sweep.py --memory

Prints trials per second of each, the ratio to running them here, and what a trial costs beside its work: the time of a
trial of a net that does next to nothing. Needs the extra `sweep`.

--saturation  a real scheduler and a real client, each a process, and more and more simulated workers, all in one more
              process: a trial sleeps, then returns the rows of a real one. Prints the processor time of each process.
--memory      what the client of 100 and of 100,000 such trials takes, results stored; it runs them itself
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import caffestat
from caffestat.sweeps import Sweep, Trial, executors
from caffestat.sweeps.bench import Bench, Settings
from caffestat.sweeps.executors import connect, local_cluster
from caffestat.sweeps.rows import Packed, Row, pack
from caffestat.sweeps.spec import settings_of
from caffestat.sweeps.summary import Summary

NOTHING = """
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 1 dim: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 } }
"""
MEASURED = 8.0  # seconds, for each number of workers


def rate(net: str, trials: int, **how: object) -> float:
    """Return trials per second, what is compiled first included."""
    started = time.perf_counter()
    summary = caffestat.sweep(net, seeds=range(trials), **how)  # type: ignore[arg-type]
    assert summary.trials == trials and not summary.failed
    return trials / (time.perf_counter() - started)


def simulated(net: str, seconds: float) -> list[Row]:
    """Return the rows of a trial, with another time."""
    rows = Bench(settings_of(Sweep([net], batch=2))).run(Trial(net, 1))
    return [replace(row, value=seconds) if row.kind == "seconds" else row for row in rows]


def simulate(net: str, address: str, workers: int, seconds: float) -> None:
    """Be so many workers, whose trials sleep, until killed."""
    from distributed import Worker

    rows = simulated(net, seconds)

    def sleep(token: str, batch: tuple[Trial, ...]) -> Packed:
        time.sleep(seconds * len(batch))
        return pack((trial, rows) for trial in batch)

    executors._run_batch = sleep  # tasks name the function that they run
    executors._prepare = lambda token, settings: None

    async def work() -> None:
        found = [Worker(address, nthreads=1, name=str(n), dashboard=False) for n in range(workers)]
        await asyncio.gather(*found)
        await asyncio.gather(*(worker.finished() for worker in found))

    asyncio.run(work())


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    found = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    try:
        yield found
    finally:
        found.kill()
        found.wait()


def address_in(path: Path) -> str:
    """Return the address that a scheduler writes once it is there."""
    while not path.exists() or not path.read_text().rstrip().endswith("}"):
        time.sleep(0.1)
    return str(json.loads(path.read_text())["address"])


def saturation(net: str, seconds: float, counts: Sequence[int]) -> None:
    """Print how many trials per second simulated workers make, against what so many would make by themselves."""
    rows = simulated(net, seconds)
    print(f"{len(rows)} rows and {1e3 * seconds:g} ms per trial; processor time in cores, and in ms per trial")
    print("workers  trials/s  of what they could  machine  scheduler         client            workers")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scheduler.json"
            start = ("--no-dashboard", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
            with process("-m", "distributed.cli.dask_scheduler", *start) as scheduler:
                address = address_in(file)
                options = ("--simulate", address, "--workers", str(count), "--seconds", str(seconds), "--net", net)
                with process(__file__, *options) as workers, connect(address) as client:
                    client.wait_for_workers(count, timeout=120)
                    print(_measured(client, net, seconds, count, scheduler.pid, workers.pid), flush=True)


def _measured(client: Any, net: str, seconds: float, count: int, scheduler: int, workers: int) -> str:
    import psutil  # type: ignore[import-untyped,unused-ignore]

    found = [psutil.Process(scheduler), psutil.Process(), psutil.Process(workers)]
    summary = Summary(seeds=None)
    trials = (Trial(net, seed) for seed in itertools.count())
    results = executors.on_cluster(client, settings_of(Sweep([net], batch=2)), trials, f"n{count}")
    before: list[float] = []
    started = 0.0
    for trial, rows in results:
        summary.add(trial, rows)
        if not before and summary.trials > 32 * count:  # the batches have their size
            before, started, first = [sum(p.cpu_times()[:2]) for p in found], time.perf_counter(), summary.trials
            psutil.cpu_percent()
        elif before and time.perf_counter() - started > MEASURED:
            break
    passed, done = time.perf_counter() - started, summary.trials - first
    used = [sum(p.cpu_times()[:2]) - then for p, then in zip(found, before, strict=True)]
    results.close()
    parts = "".join(f"{cpu / passed:6.2f} {1e3 * cpu / done:6.3f} ms  " for cpu in used)
    share = f"{done / passed * seconds / count:18.0%}" if seconds else f"{'':>18}"
    return f"{count:7d} {done / passed:9.0f} {share} {psutil.cpu_percent():7.0f}%  {parts}"


def memory(net: str) -> None:
    """Print the peak memory of clients of 100 and of 100,000 trials."""
    for variants, seeds in ((1, 100), (100, 1), (100, 1000), (1000, 100)):
        subprocess.run([sys.executable, __file__, "--client", f"{variants},{seeds}", "--net", net], check=True)


def client_of(net: str, variants: int, seeds: int) -> None:
    """Run trials that only return rows, store them, and tell what this process took."""
    rows = simulated(net, 0.0)

    def run(settings: Settings, trials: Iterable[Trial]) -> Generator[executors.Result]:
        for trial in trials:
            yield trial, [replace(row, value=row.value * (1 + trial.seed % 7 / 10)) for row in rows]

    executors.one_by_one = run
    fillers = [f"gaussian:std={n}" for n in range(1, variants + 1)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = caffestat.sweep(net, seeds=range(seeds), fillers=fillers, output=folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = 1e3 * (time.perf_counter() - started) / summary.trials
    print(f"{summary.trials:7d} trials of {variants:4d} variants: {peak:.0f} MB, {each:.2f} ms each", flush=True)


def throughput(net: str, trials: int) -> None:
    """Print trials per second here, in processes and on Dask, and what a trial costs beside its work."""
    here = rate(net, trials)
    print(f"here                   {here:7.1f} trials/s")
    found = rate(net, trials, workers=2)
    print(f"2 processes            {found:7.1f} trials/s  {found / here:.2f}", flush=True)
    for workers in (1, 2):
        with local_cluster(workers) as client:
            found = rate(net, trials, client=client)
        print(f"Dask, {workers} worker(s)      {found:7.1f} trials/s  {found / here:.2f}", flush=True)
    overhead(5 * trials)


def overhead(trials: int) -> None:
    """Print what a trial costs beside its work: by those of a net that does next to nothing, here and on Dask."""
    with tempfile.TemporaryDirectory() as folder, local_cluster(1) as client:
        net = Path(folder) / "nothing.prototxt"
        net.write_text(NOTHING)
        for how in ({}, {"client": client}):  # what is imported and compiled first
            rate(str(net), 50, **how)
        alone, far = rate(str(net), trials), rate(str(net), trials, client=client)
    here, there = 1e3 / alone, 1e3 / far
    print(f"a net of one product   {here:.2f} ms per trial here, {there:.2f} on Dask: {there - here:+.2f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--net", default="models/lenet.prototxt")
    parser.add_argument("--saturation", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.03)
    parser.add_argument("--workers", default="1,4,16,64")
    parser.add_argument("--simulate", help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    given = parser.parse_args()
    counts = list(map(int, given.workers.split(",")))
    if given.simulate:
        simulate(given.net, given.simulate, counts[0], given.seconds)
    elif given.client:
        client_of(given.net, *map(int, given.client.split(",")))
    elif given.saturation:
        saturation(given.net, given.seconds, counts)
    elif given.memory:
        memory(given.net)
    else:
        throughput(given.net, given.trials)


if __name__ == "__main__":
    main()
