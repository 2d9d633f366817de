"""Filler policies: how the command line writes them, and which filler each of them chooses for a param."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffestat import float32
from caffestat.errors import CaffestatError, InputError
from caffestat.fillers import (
    VARIANCE_NORMS,
    Density,
    Filler,
    FillerType,
    Normal,
    filler_type,
    filler_types,
    of_norm,
    stated,
    type_of_gain,
)
from caffestat.initialization.methods import METHODS, Method, parse_method
from caffestat.ops import LINEAR, Nonlinearity
from caffestat.options import one_of

__all__ = ["Fans", "Policy", "Site", "Undecided", "Wanted", "parse_policy", "same_effect"]

_CHOOSERS = ("auto", "explicit", *METHODS)
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")

Fans = tuple[int, int]  # true fan-in and fan-out


class Undecided(CaffestatError):
    """A policy cannot choose a filler for a param; the message says why and what to do."""


@dataclass(frozen=True)
class Wanted:
    """A filler to be written: its type, and its other fields as text."""

    type: str
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def filler(self) -> Filler:
        """The same as the fill package takes it."""
        readers: dict[str, Callable[[str], Any]] = {"variance_norm": str, "sparse": int}
        return Filler(self.type, **{name: readers.get(name, float)(text) for name, text in self.fields})

    def __str__(self) -> str:
        return " ".join([self.type, *(f"{name} {text}" for name, text in self.fields)])

    @property
    def prototxt(self) -> str:
        """The same as a weight_filler of a prototxt has it."""
        return " ".join([f'type: "{self.type}"', *(f"{name}: {text}" for name, text in self.fields)])


@dataclass(frozen=True)
class Site:
    """A param as a policy sees it.

    current   its filler, None when none is written
    follower  the nonlinearity that its layer's tops meet
    mixes     whether an output of its layer sums over several channels
    solve     returns the std that a method such as autoinit solves for it; raises Undecided
    fans      returns the true fans; raises Undecided when they are not known
    """

    current: Filler | None
    follower: Callable[[], Nonlinearity] = lambda: LINEAR
    fans: Callable[[], Fans] = lambda: _no_fans()
    mixes: bool = False
    solve: Callable[[Method], float] = lambda method: _no_std()


def _no_std() -> float:
    raise Undecided("no net is known that it could be solved in")


def _no_fans() -> Fans:
    raise Undecided("its fans are not known")


@dataclass(frozen=True)
class Policy:
    """What to fill with: a filler type and its fields, "auto", "explicit" of another policy (`base`), or a method.

    Of the methods "autoinit" solves the std of a layer; the others draw values that no filler states.

    variance_norm is None where the user did not say one.
    """

    type: str
    fields: tuple[tuple[str, str], ...] = ()
    variance_norm: str | None = None
    base: Policy | None = None
    method: Method | None = None

    @property
    def is_solved(self) -> bool:
        """Whether the std is solved from the net's predicted moments."""
        return self.solves is not None

    @property
    def solves(self) -> Method | None:
        """The method that solves the std, its own or that of its base; None where nothing is solved."""
        if self.base is not None:
            return self.base.solves
        return self.method if self.method and self.method.is_solved else None

    @property
    def draws_values(self) -> bool:
        """Whether it is a method that draws values, and no filler."""
        return self.method is not None and not self.method.is_solved

    @property
    def states_numbers(self) -> bool:
        """Whether it is a filler type by itself, the same for every param."""
        return filler_type(self.type) is not None

    @property
    def filler(self) -> Filler:
        """The filler of a policy that states its numbers."""
        return Wanted(self.type, self.fields).filler

    def choose(self, site: Site) -> Wanted | None:
        """Return the filler for a param, None for one that the policy does not concern. Raises Undecided."""
        if self.type == "auto":
            return self._by_follower(site)
        if self.type == "explicit":
            return self._explicit(site)
        if self.method and self.method.is_solved:
            return _solved(self.method, site)
        kind = filler_type(self.type)
        if kind and kind.upsamples and site.mixes:
            raise Undecided(
                f"{self.type} would make all of its outputs equal; set group and num_output to the number of channels"
            )
        norm = [("variance_norm", self.variance_norm)] if self.variance_norm and _is_scaled(self.type) else []
        return Wanted(self.type, (*self.fields, *norm))

    def _by_follower(self, site: Site) -> Wanted | None:
        gain = site.follower().weight_gain
        kind = type_of_gain(gain)
        if kind is not None:
            return Policy(kind, variance_norm=self.variance_norm).choose(site)
        n = of_norm(site.fans(), self.variance_norm or Filler().variance_norm)
        return _numbers(Normal(0.0, math.sqrt(gain / n)), _number)

    def _explicit(self, site: Site) -> Wanted | None:
        wanted = self.base.choose(site) if self.base else _written(site, self.variance_norm)
        by_fan = _type_of(wanted.type).by_fan if wanted else None
        if wanted is None or by_fan is None:
            return wanted
        return _numbers(by_fan(float32.rounded(of_norm(site.fans(), wanted.filler.variance_norm))), _number)


