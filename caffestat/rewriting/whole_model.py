"""Methods that look at the whole of an ONNX model: it is loaded as a Program when one of them is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from caffestat.errors import Finding
from caffestat.errors import Place as FilePlace
from caffestat.fillers import Stream
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.program import Program
from caffestat.program.opening import open_model
from caffestat.rewriting.methods import SolvedStds, apply_methods
from caffestat.rewriting.policy import Policy, Undecided

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves
    from caffestat.initialization.methods import Method

__all__ = ["WholeModel"]


class WholeModel:
    """A model as a Program, and what methods give its initializers.

    policies  of the initializers that have one, by name
    curves    signal and gradient before and after; the gradient is that of N(0, 1) noise at the outputs
    """

    def __init__(self, path: Path, options: NetOptions) -> None:
        self._path, self._options = path, options
        self._drawn_curves: Curves | None = None
        self.policies: Mapping[str, Policy] = {}

    @cached_property
    def _program(self) -> Program:
        program, _ = open_model(str(self._path), self._options, ValueOptions(), RunOptions(), backward=True)
        return program

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {param.name: number for number, param in enumerate(self._program.params)}

    @cached_property
    def _solved(self) -> SolvedStds:
        return SolvedStds(self._program, self._by_number())

    def _by_number(self) -> dict[int, Policy]:
        return {self._numbers[name]: policy for name, policy in self.policies.items() if name in self._numbers}

    @property
    def draws(self) -> bool:
        """Whether a method draws values."""
        return any(policy.draws_values for policy in self.policies.values())

    @property
    def curves(self) -> Curves | None:
        """Signal and gradient before and after; None where no method is asked for."""
        return self._drawn_curves or (self._solved.curves() if "_solved" in vars(self) else None)

    def std(self, name: str, method: Method) -> float:
        """Return the std that is solved for an initializer. Raises Undecided."""
        if name not in self._numbers:
            raise Undecided("the model does not read it as a weight")
        return self._solved(self._numbers[name], method)

    def drawn(
        self, given: Mapping[str, np.ndarray], seed: int, notes: MutableSequence[Finding]
    ) -> Iterator[tuple[str, np.ndarray, Method]]:
        """Yield name, values and method of each initializer that a method fills.

        given: new values of others
        """
        stored = self._program.values(Stream(seed), [])
        policies, lines = self._by_number(), list[str]()
        values = [
            np.array(given.get(param.name, value), value.dtype)
            for param, value in zip(self._program.params, stored, strict=True)
        ]
        applied = apply_methods(self._program, policies, values, seed, lines)
        notes.extend(Finding(FilePlace(str(self._path)), line) for line in lines)
        self._drawn_curves = applied.curves
        for number, method in applied.filled.items():
            yield self._program.params[number].name, values[number], method
