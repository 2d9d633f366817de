"""The runtime's attention ops, expressed in ops of ONNX. (onnxruntime, ContribOperators.md; contrib_ops/cpu/bert)

In the middle, heads stand in front of the sequence: [batch, heads, sequence, head size].
"""

from __future__ import annotations

import numpy as np

from .graph import Node
from .upgrade import AdapterContext
from .writer import Writer, definition

_FILTERED = -10000.0  # added to masked scores, where the node has no value for it
_LOWEST = float(np.finfo(np.float32).min)
_FORMS_OF_MASKS = (1, 2, 3)  # numbers of axes

Shape = tuple[int, ...]


def _has_ranks(context: AdapterContext, node: Node, *allowed: tuple[int, ...]) -> bool:
    """Tell whether the inputs that there are have known shapes of allowed numbers of axes, and no other is given."""
    for name, ranks in zip(node.inputs, allowed, strict=False):
        spec = context.spec(name) if name else None
        if name and (spec is None or len(spec.shape) not in ranks):
            return False
    return not any(node.inputs[len(allowed) :])


def _heads(w: Writer, value: str, batch: int, length: int, heads: int) -> str:
    """Emit [batch, length, heads · size] with the heads in front."""
    return w.transpose(w.reshape(value, batch, length, heads, -1), 0, 2, 1, 3)


def _merged(w: Writer, value: str, batch: int, length: int, y: str) -> None:
    """Emit the output: the heads of [batch, heads, length, size] concatenated."""
    w.reshape(w.transpose(value, 0, 2, 1, 3), batch, length, -1, to=y)


def _scores(w: Writer, node: Node, q: str, k: str, size: int) -> str:
    """Emit scale · q kᵀ."""
    scale = node.get("scale", 0.0) or size**-0.5
    return w.emit("MatMul", w.emit("Mul", q, w.number(scale)), w.transpose(k, 0, 1, 3, 2))


def _places(w: Writer, first: int, count: int, *shape: int) -> str:
    return w.context.constant(np.arange(first, first + count).reshape(shape), np.int64)


def _hidden(w: Writer, is_seen: str, value: float) -> str:
    """Emit 0 where a score counts and a large negative number where it is masked."""
    return w.emit("Where", is_seen, w.number(0.0), w.number(value))


def _causal(w: Writer, past: int, length: int) -> str:
    """Emit the causal mask, [length, past + length]."""
    queries, keys = _places(w, past, length, length, 1), _places(w, 0, past + length, 1, past + length)
    return _hidden(w, w.emit("LessOrEqual", keys, queries), _LOWEST)


def _padding(w: Writer, mask: str, shape: Shape, batch: int, total: int, value: float) -> str:
    """Emit what a mask hides. [batch, total] and [batch, length, total] hold 0 for hidden; else there are ends.

    [batch] lengths, or [2 · batch] ends, then starts
    """
    if len(shape) > 1:
        middle = (1, *shape[1:]) if len(shape) == 3 else (1, 1, total)
        return _hidden(w, w.reshape(w.cast(mask, np.bool_), batch, *middle), value)
    ends, starts = w.parts(w.cast(mask, np.int64), 0, batch, shape[0] - batch)
    places = _places(w, 0, total, 1, total)
    seen = w.emit("Less", places, w.reshape(ends, batch, 1))
    if starts:
        seen = w.emit("And", seen, w.emit("GreaterOrEqual", places, w.reshape(starts, batch, 1)))
    return _hidden(w, w.reshape(seen, batch, 1, 1, total), value)


def _attend(w: Writer, node: Node, q: str, k: str, v: str, size: int, *biases: str) -> str:
    """Emit softmax(scale · q kᵀ + biases) v."""
    return w.emit("MatMul", w.emit("Softmax", w.sum(_scores(w, node, q, k, size), *biases), axis=-1), v)


def _masks(w: Writer, node: Node, mask: int, past: int, length: int, total: int) -> list[str]:
    """Emit what the mask, an input at a position, and `unidirectional` hide."""
    found = [_causal(w, past, length)] if node.get("unidirectional", 0) and length > 1 else []
    if w.input(mask):
        value = node.get("mask_filter_value", _FILTERED)
        found.append(_padding(w, w.input(mask), w.shape(mask), w.shape(0)[0], total, value))
    return found


