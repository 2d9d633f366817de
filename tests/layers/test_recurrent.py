"""LSTM and RNN against Caffe's unrolled nets, and against their equations in numpy."""

import numpy as np
import pytest

from caffestat.fill import Stream

from .golden import case, check_golden, golden_layers
from .harness import make


@pytest.mark.parametrize(("name", "layer"), golden_layers("lstm rnn", "LSTM", "RNN"))
def test_golden(name, layer):
    check_golden(name, layer)


@pytest.mark.parametrize("name", ["lstm", "rnn"])
def test_draws(name):
    """Every timestep draws its copies, so the second layer's weights show whether the first drew enough."""
    topology, tensors, protos = case(name)
    stream = Stream(topology["seed"])
    for entry in topology["layers"]:
        if entry["type"] in ("LSTM", "RNN"):
            layer = make(str(protos[entry["name"]]))
            shapes = [tuple(topology["blobs"][i]["shape"]) for i in entry["bottom_ids"]]
            drawn = layer.draw_params(stream, layer.params(shapes), shapes)
            for number, values in zip(entry["param_ids"], drawn, strict=True):
                np.testing.assert_array_equal(values, tensors[topology["params"][number]["file"] + ".init"])
