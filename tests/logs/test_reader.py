"""Reading logs: prefixes of every version, test nets, several iterations, other lines in between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from caffestat.errors import InputError
from caffestat.logs import Key, Pass, read_log, read_passes

RAW = Path(__file__).parent.parent / "golden" / "raw_logs"

OLD = "I0512 12:34:56.789012 12345 net.cpp:591] "
NEW = "I20261123 03:10:28.577857 23595 net.cpp:593] "
STAMPED = "2016-05-12T12:34:56Z [rank 3] I0512 12:34:56.789012 12345 net.cpp:467] "

FORWARD = ["    [Forward] Layer data, top blob data data: 0.5", "    [Forward] Layer ip, top blob ip data: 0.25",
           "    [Forward] Layer ip, param blob 0 data: 0.1"]  # fmt: skip
BACKWARD = ["    [Backward] Layer ip, param blob 0 diff: 0.01",
            "    [Backward] All net params (data, diff): L1 norm = (1, 2); L2 norm = (3, 4)"]  # fmt: skip


def read(lines: Iterable[str]) -> list[Pass]:
    return list(read_passes(f"{line}\n".encode() for line in lines))


@pytest.mark.parametrize("prefix", [OLD, NEW, STAMPED, ""])
@pytest.mark.parametrize("loss", ["Iteration 20, loss = 1.5", "Iteration 20 (3.2 iter/s, 6s/20 iters), loss = 1.5"])
def test_a_pass_has_its_values_whatever_stands_before_the_lines(prefix: str, loss: str) -> None:
    (found,) = read(prefix + line for line in [*FORWARD, *BACKWARD, loss])
    assert found.iteration == 20
    assert found.loss == 1.5
    assert found.test_net is None
    assert found.norms == (1, 2, 3, 4)
    assert list(found.values.items()) == [
        (Key("forward", "data", "top", "data"), 0.5),
        (Key("forward", "ip", "top", "ip"), 0.25),
        (Key("forward", "ip", "param", "0"), 0.1),
        (Key("backward", "ip", "param", "0"), 0.01),
    ]


def test_passes_of_one_iteration_wait_for_its_number() -> None:
    found = read([*FORWARD, *BACKWARD, *FORWARD, *BACKWARD, "Iteration 7, loss = 2", *FORWARD, *BACKWARD])
    assert [one.iteration for one in found] == [7, 7, None]
    assert [one.line for one in found] == [1, 6, 12]


def test_test_nets_are_told_apart() -> None:
    tests = ["Iteration 100, Testing net (#1)", *FORWARD, *FORWARD, "    Test net output #0: loss = 2.33"]
    found = read([*tests, *FORWARD, *BACKWARD, "Iteration 100, loss = 2"])
    assert [(one.test_net, one.iteration) for one in found] == [(1, 100), (1, 100), (None, 100)]


def test_lines_of_others_do_not_matter() -> None:
    noise = ["", "Layer factory", "    [Forward] something else", "ImportWarning: forward] x", "Iteration 3, lr = 0.1"]
    lines = [line for pair in zip([*FORWARD, *BACKWARD], noise, strict=True) for line in pair]
    (found,) = read([*lines, "Iteration 3, loss = 1"])
    assert len(found.values) == 4
    assert found.iteration == 3


@pytest.mark.parametrize(
    ("text", "value"), [("nan", math.nan), ("-nan", math.nan), ("inf", math.inf), ("-nan(ind)", math.nan)]
)
def test_values_that_are_not_finite(text: str, value: float) -> None:
    (found,) = read([f"    [Forward] Layer a b, top blob c d data: {text}"])
    ((key, number),) = found.values.items()
    assert key == Key("forward", "a b", "top", "c d")
    assert number == value or (math.isnan(number) and math.isnan(value))


@pytest.mark.parametrize(
    ("name", "trained", "tested"), [("lenet_like", 3, 6), ("rules", 3, 9), ("shared_params", 3, 0)]
)
def test_caffes_own_logs(name: str, trained: int, tested: int) -> None:
    found = list(read_log(str(RAW / f"{name}.log")))
    train = [one for one in found if one.test_net is None]
    assert len(train) == trained
    assert len(found) - len(train) == tested
    assert [one.iteration for one in train] == [0, 1, 2]
    assert all(one.norms for one in train[:2])


def test_only_the_passes_at_hand_are_kept() -> None:
    def endless() -> Iterator[bytes]:
        for number in range(20_000):
            for line in [*FORWARD, *BACKWARD, f"Iteration {number}, loss = 1"]:
                yield f"{line}\n".encode()

    count = 0
    for count, one in enumerate(read_passes(endless()), 1):
        assert one.iteration == count - 1
    assert count == 20_000


def test_a_log_that_is_not_there() -> None:
    with pytest.raises(InputError, match="expected a training log"):
        list(read_log("nowhere.log"))


def test_a_log_without_debug_info(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("I1123 07:54:30.1 1 solver.cpp:239] Iteration 0 (0 iter/s, 0.3s/1 iters), loss = 4.7\n")
    with pytest.raises(InputError, match=r"train\.log: expected a training log with debug_info lines, found none"):
        list(read_log(str(path)))
