"""Data layers: shapes from every spelling, the words they draw, and what they say when a shape stands elsewhere."""

from pathlib import Path

import numpy as np
import pytest

from caffestat import analyze
from caffestat.errors import NetError, Place
from caffestat.fillers import Stream
from caffestat.layers import layer_dialects, layer_types
from caffestat.layers.data import Images
from caffestat.schema import LayerParameter

from .harness import TEST, TRAIN, make, run


def layer(type_name, params="", tops=("data", "label"), phase=TRAIN):
    names = " ".join(f'top: "{top}"' for top in tops)
    return make(f'name: "d" type: "{type_name}" {names} {params}', phase)


SHAPES = [
    ("Input", "input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } }", [(2, 3), (2,)]),
    ("Input", "input_param { shape { dim: 2 dim: 3 } }", [(2, 3), (2, 3)]),
    ("DummyData", "dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } }", [(2, 3), (2,)]),
    ("DummyData", "dummy_data_param { shape { dim: 5 } }", [(5,), (5,)]),
    (
        "DummyData",
        "dummy_data_param { num: 2 channels: 3 channels: 1 height: 4 width: 5 width: 1 }",
        [(2, 3, 4, 5), (2, 1, 4, 1)],
    ),
    ("Data", "data_param { batch_size: 4 } transform_param { crop_size: 7 }", [(4, 3, 7, 7), (4,)]),
    ("Data", "data_param { batch_size: 4 } transform_param { crop_size: 7 force_gray: true }", [(4, 1, 7, 7), (4,)]),
    (
        "Data",
        "data_param { batch_size: 4 } transform_param { crop_size: 7 mean_value: 1 mean_value: 2 }",
        [(4, 2, 7, 7), (4,)],
    ),
    ("Data", "data_param { batch_size: 4 } transform_param { crop_height: 7 crop_width: 5 }", [(4, 3, 7, 5), (4,)]),
    ("ImageData", "image_data_param { batch_size: 4 new_height: 8 new_width: 9 }", [(4, 3, 8, 9), (4,)]),
    (
        "ImageData",
        "image_data_param { batch_size: 4 is_color: false } transform_param { crop_size: 7 }",
        [(4, 1, 7, 7), (4,)],
    ),
    (
        "ImageData",
        "image_data_param { new_height: 8 new_width: 9 } transform_param { crop_size: 7 }",
        [(1, 3, 7, 7), (1,)],
    ),
    ("WindowData", "window_data_param { batch_size: 4 } transform_param { crop_size: 7 }", [(4, 3, 7, 7), (4,)]),
    ("MemoryData", "memory_data_param { batch_size: 4 channels: 2 height: 5 width: 6 }", [(4, 2, 5, 6), (4,)]),
    ("MemoryData", "memory_data_param { dim: 4 dim: 2 dim: 7 dim: 5 dim: 6 }", [(4, 2, 7, 5, 6), (4, 1, 1, 1, 1)]),
]


@pytest.mark.parametrize("type_name", ["Input", "DummyData"])
def test_tops_of_one_name_are_two_values(type_name, tmp_path):
    """Caffe refuses the net, and what is known of it is measured nevertheless."""
    params = f"{'input' if type_name == 'Input' else 'dummy_data'}_param {{ shape {{ dim: 2 }} }}"
    path = tmp_path / "net.prototxt"
    path.write_text(f'layer {{ name: "d" type: "{type_name}" top: "y" top: "y" {params} }}')
    with pytest.raises(NetError, match="top blob 'y' is already produced by layer 'd'") as refused:
        analyze(path)
    assert [top.shape for top in refused.value.report.layers[0].tops] == [(2,), (2,)]


@pytest.mark.parametrize(("type_name", "params", "shapes"), SHAPES)
def test_shapes(type_name, params, shapes):
    data = layer(type_name, params)
    assert list(data.tops([])) == shapes
    assert data.is_external == (type_name != "DummyData")
    data.batch_override = 11
    assert list(data.tops([])) == [(11, *shape[1:]) for shape in shapes]
    data.shape_overrides = {"label": (6, 1)}
    assert list(data.tops([])) == [(11, *shapes[0][1:]), (6, 1)]


