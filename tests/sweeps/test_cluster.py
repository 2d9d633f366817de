"""Sweeps on a real Dask scheduler with real workers, all of them processes, which are killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

import caffestat
from caffestat.cli import main
from caffestat.errors import InputError, RunError
from caffestat.sweeps.executors import connect
from caffestat.sweeps.store import Store

from .nets import NET

pytest.importorskip("pyarrow")
if find_spec("distributed") is None:  # its import takes a second, which only the process that runs these tests needs
    pytest.skip("distributed is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}


TLS = ("tls-ca-file", "tls-client-cert", "tls-client-key")  # the options of a client


def start(module: str, *arguments: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.{module}", "--no-dashboard", *arguments]
    with open(log or os.devnull, "wb") as file:
        return subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL, env=ENVIRONMENT)


def started_scheduler(log: Path, *arguments: str) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a scheduler, and return its address too."""
    process = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", *arguments, log=log)
    while not (found := re.search(r"Scheduler at: *(\w+://[\d.]+:\d+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    return found[1], process


@contextmanager
def a_scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    address, process = started_scheduler(folder / "scheduler.log")
    yield address, process
    process.kill()
    process.wait()


@pytest.fixture
def own_scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler of one test, and its process."""
    with a_scheduler(tmp_path) as started:
        yield started


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler that several tests share, for it takes a second to start."""
    with a_scheduler(tmp_path_factory.mktemp("scheduler")) as (address, _):
        yield address


@pytest.fixture(scope="module")
def plain_worker(scheduler: str) -> Iterator[None]:
    """A worker of the shared scheduler that several tests share."""
    found = workers(scheduler, 1, "--no-nanny", "--name", "plain")
    yield
    stop(found)


def workers(address: str, count: int, *more: str) -> list[subprocess.Popen[bytes]]:
    """Start workers that a nanny starts anew when they die: with --no-nanny, which saves a process each, none does."""
    arguments = (address, "--nthreads", "1", "--nworkers", "1", "--host", "127.0.0.1", "--death-timeout", "20")
    return [start("dask_worker", *arguments, *more) for _ in range(count)]


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


def grandchildren(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Return the processes of the workers themselves, which the nannies have started."""
    nannies, found = {process.pid for process in processes}, []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent in nannies and b"spawn_main" in command:
            found.append(int(path.parent.name))
    return found


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tiny.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "tiny.prototxt"


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


@needs_proc
def test_workers_that_die_lose_no_trial(net: str, own_scheduler: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, _ = own_scheduler
    found = workers(address, 2)
    random, killed = Random(1), set[int]()

    def progress(done: int, count: int) -> None:
        if done in (40, 80) and (alive := grandchildren(found)):
            pid = random.choice(alive)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    try:
        with connect(address) as client:
            client.wait_for_workers(1, timeout=60)
            options = {"seeds": range(60), "fillers": ["xavier", "msra"], "progress": progress}
            summary = caffestat.sweep(net, client=client, output="out", **options)
    finally:
        stop(found)
    assert killed
    assert (summary.trials, summary.errors) == (120, [])
    names = [trial.id for trial, _ in Store(Path("out"), resume=True).results()]
    assert len(names) == len(set(names)) == 120


@needs_proc
def test_a_scheduler_that_dies_is_told_and_the_sweep_goes_on_later(
    net: str, own_scheduler: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, process = own_scheduler
    found = workers(address, 1)

    def progress(done: int, count: int) -> None:
        os.kill(process.pid, signal.SIGKILL)

    try:
        with connect(address) as client, pytest.raises(RunError, match=r"the Dask scheduler is lost: .*--resume"):
            client.wait_for_workers(1, timeout=60)
            caffestat.sweep(net, seeds=range(5000), client=client, output="out", progress=progress)
    finally:
        stop(found)
    done = len(Store(Path("out"), resume=True).finished())
    assert 0 < done < 5000
    summary = caffestat.sweep(net, seeds=range(done + 20), output="out", resume=True)
    assert summary.trials == done + 20


@pytest.mark.usefixtures("plain_worker")
def test_tasks_that_a_lost_scheduler_cancels_are_told(
    net: str, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: object, **__: object) -> None:
        raise CancelledError

    monkeypatch.setattr("distributed.wait", wait)
    with connect(scheduler) as client, pytest.raises(RunError, match=r"is lost: its tasks .*--resume"):
        client.wait_for_workers(1, timeout=60)
        caffestat.sweep(net, client=client)


def test_a_worker_without_caffestat_is_told(net: str, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask raises a plain Exception with the text of what a worker raises."""

    def register_plugin(_: object) -> None:
        raise Exception("ModuleNotFoundError(\"No module named 'caffestat'\")")

    with connect(scheduler) as client:
        monkeypatch.setattr(client, "register_plugin", register_plugin)
        with pytest.raises(RunError, match=r"a worker of the cluster lacks caffestat or .*: ModuleNotFoundError"):
            caffestat.sweep(net, client=client)


def test_a_cluster_without_workers_is_noted(net: str, scheduler: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "caffestat", "sweep", net, "--scheduler", scheduler, "--resource", "GPU=1"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    note = process.stderr.readline()
    process.kill()
    process.communicate()
    assert note == "note: the cluster has no worker with GPU=1; the trials start when one joins\n"


def test_a_scheduler_that_nobody_started() -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=r"--scheduler tcp://127\.0\.0\.1:9: cannot connect"):
        connect("tcp://127.0.0.1:9")
    assert time.monotonic() - started < 60


@pytest.mark.usefixtures("plain_worker")
def test_trials_run_where_the_resource_is_under_names_that_say_what_they_are(net: str, scheduler: str) -> None:
    found = workers(scheduler, 1, "--no-nanny", "--name", "gpu", "--resources", "GPU=1")
    try:
        with connect(scheduler) as client:
            client.wait_for_workers(2, timeout=60)
            before = counts(client)
            options = {"fillers": ["xavier", "msra"], "client": client, "resources": {"GPU": 1}}
            assert caffestat.sweep(net, seeds=range(8), **options).trials == 16
            after = counts(client)
            names = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
            left = client.run(_sweeps)
    finally:
        stop(found)
    ran = {name: after[name] - before[name] for name in before}
    assert [ran[name] for name in ran if name.startswith("plain")] == [0]
    assert sum(ran.values()) >= 2
    assert {"first pass tiny.prototxt · xavier", "first pass tiny.prototxt · msra"} <= set(names)
    assert set(left.values()) == {0}


def counts(client: Any) -> dict[str, int]:
    """Return how many tasks each worker has run, by its name."""
    return dict(client.run(lambda dask_worker: (dask_worker.name, dask_worker.state.executed_count)).values())


def _sweeps() -> int:
    """Return how many sweeps a worker is prepared for."""
    from caffestat.sweeps import executors

    return len(executors._benches)


def test_tls_options_reach_the_scheduler(net: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=x -days 1"
    subprocess.run(make.split(), check=True, capture_output=True)
    theirs = ("--tls-ca-file", "cert.pem", "--tls-cert", "cert.pem", "--tls-key", "key.pem")
    address, process = started_scheduler(tmp_path / "tls.log", "--protocol", "tls", *theirs)
    assert address.startswith("tls://")
    found = workers(address, 1, "--no-nanny", *theirs)
    mine = [
        part
        for name, file in zip(TLS, ("cert.pem", "cert.pem", "key.pem"), strict=True)
        for part in (f"--{name}", file)
    ]
    try:
        arguments = ["sweep", net, "--seeds", "0:3", "--scheduler", address, "--format", "csv", "--no-predict"]
        result = CliRunner().invoke(main, [*arguments, *mine], catch_exceptions=False)
        refused = CliRunner().invoke(main, arguments)
    finally:
        stop([*found, process])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("variant,")
    assert refused.exit_code == 2
    assert f"--scheduler {address}: cannot connect" in refused.stderr


@pytest.mark.usefixtures("plain_worker")
def test_errors_of_a_worker_s_code_are_told(net: str, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was never prepared, such as one of another version, knows no sweep."""
    monkeypatch.setattr("caffestat.sweeps.executors._prepare_workers", lambda *args: None)
    with connect(scheduler) as client:
        client.wait_for_workers(1, timeout=60)
        summary = caffestat.sweep(net, seeds=[1], client=client)
    ((_, text),) = summary.errors
    assert text.startswith("KeyError: ") and text.endswith("tried 3 times")