def _fits_multi_head(context: AdapterContext, node: Node) -> bool:
    """Tell whether query, key and value are separate, and neither buffers nor scores are shared with other nodes."""
    ranks = ((3,), (3, 4), (3, 4), (1,), _FORMS_OF_MASKS, (4,), (4,), (4,))
    if (
        len(node.inputs) < 3
        or not all(node.inputs[:3])
        or any(node.outputs[3:])
        or not _has_ranks(context, node, *ranks)
    ):
        return False
    return _is_padding(context, node, 4)


def _is_padding(context: AdapterContext, node: Node, position: int) -> bool:
    """Tell whether a mask of one axis has lengths, or ends and starts, of each of the batch."""
    name = node.inputs[position] if position < len(node.inputs) else ""
    spec, batch = context.spec(name) if name else None, context.spec(node.inputs[0])
    return spec is None or batch is None or len(spec.shape) > 1 or spec.shape[0] in (batch.shape[0], 2 * batch.shape[0])


@definition("MultiHeadAttention", fits=_fits_multi_head)
def _multi_head(w: Writer, node: Node, y: str) -> None:
    """y = softmax(scale · q kᵀ + bias + masks) v for each head; key and value follow those of the past."""
    (batch, length, width), heads = w.shape(0), node.get("num_heads")
    q, k, v = (w.input(position) for position in range(3))
    if w.input(3):
        widths = [w.shape(i)[2] if len(w.shape(i)) == 3 else heads * w.shape(i)[3] for i in range(3)]
        biases = w.parts(w.input(3), 0, *widths)
        q, k, v = (
            w.emit("Add", x, b) if len(w.shape(i)) == 3 else x
            for i, (x, b) in enumerate(zip((q, k, v), biases, strict=True))
        )
    q = _heads(w, q, batch, length, heads)
    k, v = (_heads(w, x, batch, w.shape(i)[1], heads) if len(w.shape(i)) == 3 else x for i, x in enumerate((k, v), 1))
    past = w.shape(6)[2] if w.input(6) else 0
    k, v = _joined(w, (w.input(6), w.input(7)), (k, v))
    total = past + w.shape(1)[1 if len(w.shape(1)) == 3 else 2]
    biases = [w.input(5), *_masks(w, node, 4, past, length, total)]
    _merged(w, _attend(w, node, q, k, v, width // heads, *biases), batch, length, y)


def _joined(w: Writer, past: tuple[str, str], new: tuple[str, str]) -> tuple[str, str]:
    """Emit the keys and values of the past and the new ones concatenated, as outputs 1 and 2 where asked for."""
    pairs = zip((w.output(1), w.output(2)), past, new, strict=True)
    k, v = (
        w.concat(2, before, x, to=name) if before else w.emit("Identity", x, to=name) if name else x
        for name, before, x in pairs
    )
    return k, v


def _fits_attention(context: AdapterContext, node: Node) -> bool:
    """Tell whether nothing of the node is known to other kernels only."""
    ranks = ((3,), (2,), (1,), _FORMS_OF_MASKS, (5,), (4,))
    if node.get("do_rotary", 0) or node.get("past_present_share_buffer", 0) or not _has_ranks(context, node, *ranks):
        return False
    return _is_padding(context, node, 3)


@definition("Attention", fits=_fits_attention)
def _attention(w: Writer, node: Node, y: str) -> None:
    """y = softmax(scale · q kᵀ + bias + masks) v, with q, k and v the parts of x w + b."""
    (batch, length, _), heads = w.shape(0), node.get("num_heads")
    width = w.shape(1)[1]
    widths = node.get("qkv_hidden_sizes") or [width // 3] * 3
    product = w.sum(w.emit("MatMul", w.input(0), w.input(1)), w.input(2))
    q, k, v = (_heads(w, part, batch, length, heads) for part in w.parts(product, 2, *widths))
    past = 0
    if w.input(4):
        past = w.shape(4)[3]
        before = w.parts(w.input(4), 0, 1, 1)
        k, v = (w.concat(2, w.reshape(x, *w.shape(4)[1:]), new) for x, new in zip(before, (k, v), strict=True))
    if w.output(1):
        w.concat(0, *(w.reshape(x, 1, batch, heads, past + length, -1) for x in (k, v)), to=w.output(1))
    biases = [w.input(5), *_masks(w, node, 3, past, length, past + length)]
    _merged(w, _attend(w, node, q, k, v, widths[0] // heads, *biases), batch, length, y)


def _rotated(w: Writer, x: str, size: int, cos: str, sin: str, half: int, interleaved: bool, to: str = "") -> str:
    """Emit pairs of elements of x rotated: (a cos - b sin, b cos + a sin), the rest of each head as it is.

    x     [..., size], of which the first 2 · half elements are rotated
    cos   [..., half], as sin
    interleaved  pairs are neighbours; else the second of a pair stands `half` behind the first
    """
    turned, rest = w.parts(x, -1, 2 * half, size - 2 * half)
    if interleaved:
        columns = w.parts(w.reshape(turned, 0, 0, 0, half, 2), -1, 1, 1)
        a, b = (w.emit("Squeeze", column, w.ints(-1)) for column in columns)
    else:
        a, b = w.parts(turned, -1, half, half)
    first = w.emit("Sub", w.emit("Mul", a, cos), w.emit("Mul", b, sin))
    second = w.emit("Add", w.emit("Mul", b, cos), w.emit("Mul", a, sin))
    if interleaved:
        pairs = w.concat(-1, *(w.emit("Unsqueeze", value, w.ints(-1)) for value in (first, second)))
        first, second = w.reshape(pairs, 0, 0, 0, 2 * half), ""
    return w.concat(-1, first, second, rest, to=to)


def _fits_rotary(context: AdapterContext, node: Node) -> bool:
    return not node.get("is_packed_batching", 0) and _has_ranks(context, node, (3, 4), (1, 2), (2,), (2,))


@definition("RotaryEmbedding", fits=_fits_rotary)
def _rotary(w: Writer, node: Node, y: str) -> None:
    """y = each head's pairs of elements, rotated by an angle that grows with the place. (Su et al. 2021, RoFormer)"""
    x, shape, half = w.input(0), w.shape(0), w.shape(2)[1]
    is_flat = len(shape) == 3
    batch, length = shape[0], shape[1 if is_flat else 2]
    size = shape[2] // node.get("num_heads") if is_flat and node.get("rotary_embedding_dim", 0) else 2 * half
    size = size if is_flat else shape[3]
    places = w.input(1)
    if len(w.shape(1)) == 1:
        places = w.emit("Add", places, _places(w, 0, length, 1, length))
    angles = [w.emit("Gather", w.input(position), places) for position in (2, 3)]
    cos, sin = (w.emit("Unsqueeze", angle, w.ints(2 if is_flat else 1)) for angle in angles)
    heads = w.reshape(x, batch, length, -1, size) if is_flat else x
    turned = _rotated(w, heads, size, cos, sin, half, bool(node.get("interleaved", 0)), "" if is_flat else y)
    if is_flat:
        w.reshape(turned, *shape, to=y)


def _fits_grouped(context: AdapterContext, node: Node) -> bool:
    """Tell whether the length of everything is known, and keys are neither quantized nor normalized nor evicted."""
    ranks = ((3,), (3,), (3,), (4,), (4,), (1, 2), (0, 1), (2,), (2,), (2,), (4,), (1,))
    strange = node.get("sliding_window_cache", 0) or node.get("qk_output", 0) or not node.get("causal", 1)
    if strange or any(node.outputs[3:]) or not _has_ranks(context, node, *ranks):
        return False
    return context.known(node.inputs[6]) is not None


@definition("GroupQueryAttention", fits=_fits_grouped)
def _grouped(w: Writer, node: Node, y: str) -> None:
    """y = softmax(scale · q kᵀ + bias) v, each key and value read by several heads; no place sees a later one.

    Of each of the batch the keys of the past are as many as `seqlens_k` + 1 exceeds the new ones; new ones stand behind
    them. In a prompt there are none of the past. (Ainslie et al. 2023, GQA)
    """
    batch, length = w.shape(0)[:2]
    heads, groups = node.get("num_heads"), node.get("kv_num_heads")
    total = int(np.asarray(w.context.known(w.input(6))).item())
    q, k, v = _grouped_parts(w, batch, length, heads, groups)
    size = w.shape(0)[2] // (heads if w.input(1) else heads + 2 * groups)
    past = _past_lengths(w, batch, length, is_prompt=length == total)
    places = w.emit("Add", past, _places(w, 0, length, 1, length))
    if node.get("do_rotary", 0):
        q, k = (_turned(w, node, x, size, w.input(9) or places) for x in (q, k))
    k, v = (_with_past(w, x, i, past, places, total) for i, x in enumerate((k, v), 1))
    count = max(w.shape(3)[2] if w.input(3) else 0, total)
    scores = _scores(w, node, w.reshape(q, batch, groups, -1, size), k, size)
    scores = _capped(w, w.reshape(scores, batch, heads, length, count), node.get("softcap", 0.0))
    if w.input(10):
        scores = w.emit("Add", scores, _widened(w, w.input(10), w.shape(10)[3], count))
    probabilities = _with_sink(w, node, w.emit("Add", scores, _window(w, node, places, batch, length, count)))
    result = w.emit("MatMul", w.reshape(probabilities, batch, groups, -1, count), v)
    _merged(w, w.reshape(result, batch, heads, length, -1), batch, length, y)


def _grouped_parts(w: Writer, batch: int, length: int, heads: int, groups: int) -> list[str]:
    """Emit q, k and v with their heads in front, of separate inputs or of one."""
    if w.input(1):
        return [_heads(w, w.input(i), batch, length, n) for i, n in enumerate((heads, groups, groups))]
    return w.parts(_heads(w, w.input(0), batch, length, heads + 2 * groups), 1, heads, groups, groups)


def _past_lengths(w: Writer, batch: int, length: int, is_prompt: bool) -> str:
    """Emit how many keys of the past there are, [batch, 1]."""
    if is_prompt:
        return w.context.constant(np.zeros((batch, 1)), np.int64)
    seen = w.reshape(w.cast(w.input(5), np.int64), batch, 1)
    return w.emit("Add", seen, w.context.constant(1 - length, np.int64))


def _turned(w: Writer, node: Node, x: str, size: int, places: str) -> str:
    half = w.shape(7)[1]
    cos, sin = (w.emit("Unsqueeze", w.emit("Gather", w.input(i), places), w.ints(1)) for i in (7, 8))
    return _rotated(w, x, size, cos, sin, half, bool(node.get("rotary_interleaved", 0)))


def _with_past(w: Writer, new: str, output: int, lengths: str, places: str, total: int) -> str:
    """Emit the keys (or values) of the past and behind them the new ones, zeros behind those, as output 1 or 2."""
    (batch, length), past, name = w.shape(0)[:2], w.input(output + 2), w.output(output)
    if not past and length == total:
        return w.emit("Identity", new, to=name) if name else new
    shape = w.shape(3) if past else (batch, w.node.get("kv_num_heads"), 0, 0)
    count = max(shape[2], total)
    index = w.reshape(places, batch, 1, length, 1)
    if past:
        longer = w.emit("Pad", past, w.ints(0, 0, 0, 0, 0, 0, count - shape[2], 0)) if count > shape[2] else past
        is_past = w.emit("Less", _places(w, 0, count, count, 1), w.reshape(lengths, batch, 1, 1, 1))
        base = w.emit("Where", is_past, longer, w.number(0.0))
        index = w.emit("Expand", index, w.ints(batch, shape[1], length, shape[3]))
        return w.emit("ScatterElements", base, index, new, to=name, axis=2)
    return w.emit("Pad", new, w.ints(0, 0, 0, 0, 0, 0, count - length, 0), to=name)


def _capped(w: Writer, scores: str, cap: float) -> str:
    """Emit cap · tanh(scores / cap)."""
    if not cap:
        return scores
    return w.emit("Mul", w.emit("Tanh", w.emit("Div", scores, w.number(cap))), w.number(cap))


def _widened(w: Writer, bias: str, width: int, count: int) -> str:
    """Emit a bias of scores with zeros for places behind the last one that it knows."""
    return w.emit("Pad", bias, w.ints(0, 0, 0, 0, 0, 0, 0, count - width)) if count > width else bias


def _window(w: Writer, node: Node, places: str, batch: int, length: int, count: int) -> str:
    """Emit the mask of later places and of those before the window, [batch, 1, length, count]."""
    queries, keys = w.reshape(places, batch, 1, length, 1), _places(w, 0, count, 1, count)
    seen, width = w.emit("LessOrEqual", keys, queries), node.get("local_window_size", -1)
    if width > 0:
        first = w.emit("Sub", queries, w.context.constant(width, np.int64))
        seen = w.emit("And", seen, w.emit("Greater", keys, first))
    return _hidden(w, seen, _LOWEST)


def _with_sink(w: Writer, node: Node, scores: str) -> str:
    """Emit the softmax of scores, where the sum below has one more term: exp(sink) of each head, or 1."""
    batch, length, heads = *w.shape(0)[:2], node.get("num_heads")
    if not w.input(11) and not node.get("smooth_softmax", 0):
        return w.emit("Softmax", scores, axis=-1)
    sink = w.reshape(w.input(11), 1, heads, 1, 1) if w.input(11) else w.number(0.0)
    column = w.emit("Expand", sink, w.ints(batch, heads, length, 1))
    probabilities = w.emit("Softmax", w.concat(-1, scores, column), axis=-1)
    return w.emit("Slice", probabilities, w.ints(0), w.ints(-1), w.ints(-1))
