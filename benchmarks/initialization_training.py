"""How deep nets learn from each initialisation: the table of accuracies in docs/init.md.

python benchmarks/initialization_training.py [--seeds 10] [--iterations 300]

A plain net of 31 layers with weights and a residual net of 42 without BatchNorm, 64 units wide, learn the digits of
models/experiments, 14 x 14 here, by SGD with momentum. All seeds of a method learn at once, in numpy. Only
the initial weights differ; each method is shown with the rate, of two, at which it does best.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from caffestat.fillers import Stream
from caffestat.initialization import solve
from caffestat.initialization.methods import draw, parse_method
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.program.feeds import Feeds
from caffestat.prototext import parse

sys.path.insert(0, str(Path(__file__).parent.parent / "models" / "experiments"))
import digits  # type: ignore[import-not-found]

BATCH, WIDTH, MOMENTUM = 32, 64, 0.9
DEPTH, BLOCKS = 30, 20
PLAIN_METHODS = ("xavier", "msra", "orthogonal", "lsuv", "krahenbuhl", "autoinit")
RATES = (0.001, 0.01)
METHODS = {"plain": PLAIN_METHODS, "residual": (*PLAIN_METHODS, "autoinit:fixup=1")}

DATA = f"""
layer {{ name: "data" type: "Input" top: "x" top: "label"
  input_param {{ shape {{ dim: {BATCH} dim: 1 dim: 14 dim: 14 }} shape {{ dim: {BATCH} }} }} }}
"""


def layer(name: str, bottom: str, filler: str, outputs: int = WIDTH) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "{filler}" }} }} }}\n'
    )


def relu(bottom: str, top: str) -> str:
    return f'layer {{ name: "relu_{top}" type: "ReLU" bottom: "{bottom}" top: "{top}" }}\n'


def end(bottom: str, filler: str) -> str:
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }'
    return layer("fc", bottom, filler, 10) + loss


def plain(filler: str, depth: int = DEPTH) -> str:
    """Layers and ReLUs, one after the other."""
    text, blob = DATA, "x"
    for index in range(depth):
        text += layer(f"f{index}", blob, filler) + relu(f"f{index}", f"f{index}")
        blob = f"f{index}"
    return text + end(blob, filler)


def residual(filler: str, blocks: int = BLOCKS) -> str:
    """y = x + f(relu(f(relu(x))))."""
    text, blob = DATA + layer("f", "x", filler), "f"
    for index in range(blocks):
        name, a, b, c = (f"{kind}{index}" for kind in "yabc")
        text += relu(blob, a) + layer(b, a, filler) + relu(b, b) + layer(c, b, filler)
        text += f'layer {{ name: "{name}" type: "Eltwise" bottom: "{blob}" bottom: "{c}" top: "{name}" }}\n'
        blob = name
    return text + end(blob, filler)


NETS = {"plain": plain, "residual": residual}


def images() -> tuple[np.ndarray, np.ndarray]:
    """Return 5,000 digits [N, 1, 14, 14] of mean 0 and variance 1 in a fixed random order, and their labels."""
    pixels, labels = digits.read()
    small = pixels.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4), dtype=np.float64)[:, None]
    order = np.random.default_rng(0).permutation(len(small))
    return ((small - small.mean()) / small.std()).astype(np.float32)[order], labels[order].astype(np.int64)


def initial(name: str, text: str, seed: int, first: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the params of a net; what is measured is measured on the first batch."""
    method = parse_method(text)
    program = from_net(build(net_source(parse(NETS[name]("xavier" if method else text).encode(), name))))
    values = [value.copy() for value in program.values(Stream(seed), [])]
    weights = [number for number, param in enumerate(program.params) if param.role == "weight"]
    random = np.random.default_rng(seed)
    if method and method.is_solved:
        for number, std in solve(program, weights, method["target"], method["fixup"]).items():
            assert isinstance(std, float), std
            values[number][...] = std * random.standard_normal(values[number].shape)
    elif method:
        draw(program, dict.fromkeys(weights, method), values, Feeds(Stream(seed), random, first), seed, [])
    return values


