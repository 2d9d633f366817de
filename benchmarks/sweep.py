"""First-pass trials per second: here, in processes, and on a local Dask cluster.

    python benchmarks/sweep.py [--trials 400] [--net models/lenet.prototxt]

Prints trials per second of each, the ratio to running them here, and what a trial costs beside its work: the time of a
trial of a net that does next to nothing. Needs the extra `sweep`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import caffestat
from caffestat.sweeps.executors import local_cluster

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--net", default="models/lenet.prototxt")
    given = parser.parse_args()
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
