"""Every golden training case, run by run: all log lines in order, final params and history, snapshots."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat.net.source import read_solver
from caffestat.net.weights import read_layers
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.report import TrainingLog
from caffestat.schema import NetParameter, SolverState, read_binary
from caffestat.schema.blobs import blob_shape
from caffestat.training import Training
from caffestat.training.snapshot import _read_binary, _read_hdf5

from .golden import CASES, DEVICE, FOLDER, numbers_of, off, runs, signs_of_nan, spread, text_of

TOLERANCE = 1e-4
DEBUG_NOISE = 5e-8  # of gradients that are zero but for rounding: those of a bias in front of BatchNorm


def train(args: list[str], seed: int | None = None, resident: bool | None = None) -> list[str]:
    """Run `caffe train` with these arguments in the working directory and return the log's lines.

    resident: whether params live on the device; default: where it is a GPU
    """
    given = dict(arg.removeprefix("--").split("=", 1) for arg in args)
    solver = read_solver(given["solver"])
    seed = solver.message.random_seed if seed is None else seed
    values = ValueOptions(seed=seed, weights=tuple(given.get("weights", "").split(",")) if "weights" in given else ())
    run = RunOptions(device=DEVICE, inputs_hold="zeros")
    how = {"seed": seed, "snapshot": given.get("snapshot"), "resident": resident}
    training = Training(solver, NetOptions(data="real"), values, run, **how)
    log = TrainingLog(solver, seed)
    return [line for event in training.events() for line in log.lines(event)]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list]:
    """Run a case once; return its name, the folder that it ran in, and each run's log."""
    folder = tmp_path_factory.mktemp(request.param) / request.param
    shutil.copytree(FOLDER / request.param, folder, ignore=shutil.ignore_patterns("ref_*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        logs = []
        for run in runs(request.param):
            logs.append((train(run["args"]), final(folder, run)))
        return request.param, folder, logs


def final(folder: Path, run: dict) -> dict[str, np.ndarray]:
    """Return the last snapshot of a run as the golden archives hold it."""
    states = max(folder.glob("*.solverstate*"), key=lambda path: path.stat().st_mtime_ns)
    state = _read_hdf5(str(states)) if states.suffix == ".h5" else _read_binary(str(states))
    found = {f"history.{n}": array for n, array in enumerate(state.history)}
    for key, number in (("iter", state.iteration), ("current_step", state.current_step)):
        found[key] = np.array([number] if states.suffix == ".h5" else number)
    found["learned_net"] = np.array(state.model)
    for index, layer in enumerate(read_layers(str(folder / state.model))):
        for number, blob in enumerate(layer.blobs):
            found[f"layer{index}.{number}"] = np.array(blob.data, np.float32).reshape(blob_shape(blob))
            if blob.diff:
                found[f"layer{index}.{number}.diff"] = np.array(blob.diff, np.float32).reshape(blob_shape(blob))
    return found


def test_log(case: tuple[str, Path, list]) -> None:
    name, _, logs = case
    known = spread(name)
    for run, (ours, _) in zip(runs(name), logs, strict=True):
        compare_logs(ours, FOLDER / name / run["log"], known)


def compare_logs(ours: list[str], log: Path, known: dict) -> None:
    """Compare line by line; numbers may be further apart than the tolerance only where Caffe's own kernels are."""
    caffes = log.read_text().splitlines()
    assert [text_of(line) for line in ours] == [text_of(line) for line in caffes]
    for our, caffe in zip(ours, caffes, strict=True):
        kind = "debug" if our.startswith("    [") else "loss"
        within = max(TOLERANCE, 2 * known[kind])
        noise = DEBUG_NOISE if kind == "debug" else 0.0
        assert numbers_of(our) == pytest.approx(numbers_of(caffe), rel=within, abs=noise, nan_ok=True), caffe
        assert signs_of_nan(our) == signs_of_nan(caffe), f"{our}\n{caffe}"


def test_params_and_history(case: tuple[str, Path, list]) -> None:
    name, _, logs = case
    for index, (_, found) in enumerate(logs):
        compare_params(found, name, index)


def compare_params(found: dict[str, np.ndarray], name: str, index: int) -> None:
    """Compare the last snapshot of a case's run of this index."""
    noisy = spread(name)["noisy_params"][index]
    with np.load(FOLDER / name / runs(name)[index]["params"]) as archive:
        expected = {key: archive[key] for key in archive.files if key != "names"}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key == "learned_net":
            assert str(found[key]) == (value.item().decode() if value.dtype.kind == "S" else value.item())
        elif key not in noisy:
            assert off(found[key], value) <= max(TOLERANCE, 2 * spread(name)["params"]), key


def replay(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: bool | None = None) -> None:
    """Run a case in a folder of its own, and compare its logs, params and history with Caffe's."""
    folder = tmp_path / name
    shutil.copytree(FOLDER / name, folder, ignore=shutil.ignore_patterns("ref_*"))
    monkeypatch.chdir(folder)
    for index, run in enumerate(runs(name)):
        compare_logs(train(run["args"], resident=resident), FOLDER / name / run["log"], spread(name))
        compare_params(final(folder, run), name, index)


REFERENCES = [name for name in CASES if any((FOLDER / name).glob("ref_*"))]


def without_values(message: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a copy of a model or a solver state whose blobs hold no values, and the values."""
    copy = type(message)()
    copy.CopyFrom(message)
    if isinstance(message, SolverState):
        blobs = {f"history.{number}": blob for number, blob in enumerate(copy.history)}
    else:
        blobs = {f"layer{i}.{k}": blob for i, layer in enumerate(copy.layer) for k, blob in enumerate(layer.blobs)}
    values = {name: np.array([*blob.data, *blob.diff], np.float32) for name, blob in blobs.items()}
    for blob in blobs.values():
        blob.ClearField("data")
        blob.ClearField("diff")
    return copy, values


def compare_hdf5(ours: Path, caffes: Path, noisy: set[str]) -> None:
    """Compare the groups and data sets of two HDF5 files: names, types, shapes, values."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(ours) as mine, h5py.File(caffes) as other:
        found: list[dict] = [{}, {}]
        for file, names in zip((mine, other), found, strict=True):
            file.visititems(lambda name, item, names=names: names.setdefault(name, item))
        assert list(found[0]) == list(found[1])
        for name, item in found[1].items():
            if isinstance(item, h5py.Dataset):
                mine_too = found[0][name]
                assert (mine_too.shape, mine_too.dtype) == (item.shape, item.dtype), name
                if item.dtype.kind == "f" and name.replace("/", ".") not in noisy:
                    assert off(mine_too[()], item[()]) <= TOLERANCE, name


@pytest.mark.parametrize("name", REFERENCES)
def test_snapshots_equal_the_references(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every snapshot that the reference left: the same messages, and values within the tolerance."""
    folder = tmp_path / name
    shutil.copytree(FOLDER / name, folder)
    monkeypatch.chdir(folder)
    for run in runs(name):
        if "params_restored" not in run["params"] and "params_finetuned" not in run["params"]:
            train(run["args"])
    noisy = {key for keys in spread(name)["noisy_params"] for key in keys}
    for reference in folder.glob("ref_*"):
        ours = folder / reference.name.removeprefix("ref_")
        if reference.suffix == ".h5":
            compare_hdf5(ours, reference, noisy)
            continue
        kind = SolverState if reference.suffix == ".solverstate" else NetParameter
        (mine, values), (other, expected) = (without_values(read_binary(path, kind)) for path in (ours, reference))
        assert mine == other
        for key in expected.keys() - noisy:
            assert off(values[key], expected[key]) <= TOLERANCE, key


@pytest.mark.parametrize("name", [name for name in REFERENCES if len(runs(name)) > 1])
def test_we_go_on_from_the_references_snapshots(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored or fine-tuned from the reference's own files, without training first."""
    folder = tmp_path / name
    shutil.copytree(FOLDER / name, folder)
    for reference in folder.glob("ref_*"):
        reference.rename(folder / reference.name.removeprefix("ref_"))
    monkeypatch.chdir(folder)
    tried = 0
    for run in runs(name)[1:]:
        given = [part for arg in run["args"] for part in arg.partition("=")[2].split(",")]
        if all(os.path.exists(path) for path in given):
            compare_logs(train(run["args"]), FOLDER / name / run["log"], spread(name))
            tried += 1
    assert tried
