"""LRN, BatchNorm and MVN against Caffe, and against their formulas in float64."""

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.graph import Graph

from .golden import check_golden, golden_layers
from .harness import TEST, TRAIN, make, run

SHAPE = (2, 3, 6, 5)


def layer(type_name, params="", phase=TRAIN, more=""):
    field = {"LRN": "lrn_param", "BatchNorm": "batch_norm_param", "MVN": "mvn_param"}[type_name]
    return make(f'name: "l" type: "{type_name}" bottom: "x" top: "y" {field} {{ {params} }} {more}', phase)


def values(*shape, seed=0, scale=1.0, mean=0.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale + mean).astype(np.float32)


@pytest.mark.parametrize(
    ("case", "name"), golden_layers("lrn batchnorm mvn inplace v0net v1net", "LRN", "BatchNorm", "MVN")
)
def test_golden(case, name):
    check_golden(case, name)


def directional(f, x, dy, direction, step=1e-5):
    """d/dt Σ dy · f(x + t · direction), by central differences in float64."""
    x = x.astype(np.float64)
    return np.sum(dy * (f(x + step * direction) - f(x - step * direction))) / (2 * step)


def across(size, alpha, beta, k):
    def f(x):
        padded = np.pad(x * x, [(0, 0), (size // 2, size // 2), (0, 0), (0, 0)])
        total = sum(padded[:, i : i + x.shape[1]] for i in range(size))
        return x * (k + alpha / size * total) ** -beta

    return f


def within(size, alpha, beta):
    """The divisor of a window is its part of the image padded by size // 2: less than size² at the far ends only."""

    def f(x):
        pad = size // 2
        height, width = x.shape[2:]
        y = np.empty_like(x)
        for h, w in np.ndindex(height, width):
            rows = slice(max(h - pad, 0), h + pad + 1), slice(max(w - pad, 0), w + pad + 1)
            count = (min(h + pad + 1, height + pad) - (h - pad)) * (min(w + pad + 1, width + pad) - (w - pad))
            y[:, :, h, w] = (1 + alpha * (x[:, :, rows[0], rows[1]] ** 2).sum((2, 3)) / count) ** -beta
        return x * y

    return f


@pytest.mark.parametrize(
    ("params", "f"),
    [
        ("", across(5, 1, 0.75, 1)),
        ("local_size: 3 alpha: 0.4 beta: 0.6 k: 2", across(3, 0.4, 0.6, 2)),
        ("local_size: 1 alpha: 0.4", across(1, 0.4, 0.75, 1)),
        ("local_size: 9 alpha: 2", across(9, 2, 0.75, 1)),
        ("norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.7 k: 5", within(3, 0.7, 0.75)),
        ("norm_region: WITHIN_CHANNEL local_size: 7 alpha: 0.7 beta: 0.4", within(7, 0.7, 0.4)),
    ],
)
@pytest.mark.parametrize("channels", [3, 8])
def test_lrn(params, f, channels):
    shape = (2, channels, 6, 5)
    x, dy, direction = (values(*shape, seed=i, scale=2) for i in range(3))
    result = run(layer("LRN", params), [x], dys=[dy])
    np.testing.assert_allclose(result.tops[0], f(x.astype(np.float64)), rtol=1e-5, atol=1e-6)
    slope = directional(f, x, dy, direction)
    np.testing.assert_allclose(np.sum(result.bottoms[0].astype(np.float64) * direction), slope, rtol=1e-4)


def test_lrn_reads_a_top_that_was_overwritten():
    """Caffe's backward pass takes y from the top's memory, where an in-place layer after it writes."""
    x, dy, over = values(*SHAPE), values(*SHAPE, seed=1), values(*SHAPE, seed=2)
    result = run(layer("LRN", "local_size: 3 alpha: 0.6"), [x], dys=[dy], later=[over])
    scale = 1 + 0.2 * (x / across(3, 0.6, 1, 1)(x) - 1) / 0.2
    ratio = np.pad(dy * over / scale, [(0, 0), (1, 1), (0, 0), (0, 0)])
    spread = sum(ratio[:, i : i + 3] for i in range(3))
    np.testing.assert_allclose(
        result.bottoms[0], dy * scale**-0.75 - 2 * 0.6 * 0.75 / 3 * x * spread, rtol=1e-4, atol=1e-5
    )


def test_lrn_in_place_writes_over_what_it_reads():
    x, dy = values(*SHAPE), values(*SHAPE, seed=1)
    it = make('name: "l" type: "LRN" bottom: "x" top: "x" lrn_param { local_size: 3 alpha: 0.6 beta: 0.75 }')
    result = run(it, [x], dys=[dy])

    def sums(v):
        padded = np.pad(v, [(0, 0), (1, 1), (0, 0), (0, 0)])
        return sum(padded[:, i : i + v.shape[1]] for i in range(3))

    s = 1 + 0.2 * sums(x * x)
    y = s**-1.5
    np.testing.assert_allclose(result.tops[0], y, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], y - 2 * 0.75 * 0.2 * y * sums(y * y / s), rtol=1e-4)


def normalized(x, eps):
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps), mean.ravel(), variance.ravel()


RANKS = [(4, 3), (4, 3, 5), SHAPE, (2, 3, 4, 2, 5), (2, 3, 32, 17), (1, 3, 1, 1)]


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", RANKS)
def test_batch_norm_on_batch_statistics(shape, provider):
    x, dy = values(*shape, scale=2, mean=3), values(*shape, seed=1)
    it = layer("BatchNorm", "moving_average_fraction: 0.9 eps: 0.001")
    running = [values(3, seed=2), values(3, seed=3), values(1, seed=4)]
    assert [p.shape for p in it.params([shape])] == [(3,), (3,), (1,)]
    result = run(it, [x], running, [dy], provider=provider)
    y, mean, variance = normalized(x.astype(np.float64), 0.001)
    np.testing.assert_allclose(result.tops[0], y, rtol=1e-4, atol=1e-5)
    axes, count = (0, *range(2, x.ndim)), x.size // 3
    column = (1, 3, *(1,) * (x.ndim - 2))
    inner = dy - dy.mean(axes, keepdims=True) - y * (dy * y).mean(axes, keepdims=True)
    expected = inner / np.sqrt(variance.reshape(column) + 0.001)
    np.testing.assert_allclose(result.bottoms[0], expected, rtol=1e-3, atol=2e-5)
    for found in result.params:
        np.testing.assert_array_equal(found, np.zeros_like(found))
    correction = count / (count - 1) if count > 1 else 1
    new = [mean, variance * correction, np.ones(1)]
    for index in range(3):
        np.testing.assert_allclose(result.updates[index], running[index] * 0.9 + new[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("factor", [0.0, 2.5])
def test_batch_norm_on_stored_statistics(factor, provider):
    x, dy = values(*SHAPE), values(*SHAPE, seed=1)
    stored = [values(3, seed=2), np.abs(values(3, seed=3)), np.array([factor])]
    result = run(layer("BatchNorm", "eps: 0.01", phase=TEST), [x], stored, [dy], provider=provider)
    mean, variance = (s / factor if factor else 0 * s for s in stored[:2])
    deviation = np.sqrt(variance + 0.01)[:, None, None]
    np.testing.assert_allclose(result.tops[0], (x - mean[:, None, None]) / deviation, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], dy / deviation, rtol=1e-5)
    assert result.updates == {}


@pytest.mark.parametrize(("phase", "params", "changes"), [(TRAIN, "true", False), (TEST, "false", True)])
def test_use_global_stats_overrules_the_phase(phase, params, changes):
    it = layer("BatchNorm", f"use_global_stats: {params}", phase)
    result = run(it, [values(*SHAPE)], [np.zeros(3), np.zeros(3), np.zeros(1)])
    assert bool(result.updates) == changes


def test_batch_norms_of_the_same_size_do_not_mix():
    """The CPU kernel writes over its inputs: with shared constants the second layer, or run, would go wrong."""
    import onnxruntime

    g = Graph()
    value, tops = g.input("x", SHAPE), []
    for index in range(2):
        params = [g.param(f"p{index}_{i}", shape) for i, shape in enumerate([(3,), (3,), (1,)])]
        (value,) = layer("BatchNorm").lower(g, [value], params)
        tops.append(value)
        value = g.declare(g.emit("Exp", value), SHAPE)
    g.outputs = [g.emit("Identity", v) for v in (*tops, *g.updates.values())]
    zeros = {name: np.zeros(spec.shape, np.float32) for name, spec in g.params.items()}
    session = onnxruntime.InferenceSession(g.to_onnx(zeros).SerializeToString(), providers=["CPUExecutionProvider"])
    for seed in range(3):
        x = values(*SHAPE, seed=seed, scale=2, mean=seed)
        first, second, *updates = session.run(None, {"x": x})
        y, mean, _ = normalized(x.astype(np.float64), 1e-5)
        np.testing.assert_allclose(first, y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(updates[0], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(second, normalized(np.exp(y), 1e-5)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("shape", [SHAPE, (2, 3, 7)])
def test_mvn(shape, variance, channels):
    flags = f"across_channels: {channels} normalize_variance: {variance} eps: 0.1".lower()
    it = layer("MVN", flags)
    x, full = values(*shape, mean=1), (*shape, *(1,) * (4 - len(shape)))
    assert it.tops([shape]) == (full,)
    dy = values(*full, seed=1)
    result = run(it, [x], dys=[dy])
    axes = (1, 2, 3) if channels else (2, 3)
    x4 = x.reshape(full).astype(np.float64)
    y = x4 - x4.mean(axes, keepdims=True)
    dx = dy - dy.mean(axes, keepdims=True)
    if variance:
        spread = x4.std(axes, keepdims=True) + 0.1
        y, dx = y / spread, (dx - y / spread * (dy * y / spread).mean(axes, keepdims=True)) / spread
    np.testing.assert_allclose(result.tops[0], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], dx.reshape(shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("it", "shape", "found"),
    [
        (layer("LRN", "local_size: 4"), SHAPE, "local_size must be odd; found 4"),
        (layer("LRN"), SHAPE[:3], r"4 axes .*found shape \(2, 3, 6\)"),
        (layer("BatchNorm"), (3,), r"at least 2 axes .*found shape \(3,\)"),
        (layer("BatchNorm", more="param { lr_mult: 0 } param { }"), SHAPE, "set lr_mult: 0 in every `param`"),
        (layer("MVN"), (1, *SHAPE), "at most 4 axes"),
    ],
)
def test_refuses(it, shape, found):
    with pytest.raises(NetError, match=rf"net.prototxt:7: layer 'l' \({it.type}\): .*{found}"):
        it.tops([shape])


def test_mvn_in_place_writes_over_the_gradient_that_it_reads():
    x, dy = values(2, 3, 4, 5), values(2, 3, 4, 5, seed=1)
    it = make('name: "l" type: "MVN" bottom: "x" top: "x"')
    result = run(it, [x], dys=[dy])
    y, axes = result.tops[0], (2, 3)
    along = (dy * y).mean(axes, keepdims=True)
    expected = -2 * along * (y + y.sum(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9)
    np.testing.assert_allclose(result.bottoms[0], expected, rtol=1e-3, atol=1e-5)
