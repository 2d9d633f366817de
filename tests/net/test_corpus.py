"""Real files of many projects and forks, where they are at hand: each ends in a table or a precise error."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffestat
from caffestat import report

from ..corpus import CORPUS, REAL

pytestmark = pytest.mark.skipif(not REAL, reason="the corpus is not at hand")

# What no reader could make a net of, by the end of the path: the place in it, and words of the message.
CONFLICT = "expected a field name, found"
BROKEN = {
    "elm/elm_classification_ts.prototxt": (":33:1: ", "unknown bottom blob 'labels'"),
    "triplet_loss/lrfacenet-solver-32.prototxt": (":2:1: ", "net: file not found: 'lrfacenet-definition-32.prototxt'"),
    "mnist/mnist_autoencoder_solver_adagrad.prototxt": (":17:1: ", CONFLICT),
    "@blob-c498db6fe1ea/models/gan/generator_mnist.prototxt": (":8:1: ", "unknown bottom blob 'feat'"),
    "@blob-cf6fc638fd45/examples/hdf5_classification/train_val.prototxt": (":2:1: ", CONFLICT),
    "TVG_CRFRNN_new_traintest.prototxt": (":4:9: ", "rename `layers` to `layer`"),
    "cifar10/cifar10_quick_solver.prototxt": (":4:1: ", "file not found"),
    "SSD_300x300/solver.prototxt": (":1:1: ", "train_net: "),
    "bvlc_alexnet/solver_larc_turbo.prototxt": (":1:1: ", "file not found"),
    "code/labelmap.prototxt": (":1: ", "the file has no layers: expected a net or solver prototxt, found"),
    "template/MobileNetSSD_test_template.prototxt": (":2422:17: ", "found cls3x"),
    "mnist/lenet_stepearly_solver.prototxt": (":2:1: ", "train_net: file not found: 'lenet_train.prototxt'"),
    "ucf101/tsn_bn_inception_rgb_solver.prototxt": (":1:1: ", "file not found"),
}


def name(path: object) -> str:
    return str(path.relative_to(CORPUS)) if isinstance(path, Path) else ""  # without a corpus there is no path


def broken(path: Path) -> tuple[str, str] | None:
    return next((error for end, error in BROKEN.items() if str(path).endswith(end)), None)


@pytest.mark.parametrize("path", [path for path in REAL if not broken(path)], ids=name)
def test_a_table_and_warnings_with_places(path: Path) -> None:
    result = caffestat.analyze(str(path), static=True)
    shown = [layer for layer in result.layers if not layer.inserted]
    table = report.render(result, "table", 120)
    assert len(table.splitlines()) > len(shown) > 0
    assert all(layer.type for layer in shown)
    assert all(finding.place.line > 0 and Path(finding.place.file).exists() for finding in result.findings)
    assert len({str(finding) for finding in result.findings}) == len(result.findings)
    unknown = [top for layer in shown for top in layer.tops if top.shape is None]
    assert not unknown or result.findings
    assert not unknown or not result.totals.is_complete


@pytest.mark.parametrize("path", [path for path in REAL if broken(path)], ids=name)
def test_a_precise_error(path: Path) -> None:
    where, words = broken(path) or ("", "")
    with pytest.raises(caffestat.CaffestatError) as caught:
        caffestat.analyze(str(path), static=True)
    assert str(caught.value).startswith(f"{path}{where}")
    assert words in str(caught.value)


def test_every_broken_file_is_here() -> None:
    assert len([path for path in REAL if broken(path)]) == len(BROKEN)
