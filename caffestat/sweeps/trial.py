"""Trials: plain data that says which variant of a net is run, and the product that makes many of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product

from caffestat.errors import InputError
from caffestat.options import DEFAULT_SEED, check_seed, number, whole_number

__all__ = ["Sweep", "Trial", "as_seeds"]

Change = tuple[str, str]  # which fields ("conv*.weight_filler.std"), and the value as prototxt spells it


_OF_FILE = "of the file"


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant of a net, and how it is run. It can be pickled, and means the same in every process.

    net         the net's or solver's file, as the sweep names it
    seed        Caffe's random_seed
    filler      of all weights: "xavier", "gaussian:std=0.01"; "" leaves those of the file
    changes     of fields, by layers and path
    width       times num_output of the hidden layers
    rate        base_lr in the place of the solver's; None leaves it
    solver      type in the place of the solver's; "" leaves it
    iterations  of training; 0 for the first pass alone
    """

    net: str
    seed: int
    filler: str = ""
    changes: tuple[Change, ...] = ()
    width: float = 1.0
    rate: float | None = None
    solver: str = ""
    iterations: int = 0

    @property
    def id(self) -> str:
        """A name that depends on nothing but the trial's own data."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def variant(self) -> str:
        """A text of all but the seed: trials of one variant differ only in their draws."""
        parts = [self.net, *filter(None, (self.filler, self.solver))]
        parts += [f"{path}={value}" for path, value in self.changes]
        parts += [f"width {self.width:g}"] if self.width != 1 else []
        parts += [f"lr {self.rate:g}"] if self.rate is not None else []
        return " · ".join(parts)

    @property
    def parameters(self) -> dict[str, str]:
        """All but the seed and the iterations, as texts by the names of the options."""
        return {
            "net": self.net,
            "filler": self.filler or _OF_FILE,
            **dict(self.changes),
            "width": f"{self.width:g}",
            "lr": _OF_FILE if self.rate is None else f"{self.rate:g}",
            "solver": self.solver or _OF_FILE,
        }


@dataclass(frozen=True)
class Sweep:
    """What is swept: each trial takes one value of every list.

    nets     files of nets or solvers
    changes  values by path, as in `Trial.changes`
    shapes, batch  of data blobs, of every trial
    """

    nets: Sequence[str]
    seeds: Sequence[int] = (DEFAULT_SEED,)
    fillers: Sequence[str] = ("",)
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    widths: Sequence[float] = (1.0,)
    rates: Sequence[float | None] = (None,)
    solvers: Sequence[str] = ("",)
    iterations: int = 0
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    batch: int | None = None

    def __post_init__(self) -> None:
        """Raise InputError for an empty list, and for numbers that no trial can have."""
        for name in ("nets", "seeds", "fillers", "widths", "rates", "solvers"):
            if not getattr(self, name):
                raise InputError(f"sweep: {name} is empty; expected at least one value")
        for path, values in self.changes.items():
            if not values:
                raise InputError(f"sweep: no values for {path!r}; expected at least one")
        for seed in self.seeds:
            check_seed(seed)
        for rate in self.rates:
            number("rates", 0.0 if rate is None else rate)
        for width in self.widths:
            number("widths", width)
        if 0 in self.widths:
            raise InputError("widths: expected numbers above 0, found 0")
        whole_number("iterations", self.iterations, 0)

    @property
    def count(self) -> int:
        """The number of trials."""
        lists = (self.nets, self.seeds, self.fillers, self.widths, self.rates, self.solvers, *self.changes.values())
        count = 1
        for values in lists:
            count *= len(values)
        return count

    def trials(self) -> Iterator[Trial]:
        """Yield every combination; the seed varies fastest."""
        changes = [[(path, value) for value in values] for path, values in self.changes.items()]
        outer = product(self.nets, self.fillers, product(*changes), self.widths, self.rates, self.solvers)
        for net, filler, changed, width, rate, solver in outer:
            for seed in self.seeds:
                yield Trial(net, seed, filler, tuple(changed), width, rate, solver, self.iterations)


def as_seeds(text: str) -> Sequence[int]:
    """Return the seeds of "0:20" (0 to 19), "0:20:5" (each fifth) or "1,2,7". Raises InputError for other texts."""
    try:
        found: Sequence[int] = (
            range(*map(int, text.split(":"))) if ":" in text else tuple(int(part) for part in text.split(","))
        )
    except (ValueError, TypeError):  # no numbers, a step of 0, more than three
        found = ()
    ends = (found[0], found[-1]) if isinstance(found, range) and found else found
    if not ends or min(ends) < 0 or max(ends) >= 2**32:
        raise InputError(f"seeds: expected numbers from 0 to 2**32 - 1, as 0:20 or 1,2,7, found {text!r}")
    return found
