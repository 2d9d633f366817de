"""An ONNX model as a Program: a row per input, then one per node of its file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field, replace

from caffestat.autodiff import Stop, rounding_words
from caffestat.engine import CPU, Compiled, Device
from caffestat.errors import CaffestatError, Finding, Place
from caffestat.fillers import Stream
from caffestat.graph import Graph, Node, Spec
from caffestat.graph.costs import macs
from caffestat.graph.fans import Use, find_uses
from caffestat.graph.flow import Flow
from caffestat.graph.infer import follows
from caffestat.graph.load import Model, ModelNode
from caffestat.lazy import np
from caffestat.ops import Role

from .feeds import Feeds, InputFeed
from .losses import start
from .memory import check_run
from .program import Alone, Forward, Key, Program, Row, RowParam
from .traits import activation_of, passes_signal

__all__ = ["ModelProgram", "can_run", "from_onnx", "settle_drawn"]

FLOAT = np.dtype(np.float32)
_DECISIVE = (np.bool_, np.int32, np.int64)  # the types of places, sizes and conditions; quantized values are of 8 bits


@dataclass
class ModelProgram(Program):
    """An ONNX model.

    loss   where its backward pass starts, None for a forward pass alone
    fixed  values of integers that decide shapes, as one run found them: rounding in another order might choose others
    """

    layout: _Layout = field(kw_only=True)
    loss: str | None = field(kw_only=True)
    fixed: Mapping[str, np.ndarray] = field(kw_only=True, default_factory=dict)

    is_caffe = False

    def forward(self, carries: bool = False, strict: bool = False) -> Forward:
        """Return a copy of the model's graph, with its loss. See `Program.forward`."""
        return _forward(self.layout, self.loss, self.fixed)

    def values(self, stream: Stream, notes: MutableSequence[str], taken: set[int] | None = None) -> list[np.ndarray]:
        """Return the values that are stored. See `Program.values`."""
        return [self.layout.model.arrays[param.name] for param in self.params]

    def settle(
        self, values: Sequence[np.ndarray], device: Device, feeds: Feeds, notes: MutableSequence[str] | None = None
    ) -> Program:
        """Run the model for the shapes that inference cannot tell: behind subgraphs, custom ops, and data.

        See `Program.settle`.
        """
        found = _run_for_shapes(self.layout, feeds)
        if not found:
            return self
        model = replace(self.layout.model, graph=self.layout.graph.fork())
        model.graph.specs |= _specs(found)
        fixed = {name: array for name, array in found.items() if array.dtype in _DECISIVE}
        return replace(from_onnx(model, self.layout.source, self.loss), fixed=fixed)

    def stopped(self, forward: Forward, stops: Sequence[Stop], rounds: Sequence[Node]) -> list[Finding]:
        """Return a warning about each node that no gradient passes, and one about rounding. See `Program.stopped`."""
        rows = forward.value_rows()
        lines = [self._line(rows, stop) for stop in stops]
        lines += [rounding_words(forward.graph, rounds)] if rounds else []
        return [Finding(Place(self.layout.source), line) for line in lines]

    def alone(self, row: Row, shape: tuple[int, ...], values: Sequence[np.ndarray]) -> Alone | None:
        """Return a copy of the nodes that a node of the file became. See `Program.alone`."""
        if row.is_input:
            return None
        model, source = self.layout.model, self.layout.graph
        item = model.nodes[row.index - len(self.layout.fed)]
        nodes, graph, params = source.nodes[item.first : item.last], Graph(), dict[str, np.ndarray]()
        x = graph.input("x", shape)
        names = {row.bottoms[0]: x}
        for name in {name for node in nodes for name in node.inputs}:
            if name in source.constants:
                names[name] = graph.constant(source.constants[name], source.constants[name].dtype)
            elif name in model.arrays:
                names[name] = graph.param(name, model.arrays[name].shape)
                params[names[name]] = model.arrays[name]
        graph.nodes = [replace(node, inputs=tuple(names.get(name, name) for name in node.inputs)) for node in nodes]
        return Alone(graph, x, item.outputs[0], params)

    def _line(self, rows: Mapping[str, int], stop: Stop) -> str:
        index = rows.get(stop.node.outputs[0])
        name = "" if index is None else f" at node {self.rows[index].name!r}"
        values = "1 value" if stop.behind == 1 else f"{stop.behind} values"
        return f"the gradient stops{name}: {stop.reason}; the gradient of {values} before it is unknown"


