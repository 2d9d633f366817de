"""What `train --watch` says of a run is what `diagnose` says of its log."""

from __future__ import annotations

import math

from caffestat import logs
from caffestat.training import events as e
from caffestat.training.statistics import Signal


def test_a_vanished_gradient_stands_beside_the_largest() -> None:
    values = {Signal("param_diff", "conv1", "0"): 1e-9, Signal("param_diff", "ip2", "0"): 0.25}
    (alert,) = (one for one in logs.Watch().see(e.Statistics(0, values)) if one.rule == "vanishing")
    assert alert.message == "has vanished: 1e-09, the largest is 0.25"


def test_an_exploded_top_stands_beside_its_last_value() -> None:
    watch = logs.Watch()
    for mean in (0.5, 2.0, 3000.0):
        found = watch.see(e.Statistics(0, {Signal("top", "conv1", "conv1"): mean}))
    assert [str(alert) for alert in found if alert.rule == "explosion"] == [
        "explosion at iteration 0: layer conv1, top blob conv1 data has exploded: 3000, before 2"
    ]


def test_a_loss_that_stands_still_stays() -> None:
    watch = logs.Watch()
    guess = math.log(10)
    outputs = (e.Output("loss", guess, 1.0),)
    found = [
        alert
        for n in range(120)
        for alert in watch.see(e.Iteration(n, guess, guess, outputs, 0.01, None, None, None, True, 0.1, 1))
    ]
    (alert,) = (one for one in found if one.rule == "loss-constant")
    assert alert.message.startswith("stays at 2.30259: ln 10 = 2.3026")
