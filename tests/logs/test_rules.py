"""Rules over the passes of a run: what fires, what does not, each subject once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from caffestat.logs import RULES, Key, Output, Pass, diagnose


def fired(name: str, passes: list[Pass]) -> list[str]:
    rule = RULES[name]()
    return [str(alert) for one in passes for alert in rule.alerts(one)]


def losses(values: list[float], test_net: int | None = None) -> list[Pass]:
    return [Pass(1, test_net, number, outputs=[Output("loss", value, 1)]) for number, value in enumerate(values)]


def test_a_loss_that_does_not_fall() -> None:
    (text,) = fired("loss-not-decreasing", losses([2.3 + 0.01 * (n % 7) for n in range(400)]))
    assert text.startswith(
        "loss-not-decreasing at iteration 199: the loss does not fall: 2.329 in the first quarter of 200"
    )
    assert fired("loss-not-decreasing", losses([2.3 * 0.995**n for n in range(400)])) == []
    assert fired("loss-not-decreasing", losses([0.01] * 400)) == []  # converged
    assert fired("loss-not-decreasing", losses([2.3] * 199)) == []
    assert fired("loss-not-decreasing", losses([math.nan] * 400)) == []  # another rule's


def test_the_first_quarter_of_the_train_losses_beside_the_last() -> None:
    ends = [2.0] * 45 + [4.0] * 5
    (text,) = fired("loss-not-decreasing", losses([*ends, *[3.0] * 100, *ends[::-1]]))
    assert text.endswith("does not fall: 2.2 in the first quarter of 200 iterations, 2.2 in the last")
    assert fired("loss-not-decreasing", losses([2.0] * 150 + [1.95] * 50)) == []
    assert fired("loss-not-decreasing", losses([2.0] * 200, test_net=0)) == []
    assert fired("loss-not-decreasing", losses([2.0] * 199 + [math.inf])) == []  # another rule's


def test_the_loss_is_the_sum_of_the_weighted_outputs() -> None:
    outputs = [Output("accuracy", 0.9, 0), Output("main", 3.0, 0.5), Output("aux", 1.0, 2)]
    (text,) = fired("loss-not-decreasing", [Pass(1, None, n, loss=7.0, outputs=outputs) for n in range(200)])
    assert "does not fall: 3.5 in the first quarter" in text
    (text,) = fired("loss-not-decreasing", [Pass(1, None, n, loss=7.0, outputs=outputs[:1]) for n in range(200)])
    assert "does not fall: 7 in the first quarter" in text


def interleaved(tests: list[float], trains: list[float]) -> list[Pass]:
    found = []
    for number, (test, train) in enumerate(zip(tests, trains, strict=True)):
        found += losses([train] * 50)
        found.append(Pass(1, 0, 50 * number, outputs=[Output("acc", 0.5, 0), Output("loss", test, 1)]))
    return found


def test_overfitting() -> None:
    (text,) = fired("overfitting", interleaved([1, 1.1, 1.3, 1.6, 2], [1, 0.8, 0.5, 0.3, 0.2]))
    assert (
        "at iteration 150: test net 0 gets worse from test to test (1 to 1.6) while the train loss falls (1 to 0.3)"
        in text
    )
    assert fired("overfitting", interleaved([1, 1.1, 1.0, 1.6, 2], [1, 0.8, 0.5, 0.3, 0.2])) == []
    assert fired("overfitting", interleaved([1, 1.1, 1.3, 1.6], [1, 1.2, 1.5, 1.9])) == []
    assert fired("overfitting", interleaved([1, 1.1, 1.3, 1.6], [1, 1.2, 0.5, 1.1])) == []  # no lower than at first
    assert len(fired("overfitting", interleaved([1, 1.1, 1.3, 1.6], [1, 1.2, 1.5, 0.9]))) == 1
    assert fired("overfitting", interleaved([1, 1.1, 1.11, 1.6], [1, 0.8, 0.5, 0.3])) == []  # too little for noise


def weights(diff: float, value: float) -> Pass:
    values = {Key("forward", "fc", "param", "0"): value, Key("backward", "fc", "param", "0"): diff}
    return Pass(1, None, 0, values=values, lines=[1, 2])


def test_weights_that_never_change() -> None:
    assert len(fired("still-weights", [weights(0, 0.5)] * 40)) == 1
    assert fired("still-weights", [weights(1e-9, 0.5)] * 40) == []
    assert fired("still-weights", [weights(0, 0.5 + n) for n in range(40)]) == []  # weight decay moves them
    assert fired("still-weights", [weights(0, 0.5)] * 20) == []
    assert len(fired("still-weights", [weights(0, 0.5)] * 21)) == 1
    assert fired("still-weights", [replace(weights(0, 0.5), test_net=0)] * 40) == []


@pytest.mark.parametrize(("weight", "bias", "count"), [(0, 0.1, 1), (0.1, 0, 0)])
def test_a_bias_tells_nothing_of_the_weights(weight: float, bias: float, count: int) -> None:
    one = weights(weight, 0.5)
    one.values |= {Key("backward", "fc", "param", "1"): bias}
    assert len(fired("still-weights", [one] * 40)) == count


def started(iteration: int | None, top: float, diff: float, test_net: int | None = None) -> Pass:
    values = {
        Key("forward", "data", "top", "x"): 1.0,
        Key("forward", "data", "top", "label"): 5000.0,
        Key("forward", "fc", "top", "fc"): top,
        Key("forward", "fc", "param", "0"): 1e-7,
        Key("backward", "fc", "param", "0"): diff,
        Key("backward", "fc", "param", "1"): 1e-9,
        Key("backward", "conv", "param", "0"): 2.0,
    }
    return Pass(1, test_net, iteration, values=values, lines=[1] * len(values))


def test_poor_initialisations_are_looked_for_in_the_first_pass_alone() -> None:
    assert "takes |x| from 1 in the data to 2e+03 at layer fc" in fired("poor-initialisation", [started(0, 2000, 1)])[0]
    assert "takes |x| from 1 in the data to 0.0005 at layer" in fired("poor-initialisation", [started(0, 5e-4, 1)])[0]
    assert "of layer fc's weights is 1e-05 of the largest" in fired("poor-initialisation", [started(0, 2, 2e-5)])[0]
    assert fired("poor-initialisation", [started(0, 2, 0.1), started(1, 2000, 1e-5)]) == []
    assert fired("poor-initialisation", [started(None, 2, 0.1), started(None, 2000, 1e-5)]) == []
    assert fired("poor-initialisation", [started(500, 2000, 1e-5)]) == []
    assert fired("poor-initialisation", [started(0, 2000, 1e-5, test_net=0)]) == []
    assert len(fired("poor-initialisation", [started(0, 2, 1, 0), Pass(1, None, 0), started(0, 2000, 1e-5)])) == 2


def test_dead_and_infinite_numbers_are_not_the_initialisation() -> None:
    assert fired("poor-initialisation", [started(0, 0, 0)]) == []
    assert fired("poor-initialisation", [started(0, math.inf, 0.1)]) == []


def test_diagnose_applies_the_rules() -> None:
    found = diagnose(losses([2.4 + 0.02 * (n % 7) for n in range(400)]))
    assert [alert.rule for alert in found.alerts] == ["loss-not-decreasing"]
    assert not found.is_healthy


def test_a_net_that_guesses() -> None:
    noise = [0.02 * (n % 5 - 2) for n in range(400)]
    (text,) = fired("uniform-guess", losses([math.log(10) + value for value in noise]))
    assert "at iteration 100: the loss has stayed at ln 10 = 2.3026 for 100 iterations" in text
    every_tenth = [Pass(1, None, 10 * n, loss=math.log(10) + value) for n, value in enumerate(noise[:20])]
    assert len(fired("uniform-guess", every_tenth)) == 1
    assert fired("uniform-guess", every_tenth[:19]) == []
    assert fired("uniform-guess", losses([math.log(10) * 0.9995**n for n in range(400)])) == []  # it learns
    assert fired("uniform-guess", losses([2.25 + value for value in noise])) == []  # between ln 9 and ln 10


def test_what_is_no_guess() -> None:
    guess = math.log(10)
    assert fired("uniform-guess", losses([guess] * 400, test_net=0)) == []
    assert fired("uniform-guess", [Pass(1, loss=guess)] * 400) == []  # of no iteration
    assert fired("uniform-guess", losses([guess + (0.02 if n < 51 else -0.02) for n in range(101)])) == []  # it falls
    assert fired("uniform-guess", losses([guess + 0.2 * (n % 5 - 2) for n in range(400)])) == []  # much noise
    assert fired("uniform-guess", losses([math.inf] * 400)) == []


def test_updates_out_of_proportion_five_times_in_a_row() -> None:
    def updated(ratio: float) -> Pass:
        return Pass(1, None, 0, signals={Key("update_ratio", "fc", "param", "0"): ratio})

    (small,) = fired("update-ratio", [updated(1e-9)] * 5)
    assert "fc is updated by 1e-09 of its weights' size, too small" in small
    (diverged,) = fired("update-ratio", [updated(0.5)] * 2 + [updated(math.inf), updated(math.nan), updated(math.nan)])
    assert "fc is updated by nan of its weights' size, too large" in diverged
    assert fired("update-ratio", [updated(0.5), updated(0.01)] * 9) == []
    assert fired("update-ratio", [updated(0.5)] * 4) == []


def signalled(direction: str, value: float, blob: str = "0") -> list[Pass]:
    return [Pass(1, None, 0, signals={Key(direction, "fc", "param", blob): value})] * 5


def test_a_step_without_momentum_may_be_ten_times_as_small() -> None:
    assert fired("update-ratio", signalled("step_ratio", 2e-6)) == []
    (small,) = fired("update-ratio", signalled("step_ratio", 5e-7))
    assert "fc takes steps of 5e-07 of its weights' size, too small" in small
    assert fired("update-ratio", signalled("step_bound", 5e-9)) == []  # an adaptive solver's may be larger
    assert "too large" in fired("update-ratio", signalled("step_bound", 0.2))[0]
    assert fired("update-ratio", signalled("update_ratio", 0.2, blob="1")) == []  # a bias


@pytest.mark.parametrize(
    ("name", "direction", "well", "bad", "text"),
    [
        ("dead-relu", "zeros", 0.975, 0.985, "fc is dead: 98.5% of its outputs are zero"),
        ("dead-relu", "open", 0.025, 0.015, "fc is dead: only 1.5% of the gradient passes through it"),
        ("saturated", "saturated", 0.79, 0.81, "fc is saturated: 81.0% of its units have a slope near 0"),
        ("saturated", "slope", 0.1, 0.09, "fc is saturated: the gradient meets 9.0% of its slope at 0"),
    ],
)
def test_shares_of_units(name: str, direction: str, well: float, bad: float, text: str) -> None:
    assert fired(name, signalled(direction, well)) == []
    assert fired(name, signalled(direction, bad)) == [f"{name} at iteration 0: {text}"]
