"""How near the predictions of `caffestat.analysis.predict` come to what runs measure: the table in docs/theory.md.

python benchmarks/prediction.py            the plain stacks and the small nets, 20 seeds
python benchmarks/prediction.py --large    the large nets of models/ as well: some minutes
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from caffestat.analysis import Measurement, Runner, draw_feeds, predict
from caffestat.fillers import Stream
from caffestat.net import Net, NetSource, build, draw_params, read_net
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse

MODELS = Path(__file__).parent.parent / "models"
SMALL = {"lenet": 64, "cifar10_quick": 32, "cifar10_full": 32}
NOISE = 1e-4  # of the largest gradient of a param: where BatchNorm undoes what a param does, rounding is all there is
LARGE = {"alexnet": 4, "caffenet": 4, "squeezenet": 4, "googlenet": 4, "resnet50": 4, "mobilenet": 4, "vgg16": 1}

Kind = tuple[str, tuple[int, int]]


def plain_stack(layer: str, activation: str, filler: str, depth: int = 6) -> NetSource:
    """Return a net of `depth` equal layers with an activation each, N(0, 1) at the input and a softmax loss behind."""
    batch, shape = ("dim: 16", "dim: 8 dim: 14 dim: 14") if layer == "conv" else ("dim: 64", "dim: 200")
    text = [
        f'layer {{ name: "data" type: "Input" top: "x" top: "label" '
        f"input_param {{ shape {{ {batch} {shape} }} shape {{ {batch} }} }} }}"
    ]
    for index in range(depth):
        bottom = f"x{index}" if index else "x"
        size = "num_output: 128 kernel_size: 3 pad: 1" if layer == "conv" else "num_output: 256"
        kind, param = (
            ("Convolution", "convolution_param") if layer == "conv" else ("InnerProduct", "inner_product_param")
        )
        text.append(
            f'layer {{ name: "{layer}{index + 1}" type: "{kind}" bottom: "{bottom}" top: "x{index + 1}" '
            f"{param} {{ {size} weight_filler {{ {filler} }} }} }}"
        )
        text.append(
            f'layer {{ name: "act{index + 1}" type: "{activation}" bottom: "x{index + 1}" top: "x{index + 1}" }}'
        )
    text.append(
        f'layer {{ name: "score" type: "InnerProduct" bottom: "x{depth}" top: "score" '
        f"inner_product_param {{ num_output: 100 weight_filler {{ {filler} }} }} }}"
    )
    text.append('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }')
    return net_source(parse("\n".join(text).encode(), f"{layer} {activation}"))


PLAIN = {
    "conv + ReLU, msra": ("conv", "ReLU", 'type: "msra"'),
    "conv + ReLU, xavier": ("conv", "ReLU", 'type: "xavier"'),
    "conv + TanH, xavier": ("conv", "TanH", 'type: "xavier"'),
    "conv + Sigmoid, xavier": ("conv", "Sigmoid", 'type: "xavier"'),
    "fc + ReLU, msra": ("fc", "ReLU", 'type: "msra"'),
    "fc + TanH, xavier": ("fc", "TanH", 'type: "xavier"'),
    "fc + Sigmoid, gaussian 0.1": ("fc", "Sigmoid", 'type: "gaussian" std: 0.1'),
}


def measured(net: Net, seeds: int) -> Mapping[Kind, float]:
    """Return the mean over seeds of mean |x| of every top, bottom gradient and param gradient."""
    found: dict[Kind, list[float]] = defaultdict(list)
    for seed in range(1, seeds + 1):
        stream = Stream(seed)
        runner = Runner(from_net(net), draw_params(net, stream))
        result: Measurement = runner.run(draw_feeds(runner, stream, np.random.default_rng(seed)))
        for kind in ("tops", "bottom_diffs", "param_diffs"):
            for key, value in getattr(result, kind).items():
                found[kind, key].append(value)
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def errors(net: Net, seeds: int) -> dict[str, list[float]]:
    """Return |predicted / measured - 1| by kind; data, zeros and rounding noise are left out."""
    prediction, runs = predict(from_net(net)), measured(net, seeds)
    noise = {"param_diffs": NOISE * max(value for (kind, _), value in runs.items() if kind == "param_diffs")}
    result: dict[str, list[float]] = defaultdict(list)
    for (kind, key), value in runs.items():
        found = getattr(prediction, kind).get(key)
        if found is not None and value > noise.get(kind, 0.0) and net.nodes[key[0]].bottoms:
            result[kind].append(abs(found.mean_abs / value - 1))
    return result


def line(name: str, net: Net, seeds: int) -> str:
    """Return one row of the table."""
    found = errors(net, seeds)
    cells = [name]
    for kind in ("tops", "bottom_diffs", "param_diffs"):
        cells += [f"{100 * np.median(found[kind]):.1f} %", f"{100 * max(found[kind]):.1f} %"]
    blobs = np.array(found["tops"] + found["bottom_diffs"])
    return "| " + " | ".join([*cells, f"{100 * np.mean(blobs < 0.25):.0f} %"]) + " |"


def rows(seeds: int, large: bool) -> Iterator[str]:
    """Yield the rows of the table, each as soon as it is known."""
    for name, settings in PLAIN.items():
        yield line(name, build(plain_stack(*settings)), seeds)
    for name, batch in {**SMALL, **(LARGE if large else {})}.items():
        yield line(
            f"models/{name} (batch {batch})", build(read_net(str(MODELS / f"{name}.prototxt")), batch=batch), seeds
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    print("| net | forward: median | worst | backward: median | worst | params: median | worst | blobs within 25 % |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows(options.seeds, options.large):
        print(row, flush=True)


if __name__ == "__main__":
    main()
