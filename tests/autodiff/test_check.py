"""The gradient check itself: right rules pass, and each plausible mistake in a rule is caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import engine
from caffestat.autodiff import rules as _registered  # noqa: F401  every rule is there before one is replaced

from .check import check_grads

A = np.random.default_rng(1).uniform(0.5, 2, (3, 4))
B = np.random.default_rng(2).uniform(0.5, 2, (4,))
SQUARE = np.random.default_rng(3).uniform(0.5, 2, (3, 3))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    yield lambda op, rule: monkeypatch.setitem(engine._RULES, op, rule)


def test_right_rules_pass() -> None:
    check_grads("Mul", A, B)
    check_grads("Transpose", A, perm=[1, 0])


def rejects(build: Any, *inputs: Any, match: str, **keywords: Any) -> None:
    with pytest.raises(AssertionError, match=match):
        check_grads(build, *inputs, **keywords)


def test_a_wrong_sign_is_caught(use: Any) -> None:
    use("Sub", lambda t, node, dy: [dy, dy])
    rejects("Sub", A, A + 1, match="gradient 1 along a direction")


def test_a_wrong_factor_is_caught(use: Any) -> None:
    use("Sqrt", lambda t, node, dy: [t.emit("Div", t.emit("Mul", dy, t.scalar(0.5001, dy)), node.outputs[0])])
    rejects("Sqrt", A, match="finite difference")


def test_swapped_axes_are_caught(use: Any) -> None:
    use("Transpose", lambda t, node, dy: [dy])
    rejects("Transpose", SQUARE, perm=[1, 0], match="finite difference")
    rejects("Transpose", A, perm=[1, 0], match="shape")


def test_a_missing_broadcast_reduction_is_caught(use: Any) -> None:
    use("Add", lambda t, node, dy: [dy, dy])
    rejects("Add", A, B, match="shape")


def test_a_gradient_that_should_not_be_missing_is_caught(use: Any) -> None:
    use("Mul", lambda t, node, dy: [t.emit("Mul", dy, node.inputs[1]), None])
    rejects("Mul", A, A + 1, match="gradient 1")


def test_gradients_of_the_wrong_input_are_caught(use: Any) -> None:
    def only_when_both(t: Any, node: Any, dy: str) -> list[str | None]:
        a, b = node.inputs
        grads = [t.emit("Mul", dy, b), t.emit("Mul", dy, a)]
        return grads if t.needs(a) else [None, grads[0]]

    use("Mul", only_when_both)
    rejects("Mul", A, A + 1, match="input 1 alone")


def test_a_loss_of_digits_in_float32_is_caught(use: Any) -> None:
    def cancelling(t: Any, node: Any, dy: str) -> list[str]:
        large = t.scalar(1e4, dy)
        return [t.emit("Neg", t.emit("Sub", t.emit("Add", dy, large), large))]

    use("Neg", cancelling)
    rejects("Neg", A, match="float32")


def test_a_difference_from_torch_is_caught() -> None:
    pytest.importorskip("torch")
    check_grads("Neg", A, torch=lambda x: -x)
    rejects("Neg", A, torch=lambda x: -2 * x, match="torch")