@pytest.mark.parametrize("params", ["", "transform_param { crop_size: 7 }"])
def test_labels_follow_the_batch_that_the_user_gives(params):
    data = layer("Data", f"data_param {{ batch_size: 4 }} {params}")
    data.shape_overrides = {"data": (6, 2, 8, 9)}
    assert data.tops([]) == ((6, 2, 8, 9), (6,))


UNKNOWN = [
    ("Input", "", (None, None), "where the net is used"),
    (
        "Data",
        'data_param { source: "train_lmdb" batch_size: 4 }',
        (None, (4,)),
        "in the records of 'train_lmdb'",
    ),
    ("ImageData", 'image_data_param { source: "list" }', (None, (1,)), "in the images that 'list' lists"),
    ("HDF5Data", 'hdf5_data_param { source: "a" batch_size: 3 }', (None, None), "in the files that 'a' lists"),
    ("Python", 'python_param { module: "m" layer: "L" }', (None, None), "in Python code (m.L)"),
]


@pytest.mark.parametrize(("type_name", "params", "shapes", "where"), UNKNOWN)
def test_unknown_shape(type_name, params, shapes, where):
    data = layer(type_name, params)
    assert data.tops([]) == shapes
    assert data.shape_source() == where
    data.shape_overrides = {"data": (2, 3), "label": (2,)}
    assert data.tops([]) == ((2, 3), (2,))


@pytest.mark.parametrize(
    ("type_name", "params", "message"),
    [
        (
            "Input",
            "input_param { shape { dim: 1 } shape { dim: 1 } shape { dim: 1 } }",
            "shape once or once per top .2., found it 3 times",
        ),
        ("Input", "input_param { shape { dim: -1 dim: 2 } }", r"positive sizes for top 'data', found shape \(-1, 2\)"),
        ("DummyData", "", "expected shape once or once per top .2., found it 0 times"),
        ("DummyData", "dummy_data_param { num: 1 channels: 1 height: 1 }", "expected width once or once per top"),
        ("DummyData", "dummy_data_param { num: 1 shape { dim: 1 } }", "both shape and num"),
        (
            "DummyData",
            "dummy_data_param { shape { dim: 1 } data_filler {} data_filler {} data_filler {} }",
            "data_filler once or once per top",
        ),
        ("ImageData", "image_data_param { new_height: 3 }", "new_height and new_width together, found 3 and 0"),
        (
            "ImageData",
            "image_data_param { new_height: 3 new_width: 9 } transform_param { crop_size: 4 }",
            "crop_size 4 exceeds",
        ),
        ("WindowData", "window_data_param { batch_size: 2 }", "expected a positive crop_size"),
        ("MemoryData", "memory_data_param { batch_size: 2 channels: 3 }", r"found shape \(2, 3, 0, 0\)"),
        ("HDF5Data", "transform_param { scale: 2 }", "transform_param is not supported"),
    ],
)
def test_refuses(type_name, params, message):
    with pytest.raises(NetError, match=message):
        layer(type_name, params).tops([])


def test_dummy_data_draws_top_by_top():
    params = """dummy_data_param { shape { dim: 3 dim: 4 } shape { dim: 5 } shape { dim: 6 }
      data_filler { type: "uniform" min: -1 max: 1 } data_filler { value: 2.5 } data_filler { type: "uniform" } }"""
    dummy = layer("DummyData", params, ("a", "b", "c"))
    before = Stream(3)
    dummy.draw_setup(before)
    assert before.word() == Stream(3).word()
    result = run(dummy, [], seed=3)
    units = Stream(3).words(18).astype(np.float32) * np.float32(2.0**-32)
    np.testing.assert_allclose(result.tops[0].ravel(), units[:12] * 2 - 1, atol=1e-6)
    np.testing.assert_array_equal(result.tops[1], np.full(5, 2.5))
    np.testing.assert_allclose(result.tops[2], units[12:], atol=1e-6)


