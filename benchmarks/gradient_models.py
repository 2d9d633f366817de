"""The gradients of whole models by all weights, on the CPU: caffestat, onnx2torch with torch, and onnx-ad in one run.

    python benchmarks/gradient_models.py [--only vit] [--rounds 7] [--threads 2] [--clock wall]

Each model is written by torch, read by all three, and timed forward and backward, with the same input and the same
gradient of its output; their gradients are compared first. Rounds alternate; medians are compared. `--clock cpu` with
one thread counts CPU time, which is steadier on a busy machine. Needs torch, onnx2torch and onnx-ad; a column stays
empty where a package is missing or cannot take the model. Where onnx2torch cannot (LSTM), torch's is the module itself.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn
from torch.nn import functional
from turns import medians

import caffestat
from caffestat.engine.runtime import open_session, session_options

Step = Callable[[], dict[str, np.ndarray]]
Tensor = torch.Tensor


def conv(
    a: int, b: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> Any:
    """Convolution, BatchNorm and nonlinearity."""
    parts = [nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*parts, *([act()] if act else []))


class Sum(nn.Module):
    """x passed through a part, plus x or its projection."""

    def __init__(self, part: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.part, self.shortcut, self.act = part, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        result: Tensor = self.act(self.part(x) + self.shortcut(x))
        return result


def resnet18() -> nn.Module:
    """He et al. 2015, table 1."""

    def block(a: int, b: int, stride: int) -> nn.Module:
        shortcut = conv(a, b, 1, stride, act=None) if stride > 1 or a != b else None
        return Sum(nn.Sequential(conv(a, b, 3, stride), conv(b, b, act=None)), shortcut, nn.ReLU())

    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [part for a, b, stride in widths for part in (block(a, b, stride), block(b, b, 1))]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), *blocks, *head)


def mobilenet() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018, table 2)."""

    def block(a: int, b: int, stride: int, factor: int) -> nn.Module:
        wide = [conv(a, a * factor, 1, act=nn.ReLU6)] if factor > 1 else []
        depthwise = conv(a * factor, a * factor, 3, stride, a * factor, nn.ReLU6)
        part = nn.Sequential(*wide, depthwise, conv(a * factor, b, 1, act=None))
        return Sum(part) if stride == 1 and a == b else part

    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    parts, a = [conv(3, 32, 3, 2, act=nn.ReLU6)], 32
    for factor, b, count, stride in rows:
        for index in range(count):
            parts.append(block(a, b, stride if index == 0 else 1, factor))
            a = b
    return nn.Sequential(
        *parts, conv(320, 1280, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)
    )


class UNet(nn.Module):
    """Ronneberger et al. 2015, with padding, three levels and BatchNorm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(self.pair(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * a, a, 2, 2) for a in sizes[:-1])
        self.join = nn.ModuleList(self.pair(2 * a, a) for a in sizes[:-1])
        self.head = nn.Conv2d(width, 2, 1)

    @staticmethod
    def pair(a: int, b: int) -> nn.Module:
        """Two convolutions."""
        return nn.Sequential(conv(a, b), conv(b, b))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of two classes."""
        kept = []
        for index, part in enumerate(self.down):
            x = part(functional.max_pool2d(x, 2) if index else x)
            kept.append(x)
        for index in reversed(range(len(self.up))):
            x = self.join[index](torch.cat([kept[index], self.up[index](x)], 1))
        result: Tensor = self.head(x)
        return result


class Attention(nn.Module):
    """Self-attention over tokens."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, T, C]."""
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(-1)
        result: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, t, c))
        return result


class ViT(nn.Module):
    """ViT-Ti/16 (Touvron et al. 2021): 12 blocks, 192 features, 3 heads, 196 patches; the mean in place of a token."""

    def __init__(self, size: int = 192) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size, 16, 16)
        self.places = nn.Parameter(torch.randn(1, 196, size) * 0.02)
        parts = []
        for _ in range(12):
            mlp = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
            parts += [Sum(nn.Sequential(nn.LayerNorm(size), Attention(size, 3))), Sum(mlp)]
        self.blocks = nn.Sequential(*parts, nn.LayerNorm(size))
        self.head = nn.Linear(size, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        result: Tensor = self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.places).mean(1))
        return result


class LSTM(nn.Module):
    """One layer of 128 cells and a classifier of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 128, batch_first=False), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        result: Tensor = self.head(self.lstm(x)[0][-1])
        return result


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-18": (resnet18, (4, 3, 224, 224)),
    "MobileNetV2": (mobilenet, (4, 3, 224, 224)),
    "U-Net": (UNet, (2, 3, 128, 128)),
    "ViT-tiny": (ViT, (4, 3, 224, 224)),
    "LSTM T=20": (LSTM, (20, 8, 64)),
    "LSTM T=400": (LSTM, (400, 8, 64)),
}


def spread(module: nn.Module) -> None:
    """Give each normalization numbers of its own: equal ones would become one shared weight in the ONNX file."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.LayerNorm)):
            for values in part.state_dict().values():
                if values.dim():
                    values.uniform_(0.5, 1.5)


def exported(module: nn.Module, x: Tensor) -> onnx.ModelProto:
    """Return a module in evaluation mode as an ONNX model; BatchNorm stays a node."""
    file: Any = io.BytesIO()
    settings: dict[str, Any] = {"dynamo": False, "opset_version": 17, "do_constant_folding": False}
    training = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(module, (x,), file, input_names=["x"], output_names=["y"], training=training, **settings)
    return onnx.load_from_string(file.getvalue())


