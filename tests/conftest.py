"""What all tests share: expected outputs that one command writes anew."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some test modules import onnxruntime themselves
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ  # one process per core: more threads only wait for each other
if IS_WORKER:
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # read when numpy is imported

gc.set_threshold(50_000, 20, 100)  # else objects of all tests are searched for garbage hundreds of times

Check = Callable[[str, str], None]

# packages that read the data of golden cases; caffestat does without them
NEEDS = {"hdf5data": "h5py", "lmdb": "lmdb", "lmdb_aug": "lmdb", "lmdb_float": "lmdb"}


# each takes more than a second or two; `make quick` leaves them out
SLOW = {
    "analysis/test_onnx_accuracy.py",
    "analysis/test_prediction.py",
    "autodiff/test_control.py",
    "autodiff/test_conv.py",
    "autodiff/test_node_models.py",
    "cli/test_check.py",
    "cli/test_deep_nets.py",
    "cli/test_process.py",
    "fillers/test_gaussian.py",
    "initialization/test_autoinit.py",
    "initialization/test_fixup.py",
    "initialization/test_lsuv.py",
    "initialization/test_models.py",
    "lint/test_checks.py",
    "lint/test_initial.py",
    "lint/test_processes.py",
    "models/test_forks.py",
    "net/test_any_bottoms.py",
    "net/test_corpus.py",
    "net/test_random_nets.py",
    "prototext/test_roundtrip.py",
    "report/html/test_browser.py",
    "report/html/test_other_pages.py",
    "report/html/test_sweep_page.py",
    "rewriting/test_examples.py",
    "rewriting/test_follow.py",
    "rewriting/test_methods.py",
    "rewriting/test_real_files.py",
    "rewriting/test_upgraded.py",
    "schema/test_caffe_pb2.py",
    "sweeps/test_cluster.py",
    "sweeps/test_summary.py",
    "sweeps/test_sweep.py",
    "sweeps/test_training.py",
    "test_docs.py",
    "test_escape.py",
    "test_layers_table.py",
    "test_writers.py",
    "theory/heuristics/test_heuristics.py",
    "training/test_first_iteration.py",
    "training/test_golden.py",
    "training/test_resident.py",
    "training/test_ssd.py",
    "training/test_whole_logs.py",
}
# each has a case of ten seconds or more; they come first, so that no process waits at the end for the other one
FIRST = ("net/test_random_nets.py", "sweeps/test_cluster.py", "test_docs.py")
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh", action="store_true", help="write the expected outputs anew instead of comparing")


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads the code
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the golden cases whose data nothing here can read, mark what is slow, and put what takes longest first."""
    _draw_no_constants_of_the_code()
    files = {path: path.relative_to(HERE).as_posix() for path in {item.path for item in items}}
    items.sort(key=lambda item: files[item.path] not in FIRST)
    for item in items:
        if files[item.path] in SLOW:
            item.add_marker(pytest.mark.slow)
        call = getattr(item, "callspec", None)  # of a test with parameters
        case = call.params.get("case") if call else None
        package = NEEDS.get(case) if isinstance(case, str) else None
        if package and importlib.util.find_spec(package) is None:
            item.add_marker(pytest.mark.skip(reason=f"{package} is not installed"))


def pytest_collection_finish() -> None:
    """Keep what was imported and collected from being searched for garbage again and again."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Keep what is left from being searched for garbage at the end, which pytest does ten times."""
    gc.freeze()


def _draw_no_constants_of_the_code() -> None:
    """Let Hypothesis read no module of ours for constants to try: examples would differ after each change of any."""
    providers = sys.modules.get("hypothesis.internal.conjecture.providers")
    if hasattr(providers, "is_local_module_file"):
        providers.is_local_module_file = lambda path: False


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute on one thread per worker."""
    if IS_WORKER:
        from caffestat.engine.runtime import use_threads

        use_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """Let files be in the memory of the system only: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def check_output(request: pytest.FixtureRequest) -> Check:
    """Return `check(name, text)`: the text must equal the file `expected/<name>` beside the test (`make golden`)."""

    def check(name: str, text: str) -> None:
        path = request.path.parent / "expected" / name
        if request.config.getoption("--refresh"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's folder."""
    return Path(__file__).resolve().parent.parent
