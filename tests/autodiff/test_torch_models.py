"""Models that torch exports: their outputs and all their gradients are torch's."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from caffestat.autodiff import gradient

from ..graph.models import run

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnxscript") is None:
    pytest.skip("needs torch and onnxscript", allow_module_level=True)

import torch
from torch import nn

Module = nn.Module


class Function(Module):
    """Modules, and how they are put together."""

    def __init__(self, forward: Callable[..., Any], **modules: Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def conv(a: int, b: int, kernel: int = 3, **settings: Any) -> Module:
    return nn.Sequential(nn.Conv2d(a, b, kernel, padding=kernel // 2, bias=False, **settings), nn.BatchNorm2d(b))


def resnet_block() -> Module:
    def forward(m: Any, x: Any) -> Any:
        y = m.second(torch.relu(m.first(x)))
        return m.head(torch.relu(y + m.shortcut(x)).mean((2, 3)))

    return Function(
        forward, first=conv(3, 8, stride=2), second=conv(8, 8), shortcut=conv(3, 8, 1, stride=2), head=nn.Linear(8, 5)
    )


def depthwise_separable() -> Module:
    return nn.Sequential(
        conv(3, 6), nn.ReLU6(), conv(6, 6, groups=6, stride=2), nn.Hardswish(), conv(6, 9, 1), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 4),
    )  # fmt: skip


def u_net() -> Module:
    def forward(m: Any, x: Any) -> Any:
        top = torch.relu(m.down(x))
        low = torch.relu(m.bottom(nn.functional.max_pool2d(top, 2)))
        wide = nn.functional.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return m.out(torch.cat([top, m.up(low), wide], dim=1))

    return Function(
        forward, down=conv(2, 4), bottom=conv(4, 6), up=nn.ConvTranspose2d(6, 3, 2, stride=2), out=nn.Conv2d(13, 2, 1)
    )


def encoder() -> Module:
    """Tokens, embedding, a transformer encoder layer, logits."""

    def forward(m: Any, ids: Any) -> Any:
        return m.head(m.layer(m.embed(ids)))

    layer = nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, activation="gelu", batch_first=True)
    return Function(forward, embed=nn.Embedding(11, 12), layer=layer, head=nn.Linear(12, 11))


def decoder() -> Module:
    """A decoder layer under a causal mask, with a memory."""

    def forward(m: Any, x: Any, memory: Any) -> Any:
        mask = torch.triu(torch.full((x.shape[1], x.shape[1]), float("-inf")), 1)
        return m.layer(x, memory, tgt_mask=mask)

    layer = nn.TransformerDecoderLayer(12, 2, 18, dropout=0.0, batch_first=True, norm_first=True)
    return Function(forward, layer=layer)


def lstm() -> Module:
    return Function(lambda m, x: m.head(m.lstm(x)[0]), lstm=nn.LSTM(5, 4, num_layers=2), head=nn.Linear(4, 3))


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 11, shape)


CASES: list[tuple[Callable[[], Module], tuple[Callable[[], torch.Tensor], ...]]] = [
    (resnet_block, (lambda: floats(2, 3, 12, 10),)),
    (depthwise_separable, (lambda: floats(2, 3, 8, 10),)),
    (u_net, (lambda: floats(2, 2, 8, 12),)),
    (encoder, (lambda: tokens(2, 7),)),
    (decoder, (lambda: floats(2, 5, 12), lambda: floats(2, 7, 12))),
    (lstm, (lambda: floats(6, 2, 5),)),
]


def randomized(module: Module) -> Module:
    """No two params alike: an exporter makes one initializer of those."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data + 0.1 * torch.rand_like(tensor)
    return module.eval()


def exported(module: Module, inputs: tuple[torch.Tensor, ...], dynamo: bool) -> onnx.ModelProto:
    file = io.BytesIO()
    # unoptimized, for what the optimizer folds is a param no more
    settings: dict[str, Any] = {"optimize": False, "verbose": False} if dynamo else {"do_constant_folding": False}
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, inputs, file, dynamo=dynamo, **settings)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize(("build", "draw"), CASES, ids=[build.__name__ for build, _ in CASES])
def test_outputs_and_gradients_are_torchs(
    build: Callable[[], Module], draw: tuple[Callable[[], torch.Tensor], ...], dynamo: bool
) -> None:
    torch.manual_seed(0)
    module, inputs = randomized(build()), tuple(each() for each in draw)
    model = gradient(exported(module, inputs, dynamo))
    onnx.checker.check_model(model)
    y = module(*(x.requires_grad_() if x.is_floating_point() else x for x in inputs))
    dy = torch.randn_like(y)
    y.backward(dy)
    names = [value.name for value in model.graph.input]
    feeds = dict(zip(names, (tensor.detach().numpy() for tensor in (*inputs, dy)), strict=True))
    out = run(model, feeds)
    np.testing.assert_allclose(next(iter(out.values())), y.detach().numpy(), rtol=1e-4, atol=1e-4)
    expected = {name: x.grad for name, x in zip(names, inputs, strict=False) if x.is_floating_point()}
    expected |= {name: param.grad for name, param in module.named_parameters() if f"grad/{name}" in out}
    for name, grad in expected.items():
        np.testing.assert_allclose(out[f"grad/{name}"], grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)
    if dynamo:  # the older exporter turns and renames weights of matrix products and recurrent layers
        assert len(expected) == len([x for x in inputs if x.is_floating_point()]) + len(list(module.parameters()))
