"""Rules over the passes of a run: what fires, what does not, each subject once."""

from __future__ import annotations

import math

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


def weights(diff: float, value: float) -> Pass:
    values = {Key("forward", "fc", "param", "0"): value, Key("backward", "fc", "param", "0"): diff}
    return Pass(1, None, 0, values=values, lines=[1, 2])


def test_weights_that_never_change() -> None:
    assert len(fired("still-weights", [weights(0, 0.5)] * 40)) == 1
    assert fired("still-weights", [weights(1e-9, 0.5)] * 40) == []
    assert fired("still-weights", [weights(0, 0.5 + n) for n in range(40)]) == []  # weight decay moves them
    assert fired("still-weights", [weights(0, 0.5)] * 20) == []


def test_poor_initialisations_are_looked_for_in_the_first_pass_alone() -> None:
    def one(iteration: int, top: float, diff: float) -> Pass:
        values = {
            Key("forward", "data", "top", "x"): 1.0,
            Key("forward", "data", "top", "label"): 5000.0,
            Key("forward", "fc", "top", "fc"): top,
            Key("backward", "fc", "param", "0"): diff,
            Key("backward", "conv", "param", "0"): 1.0,
        }
        return Pass(1, None, iteration, values=values, lines=[1] * len(values))

    assert "takes |x| from 1 in the data to 2e+03 at layer fc" in fired("poor-initialisation", [one(0, 2000, 0.1)])[0]
    assert "of layer fc's weights is 1e-05 of the largest" in fired("poor-initialisation", [one(0, 2, 1e-5)])[0]
    assert fired("poor-initialisation", [one(0, 2, 0.1), one(1, 2000, 1e-5)]) == []
    assert fired("poor-initialisation", [one(500, 2000, 1e-5)]) == []


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


def test_updates_out_of_proportion_five_times_in_a_row() -> None:
    def updated(ratio: float) -> Pass:
        return Pass(1, None, 0, signals={Key("update_ratio", "fc", "param", "0"): ratio})

    (small,) = fired("update-ratio", [updated(1e-9)] * 5)
    assert "fc is updated by 1e-09 of its weights' size, too small" in small
    (diverged,) = fired("update-ratio", [updated(0.5)] * 2 + [updated(math.inf), updated(math.nan), updated(math.nan)])
    assert "fc is updated by nan of its weights' size, too large" in diverged
    assert fired("update-ratio", [updated(0.5), updated(0.01)] * 9) == []
