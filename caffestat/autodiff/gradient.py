"""The gradient of any ONNX model as another ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import GradientError, InputError
from caffestat.graph import Node
from caffestat.graph.order import live
from caffestat.ops import Role

from .engine import backward, reach
from .rounding import warn_of_rounding

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from caffestat.graph import Graph
    from caffestat.graph.load import Model

__all__ = ["COTANGENT", "GRAD", "cotangents", "gradient", "hessian_product", "jvp"]

COTANGENT, GRAD, TANGENT, VECTOR, HESSIAN = "cotangent/", "grad/", "tangent/", "vector/", "hessian/"
_OTHER_SHAPES = "the data decides other shapes than those that the derivatives were made for"


@dataclass(frozen=True)
class _Question:
    """A loaded model, the outputs y to differentiate, and the values x to differentiate by.

    exact: outputs of convolutions whose results rounding may not move, once it is prepared
    """

    model: Model
    outputs: list[str]
    wrt: list[str]
    exact: set[str] = field(default_factory=set)

    @property
    def graph(self) -> Graph:
        return self.model.graph

    def prepare(self, seeds: Mapping[str, str]) -> None:
        """Warn of gradients that rounding makes zero, and make the graph fast to differentiate from `seeds` on."""
        from caffestat.graph.exact import exact_convolutions
        from caffestat.graph.fold import fold_normalizations
        from caffestat.graph.gelu import fold_gelus
        from caffestat.graph.infer import fold_integers
        from caffestat.graph.repeats import merge_repeats

        warn_of_rounding(self.graph, self.wrt, seeds)
        kept = {*seeds, *seeds.values(), *self.wrt}
        fold_integers(self.graph, kept)
        merge_repeats(self.graph, kept)
        fold_normalizations(self.graph, kept)
        fold_gelus(self.graph, kept)
        self.exact.update(exact_convolutions(self.graph, self.model.arrays))

    def answer(self) -> onnx.ModelProto:
        """Return the model with what was appended to its graph."""
        from caffestat.graph.expand import by_fewer_products
        from caffestat.graph.repeats import merge_repeats
        from caffestat.graph.widen import widened

        is_held = bool(self.wrt) and _hold_shapes(self.graph)
        self.graph.nodes[:] = live(self.graph.nodes, self.graph.outputs)
        self.graph.infer()
        result = by_fewer_products(widened(self.graph), self.exact)
        merge_repeats(result)
        made = result.to_onnx(self.model.arrays)
        if is_held:
            next(node for node in made.graph.node if self.graph.outputs[-1] in node.output).name = _OTHER_SHAPES
        return made


def _hold_shapes(graph: Graph) -> bool:
    """Let a run fail whose data decides other shapes than those that the derivatives were made for.

    The last output is then taken from a place where there is nothing; it is a derivative, which no node reads.
    Returns whether there are such shapes.
    """
    decided = sorted(name for name in graph.decided - graph.constants.keys() if graph.shape(name))
    if not decided:
        return False
    sizes = [size for name in decided for size in graph.shape(name)]
    found = graph.emit("Concat", *(graph.emit("Shape", name) for name in decided), axis=0)
    differs = graph.cast(graph.emit("Not", graph.emit("Equal", found, graph.ints(*sizes))), "int64")
    place = graph.emit("ReduceMax", differs, keepdims=0)
    last = graph.outputs[-1]
    whole = graph.unique(last)
    index = next(index for index, node in enumerate(graph.nodes) if last in node.outputs)
    graph.nodes[index] = replace(graph.nodes[index], outputs=(whole,))
    graph.specs[whole] = graph.specs[last]
    graph.nodes.append(Node("Gather", (graph.emit("Unsqueeze", whole, graph.ints(0)), place), (last,)))
    return True


def gradient(
    model: onnx.ModelProto | str | Path,
    outputs: Collection[str] | None = None,
    wrt: Collection[str] | None = None,
    start: Callable[[Graph, Sequence[str]], Mapping[str, str]] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """Return a model that computes what `model` does and its vector-Jacobian products: grad/x = Σ cotangent/y · ∂y/∂x.

    model:   an onnx.ModelProto, or the path of one, which external data needs
    outputs: names of the outputs y to start from; all floating-point ones by default
    wrt:     names of the values x; all floating-point inputs and weights by default, in the model's order
    start:   emits what the gradients start from, given the graph and the chosen outputs, and returns the name of the
             gradient for each value to start from; default: a `cotangent/<output>` input per chosen output
    options: of every function of this module:
        shapes  shapes of inputs by name, where the model leaves sizes open
        batch   the first axis of inputs that leave it open; 1 by default
        dims    sizes by the names that the model has for them
        inputs  values of inputs by name. One that decides which branch of an If is taken becomes a constant
        settle  completes `model.graph.specs` where shape inference cannot tell a shape (`caffestat.gradient` runs the
                model for it); without it such a shape is an error
        runs    tells whether a model can be run, for the suggestion of sizes
        straight_through  let gradients pass pairs of QuantizeLinear and DequantizeLinear as if nothing was rounded

    Its inputs are the model's own, then one `cotangent/<output>` per chosen output, of its shape and type. Its
    outputs are the model's own, then one `grad/<name>` per value of `wrt`, zeros where no output depends on it; a name
    that the model has already gets a number: `grad/<name>_2`. It is of opset 22 and runs in stock onnxruntime.

    Issues a GradientWarning where gradients are zero because the model rounds to integers.
    Raises InputError when the model cannot be used or has no value of a name, GradientError for an op without a rule.
    """
    question = _ask(model, outputs, wrt, **options)
    seeds = (start or cotangents)(question.graph, question.outputs)
    question.prepare(seeds)
    append_gradients(question.graph, seeds, question.wrt)
    return question.answer()


def jvp(
    model: onnx.ModelProto | str | Path,
    outputs: Collection[str] | None = None,
    wrt: Collection[str] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """Return a model that computes what `model` does and Jacobian-vector products: tangent/y = Σ ∂y/∂x · tangent/x.

    The parameters are those of `gradient`. The inputs are the model's own, then one `tangent/<name>` per value of
    `wrt`; the outputs the model's own, then one `tangent/<output>` per chosen output. The reverse-mode rules give
    forward mode, too: the gradient of Σ grad/x · tangent/x by the cotangents, in which it is linear.
    """
    question = _ask(model, outputs, wrt, **options)
    graph = question.graph
    seeds = cotangents(graph, question.outputs)
    question.prepare(seeds)
    found = backward(graph, seeds, question.wrt)
    tangents = {name: graph.input(TANGENT + name, *_of(graph, name)) for name in question.wrt}
    # a copy of each gradient: both terms of a sum share one
    reached = {graph.emit("Identity", grad): tangents[name] for name, grad in found.items() if grad}
    moved = backward(graph, reached, list(seeds.values()))
    for name, seed in seeds.items():
        graph.outputs.append(_named(graph, name, moved[seed], TANGENT))
    _drop_inputs(graph, seeds.values())
    return question.answer()


def hessian_product(
    model: onnx.ModelProto | str | Path,
    outputs: Collection[str] | None = None,
    wrt: Collection[str] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """Return a model that computes what `gradient` does, and second derivatives of Σ cotangent/y · y along a vector.

    The parameters are those of `gradient`. After its inputs come one `vector/<name>` per value of `wrt`, after its
    outputs one `hessian/<name>`: Σ over x' of ∂²(Σ cotangent/y · y)/∂x∂x' · vector/x'.
    """
    question = _ask(model, outputs, wrt, **options)
    graph = question.graph
    seeds = cotangents(graph, question.outputs)
    question.prepare(seeds)
    grads = append_gradients(graph, seeds, question.wrt)
    vectors = {name: graph.input(VECTOR + name, *_of(graph, name)) for name in question.wrt}
    found = backward(graph, {grads[name]: vector for name, vector in vectors.items()}, question.wrt)
    for name in question.wrt:
        graph.outputs.append(_named(graph, name, found[name], HESSIAN))
    return question.answer()


def _of(graph: Graph, name: str) -> tuple[tuple[int, ...], Any]:
    return graph.specs[name].shape, graph.specs[name].dtype


def _drop_inputs(graph: Graph, names: Iterable[str]) -> None:
    """Drop inputs whose values no longer matter; those that an output reads are zeros."""
    nodes = live(graph.nodes, graph.outputs)
    needed = {name for node in nodes for name in (*node.inputs, *node.captured)}.union(graph.outputs)
    for name in names:
        spec = graph.inputs.pop(name)
        if name in needed:
            zero = graph.constant(0, spec.dtype)
            graph.nodes.insert(0, Node("Expand", (zero, graph.ints(*spec.shape)), (name,)))


def _ask(
    model: onnx.ModelProto | str | Path,
    outputs: Collection[str] | None,
    wrt: Collection[str] | None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    settle: Callable[[Model], None] | None = None,
    runs: Callable[[Model], bool] | None = None,
    straight_through: bool = False,
) -> _Question:
    """Load a model and find out which outputs and values are meant."""
    from caffestat.graph.load import load
    from caffestat.graph.straight import pass_straight_through

    loaded = load(model, shapes, batch, given=inputs, dims=dims, runs=runs)
    graph = loaded.graph
    _check_given(loaded, inputs or {})
    floating = [name for name, spec in graph.inputs.items() if spec.is_float]
    asked = [*floating, *loaded.weights] if wrt is None else _names(wrt)
    _unfold(loaded, asked)
    graph.infer()
    _make_params(loaded, asked)
    if settle is not None:
        settle(loaded)
    _refuse_unknown_shapes(graph, outputs, was_run=settle is not None)
    if straight_through:
        pass_straight_through(graph)
    chosen = _float_outputs(graph, outputs)
    for name in asked:
        if name not in graph.specs:
            raise InputError(f"the model has no value {name!r} of known shape: its gradient cannot be computed")
    return _Question(loaded, chosen, asked)


def _float_outputs(graph: Graph, outputs: Collection[str] | None) -> list[str]:
    """Return the outputs that are meant, by default all floats. Raises InputError where one is none, or none is one."""
    floats = [name for name in graph.outputs if name in graph.specs and graph.specs[name].is_float]
    if outputs is None and not floats:
        raise InputError("the model has no floating-point output to start a backward pass from")
    chosen = floats if outputs is None else _names(outputs)
    for name in chosen:
        if name not in floats:
            known = ", ".join(floats) or "none"
            raise InputError(f"{name!r} is not a floating-point output of known shape; expected one of {known}")
    return chosen


def _check_given(loaded: Model, inputs: Collection[str]) -> None:
    """Raise InputError for the value of an input that the model lacks."""
    known = [*loaded.graph.inputs, *sorted(loaded.pinned)]
    for name in inputs:
        if name not in known:
            raise InputError(f"--input {name}: unknown input; expected one of {', '.join(known)}")


def _refuse_unknown_shapes(graph: Graph, outputs: Collection[str] | None, was_run: bool) -> None:
    """Raise InputError for a chosen output of unknown shape: that its gradient is zero would be a guess.

    An output without a shape after a run is not a tensor.
    """
    chosen = graph.outputs if outputs is None else _names(outputs)
    for name in chosen:
        if name in graph.outputs and name not in graph.specs:
            maker = next((node.op for node in graph.nodes if name in node.outputs), "the model")
            if was_run:
                raise InputError(f"output {name!r} of {maker} is not a tensor: choose other outputs (--outputs NAME)")
            raise InputError(
                f"the shape of output {name!r} is not known: {maker} decides it when the model runs; "
                "use caffestat.gradient or `caffestat convert --backward`, which run the model once to find it, "
                "or choose other outputs"
            )


def _names(given: Collection[str]) -> list[str]:
    """Return each name once; one alone may be given as it is."""
    return [given] if isinstance(given, str) else list(dict.fromkeys(given))


def _unfold(loaded: Model, wrt: Sequence[str]) -> None:
    """Restore the nodes that were folded although they compute floats from a scalar of `wrt`."""
    from caffestat.graph.load import settings_of

    graph = loaded.graph
    settings = {name for node in graph.nodes for name in settings_of(node)}
    known, back = set(wrt), []
    for node in loaded.folded:
        computed = reach([node], known.intersection(node.inputs)).difference(node.inputs)
        if computed and settings.isdisjoint(computed) and all(graph.specs[name].is_float for name in computed):
            known |= computed
            back.append(node)
            for table in (graph.constants, graph.params, loaded.arrays):
                for name in computed:
                    table.pop(name, None)
    loaded.put_first(back)


def _make_params(loaded: Model, wrt: Sequence[str]) -> None:
    """Make params of the constants in `wrt`: what is computed from constants alone is folded, and has no gradient.

    Settings of ops, such as the scales of Resize, stay constants.
    """
    graph = loaded.graph
    settings = {
        name
        for node in graph.nodes
        for position, name in enumerate(node.inputs)
        if node.info.role(position) is Role.SETTING
    }
    for name in wrt:
        if name in graph.constants and name not in settings and graph.specs[name].is_float:
            loaded.arrays[name] = graph.constants.pop(name)
            graph.params[name] = graph.specs[name]


def cotangents(graph: Graph, outputs: Sequence[str]) -> dict[str, str]:
    """Append a cotangent input for each output, and return their names."""
    return {name: graph.input(COTANGENT + name, *_of(graph, name)) for name in outputs}


def append_gradients(graph: Graph, seeds: Mapping[str, str], wrt: Sequence[str]) -> dict[str, str]:
    """Append the backward half from the gradients of `seeds` on, and outputs for `wrt`; return the names of these."""
    found = backward(graph, seeds, wrt)
    grads = {name: _named(graph, name, found[name], GRAD) for name in wrt}
    graph.outputs += grads.values()
    return grads


def _named(graph: Graph, name: str, value: str | None, prefix: str) -> str:
    """Return a derivative that belongs to a value of the model under its name; zeros where there is none."""
    spec = graph.specs[name]
    if not spec.is_float:
        raise GradientError(f"value {name!r} holds {spec.dtype}: only floating-point values have gradients")
    if value is None:
        shape = graph.ints(*spec.shape)
        result = graph.emit("Expand", graph.constant(0, spec.dtype), shape, hint=prefix + name)
    else:
        result = graph.emit("Identity", value, hint=prefix + name)
    return graph.declare(result, spec.shape, spec.dtype)
