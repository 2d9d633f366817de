"""Einstein summation: a product of two values, or a sum of one."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from caffestat.graph import Graph, Node
from caffestat.ops.einsum import sizes_of, terms_of

from ..engine import decomposition
from .products import PRODUCT


@decomposition("Einsum")
def einsum(graph: Graph, node: Node) -> Sequence[Node]:
    """Return a product of matrices between transposes; the node itself for more operands and repeated indices."""
    shapes = [graph.shape(name) for name in node.inputs]
    terms, result = terms_of(node.attributes["equation"], [len(shape) for shape in shapes])
    sizes = sizes_of(terms, shapes)
    is_broadcast = any(tuple(sizes[i] for i in term) != shape for term, shape in zip(terms, shapes, strict=True))
    if is_broadcast or any(len(set(term)) < len(term) for term in terms):
        return (node,)
    if len(terms) == 1:
        return _Steps(graph, node, sizes).of_one(terms[0], result)
    if len(terms) > 2 or (set(terms[0]) ^ set(terms[1])) - set(result):
        return (node,)
    is_turned = node.inputs[0] in graph.params and node.inputs[1] not in graph.params  # a weight is a right operand
    left, right = list(zip(node.inputs, terms, strict=True))[:: -1 if is_turned else 1]
    return _Steps(graph, node, sizes).of_two(left, right, result)


class _Steps:
    """The nodes that replace an Einsum."""

    def __init__(self, graph: Graph, node: Node, sizes: dict[str, int]) -> None:
        self.graph, self.node, self.sizes, self.nodes = graph, node, sizes, list[Node]()

    def emit(self, op: str, *inputs: str, shape: Sequence[int], **attributes: object) -> str:
        """Emit a node with an output of the given shape."""
        dtype = self.graph.specs[self.node.inputs[0]].dtype
        output = self.graph.declare(self.graph.unique(f"{self.node.op}/{op}"), tuple(shape), dtype)
        self.nodes.append(Node(op, inputs, (output,), dict(attributes)))
        return output

    def shape(self, term: str) -> list[int]:
        """Return the sizes of some indices."""
        return [self.sizes[index] for index in term]

    def turned(self, value: str, term: str, order: str) -> str:
        """Return a value with its axes in another order."""
        if term == order:
            return value
        return self.emit("Transpose", value, shape=self.shape(order), perm=[term.index(index) for index in order])

    def flat(self, value: str, shape: Sequence[int]) -> str:
        """Return a value in another shape."""
        return self.emit("Reshape", value, self.graph.ints(*shape), shape=shape)

    def finished(self, value: str, term: str, result: str) -> list[Node]:
        """Return the nodes, of which the last computes the result."""
        perm = [term.index(index) for index in result]
        last = Node("Transpose", (value,), self.node.outputs, {"perm": perm})
        self.nodes.append(Node("Identity", (value,), self.node.outputs) if term == result else last)
        return self.nodes

    def of_one(self, term: str, result: str) -> list[Node]:
        """Sum over the indices that the result lacks."""
        kept = "".join(index for index in term if index in result)
        value = self.node.inputs[0]
        if kept != term:
            axes = [axis for axis, index in enumerate(term) if index not in result]
            value = self.emit("ReduceSum", value, self.graph.ints(*axes), shape=self.shape(kept), keepdims=0)
        return self.finished(value, kept, result)

    def of_two(self, left: tuple[str, str], right: tuple[str, str], result: str) -> list[Node]:
        """[each, rows…, inner] · [each, inner, columns]; the right one is a matrix where all three share no index."""
        (a, a_term), (b, b_term) = left, right
        each = "".join(index for index in a_term if index in b_term and index in result)
        inner = "".join(index for index in a_term if index in b_term and index not in result)
        rows, columns = ("".join(i for i in term if i not in each + inner) for term in (a_term, b_term))
        count, width = prod(self.shape(inner)), prod(self.shape(columns))
        heights = [prod(self.shape(rows))] if each else self.shape(rows)
        a = self.flat(self.turned(a, a_term, each + rows + inner), [*self.shape(each), *heights, count])
        b = self.flat(self.turned(b, b_term, each + inner + columns), [*self.shape(each), count, width])
        wide = [*self.shape(each), *heights, width]
        product = self.emit(PRODUCT if each else "MatMul", a, b, shape=wide)
        return self.finished(self.flat(product, self.shape(each + rows + columns)), each + rows + columns, result)
