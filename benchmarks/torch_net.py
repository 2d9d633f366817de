"""The benchmark's other side: a caffestat net run by torch, layer by layer, with hooks that take every mean |x|."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from caffestat.fillers import Stream
from caffestat.net import Net, Node


class TorchNet:
    """Runs a net eagerly, in float32 as Caffe does; only what the benchmark's nets need is here."""

    def __init__(self, net: Net, values: Sequence[np.ndarray], stream: Stream, device: str) -> None:
        torch.backends.cudnn.allow_tf32 = False  # torch's own convolutions round factors to ten bits otherwise
        torch.backends.cuda.matmul.allow_tf32 = False
        self.net = net
        self.device = device
        self.params = [torch.from_numpy(v).to(device).requires_grad_(self._learns(i)) for i, v in enumerate(values)]
        self.data = self._draw(stream)
        self.norms: list[Tensor] = []

    def scale_params(self, factor: np.float32) -> None:
        """Multiply all params by a factor."""
        with torch.no_grad():
            for param in self.params:
                param.mul_(float(factor))

    def _learns(self, number: int) -> bool:
        return not self.net.params[number].param.is_statistic

    def _draw(self, stream: Stream) -> dict[int, Tensor]:
        found = {}
        for node in self.net.nodes:
            if not node.bottoms:
                for blob, array in zip(node.tops, node.layer.draw_feeds(stream, ()), strict=True):
                    found[blob] = torch.from_numpy(array).to(self.device)
        return found

    def note(self, value: Tensor) -> Tensor:
        """Take the mean |x| of an activation now and of its gradient when it comes."""
        self.norms.append(value.detach().abs().mean())
        if value.requires_grad:
            value.register_hook(lambda grad: self.norms.append(grad.abs().mean()))
        return value

    def run(self) -> float:
        """Run one pass and return the loss."""
        self.norms = []
        blobs = {blob: self.note(value) for blob, value in self.data.items()}
        loss = torch.zeros((), device=self.device)
        for node in self.net.nodes:
            if not node.bottoms:
                continue
            tops = getattr(self, f"_{node.type.lower()}")(node, [blobs[b] for b in node.bottoms])
            for blob, value, weight in zip(node.tops, tops, node.loss_weights, strict=True):
                blobs[blob] = value if node.type == "Split" else self.note(value)
                loss = loss + weight * value if weight else loss
        loss.backward()
        for param in self.params:
            if param.grad is not None:
                self.norms.append(param.grad.abs().mean())
                param.grad = None
        torch.stack(self.norms).cpu()
        return loss.item()

    def _weights(self, node: Node) -> list[Tensor]:
        return [self.params[number] for number in node.params]

    def _split(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return x * len(node.tops)

    def _convolution(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        p = node.layer.proto.convolution_param
        weights = self._weights(node)
        stride, pad = (list(p.stride) or [1])[0], (list(p.pad) or [0])[0]
        return [F.conv2d(x[0], weights[0], weights[1] if len(weights) > 1 else None, stride, pad, 1, p.group)]

    def _innerproduct(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [F.linear(x[0].flatten(1), *self._weights(node))]

    def _relu(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [F.relu(x[0])]

    def _lrn(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        p = node.layer.proto.lrn_param
        return [F.local_response_norm(x[0], p.local_size, p.alpha, p.beta, p.k)]

    def _pooling(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        p = node.layer.proto.pooling_param
        if p.global_pooling:
            return [F.avg_pool2d(x[0], x[0].shape[2:])]
        pool = F.max_pool2d if p.pool == 0 else F.avg_pool2d
        return [pool(x[0], p.kernel_size, p.stride, p.pad, ceil_mode=True)]

    def _dropout(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [F.dropout(x[0], node.layer.proto.dropout_param.dropout_ratio)]

    def _concat(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [torch.cat(x, 1)]

    def _eltwise(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [x[0] + x[1]]

    def _batchnorm(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [F.batch_norm(x[0], None, None, training=True, eps=node.layer.proto.batch_norm_param.eps)]

    def _scale(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        gamma, *beta = (w.reshape(1, -1, 1, 1) for w in self._weights(node))
        return [torch.addcmul(beta[0], x[0], gamma) if beta else x[0] * gamma]

    def _softmaxwithloss(self, node: Node, x: list[Tensor]) -> list[Tensor]:
        return [F.cross_entropy(x[0].flatten(1), x[1].flatten().long())]
