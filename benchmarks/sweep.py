"""First-pass trials per second: here, in processes, and on a local Dask cluster.

    python benchmarks/sweep.py [--trials 400] [--net models/lenet.prototxt]
    python benchmarks/sweep.py --saturation [--seconds 0.03]

Prints trials per second of each, the ratio to running them here, and what a trial costs beside its work: the time of a
trial of a net that does next to nothing. Needs the extra `sweep`.

--saturation simulates more and more workers: threads that sleep as long as a trial takes, then return the rows of a
real one. Scheduler, workers and client share one process, so that real ones saturate later.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import caffestat
from caffestat.sweeps import Sweep, Trial, executors
from caffestat.sweeps.bench import Bench
from caffestat.sweeps.executors import local_cluster
from caffestat.sweeps.spec import settings_of
from caffestat.sweeps.summary import Summary

NOTHING = """
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 1 dim: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 } }
"""


def rate(net: str, trials: int, **how: object) -> float:
    """Return trials per second, what is compiled first included."""
    started = time.perf_counter()
    summary = caffestat.sweep(net, seeds=range(trials), **how)  # type: ignore[arg-type]
    assert summary.trials == trials
    return trials / (time.perf_counter() - started)


def saturation(net: str, seconds: float) -> None:
    """Print how many trials per second simulated workers make, against what so many would make by themselves."""
    from distributed import Client, LocalCluster

    settings = settings_of(Sweep([net], batch=2))
    rows = Bench(settings).run(Trial(net, 1))

    def sleep(token: str, batch: tuple[Trial, ...]) -> list[executors.Result]:
        time.sleep(seconds * len(batch))
        return [(trial, rows) for trial in batch]

    executors._run_batch = sleep
    executors._prepare = lambda token, settings: None
    print(f"{len(rows)} rows and {1e3 * seconds:g} ms per trial")
    print("workers  trials/s  of what they could")
    for workers in (1, 4, 16, 64, 128, 256):
        seeds = range(max(round(8 * workers / seconds / 16) * 16, 256))
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            summary, started = Summary(), time.perf_counter()
            for trial, found in executors.on_cluster(client, settings, (Trial(net, s) for s in seeds), str(workers)):
                summary.add(trial, found)
            found_rate = summary.trials / (time.perf_counter() - started)
        print(f"{workers:7d} {found_rate:9.0f} {found_rate * seconds / workers:10.0%}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--net", default="models/lenet.prototxt")
    parser.add_argument("--saturation", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.03)
    given = parser.parse_args()
    if given.saturation:
        saturation(given.net, given.seconds)
        return
    here = rate(given.net, given.trials)
    print(f"here                   {here:7.1f} trials/s")
    for workers in (1, 2):
        found = rate(given.net, given.trials, workers=workers) if workers > 1 else here
        print(f"{workers} process(es)          {found:7.1f} trials/s  {found / here:.2f}")
    for workers in (1, 2):
        with local_cluster(workers) as client:
            found = rate(given.net, given.trials, client=client)
        print(f"Dask, {workers} worker(s)      {found:7.1f} trials/s  {found / here:.2f}")
    with tempfile.TemporaryDirectory() as folder, local_cluster(1) as client:
        net = Path(folder) / "nothing.prototxt"
        net.write_text(NOTHING)
        alone, far = rate(str(net), given.trials), rate(str(net), given.trials, client=client)
    print(f"overhead per trial     {1e3 * (1 / far - 1 / alone):7.2f} ms on Dask")


if __name__ == "__main__":
    main()
