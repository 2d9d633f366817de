"""The runtime's attention ops: said by those of ONNX they compute the same, and have gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import caffestat
from caffestat.graph.load import load

from .models import normal, run

BATCH, LENGTH, KEYS, HEADS, SIZE = 2, 5, 7, 3, 4
WIDTH = HEADS * SIZE


def built(op: str, inputs: list[np.ndarray | None], outputs: int, **settings: Any) -> onnx.ModelProto:
    """Return a model of one node; floats are its inputs i0, i1, …, integers are stored."""
    names = [f"i{index}" if array is not None else "" for index, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = ["y", "y1", "y2"][:outputs]
    node = helper.make_node(op, names, results, domain="com.microsoft", **settings)
    floats = [helper.make_tensor_value_info(name, 1, a.shape) for name, a in given.items() if a.dtype == np.float32]
    stored = [numpy_helper.from_array(a, name) for name, a in given.items() if a.dtype != np.float32]
    tops = [helper.make_tensor_value_info(name, 1, None) for name in results]
    graph = helper.make_graph([node], "attention", floats, tops, stored)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def feeds_of(inputs: list[np.ndarray | None]) -> dict[str, np.ndarray]:
    return {f"i{i}": array for i, array in enumerate(inputs) if array is not None and array.dtype == np.float32}


def check(op: str, inputs: list[np.ndarray | None], outputs: int = 1, **settings: Any) -> None:
    """Assert that the node is said by ONNX's ops, which compute what the runtime's kernel does."""
    proto = built(op, inputs, outputs, **settings)
    plain = load(proto)
    assert all(found.domain == "" for found in plain.graph.nodes)
    ours, theirs = (run(m, feeds_of(inputs)) for m in (plain.graph.to_onnx(plain.arrays), proto))
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-5)


def rows(length: int = LENGTH, width: int = WIDTH, seed: int = 1) -> np.ndarray:
    return normal(BATCH, length, width, seed=seed)


def qkv(length: int = KEYS) -> list[np.ndarray | None]:
    return [rows(), rows(length, seed=2), rows(length, seed=3)]


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


PADDED = ints([1, 1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1, 0])
EACH = (np.random.default_rng(3).random((BATCH, LENGTH, KEYS)) > 0.4).astype(np.int32)
PAST = [normal(BATCH, HEADS, 3, SIZE, seed=seed) for seed in (6, 7)]
HEADED = [normal(BATCH, HEADS, KEYS, SIZE, seed=seed) for seed in (8, 9)]

MULTI_HEAD: dict[str, tuple[list[np.ndarray | None], dict[str, Any], int]] = {
    "plain": (qkv(), {}, 1),
    "bias": ([*qkv(), normal(3 * WIDTH, seed=4)], {"scale": 0.3}, 1),
    "narrow values": ([rows(), rows(KEYS), rows(KEYS, 2 * HEADS), normal(2 * WIDTH + 2 * HEADS)], {}, 1),
    "mask of keys": ([*qkv(), None, PADDED], {}, 1),
    "lengths": ([*qkv(), None, ints(4, 6)], {"mask_filter_value": -50.0}, 1),
    "mask of pairs": ([*qkv(), None, EACH], {}, 1),
    "nothing seen": ([*qkv(), None, ints([0] * KEYS, [1] * KEYS)], {}, 1),
    "added scores": ([*qkv(), None, None, normal(1, HEADS, LENGTH, KEYS)], {}, 1),
    "causal and a mask": ([*qkv(LENGTH), None, PADDED[:, :LENGTH]], {"unidirectional": 1}, 1),
    "past": ([*qkv(LENGTH), None, None, None, *PAST], {"unidirectional": 1}, 3),
    "present": (qkv(), {}, 3),
    "keys with heads": ([rows(), *HEADED, normal(3 * WIDTH)], {}, 1),
}


@pytest.mark.parametrize("case", MULTI_HEAD)
def test_multi_head_attention(case: str) -> None:
    inputs, settings, outputs = MULTI_HEAD[case]
    check("MultiHeadAttention", inputs, outputs, num_heads=HEADS, **settings)


X, W, B = rows(width=6), normal(6, 3 * WIDTH, seed=2), normal(3 * WIDTH, seed=3)
PAIRS = EACH[:, :, :LENGTH]
ATTENTION: dict[str, tuple[list[np.ndarray | None], dict[str, Any], int]] = {
    "plain": ([X, W, B], {}, 1),
    "causal": ([X, W, B], {"unidirectional": 1}, 1),
    "mask of keys": ([X, W, B, PADDED[:, :LENGTH]], {"unidirectional": 1}, 1),
    "lengths": ([X, W, B, ints(2, 4)], {}, 1),
    "ends and starts": ([X, W, B, ints(4, 5, 1, 2)], {}, 1),
    "mask of pairs": ([X, W, B, PAIRS], {}, 1),
    "sizes": ([X, W[:, : 2 * WIDTH + 6], B[: 2 * WIDTH + 6]], {"qkv_hidden_sizes": [WIDTH, WIDTH, 6], "scale": 0.7}, 1),
    "past": ([X, W, B, None, np.stack(PAST)], {"unidirectional": 1}, 2),
    "present": ([X, W, B], {}, 2),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case: str) -> None:
    inputs, settings, outputs = ATTENTION[case]
    check("Attention", inputs, outputs, num_heads=HEADS, **settings)


PLACES = np.array([[3, 1, 0, 2, 7], [4, 4, 5, 6, 1]], np.int64)
ANGLES = [normal(9, 2, seed=5), normal(9, 2, seed=6)]
ROTARY: dict[str, tuple[list[np.ndarray | None], dict[str, Any]]] = {
    "halves": ([rows(), PLACES, *ANGLES], {}),
    "neighbours, from a place on": ([rows(), np.array([2], np.int64), *ANGLES], {"interleaved": 1}),
    "heads in front": ([normal(BATCH, HEADS, LENGTH, SIZE), PLACES, *ANGLES], {}),
    "a part": ([rows(width=HEADS * 6), PLACES, *ANGLES], {"num_heads": HEADS, "rotary_embedding_dim": 4}),
    "a part, neighbours": (
        [normal(BATCH, HEADS, LENGTH, 6), PLACES, *ANGLES],
        {"num_heads": HEADS, "rotary_embedding_dim": 4, "interleaved": 1},
    ),
}


@pytest.mark.parametrize("case", ROTARY)
def test_rotary_embedding(case: str) -> None:
    inputs, settings = ROTARY[case]
    check("RotaryEmbedding", inputs, **settings)


GROUPS, LARGE = 2, 16  # the kernel rotates heads of multiples of 16 only


def grouped(
    length: int = LENGTH,
    past: int = 0,
    total: int = LENGTH,
    seen: list[int] | None = None,
    packed: bool = False,
    rotary: bool = False,
    others: tuple[np.ndarray | None, ...] = (),
    batch: int = BATCH,
    **settings: Any,
) -> Callable[[], None]:
    """Return a check of a GroupQueryAttention of 4 heads that read 2 keys."""
    widths = [4 * LARGE, GROUPS * LARGE, GROUPS * LARGE]
    parts: list[np.ndarray | None] = [normal(batch, length, width, seed=i) for i, width in enumerate(widths)]
    if packed:
        parts = [normal(batch, length, sum(widths)), None, None]
    cache = [normal(batch, GROUPS, past, LARGE, seed=seed) if past else None for seed in (6, 7)]
    angles = [normal(12, LARGE // 2, seed=seed) if rotary else None for seed in (8, 9)]
    lengths = ints(*(seen or [total - 1] * batch))
    inputs = [*parts, *cache, lengths, np.array(total, np.int32), *angles, *others]
    while inputs[-1] is None:
        inputs.pop()
    settings |= {"num_heads": 4, "kv_num_heads": GROUPS, "do_rotary": int(rotary)}
    return lambda: check("GroupQueryAttention", inputs, 3, **settings)


GROUPED = {
    "prompt": grouped(scale=0.3),
    "one input": grouped(packed=True, rotary=True, rotary_interleaved=1),
    "capped": grouped(softcap=2.0, others=(None, normal(BATCH, 1, LENGTH, LENGTH))),
    "one more term": grouped(smooth_softmax=1),
    "sinks": grouped(others=(None, None, normal(4))),
    "window": grouped(local_window_size=2),
    "prompt before an empty past": grouped(past=8, rotary=True),
    "a place behind the past": grouped(length=1, past=6, total=7, rotary=True),
    "pasts of other lengths": grouped(length=1, past=8, total=6, seen=[3, 5], rotary=True, local_window_size=3),
    "several places": grouped(length=3, past=4, total=7, batch=1, rotary=True),
    "places": grouped(length=3, past=4, total=7, batch=1, rotary=True, others=(np.array([[2, 5, 6]], np.int64),)),
}


@pytest.mark.parametrize("case", GROUPED)
def test_group_query_attention(case: str) -> None:
    GROUPED[case]()


def test_gradients_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    inputs = [*qkv(LENGTH), normal(3 * WIDTH, seed=4), PADDED[:, :LENGTH], normal(1, HEADS, LENGTH, LENGTH + 3), *PAST]
    inputs[4] = np.concatenate([ints([1] * 3, [1] * 3), PADDED[:, :LENGTH]], axis=1)
    proto = built("MultiHeadAttention", inputs, 1, num_heads=HEADS, unidirectional=1)
    names = [f"i{i}" for i in (0, 1, 2, 3, 5, 6, 7)]
    dy = rows(seed=11)
    found = run(caffestat.gradient(proto, wrt=names), {**feeds_of(inputs), "cotangent/y": dy})
    x = {name: torch.tensor(inputs[int(name[1:])], dtype=torch.float64, requires_grad=True) for name in names}
    parts = [x[f"i{i}"] + part for i, part in enumerate(x["i3"].chunk(3))]
    q, k, v = (part.reshape(BATCH, LENGTH, HEADS, SIZE).transpose(1, 2) for part in parts)
    k, v = torch.cat([x["i6"], k], 2), torch.cat([x["i7"], v], 2)
    later = torch.ones(LENGTH, LENGTH + 3).triu(4) > 0
    hidden = (torch.tensor(inputs[4])[:, None, None] == 0) | later
    scores = (q @ k.transpose(2, 3) / SIZE**0.5 + x["i5"]).masked_fill(hidden, -1e4)
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(BATCH, LENGTH, WIDTH)
    (y * torch.tensor(dy)).sum().backward()
    for name in names:
        np.testing.assert_allclose(found[f"grad/{name}"], x[name].grad, rtol=1e-4, atol=1e-5)


def test_gradients_of_grouped_keys_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (normal(BATCH, LENGTH, width, seed=i) for i, width in enumerate((64, 32, 32)))
    cos, sin = normal(12, 8, seed=8), normal(12, 8, seed=9)
    inputs: list[np.ndarray | None] = [q, k, v, None, None, ints(4, 4), np.array(5, np.int32), cos, sin]
    settings = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "softcap": 3.0, "smooth_softmax": 1}
    proto, names, dy = (
        built("GroupQueryAttention", inputs, 1, **settings),
        ["i0", "i1", "i2", "i7", "i8"],
        rows(width=64),
    )
    found = run(caffestat.gradient(proto, wrt=names), {**feeds_of(inputs), "cotangent/y": dy})
    x = {name: torch.tensor(inputs[int(name[1:])], dtype=torch.float64, requires_grad=True) for name in names}

    def turned(values: Any, heads: int) -> Any:
        a, b = values.reshape(BATCH, LENGTH, heads, 16).transpose(1, 2).chunk(2, -1)
        cos, sin = x["i7"][:LENGTH], x["i8"][:LENGTH]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    keys, values = turned(x["i1"], 2), x["i2"].reshape(BATCH, LENGTH, 2, 16).transpose(1, 2)
    keys, values = (part.repeat_interleave(2, 1) for part in (keys, values))
    scores = 3 * torch.tanh(turned(x["i0"], 4) @ keys.transpose(2, 3) / 12)
    scores = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1) > 0, float("-inf"))
    column = torch.zeros(BATCH, 4, LENGTH, 1, dtype=torch.float64)
    shares = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    y = (shares @ values).transpose(1, 2).reshape(BATCH, LENGTH, 64)
    (y * torch.tensor(dy)).sum().backward()
    for name in names:
        np.testing.assert_allclose(found[f"grad/{name}"], x[name].grad, rtol=1e-4, atol=1e-5)
