"""Layers that numpy computes before the graph runs: the values of their bottoms decide the shapes of their tops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base import Layer, Shape

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Computed"]


class Computed(Layer):
    """A layer whose tops are what `decide` returns; no gradient passes. `tops_at_setup` says their shapes before."""

    decides = True

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        """Return the shapes of the tops before any data is known: those of Caffe's set-up."""
        raise NotImplementedError

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shapes = self.tops_at_setup(bottoms)
        return shapes if self.decisions is None else tuple(array.shape for array in self.decisions)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return self.input_decisions(g)