def from_onnx(model: Model, source: str, loss: str | None = None) -> ModelProgram:
    """Return the program of a model.

    source: the file's name, for messages
    loss:   where the backward pass starts, see `losses.start`; None for a forward pass alone
    """
    layout = _Layout(model, source)
    rows = [*layout.inputs(), *(layout.row(node, loss is not None) for node in model.nodes)]
    return ModelProgram(
        name=model.name,
        phase="TRAIN" if any(node.get("training_mode") for node in model.graph.nodes) else "TEST",
        rows=rows,
        params=layout.params,
        narrow=tuple(sorted(model.replaced)),
        layout=layout,
        loss=loss,
    )


def settle_drawn(model: Model, inputs: Mapping[str, np.ndarray]) -> None:
    """Complete the specs of a model's graph from a run with the given inputs; the others are drawn.

    Raises InputError when the model cannot be run.
    """
    feeds = Feeds(Stream(0), np.random.default_rng(0), model.unpinned(inputs))
    graph = model.graph
    found = _specs(_run_for_shapes(_Layout(model, ""), feeds))
    unknown = found.keys() - graph.specs.keys()
    graph.specs |= found
    graph.is_settled = bool(found)
    deciders = (node for node in graph.nodes if not unknown.isdisjoint(node.outputs) and not follows(graph, node))
    graph.decided = {name for node in deciders for name in node.outputs if name in unknown}


