"""Reading logs: prefixes of every version, test nets, several iterations, other lines in between."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from caffestat.errors import InputError
from caffestat.logs import Key, Output, Pass, Unread, read_log, read_passes

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
@pytest.mark.parametrize(
    "loss",
    [
        "Iteration 20, loss = 1.5",
        "Iteration 20 (3.2 iter/s, 6s/20 iters), loss = 1.5",
        "    [0] Iteration 20 (3.2 iter/s, 6s/20 iter), 0.5/12.8ep, loss = 1.5",  # NVCaffe 0.17
        "Iteration 20 (3.2 iter/s, 6s/20 iter), loss = 1.5, remaining 2 hours and 5 minutes",
    ],
)
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
    ("text", "value"),
    [
        ("nan", math.nan),
        ("-nan", math.nan),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("-nan(ind)", math.nan),
        ("1.#QNAN", math.nan),
        ("-1.#IND", math.nan),
        ("1.#INF", math.inf),
        ("1.5e+08", 1.5e8),
    ],
)
def test_numbers_as_any_c_library_prints_them(text: str, value: float) -> None:
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


PLAIN = [
    "Iteration 0, Testing net (#0)",
    "    Test net output #0: accuracy = 0.1",
    "    Test net output #1: loss = 2.4 (* 1 = 2.4 loss)",
    "Iteration 0 (0 iter/s, 0.3s/20 iters), loss = 4.7",
    "    Train net output #0: aux = 2.35 (* 0.5 = 1.175 loss)",
    "    Train net output #1: top 5 = 0.25",
    "Iteration 0, lr = 0.01",
    "Iteration 20 (4.1 iter/s, 2.4s/20 iters), loss = -nan",
]


def test_a_log_without_debug_info_has_losses_and_outputs() -> None:
    tested, first, last = read(OLD + line for line in PLAIN)
    assert (tested.test_net, tested.iteration, tested.line) == (0, 0, 1)
    assert tested.outputs == [Output("accuracy", 0.1, 0.0), Output("loss", 2.4, 1.0)]
    assert (first.test_net, first.iteration, first.line, first.loss) == (None, 0, 4, 4.7)
    assert first.outputs == [Output("aux", 2.35, 0.5), Output("top 5", 0.25, 0.0)]
    assert (last.iteration, last.line) == (20, 8)
    assert math.isnan(last.loss or 0)


@pytest.mark.parametrize(
    "rate", ["Iteration 0, lr = 0.01", "Iteration 0 (2.5/s), lr = 0.01", "Iteration 0, lr = 0.01, m = 0.9, wd = 0.0005"]
)
def test_learning_rates_of_caffe_and_nvcaffe(rate: str) -> None:
    (found,) = read(["Iteration 0, loss = 2", rate])
    assert found.rate == 0.01


def test_lines_in_colours() -> None:
    (found,) = read(f"\x1b[0;32m{OLD}{line}\x1b[m" for line in [*FORWARD, "Iteration 7, loss = 2"])
    assert (found.loss, list(found.values.values())) == (2, [0.5, 0.25, 0.1])


def test_mean_average_precisions_of_nvcaffe() -> None:
    (found,) = read(["Iteration 0, Testing net (#0)", "    Test net output mAP #0: detection_eval = 0.75"])
    assert found.outputs == [Output("detection_eval", 0.75, 0.0)]


@pytest.mark.parametrize("marks", [("[5] ", "[12] "), ("[1,0]<stderr>:", "[1,1]<stderr>:")])
def test_of_several_processes_the_first_is_read(marks: tuple[str, str]) -> None:
    ours, theirs = marks
    lines = ["Solving", *(mark + OLD + line for line in FORWARD for mark in (ours, theirs))]
    unread = Unread()
    (found,) = read_passes((f"{line}\n".encode() for line in [*lines, f"{ours}Iteration 7, loss = 2"]), unread)
    assert (found.iteration, list(found.values.values()), found.lines) == (7, [0.5, 0.25, 0.1], [2, 4, 6])
    assert (unread.process, unread.others) == (ours[: ours.index("]") + 1], 3)


def test_losses_and_outputs_belong_to_the_passes_before_them() -> None:
    tests = ["Iteration 0, Testing net (#0)", *FORWARD, *FORWARD, "    Test net output #0: accuracy = 0.1"]
    found = read(
        [*tests, *FORWARD, *BACKWARD, "Iteration 0, loss = 2", "    Train net output #0: x = 1 (* 2 = 2 loss)"]
    )
    assert [[output.name for output in one.outputs] for one in found] == [[], ["accuracy"], ["x"]]
    assert [one.line for one in found] == [2, 5, 9]
    assert found[2].lines == [9, 10, 11, 12]


@pytest.mark.parametrize("text", ["7130.01 (0.1421)", "0.1421"])
def test_rc1_prints_the_sum_and_the_mean_in_parentheses(text: str) -> None:
    (found,) = read([f"{OLD}    [Forward] Layer mnist, top blob data data: {text}", "Test score #1: 2.5"])
    assert found.values == {Key("forward", "mnist", "top", "data"): 0.1421}


def test_test_scores_of_rc1() -> None:
    (found,) = read(["Iteration 500, Testing net (#0)", "Test score #0: 0.1", "Test score #1: 2.3101"])
    assert found.outputs == [Output("#0", 0.1, 0.0), Output("#1", 2.3101, 0.0)]


def test_debug_info_that_cannot_be_read_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("Solving\nI1 [Forward] Layer data, top blob data data: mean 0.5\n[Backward] Layer b has 3\n")
    with pytest.raises(InputError) as caught:
        list(read_log(str(path)))
    assert str(caught.value).startswith(f"{path}:2: cannot read the debug_info line 'I1 [Forward] Layer data, top")
    assert "(and 1 more lines)" in str(caught.value)


def test_a_log_without_passes_and_losses(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("I1123 07:54:30.1 1 caffe.cpp:218] Starting Optimization\n")
    with pytest.raises(InputError, match=r"train\.log: expected a training log with debug_info lines or losses, found"):
        list(read_log(str(path)))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_logs(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(pack("\n".join([*FORWARD, *BACKWARD, "Iteration 7, loss = 2"] * 5000).encode()))
    found = list(read_log(str(path)))
    assert len(found) == 5000
    assert found[-1].line == 6 * 4999 + 1


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_logs_in_utf_16(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(("\ufeff" + "\r\n".join([*FORWARD, "Iteration 7, loss = 2"])).encode(encoding))
    (found,) = read_log(str(path))
    assert (found.iteration, len(found.values)) == (7, 3)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="is a zip archive"):
        list(read_log(str(path)))
    path.write_bytes(gzip.compress(b"x" * 10_000)[:-9])
    with pytest.raises(InputError, match=r"train\.log: cannot be read"):
        list(read_log(str(path)))
    with pytest.raises(InputError, match="is not a file"):
        list(read_log("/dev/zero"))
    with pytest.raises(InputError, match="is not a file"):
        list(read_log(str(tmp_path)))


def test_backward_passes_alone_are_told_apart() -> None:
    line = "[Backward] Layer {}, param blob 0 diff: 0.5"
    found = read([line.format(name) for _ in range(2000) for name in ("ip", "conv")])
    assert len(found) == 2000
    assert len(found[-1].values) == 2


def test_a_value_that_is_printed_again_and_again_takes_linear_time() -> None:
    first = "[Forward] Layer a, top blob a data: 1"
    (found,) = read([first, *["[Forward] Layer b, top blob b data: 1"] * 30_000])
    assert len(found.values) == 30_001
    assert list(found.values)[-1].blob == "b'29999"


def test_lines_without_end_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(
        b"x" * 3_000_000 + b"\n[Forward] Layer a, top blob " + b"b data: 1, param blob " * 3000 + b"\nIteration "
    )
    with pytest.raises(InputError, match=r"train\.log:2: cannot read the debug_info line"):
        list(read_log(str(path)))