def _solved(method: Method, site: Site) -> Wanted:
    return _numbers(method.density(site.solve(method)), lambda value: _number(_rounded(value)) if value else "0")


def _type_of(name: str) -> FillerType:
    """Return the type of a policy that was parsed. Raises InputError for an unknown one, which a file may have."""
    kind = filler_type(name)
    if kind is None:
        raise InputError(f"unknown filler type {name!r}; expected one of {', '.join(filler_types())}")
    return kind


def _numbers(density: Density, text: Callable[[float], str]) -> Wanted:
    """Return a filler that states the numbers which another derives from a fan; `text` writes one."""
    kind, fields = stated(density)
    return Wanted(kind, tuple((name, text(value)) for name, value in fields.items()))


def _is_scaled(name: str) -> bool:
    kind = filler_type(name)
    return kind is not None and kind.by_fan is not None


def _written(site: Site, variance_norm: str | None) -> Wanted | None:
    """Return the filler that the file has, when numbers can take its place."""
    if site.current is None or not _is_scaled(site.current.type):
        return None
    return Wanted(site.current.type, (("variance_norm", variance_norm or site.current.variance_norm),))


def _rounded(value: float) -> float:
    """Return a number that was solved for to five digits: it is an expectation, and is written into a text."""
    return float(f"{value:.5g}")


def _number(value: float | np.floating) -> str:
    """Return the shortest text that reads back as the same float32."""
    return str(np.float32(value))


def norm_of(text: str | None) -> str | None:
    """Return a variance_norm, given in any case, as Caffe spells it. Raises InputError for an unknown one."""
    if text is None:
        return None
    one_of("variance_norm", str(text).lower(), [name.lower() for name in VARIANCE_NORMS])
    return text.upper()


def parse_policy(text: str, variance_norm: str | None = None) -> Policy:
    """Read a policy as the command line writes it.

    TYPE, TYPE:NAME=VALUE,…, constant:VALUE, gaussian:STD, auto, explicit (of what the file has), explicit:POLICY;
    `variance_norm` is fan_in, fan_out or average, in any case. Raises InputError.
    """
    norm = norm_of(variance_norm)
    if not isinstance(text, str):
        raise InputError(f"filler policy: expected a text such as 'gaussian:std=0.01', found {text!r}")
    kind, _, rest = text.partition(":")
    if kind == "explicit":
        base = parse_policy(rest, variance_norm) if rest else None
        if base and base.draws_values:
            raise InputError(f"filler policy {text!r}: {base.type} draws values, which no filler states; use {rest!r}")
        return Policy("explicit", variance_norm=norm, base=base)
    method = parse_method(text)
    if method is not None:
        return Policy(kind, method=method)
    known = filler_type(kind)
    if known is None and kind != "auto":
        raise InputError(f"unknown filler policy {text!r}; expected one of {', '.join((*filler_types(), *_CHOOSERS))}")
    fields = dict(_field(known, part) for part in rest.split(",") if part)
    missing = [name for name in (known.required if known else ()) if name not in fields]
    if missing:
        raise InputError(f"filler policy {text!r} lacks {' and '.join(missing)}; write {_example(missing, kind)}")
    policy = Policy(kind, tuple(fields.items()), None if "variance_norm" in fields else norm)
    _check_range(policy, text)
    return policy


def _check_range(policy: Policy, text: str) -> None:
    filler = Wanted(policy.type, policy.fields).filler
    if filler.min > filler.max:
        raise InputError(f"filler policy {text!r}: min must not be above max")


def _example(names: Sequence[str], kind: str) -> str:
    return f"{kind}:{','.join(f'{name}=NUMBER' for name in names)}"


def _field(kind: FillerType | None, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals and kind and kind.short:
        name, value = kind.short, text
    known, kind_name = (kind.reads, kind.name) if kind else ((), "auto")
    if name not in known:
        expected = f"expected {', '.join(known)}" if known else "it takes none"
        raise InputError(f"a {kind_name} filler has no field {name!r}; {expected}")
    if name == "variance_norm":
        return name, norm_of(value) or ""
    return name, _checked(kind_name, name, value)


def _checked(kind: str, name: str, text: str) -> str:
    try:
        number = int(text) if name == "sparse" else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (name == "std" and number <= 0):
        expected = {"sparse": "an integer", "std": "a number above 0"}.get(name, "a number")
        raise InputError(f"{name} of a {kind} filler: expected {expected}, found {text!r}")
    return text if _PLAIN_NUMBER.fullmatch(text) else str(number)


def same_effect(one: Filler, other: Filler) -> bool:
    """Tell whether two fillers have one effect: the same type, and float32 values of the fields that it reads."""
    return _effect(one) == _effect(other)


def _effect(filler: Filler) -> tuple[object, ...]:
    # a sparse that the type does not take makes Caffe abort: it is never without effect
    kind = filler_type(filler.type)
    names = dict.fromkeys((*(kind.reads if kind else ()), "sparse"))
    values = (getattr(filler, name) for name in names)
    return (filler.type, *(np.float32(value) if isinstance(value, float) else value for value in values))
