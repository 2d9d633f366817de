"""onnxruntime-gpu in pieces, for a GPU machine on which nothing can be installed from outside.

    python benchmarks/gpu_bundle.py make [FOLDER]       here: download the wheel and cut it into FOLDER/1, FOLDER/2, …
    python benchmarks/gpu_bundle.py take PIECE STORE    there, once per piece: keep it; the last one unpacks the wheel
    python benchmarks/gpu_bundle.py check STORE …       there: run benchmarks/gpu_check.py with that onnxruntime; its
                                                        options follow

Each piece is below 48 MB. STORE is a folder outside of the checkout. The CUDA and cuDNN libraries have to be there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PIECE = 45 << 20  # bytes
PACKAGE = "onnxruntime-gpu"


def download(python: str, into: Path) -> Path:
    """Download the wheel of the version installed here for another Python, and return its path."""
    platform = ["--python-version", python, "--platform", "manylinux_2_28_x86_64", "--only-binary=:all:"]
    wanted = f"{PACKAGE}=={version(PACKAGE)}"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *platform, "-d", str(into), wanted], check=True
    )
    return next(into.glob("*.whl"))


def write_pieces(wheel: Path, folder: Path) -> int:
    """Cut a wheel into folder/1, folder/2, … and return their number; each tells of the whole."""
    shutil.rmtree(folder, ignore_errors=True)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    count = -(-wheel.stat().st_size // PIECE)
    with wheel.open("rb") as file:
        for number in range(1, count + 1):
            piece = folder / str(number)
            piece.mkdir(parents=True)
            (piece / "part").write_bytes(file.read(PIECE))
            (piece / "about.json").write_text(json.dumps({"number": number, "count": count, "sha256": digest}))
    return count


def take(piece: Path, store: Path) -> bool:
    """Copy a piece into the store; unpack the wheel when all are there, and tell whether they are.

    Raises SystemExit when the joined file is not the wheel.
    """
    about = json.loads((piece / "about.json").read_text())
    store.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(piece / "part", store / f"part{about['number']}")
    parts = [store / f"part{number}" for number in range(1, about["count"] + 1)]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        print(f"waiting for {', '.join(missing)}")
        return False
    whole = b"".join(part.read_bytes() for part in parts)
    if hashlib.sha256(whole).hexdigest() != about["sha256"]:
        raise SystemExit(f"the pieces in {store} do not make the wheel: take them again")
    wheel = store / "whole.whl"
    wheel.write_bytes(whole)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(store / "site")
    print(f"unpacked into {store / 'site'}")
    return True


def check(store: Path, options: Sequence[str]) -> int:
    """Run the check with the unpacked onnxruntime first on the path; return its exit code."""
    path = os.pathsep.join([str(store / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.call(
        [sys.executable, "benchmarks/gpu_check.py", *options], cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )


def main() -> int:
    """Do one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    making = steps.add_parser("make", help="download the wheel and cut it")
    making.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist" / "gpu")
    making.add_argument("--python", default="3.12", help="the Python of the GPU machine")
    taking = steps.add_parser("take", help="keep a piece")
    taking.add_argument("piece", type=Path)
    taking.add_argument("store", type=Path)
    steps.add_parser("check", help="run the check").add_argument("store", type=Path)
    args, options = parser.parse_known_args()
    if options and args.step != "check":
        parser.error(f"unrecognized arguments: {' '.join(options)}")
    if args.step == "take":
        take(args.piece, args.store)
        return 0
    if args.step == "check":
        return check(args.store, options)
    with TemporaryDirectory() as temporary:
        count = write_pieces(download(args.python, Path(temporary)), args.folder)
    print(f"{count} pieces in {args.folder}: take one after the other there, then check")
    return 0


if __name__ == "__main__":
    sys.exit(main())
