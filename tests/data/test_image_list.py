"""ImageData layers: lists, labels, order, sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data import DataUnavailableError, open_reader
from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.net import build, read_net

from .support import TRAIN, encoded, make, opened, picture, words

pytest.importorskip("PIL")


def image_layer(folder: Path, settings: str = "batch_size: 2", transform: str = "", phase: int = TRAIN):
    param = f'image_data_param {{ source: "list" {settings} }} transform_param {{ {transform} }}'
    return make(f'type: "ImageData" top: "data" top: "label" {param}', folder, phase)


@pytest.fixture
def five_images(tmp_path: Path) -> Path:
    lines = []
    for number in range(5):
        (tmp_path / f"image {number}.png").write_bytes(encoded(picture(number)))
        lines.append(f"image {number}.png {number}")
    (tmp_path / "list").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_images_and_labels_in_the_lists_order_and_again(five_images):
    reader = opened(image_layer(five_images))
    assert reader.shapes == ((2, 3, 5, 7), (2,))
    labels = []
    for _ in range(3):
        data, label = reader.next()
        for image, number in zip(data, label, strict=True):
            np.testing.assert_array_equal(image, picture(int(number)))
        labels += label.tolist()
    assert labels == [0, 1, 2, 3, 4, 0]


def shuffle(items: list[int], stream: list[int]) -> None:
    """Boost's uniform integers by the definition: equal buckets of the 2^32 words, the rest rejected."""
    for last in range(len(items) - 1, 0, -1):
        chosen = last + 1
        while chosen > last:
            chosen = stream.pop(0) // (2**32 // (last + 1))
        items[last], items[chosen] = items[chosen], items[last]


def test_shuffled_with_its_own_generator_once_per_round(five_images):
    layer = image_layer(five_images, "batch_size: 5 shuffle: true")
    reader = opened(layer)
    own = [int(w) for w in np.random.RandomState(words(1)[0]).randint(0, 1 << 32, 40, np.uint32)]
    order = list(range(5))
    for _ in range(3):
        shuffle(order, own)
        assert reader.next()[1].tolist() == order


def test_rand_skip_passes_over_the_first(five_images):
    assert opened(image_layer(five_images, "batch_size: 2 rand_skip: 4")).next()[1][0] == words(1)[0] % 4


def test_words_are_drawn_in_caffes_order(five_images):
    layer = image_layer(five_images, "batch_size: 2 shuffle: true rand_skip: 3", "crop_size: 4")
    assert layer.setup_words() == ("transformer", "shuffle", "skip", "transformer", "thread")
    stream = Stream(1701)
    layer.draw_setup(stream)
    assert stream.word() == words(6)[5]
    reader = opened(layer)
    seed = words(4)[3]
    offsets = [int(w) for w in np.random.RandomState(seed).randint(0, 1 << 32, 2, np.uint32)]
    data, labels = reader.next()
    top, left = offsets[0] % 2, offsets[1] % 4
    np.testing.assert_array_equal(data[0], picture(int(labels[0]))[:, top : top + 4, left : left + 4])


def test_resized_gray_images_below_a_root_folder(five_images):
    (five_images / "list").write_text("0.png 7\n")
    layer = image_layer(
        five_images,
        f'new_height: 10 new_width: 7 is_color: false root_folder: "{five_images}/image "',
        "scale: 0.5",
    )
    reader = opened(layer)
    assert reader.shapes == ((1, 1, 10, 7), (1,))
    data, label = reader.next()
    assert label.tolist() == [7]
    assert 0 < data.max() <= 127.5


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("a.png", 0),
        ("a.png 12", 12),
        ("a.png -3x", -3),
        ("a.png dog", 0),
        (f"a.png {2**32 + 1}", 1),
        (f"a.png {10**20}", -1),
    ],
)
def test_labels_as_atoi_reads_them(line, label, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture(1)))
    (tmp_path / "list").write_text(line)
    assert opened(image_layer(tmp_path)).next()[1].tolist() == [label, label]


def test_blank_lines_count_and_end_the_run(five_images):
    listed = (five_images / "list").read_text().replace("image 3.png 3", "")
    (five_images / "list").write_text(listed + "\n")
    reader = opened(image_layer(five_images, "batch_size: 2 shuffle: true"))
    assert len(reader.listed) == 6
    with pytest.raises(NetError, match="line 4 of 'list' names no image"):
        opened(image_layer(five_images, "batch_size: 5")).next()


def test_images_of_several_sizes_need_a_size(five_images):
    (five_images / "image 1.png").write_bytes(encoded(picture(1, 3, 6, 7)))
    with pytest.raises(NetError, match=r"image 'image 1.png' has .*; give new_height and new_width, or crop_size"):
        opened(image_layer(five_images)).next()


@pytest.mark.parametrize(
    ("settings", "transform", "varies"),
    [
        ("batch_size: 1", "", True),
        ("batch_size: 2", "", False),
        ("batch_size: 1", "crop_size: 3", False),
        ("batch_size: 1 new_height: 4 new_width: 4", "", False),
    ],
)
def test_one_at_a_time_images_keep_their_sizes(settings, transform, varies, five_images):
    (five_images / "image 1.png").write_bytes(encoded(picture(1, 3, 6, 4)))
    reader = opened(image_layer(five_images, settings, transform))
    assert reader.varies == varies
    if varies:
        assert [reader.next()[0].shape[2:] for _ in range(3)] == [(5, 7), (6, 4), (5, 7)]


def test_images_that_are_missing_or_damaged(five_images):
    (five_images / "image 1.png").unlink()
    with pytest.raises(NetError, match=r"file not found: 'image 1.png'"):
        opened(image_layer(five_images)).next()
    (five_images / "image 0.png").write_text("no image")
    with pytest.raises(NetError, match=r"image 0.png' cannot be decoded as an image"):
        open_reader(image_layer(five_images))
    (five_images / "image 0.png").unlink()
    with pytest.raises(DataUnavailableError, match=r"file not found: 'image 0.png'"):
        open_reader(image_layer(five_images))


def test_skipping_all_there_is(five_images):
    layer = image_layer(five_images, "batch_size: 2 rand_skip: 100000")
    assert words(1)[0] % 100000 >= 5
    with pytest.raises(NetError, match=r"but the list has only 5"):
        opened(layer)


def test_several_labels_for_each_image(five_images):
    lines = [f"image{number}.png {number} {10 + number} 7x" for number in range(5)]
    for number in range(5):
        (five_images / f"image {number}.png").rename(five_images / f"image{number}.png")
    (five_images / "list").write_text("\n".join(lines) + "\n")
    (five_images / "net.prototxt").write_text(
        'layer { name: "d" type: "ImageData" top: "x" top: "t" '
        'image_data_param { source: "list" batch_size: 2 label_dim: 3 } }'
    )
    net = build(read_net(str(five_images / "net.prototxt")))
    assert net.nodes[0].top_shapes == ((2, 3, 5, 7), (2, 3))
    reader = net.nodes[0].layer.reader
    data, labels = reader.next()
    np.testing.assert_array_equal(labels, [[0, 10, 7], [1, 11, 7]])
    np.testing.assert_array_equal(data[1], picture(1))
    (five_images / "list").write_text("image0.png 1 2 3\nimage1.png 1 2\n")
    with pytest.raises(NetError, match=r"expected 3 labels behind each name, .* line 2 of 'list' has 2"):
        build(read_net(str(five_images / "net.prototxt")))
