"""Which nets divide into shards of the batch, and what a shard's net is."""

from __future__ import annotations

import pytest

from caffestat.layers.base import layer_dialects, layer_types
from caffestat.net import Net, build
from caffestat.net.shards import batch_of, shard
from caffestat.net.source import net_source
from caffestat.prototext import parse

DATA = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 6 dim: 3 dim: 8 dim: 7 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 6 } } }
"""
TRUNK = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'


def net_of(text: str) -> Net:
    return build(net_source(parse(text.encode())))


def test_a_shard_has_part_of_the_samples_and_all_params() -> None:
    whole = net_of(DATA + TRUNK + LOSS)
    part = shard(whole, 3)
    assert batch_of(whole) == 6 and part is not None
    shapes = {blob.name: blob.shape for blob in part.blobs}
    assert shapes["data"] == (2, 3, 8, 7) and shapes["label"] == (2,)
    assert shapes["conv"] == (2, 4, 6, 5) and shapes["ip"] == (2, 5) and shapes["loss"] == ()
    assert [param.param.shape for param in part.params] == [param.param.shape for param in whole.params]
    assert [node.index for node in part.nodes] == [node.index for node in whole.nodes]


@pytest.mark.parametrize(
    "layers",
    [
        'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }',
        'layer { name: "s" type: "Softmax" bottom: "ip" top: "s" softmax_param { axis: 0 } }',
        'layer { name: "s" type: "InnerProduct" bottom: "ip" top: "s" inner_product_param { num_output: 6 axis: 0 } }',
        'layer { name: "s" type: "Concat" bottom: "ip" bottom: "ip" top: "s" concat_param { axis: 0 } }',
        'layer { name: "s" type: "Slice" bottom: "ip" top: "s" top: "t" slice_param { axis: 0 } }',
        'layer { name: "s" type: "Reshape" bottom: "ip" top: "s" reshape_param { shape { dim: 2 dim: 15 } } }',
        'layer { name: "s" type: "Flatten" bottom: "ip" top: "s" flatten_param { axis: 0 } }',
        'layer { name: "s" type: "Reduction" bottom: "ip" top: "s" }',
        'layer { name: "s" type: "Scale" bottom: "ip" top: "s" scale_param { axis: 0 } }',
        'layer { name: "s" type: "Tile" bottom: "ip" top: "s" tile_param { axis: 0 tiles: 2 } }',
        'layer { name: "s" type: "BatchReindex" bottom: "ip" bottom: "label" top: "s" }',
        'layer { name: "s" type: "Python" bottom: "ip" top: "s" python_param { module: "m" layer: "L" } }',
        LOSS.replace(" }", " loss_param { ignore_label: 2 } }"),
        LOSS + 'layer { name: "p" type: "Power" bottom: "loss" top: "p" power_param { power: 2 } }',
        LOSS.replace(" }", " loss_param { normalization: NONE } }"),
        'layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "a" top: "b" }',
        'layer { name: "more" type: "Input" top: "more" input_param { shape { dim: 3 dim: 5 } } }',
        'layer { name: "more" type: "DummyData" top: "more" dummy_data_param { shape { dim: 1 } } }',
    ],
)
def test_layers_that_mix_samples_keep_a_net_whole(layers: str) -> None:
    assert shard(net_of(DATA + TRUNK + layers), 2) is None


@pytest.mark.parametrize(
    "layers",
    [
        'layer { name: "s" type: "Reshape" bottom: "conv" top: "s" reshape_param { shape { dim: 0 dim: -1 dim: 5 } } }',
        'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" batch_norm_param { use_global_stats: true } }',
        LOSS.replace(" }", " loss_param { normalization: BATCH_SIZE } }"),
        'layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "a" }',
    ],
)
def test_other_layers_do_not(layers: str) -> None:
    assert shard(net_of(DATA + TRUNK + layers), 2) is not None


def test_batches_that_do_not_divide() -> None:
    assert shard(net_of(DATA + TRUNK), 4) is None


def test_types_of_forks_inherit_it_from_no_class() -> None:
    stated = [cls for name in layer_types() for cls in layer_dialects(name) if cls.by_sample]
    assert stated and not [cls for cls in stated if cls.dialect]
