"""A sweep on Dask whose workers, scheduler and client are killed at random moments: no trial lost, none counted twice.

    python benchmarks/kill_sweep.py [--trials 2000] [--kills 20] [--seed 0]

Needs the extra `sweep`, and /proc. Exits with 1 when the results are not exactly one per trial.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from caffestat.sweeps.store import Store

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s"}
WORKERS = 2
PAUSE = (0.5, 3.0)  # seconds between two kills
VICTIMS = ("worker", "worker", "worker", "client", "scheduler")


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *command], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def children(parents: set[int]) -> list[int]:
    """Return the workers themselves, which the processes that watch them have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            is_worker = b"spawn_main" in (path.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent in parents and is_worker:
            found.append(int(path.parent.name))
    return found


class Cluster:
    """A scheduler, its workers and a client, which are started anew when they are gone."""

    def __init__(self, trials: int, folder: Path) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        net = str(ROOT / "models" / "lenet.prototxt")
        options = ("--seeds", f"0:{trials // 2}", "--filler", "xavier,msra", "--batch", "2", "--no-predict")
        self._sweep = ("caffestat", "sweep", net, *options, "--scheduler", self.address, "-o", str(folder), "--resume")
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.client: subprocess.Popen[bytes] | None = None
        self.nannies: list[subprocess.Popen[bytes]] = []

    def keep_up(self) -> None:
        if self.scheduler is None or self.scheduler.poll() is not None:
            port = self.address.rsplit(":", 1)[1]
            self.scheduler = start(
                "distributed.cli.dask_scheduler", "--no-dashboard", "--host", "127.0.0.1", "--port", port
            )
        self.nannies = [nanny for nanny in self.nannies if nanny.poll() is None]
        while len(self.nannies) < WORKERS:
            options = ("--nthreads", "1", "--nworkers", "1", "--host", "127.0.0.1", "--death-timeout", "20")
            self.nannies.append(start("distributed.cli.dask_worker", "--no-dashboard", self.address, *options))
        if self.client is None or self.client.poll() is not None:
            self.client = start(*self._sweep)

    def kill(self, kind: str) -> bool:
        """Kill a process of a kind; return whether there was one."""
        if kind == "worker":
            pids = children({nanny.pid for nanny in self.nannies})
        else:
            process = self.client if kind == "client" else self.scheduler
            pids = [process.pid] if process and process.poll() is None else []
        for pid in random.sample(pids, min(len(pids), 1)):
            os.kill(pid, signal.SIGKILL)
        return bool(pids)

    @property
    def is_done(self) -> bool:
        return self.client is not None and self.client.poll() == 0

    def stop(self) -> None:
        for process in (self.client, *self.nannies, self.scheduler):
            if process and process.poll() is None:
                process.terminate()
                process.wait(timeout=60)


def main() -> int:
    """Run, kill, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    started, killed = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "results"
        cluster = Cluster(given.trials, folder)
        try:
            cluster.keep_up()
            while not cluster.is_done:
                time.sleep(random.uniform(*PAUSE))
                kind = random.choice(VICTIMS)
                if killed.total() < given.kills and any(folder.glob("part-*.parquet")) and cluster.kill(kind):
                    killed[kind] += 1
                if not cluster.is_done:
                    cluster.keep_up()
        finally:
            cluster.stop()
        found = Counter(trial.id for trial, _ in Store(folder, resume=True).results())
    twice = sum(1 for count in found.values() if count > 1)
    print(f"{killed.total()} kills ({', '.join(f'{count} of a {kind}' for kind, count in killed.items())})")
    print(f"{len(found)} of {given.trials} trials, {twice} of them twice, in {time.monotonic() - started:.0f} s")
    return 0 if len(found) == given.trials and not twice and killed.total() == given.kills else 1


if __name__ == "__main__":
    sys.exit(main())