def can_run(model: Model, inputs: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a model runs in the memory that is free, with the given inputs and others drawn, and has results."""
    feeds = Feeds(Stream(0), np.random.default_rng(0), model.unpinned(inputs))
    try:
        check_run(from_onnx(model, ""), False, CPU)
        forward = _forward(_Layout(model, ""), None)
        fed = feeds.of(forward)
        found = Compiled(forward.graph, CPU, model.arrays, once=True).run(fed)
    except CaffestatError:
        return False
    return all(array.size for array in found.values() if isinstance(array, np.ndarray))


def _run_for_shapes(layout: _Layout, feeds: Feeds) -> dict[str, np.ndarray]:
    """Run a model for the values of unknown shape and those that decide these; nothing is run when all are known."""
    graph = layout.graph
    deciders = [node for node in graph.nodes if any(name and name not in graph.specs for name in node.outputs)]
    if not deciders:
        return {}
    computed = {name for node in graph.nodes for name in node.outputs}
    read = (name for node in deciders if not node.info.bodies for name in node.inputs if name in computed)
    whole = [name for name in read if name in graph.specs and not graph.specs[name].is_float]
    unknown = [name for node in deciders for name in node.outputs if name and name not in graph.specs]
    forward = _forward(layout, None)
    arrays = Compiled(forward.graph, CPU, layout.model.arrays, once=True).run(
        feeds.of(forward), outputs=list(dict.fromkeys([*unknown, *whole]))
    )
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _specs(arrays: Mapping[str, np.ndarray]) -> dict[str, Spec]:
    return {name: Spec(array.shape, array.dtype) for name, array in arrays.items()}


class _Layout:
    """Which node of a model owns which params, and who reads which value.

    keys     the (row, top) of every value that is fed or computed, by name
    params   of all rows
    """

    def __init__(self, model: Model, source: str) -> None:
        self.model, self.graph, self.source = model, model.graph, source
        self.node_of = {i: index for index, node in enumerate(model.nodes) for i in range(node.first, node.last)}
        self.fed = list(model.graph.inputs)
        self.keys: dict[str, Key] = {name: (index, 0) for index, name in enumerate(self.fed)}
        for index, node in enumerate(model.nodes, len(self.fed)):
            self.keys |= {name: (index, top) for top, name in enumerate(_named(node.outputs)) if name not in self.keys}
        self.numbers = {key: number for number, key in enumerate(self.keys.values())}
        shapes = {name: spec.shape for name, spec in self.graph.specs.items()}
        self.uses: dict[str, Use] = find_uses(self.graph.nodes, shapes, self.graph.params)
        self.statistics = {
            name
            for node in self.graph.nodes
            for position, name in enumerate(node.inputs)
            if node.info.role(position) is Role.STATISTIC or (position and _quantizes(node))
        }
        flow = self.graph.flow()
        self.owned: dict[int, list[str]] = defaultdict(list)
        for name in self.graph.params:
            place = self.uses[name].node if name in self.uses else self._first_reader(flow, name)
            if place is not None:
                self.owned[self.node_of[place]].append(name)
        self.stored = {**self.graph.constants, **model.arrays}
        self.params: list[RowParam] = []

    def _first_reader(self, flow: Flow[str], name: str) -> int | None:
        """Return the first node that does more with a value than to hand it on; the last that hands it on for none."""
        uses = flow.through(name, self._hands_on)
        last = uses[-1][0] if uses else None
        return next((index for index, position in uses if not self._hands_on(index, position)), last)

    def _hands_on(self, index: int, position: int) -> bool:
        return self.graph.nodes[index].info.passes_weight and position == 0

    def role(self, name: str) -> str:
        """Return what a param is: weight, bias, statistic or, where no rule knows it, param."""
        if name in self.uses:
            return self.uses[name].role
        return "statistic" if name in self.statistics else "param"

    def is_measured(self, name: str) -> bool:
        """Tell whether a value is one of numbers of float32 that are not known beforehand."""
        spec = self.graph.specs.get(name)
        return spec is not None and name not in self.graph.constants and spec.dtype == FLOAT

    def is_whole(self, name: str) -> bool:
        """Tell whether a value is one of integers or booleans that are not known beforehand."""
        spec = self.graph.specs.get(name)
        return spec is not None and name not in self.graph.constants and spec.dtype.kind in "iub"

    def bottoms(self, node: ModelNode) -> list[str]:
        """Return what a node reads that is computed or fed: its inputs, then what its subgraphs read."""
        inner = (name for n in self.graph.nodes[node.first : node.last] for name in (*n.inputs, *n.captured))
        hidden = dict.fromkeys(name for name in inner if name not in (*node.inputs, *node.outputs))
        return [name for name in (*node.inputs, *hidden) if name in self.keys and name not in self.stored]

    def inputs(self) -> Iterator[Row]:
        """Yield a row for each input."""
        for index, name in enumerate(self.fed):
            yield Row(
                index=index,
                name=name,
                type="",
                place=Place(self.source),
                bottoms=(),
                reads=(),
                tops=(name,),
                shapes=(self._shape(name),),
                memory=(self._number(name),),
                is_data=True,
                is_input=True,
            )

    def row(self, node: ModelNode, has_loss: bool) -> Row:
        """Return the row of a node."""
        index = self.node_of[node.first] + len(self.fed)
        bottoms, tops = self.bottoms(node), _named(node.outputs)
        costs = [macs(self.graph, inner) for inner in self.graph.nodes[node.first : node.last]]
        return Row(
            index=index,
            name=node.name,
            type=node.op,
            place=Place(self.source),
            bottoms=tuple(bottoms),
            reads=tuple(self.keys[name] for name in bottoms),
            tops=tuple(tops),
            shapes=tuple(self._shape(name) for name in tops),
            memory=tuple(self._number(name) for name in tops),
            params=tuple(self._add_params(index, has_loss)),
            diffs=tuple(i for i, name in enumerate(bottoms) if has_loss and self.is_measured(name)),
            macs=None if None in costs else sum(cost or 0 for cost in costs),
            need_backward=has_loss,
            passes=passes_signal(self._whole(node), self.stored),
            activation=activation_of(self._whole(node), self.stored),
        )

    def _whole(self, node: ModelNode) -> Node:
        """Return the node that says what a node of the file does: its own or, where several do, its op."""
        first = self.graph.nodes[node.first]
        return first if node.last - node.first == 1 else Node(node.op, node.inputs, node.outputs)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        return self.graph.specs[name].shape if name in self.graph.specs else None

    def _number(self, name: str) -> int:
        return self.numbers[self.keys[name]]

    def _add_params(self, row: int, has_loss: bool) -> Iterator[int]:
        """Add the params of a row, weights first, and yield their numbers."""
        names = sorted(self.owned.get(row - len(self.fed), ()), key=lambda name: self.role(name) != "weight")
        for index, name in enumerate(names):
            yield len(self.params)
            self.params.append(self._param(name, row, index, has_loss))

    def _param(self, name: str, row: int, index: int, has_loss: bool) -> RowParam:
        use = self.uses.get(name)
        fans = (use.fan_in, use.fan_out) if use and use.role == "weight" else None
        return RowParam(
            row=row,
            index=index,
            name=name,
            role=self.role(name),
            shape=self.graph.shape(name),
            fan_in=fans[0] if fans else 0,
            fan_out=fans[1] if fans else 0,
            caffe_fans=fans,
            is_statistic=name in self.statistics,
            gets_diff=has_loss and self.is_measured(name),
            stored=self.model.arrays[name],
            packed=use.count if use else None,
        )


def _quantizes(node: Node) -> bool:
    """Tell whether a node stands between floats and integers: its scale is found from data, not learned."""
    return node.info.rounds or (node.info.converts and node.info.role(1) is Role.SCALE)


def _named(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name]


def _fix(graph: Graph, values: Mapping[str, np.ndarray]) -> None:
    """Make constants of computed values; what computes them keeps its place, under other names that nothing reads."""
    for index, node in enumerate(graph.nodes):
        if not values.keys().isdisjoint(node.outputs):
            names = {name: graph.unique(name) for name in node.outputs if name in values}
            graph.specs |= {other: graph.specs[name] for name, other in names.items()}
            graph.nodes[index] = replace(node, outputs=tuple(names.get(name, name) for name in node.outputs))
    graph.constants |= values


def _forward(layout: _Layout, loss: str | None, fixed: Mapping[str, np.ndarray] | None = None) -> Forward:
    graph = layout.graph.fork()
    _fix(graph, fixed or {})
    size = len(graph.nodes)
    beginning = start(graph, loss) if loss else None
    graph.infer()
    rows = list(enumerate(layout.model.nodes, len(layout.fed)))
    rows_of = {name: index for index, name in enumerate(layout.fed)}
    flow = graph.flow()
    read = {(row, bottom): name for row, node in rows for bottom, name in enumerate(layout.bottoms(node))}
    forward = Forward(
        graph,
        tops={key: name for name, key in layout.keys.items() if layout.is_measured(name)},
        bottoms={key: name for key, name in read.items() if layout.is_measured(name)},
        whole={key: name for name, key in layout.keys.items() if layout.is_whole(name)},
        params={number: param.name for number, param in enumerate(layout.params)},
        uses={(p.row, p.index): p.name for p in layout.params if layout.is_measured(p.name)},
        feeds=[InputFeed(graph, flow, name, rows_of.get(name)) for name in graph.inputs],
        spans={row: (node.first, node.last) for row, node in rows},
        seeds=beginning.seeds if beginning else {},
        loss_nodes=graph.nodes[size:],
        notes=(beginning.words,) if beginning else (),
    )
    if loss:
        forward.wanted, forward.wanted_params = dict(forward.bottoms), dict(forward.uses)
    return forward