class Learner:
    """A net of L(ayers), R(eLUs), S(aves) and A(dditions of what was saved), with as many draws as there are seeds."""

    def __init__(self, ops: str, draws: list[list[np.ndarray]]) -> None:
        self.ops = ops
        self.params = [np.stack(values) for values in zip(*draws, strict=True)]
        self.speed = [np.zeros_like(values) for values in self.params]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the outputs [seeds, batch, classes], and what the backward pass needs."""
        kept, saved, layer = list[np.ndarray](), list[np.ndarray](), 0
        for op in self.ops:
            if op == "L":
                kept.append(x)
                weights, bias = self.params[2 * layer : 2 * layer + 2]
                x, layer = x @ weights.swapaxes(1, 2) + bias[:, None], layer + 1
            elif op == "R":
                kept.append(x > 0)
                x = np.maximum(x, 0)
            elif op == "S":
                saved.append(x)
            else:
                x = x + saved.pop()
        return x, kept

    def step(self, x: np.ndarray, labels: np.ndarray, rate: float) -> None:
        """Take one step of SGD with momentum on the mean softmax loss."""
        logits, kept = self.forward(x)
        p = np.exp(logits - logits.max(axis=2, keepdims=True))
        dy = p / p.sum(axis=2, keepdims=True)
        np.put_along_axis(dy, labels[..., None], np.take_along_axis(dy, labels[..., None], 2) - 1, 2)
        dy, added, layer = dy / x.shape[1], list[np.ndarray](), len(self.params) // 2
        for op in reversed(self.ops):
            if op == "L":
                layer -= 1
                weights = self.params[2 * layer].copy()
                self._move(2 * layer, dy.swapaxes(1, 2) @ kept.pop(), rate)
                self._move(2 * layer + 1, dy.sum(axis=1), rate)
                dy = dy @ weights
            elif op == "R":
                dy = dy * kept.pop()
            elif op == "A":
                added.append(dy)
            else:
                dy = dy + added.pop()

    def _move(self, number: int, diff: np.ndarray, rate: float) -> None:
        self.speed[number] = MOMENTUM * self.speed[number] + rate * diff.astype(np.float32)
        self.params[number] -= self.speed[number]


OPS = {"plain": "LR" * DEPTH + "L", "residual": "L" + "SRLRLA" * BLOCKS + "L"}


def accuracies(name: str, text: str, seeds: int, iterations: int, rate: float) -> np.ndarray:
    """Return the accuracy of each seed on the last 1,000 digits."""
    x, labels = images()
    order = [np.random.default_rng(seed).integers(4000, size=(iterations, BATCH)) for seed in range(seeds)]
    firsts = ({"x": x[one[0]], "label": labels[one[0]].astype(np.float32)} for one in order)
    learner = Learner(OPS[name], [initial(name, text, seed, first) for seed, first in enumerate(firsts)])
    flat = x.reshape(len(x), -1)
    with np.errstate(all="ignore"):
        for chosen in np.stack(order, axis=1):
            learner.step(flat[chosen], labels[chosen], rate)
        found, _ = learner.forward(np.broadcast_to(flat[4000:], (seeds, 1000, flat.shape[1])))
    return np.asarray((found.argmax(axis=2) == labels[4000:]).mean(axis=1))


def main() -> None:
    """Print a row per net and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=400)
    given = parser.parse_args()
    print("| net | method | rate | accuracy, mean | least | most |")
    print("|---|---|---:|---:|---:|---:|")
    for name, methods in METHODS.items():
        for text in methods:
            found = {rate: accuracies(name, text, given.seeds, given.iterations, rate) for rate in RATES}
            rate, best = max(found.items(), key=lambda item: float(item[1].mean()))
            numbers = f"{rate:g} | {best.mean():.3f} | {best.min():.3f} | {best.max():.3f}"
            print(f"| {name} | `{text}` | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