def test_dummy_data_without_a_filler_is_zero():
    result = run(layer("DummyData", "dummy_data_param { shape { dim: 3 } }"), [])
    assert not np.any(result.tops)


def test_dummy_data_names_a_wrong_filler():
    dummy = layer("DummyData", 'dummy_data_param { shape { dim: 3 } data_filler { type: "normal" } }')
    with pytest.raises(NetError, match=r"net.prototxt:7: .*data_filler: unknown filler type .normal."):
        dummy.draw_feeds(Stream(1), [])


@pytest.mark.parametrize(
    ("type_name", "params", "phase", "words"),
    [
        ("Data", "", TRAIN, 1),
        ("Data", "transform_param { crop_size: 5 }", TRAIN, 3),
        ("Data", "transform_param { crop_size: 5 }", TEST, 1),
        ("Data", "transform_param { mirror: true }", TEST, 3),
        ("ImageData", "image_data_param { shuffle: true rand_skip: 4 }", TRAIN, 3),
        ("WindowData", "transform_param { crop_size: 5 }", TEST, 2),
        ("WindowData", "transform_param { crop_size: 5 }", TRAIN, 4),
        ("MemoryData", "transform_param { mirror: true }", TRAIN, 1),
        ("HDF5Data", "hdf5_data_param { shuffle: true }", TRAIN, 0),
        ("Input", "", TRAIN, 0),
    ],
)
def test_words_drawn_at_set_up(type_name, params, phase, words):
    stream, reference = Stream(8), Stream(8)
    layer(type_name, params, phase=phase).draw_setup(stream)
    reference.words(words)
    assert stream.word() == reference.word()


def test_python_says_that_its_code_is_not_run():
    python = make('name: "p" type: "Python" top: "x" python_param { module: "m" layer: "L" }')
    assert python.why_synthetic == "its own comes from Python code (m.L), which is not run"


def test_one_side_of_a_cut_tells_no_size():
    data = layer("Data", "data_param { batch_size: 4 } transform_param { crop_height: 7 }")
    assert data.tops([])[0] is None
    assert "crop_height" in data.why_unread


IMAGES = [(name, cls) for name in layer_types() for cls in layer_dialects(name) if issubclass(cls, Images)]


@pytest.mark.parametrize(("name", "cls"), IMAGES, ids=str)
def test_every_layer_of_images_tells_its_batch_and_channels(name: str, cls: type[Images]) -> None:
    made = cls(LayerParameter(name="l", type=name, top=["a", "b"]), TRAIN, Place("net.prototxt", 1))
    assert made.batch_size() >= 0
    assert made.channels() >= 0


def test_inputs_of_a_row_for_each_step_of_sequences_follow_the_batch(tmp_path: Path) -> None:
    shapes = "shape { dim: 7 dim: 3 } shape { dim: 21 dim: 4 } shape { dim: 5 dim: 2 }"
    path = tmp_path / "net.prototxt"
    path.write_text(f'layer {{ name: "i" type: "Input" top: "x" top: "t" top: "z" input_param {{ {shapes} }} }}')

    def tops(**options: object) -> list[object]:
        [layer] = analyze(str(path), static=True, **options).layers  # type: ignore[arg-type]
        return [top.shape for top in layer.tops]

    assert tops() == [(7, 3), (21, 4), (5, 2)]
    assert tops(batch=2) == [(2, 3), (6, 4), (2, 2)]
    assert tops(batch=2, shapes={"t": (9, 4)}) == [(2, 3), (9, 4), (2, 2)]
    path.write_text(path.read_text().replace("dim: 7 dim: 3", "dim: 7 dim: 3 dim: 8 dim: 8"))
    assert tops(batch=2) == [(2, 3, 8, 8), (2, 4), (2, 2)]