def session(model: onnx.ModelProto, threads: int, **settings: Any) -> Any:
    """Return a session of the stock runtime."""
    options = session_options()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    for name, value in settings.items():
        setattr(options, name, value)
    return open_session(model, options)


def weights_of(model: onnx.ModelProto) -> list[str]:
    """Return the floating-point weights that a gradient reaches: not BatchNorm's statistics."""
    statistics = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    floats = (t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims)
    return [tensor.name for tensor in floats if tensor.name not in statistics]


def ours(model: onnx.ModelProto, x: np.ndarray, dy: np.ndarray, threads: int) -> Step:
    """caffestat.gradient in the stock runtime."""
    wrt = weights_of(model)
    made = session(caffestat.gradient(model, wrt=wrt), threads)
    feeds = {"x": x, "cotangent/y": dy}
    return lambda: dict(zip(wrt, made.run([f"grad/{name}" for name in wrt], feeds), strict=True))


def with_torch(own: nn.Module, model: onnx.ModelProto, x: np.ndarray, dy: np.ndarray, threads: int) -> Step:
    """onnx2torch's module, or torch's own where onnx2torch has no converter, differentiated by torch."""
    from onnx2torch import convert

    try:
        module = convert(model).eval()
    except NotImplementedError:
        module = own
    params: dict[str, Tensor] = dict(module.named_parameters())
    for name, buffer in module.named_buffers():  # onnx2torch keeps the weights of MatMul and Add so
        if buffer.is_floating_point() and buffer.dim() and "running_" not in name:
            params[name] = buffer.requires_grad_()
    image, grad = torch.from_numpy(x), torch.from_numpy(dy)

    def step() -> dict[str, np.ndarray]:
        found = torch.autograd.grad(module(image), list(params.values()), grad, allow_unused=True)
        return {name: value.numpy() for name, value in zip(params, found, strict=True) if value is not None}

    return step


def with_onnx_ad(model: onnx.ModelProto, x: np.ndarray, dy: np.ndarray, threads: int) -> Step:
    """onnx-ad's adjoint model, its weights as inputs, in the stock runtime."""
    from onnx_ad import reverse

    wrt, open_model = weights_of(model), onnx.ModelProto()
    open_model.CopyFrom(model)
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wrt}
    kept = [tensor for tensor in open_model.graph.initializer if tensor.name not in arrays]
    del open_model.graph.initializer[:]
    open_model.graph.initializer.extend(kept)
    for name, array in arrays.items():
        open_model.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
    made = session(reverse(onnx.shape_inference.infer_shapes(open_model), inputs=wrt, layout="onnx"), threads)
    feeds = {"x": x, **arrays, "adj_y": dy[..., None]}
    return lambda: {
        name: grad[..., 0] for name, grad in zip(wrt, made.run([f"adj_{name}" for name in wrt], feeds), strict=True)
    }


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Return the largest relative difference of gradients; torch's, whose names differ, are matched by their norms."""
    if a.keys() == b.keys():
        return max(float(np.abs(a[n] - b[n]).max() / max(np.abs(a[n]).max(), 1e-20)) for n in a)
    norms = [sorted(float(np.linalg.norm(array)) for array in grads.values()) for grads in (a, b)]
    return max(abs(p / q - 1) for p, q in zip(*norms, strict=False)) if len(norms[0]) == len(norms[1]) else float("nan")


def row(name: str, options: argparse.Namespace, clock: Callable[[], float]) -> str:
    """Time one model; return a line: milliseconds of set-up and of a pass, and the ratios."""
    make, shape = MODELS[name]
    torch.manual_seed(1)
    x = torch.randn(shape)
    module = make().eval()
    spread(module)
    model = exported(module, x)
    dy = torch.randn_like(module(x)).numpy()
    steps: dict[str, Step] = {}
    setup: dict[str, float] = {}
    for label, build in (("caffestat", ours), ("torch", partial(with_torch, module)), ("onnx-ad", with_onnx_ad)):
        start = clock()
        try:
            steps[label] = build(model, x.numpy(), dy, options.threads)
            steps[label]()
        except Exception as error:  # a package that is missing or cannot take the model
            steps.pop(label, None)
            print(f"{name}: {label}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        setup[label] = clock() - start
    mine = steps["caffestat"]()
    off = [difference(mine, step()) for label, step in steps.items() if label != "caffestat"]
    times = dict(zip(steps, medians(list(steps.values()), options.rounds, clock), strict=True))
    cells = [f"{name:12}", f"{times['caffestat'] * 1e3:9.1f}"]
    for label in ("torch", "onnx-ad"):
        found = times.get(label)
        cells += ["        -      -"] if found is None else [f"{found * 1e3:9.1f} {times['caffestat'] / found:6.2f}"]
    worst = max(off, default=float("nan"))
    return " ".join(
        [*cells, f"{setup['caffestat']:7.2f} {setup['torch']:7.2f} {setup['onnx-ad']:7.2f}", f"{worst:.0e}"]
    )


def main() -> None:
    """Time every model whose name contains `--only`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(f"{'':12} {'ms':>9} {'torch':>9} {'ratio':>6} {'onnx-ad':>9} {'ratio':>6} set-up: ours, torch, onnx-ad  off")
    for name in MODELS:
        if options.only.lower() in name.lower():
            print(row(name, options, clock), flush=True)


if __name__ == "__main__":
    main()
