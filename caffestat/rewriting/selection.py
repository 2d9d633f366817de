"""Which params a rewrite concerns: what the user names, and what is better left alone unless it is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from caffestat.fillers import Filler, filler_type
from caffestat.layers import default_filler
from caffestat.options import names
from caffestat.rewriting.policy import Policy, norm_of, parse_policy, same_effect

__all__ = ["Change", "Place", "change_of", "is_changed"]


@dataclass(frozen=True)
class Place:
    """A param by its layer's name and type, and its role: weight, bias, scale, slope.

    An ONNX initializer goes by its own name, and by its node's as the other one.
    """

    layer: str
    type: str
    role: str
    is_frozen: bool = False
    other_name: str = ""
    is_recurrent: bool = False
    upsamples: bool = False  # a bilinear filler makes the layer interpolate

    def __str__(self) -> str:
        return f"{self.layer} ({self.type}) {self.role}"


@dataclass(frozen=True)
class Change:
    """What a rewrite does: `filler` to weights and `bias` to biases, in the layers that the globs and types select."""

    filler: Policy | None = None
    bias: Policy | None = None
    layers: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    only_missing: bool = False

    def names(self, place: Place) -> bool:
        """Tell whether the user named the layer, by a glob or by its type."""
        by_name = _matches(place, self.layers)
        return (by_name or not self.layers) and (place.type in self.types or not self.types) and self.is_narrow

    @property
    def is_narrow(self) -> bool:
        """Whether only layers that are named count."""
        return bool(self.layers or self.types)

    @property
    def is_selective(self) -> bool:
        """Whether any layer could be left out."""
        return self.is_narrow or bool(self.excludes)

    def selects(self, place: Place) -> bool:
        """Tell whether the layer is among those that the rewrite looks at."""
        return not _matches(place, self.excludes) and (self.names(place) or not self.is_narrow)

    def policy(self, place: Place, current: Filler | None) -> Policy | None:
        """Return the policy for a param whose filler is `current` (None: not written); None when it is left alone."""
        policy = self._policy_of(place)
        if policy is None or not self.selects(place) or (self.only_missing and current is not None):
            return None
        return policy if self.names(place) or not _is_delicate(place, current, policy) else None

    def _policy_of(self, place: Place) -> Policy | None:
        if place.role == "bias":
            return self.bias
        # scales and slopes are not weights: they are filled only where their layer's type is selected
        return self.filler if place.role == "weight" or place.type in self.types else None


def _matches(place: Place, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for name in (place.layer, place.other_name) if name for glob in globs)


def _is_delicate(place: Place, current: Filler | None, policy: Policy) -> bool:
    """Tell whether a param has a filler for a reason of its own, or the policy is for another type of layer."""
    upsamples = current is not None and _upsamples(current.type)
    misplaced = _upsamples(policy.type) and not place.upsamples
    return place.is_frozen or place.is_recurrent or upsamples or misplaced


def _upsamples(name: str) -> bool:
    kind = filler_type(name)
    return kind is not None and kind.upsamples


def is_changed(place: Place, current: Filler | None, filler: Filler) -> bool:
    """Tell whether `filler` gives other values than the param has now."""
    return not same_effect(current or default_filler(place.role), filler)


def change_of(
    filler: str | None = None,
    bias: str | None = None,
    variance_norm: str | None = None,
    layers: Sequence[str] = (),
    types: Sequence[str] = (),
    excludes: Sequence[str] = (),
    only_missing: bool = False,
) -> Change:
    """Return the Change that options describe. Raises InputError for a policy that cannot be read, and for no names."""
    norm_of(variance_norm)
    return Change(
        parse_policy(filler, variance_norm) if filler else None,
        parse_policy(bias) if bias else None,
        names("layers", layers),
        names("types", types),
        names("excludes", excludes),
        only_missing,
    )
