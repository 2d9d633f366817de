"""The driver: runs cases in a child process, which one of them may end, until the time is up.

    python -m tests.fuzz [--seconds 60] [--seed 0] [--kind net]… [--case net:17]

Prints every promise that does not hold, with the case that shows it again, and exits with 1 when there are any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .corpus import KINDS, case
from .promises import broken

_MEMORY = 8 << 30  # of the child's address space
_STUCK = 300.0  # seconds after which a child that says nothing is ended; a busy machine may stop it for a while
_CASES = 400  # after which a child makes place for a new one


def _work(pipe: Connection, folder: str) -> None:
    """Run the cases that come through the pipe; answer with what is broken."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while (order := pipe.recv()) is not None:
        place = Path(folder) / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        pipe.send(list(broken(case(*order), place)))
        os.chdir(folder)


class _Child:
    def __init__(self, folder: str) -> None:
        self.pipe, other = multiprocessing.Pipe()
        context: Any = multiprocessing.get_context("fork")
        self.process = context.Process(target=_work, args=(other, folder), daemon=True)
        self.process.start()
        other.close()
        self.count = 0

    def run(self, kind: str, seed: int) -> list[str]:
        self.count += 1
        self.pipe.send((kind, seed))
        try:
            if self.pipe.poll(_STUCK):
                return list(self.pipe.recv())
        except EOFError:
            self.process.join()
            return [f"the process ended with {self.process.exitcode}"]
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return [f"no answer within {_STUCK:.0f} s"]

    def end(self) -> None:
        if self.process.is_alive():
            self.pipe.send(None)
            self.process.join(10)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run damaged and hostile files through every command.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--case", action="append", help="KIND:SEED, to show one again; its files stay")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    cases = [(kind, int(seed)) for kind, _, seed in (text.partition(":") for text in options.case or ())]
    started, count, found = time.monotonic(), 0, 0
    folder = tempfile.mkdtemp(prefix="caffestat-fuzz-")
    child = _Child(folder)
    kinds = options.kind or list(KINDS)
    seed = options.seed
    with suppress(KeyboardInterrupt):  # which ends it early
        while cases or (not options.case and time.monotonic() - started < options.seconds):
            order = cases.pop() if cases else (kinds[count % len(kinds)], seed)
            seed += not options.case and count % len(kinds) == len(kinds) - 1
            problems = child.run(*order)
            count += 1
            for problem in problems:
                found += 1
                print(f"--case {order[0]}:{order[1]}\n{problem}\n", flush=True)
            if not child.process.is_alive() or child.count >= _CASES:
                child.end()
                child = _Child(folder)
    child.end()
    seconds = time.monotonic() - started
    print(
        f"{count} cases in {seconds:.0f} s, {count / seconds:.1f} a second, seeds from {options.seed}: {found} findings"
    )
    if not options.case:
        shutil.rmtree(folder)
    else:
        print(f"files: {folder}/case")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
