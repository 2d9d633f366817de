"""Whole nets: the values that Caffe's fillers and layers drew, in the order in which it drew them."""

from pathlib import Path

import numpy as np
import pytest

from caffestat.fillers import Filler, Stream, bernoulli, fill

from .scripted import bits

GOLDEN = Path(__file__).parents[1] / "golden"
SEED = 1701  # random_seed in every solver.prototxt
ZERO = Filler()

FILLERS = [
    (Filler(value=0.1), (3, 6, 3, 3)),
    (Filler("gaussian", std=0.3), (3,)),
    (Filler("uniform", min=-0.2, max=0.4), (5, 6, 3, 3)),
    (Filler("uniform"), (5,)),
    (Filler("gaussian", mean=0.1, std=0.05), (64, 6, 3, 3)),
    (Filler(value=1.0), (64,)),
    (Filler("positive_unitball"), (5, 6, 3, 3)),
    (ZERO, (5,)),
    (Filler("xavier"), (5, 6, 3, 3)),
    (ZERO, (5,)),
    (Filler("xavier", variance_norm="FAN_OUT"), (6, 3, 3, 2)),
    (ZERO, (6,)),
    (Filler("xavier", variance_norm="AVERAGE"), (6, 2, 3, 3)),
    (Filler("xavier", variance_norm="AVERAGE"), (6,)),
    (Filler("msra"), (50, 6, 3, 3)),
    (ZERO, (50,)),
    (Filler("msra", variance_norm="FAN_OUT"), (7, 6, 5, 5)),
    (Filler("msra"), (7,)),
    (Filler("msra", variance_norm="AVERAGE"), (7, 6, 5, 5)),
    (ZERO, (7,)),
    (Filler("bilinear"), (6, 1, 4, 4)),
    (Filler("bilinear"), (6, 1, 5, 5)),
    (Filler("xavier"), (6, 4, 3, 3)),
    (Filler("uniform", min=-1.0, max=1.0), (4,)),
    (Filler("gaussian", std=1.0, sparse=5), (20, 486)),
    (Filler("gaussian", std=0.01), (20,)),
    (Filler("gaussian", std=1.0, sparse=0), (4, 20)),
    (Filler("gaussian", std=0.01), (4,)),
    (Filler("xavier"), (11, 20)),
    (ZERO, (11,)),
    (Filler("xavier"), (20, 11)),
    (ZERO, (11,)),
    (Filler("msra", variance_norm="FAN_OUT"), (3000, 20)),
    (ZERO, (3000,)),
    (Filler("uniform", min=0.0, max=0.5), (11,)),
    (Filler("gaussian", mean=1.0, std=0.1), (11,)),
    (Filler("uniform", min=0.0, max=0.1), (11,)),
]

LENET_LIKE = [
    (Filler("xavier"), (6, 1, 5, 5)),
    (ZERO, (6,)),
    (Filler("xavier"), (10, 6, 5, 5)),
    (ZERO, (10,)),
    (Filler("xavier"), (20, 160)),
    (ZERO, (20,)),
    (Filler("xavier"), (10, 20)),
    (ZERO, (10,)),
]

DROPOUT = [
    (Filler("xavier"), (12, 10)),
    (Filler("uniform", min=-0.1, max=0.1), (12,)),
    (Filler("xavier"), (4, 12)),
    (Filler("uniform", min=-0.1, max=0.1), (4,)),
]

EMBED = [
    (Filler("gaussian", std=1.0), (7, 4)),
    (Filler("uniform"), (4,)),
    (Filler("xavier"), (8, 3)),
]


def tensors(case):
    with np.load(GOLDEN / case / "tensors.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize(
    ("case", "specs"),
    [("fillers", FILLERS), ("lenet_like", LENET_LIKE), ("dropout", DROPOUT), ("embed", EMBED)],
)
def test_params_after_set_up(case, specs):
    stream = Stream(SEED)
    stored = {name: value for name, value in sorted(tensors(case).items()) if name.endswith(".init")}
    for (name, want), (filler, shape) in zip(stored.items(), specs, strict=True):
        assert want.shape == shape, name
        np.testing.assert_array_equal(bits(fill(stream, filler, shape)), bits(want), err_msg=name)


def test_forward_draws_data_then_dropout_masks():
    case = tensors("dropout")
    stream = Stream(SEED)
    for filler, shape in DROPOUT:
        fill(stream, filler, shape)
    data = fill(stream, Filler("gaussian", std=1.0), (3, 10))
    label = fill(stream, Filler("uniform", min=0.0, max=3.999), (3,))
    np.testing.assert_array_equal(bits(data), bits(case["layer/000_data.top0.data"]))
    np.testing.assert_array_equal(bits(label), bits(case["layer/000_data.top1.data"]))
    kept = bernoulli(stream, 30, 0.5, np.float64).reshape(3, 10)
    np.testing.assert_array_equal(kept, case["layer/001_d0.top0.data"] != 0)
    kept = bernoulli(stream, 36, 1.0 - float(np.float32(0.2)), np.float64).reshape(3, 12)
    np.testing.assert_array_equal(kept, case["layer/003_d1.top0.data"] != 0)


def test_data_of_fillers_net_continues_the_stream():
    case = tensors("fillers")
    stream = Stream(SEED)
    for filler, shape in FILLERS:
        fill(stream, filler, shape)
    data = fill(stream, Filler("gaussian", mean=0.5, std=2.0), (4, 6, 9, 9))
    label = fill(stream, Filler("uniform", min=-3.0, max=7.0), (4,))
    np.testing.assert_array_equal(bits(data), bits(case["layer/000_data.top0.data"]))
    np.testing.assert_array_equal(bits(label), bits(case["layer/000_data.top1.data"]))
