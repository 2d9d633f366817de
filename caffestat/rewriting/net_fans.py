"""The true fans of the layers that a text describes, from the nets that it builds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from caffestat.errors import CaffestatError, Place
from caffestat.net import TEST, TRAIN, Net, NetSource, build, state_of
from caffestat.net.source import inline_source, is_solver, net_source
from caffestat.options import NetOptions
from caffestat.program import from_net
from caffestat.prototext import Document
from caffestat.rewriting.methods import SolvedStds, policies_of
from caffestat.rewriting.policy import Fans, Undecided
from caffestat.rewriting.selection import Change
from caffestat.rewriting.text_layers import TextLayer, nets
from caffestat.schema import SolverParameter, from_document

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves
    from caffestat.initialization.methods import Method

__all__ = ["TextFans", "fans_of"]


class TextFans:
    """Finds fans by layer and role; nets are built when fans are first asked for."""

    def __init__(self, document: Document, options: NetOptions, change: Change | None = None) -> None:
        self._change = change or Change()
        self._solved: dict[int, SolvedStds] = {}  # by the id of a net
        self._document = document
        self._options = options
        self._problems: list[str] = []

    def __call__(self, layer: TextLayer, role: str) -> Fans:
        """Return the true fans of a layer's param. Raises Undecided when no net that holds the layer can be built."""
        found = self._nodes.get((layer.name, layer.field.place), [])
        for net, index in found:
            if net.nodes[index].params:
                return fans_of(net, index, role)
        raise Undecided(f"its fans are not known: {self._reason(found)}")

    def std(self, layer: TextLayer, role: str, method: Method) -> float:
        """Return the std that `autoinit` solves for a layer's param. Raises Undecided."""
        found = self._nodes.get((layer.name, layer.field.place), [])
        for net, index in found:
            for number in net.nodes[index].params:
                if net.params[number].param.role == role:
                    if id(net) not in self._solved:
                        self._solved[id(net)] = SolvedStds(from_net(net), policies_of(net, self._change))
                    return self._solved[id(net)](number, method)
        raise Undecided(f"its net is not known: {self._reason(found)}")

    def curves(self) -> Curves | None:
        """Return what is predicted of the first net with solved stds, before and after; None without."""
        return next((found for solved in self._solved.values() if (found := solved.curves())), None)

    def _reason(self, found: Sequence[tuple[Net, int]]) -> str:
        for net, index in found:
            return _why_unknown(net, index)
        return self._problems[0] if self._problems else "it is in neither the TRAIN nor the TEST net"

    @cached_property
    def _nodes(self) -> dict[tuple[str, Place], list[tuple[Net, int]]]:
        """The nodes of all nets by the names and places of their layers."""
        found: dict[tuple[str, Place], list[tuple[Net, int]]] = {}
        for net in self._nets:
            for index, node in enumerate(net.nodes):
                found.setdefault((node.name, node.place), []).append((net, index))
        return found

    @cached_property
    def _nets(self) -> list[Net]:
        return list(self._build())

    def _build(self) -> Iterator[Net]:
        try:
            sources = list(_sources(self._document))
        except CaffestatError as error:
            self._problems.append(str(error))
            return
        for source in sources:
            for phase in (TRAIN, TEST):
                try:
                    options = self._options
                    state = state_of(source, phase)
                    yield build(source, state, options.shapes, options.batch, dialect=options.dialect)
                except CaffestatError as error:
                    self._problems.append(str(error))


def _why_unknown(net: Net, index: int) -> str:
    """Return why a node's shapes are not known: the reason of the last layer that it depends on and that has one."""
    depends = sorted({index, *net.flow.in_front([index])}, reverse=True)
    reasons = (net.nodes[other].layer.why_unknown for other in depends)
    return next(filter(None, reasons), "its type has no params that caffestat knows")


def _sources(document: Document) -> Iterator[NetSource]:
    if not is_solver(document):
        yield net_source(document)
        return
    message, _ = from_document(document, SolverParameter)
    for field, _ in nets(document):
        if field is not None:
            value = getattr(message, field.name)
            index = document.find(field.name).index(field)
            yield inline_source(document.name, value[index] if field.name == "test_net_param" else value, field)


def fans_of(net: Net, node: int, role: str) -> Fans:
    """Return the true fans of a node's param. Raises Undecided when one filler serves params whose fans differ."""
    params = [net.params[number].param for number in net.nodes[node].params]
    found = {(param.fan_in, param.fan_out) for param in params if param.role == role}
    if len(found) != 1:
        raise Undecided(f"its filler serves {len(found)} blobs of different fans, which one number cannot fit")
    return found.pop()
