"""Who writes and who reads a value is asked of one index, `graph.flow`: no other module makes a table of that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "caffestat"
INDEX = "graph/flow.py"
VALUES = frozenset(["bottom", "bottoms", "input", "inputs", "output", "outputs", "top", "tops"])  # of a step
OTHERS = {
    "engine/compiled.py": "which session reads a value last, after which its memory is free",
    "net/splits.py": "insert_splits.cpp, by the names in the file",
    "program/from_onnx.py": "the rows of a model, which the index of a program is made of",
    "sweeps/variants.py": "which layers with outputs set the channels that a layer reads, through layers without",
    "program/program.py": "which row computes each value of a graph",
}


def goes_over_values(node: ast.expr) -> bool:
    """Tell whether an expression goes over what a step reads or writes: node.inputs, enumerate(node.tops), …"""
    if isinstance(node, ast.Call):
        return any(goes_over_values(argument) for argument in node.args)
    if isinstance(node, (ast.Tuple, ast.List)):
        return any(goes_over_values(part.value if isinstance(part, ast.Starred) else part) for part in node.elts)
    if isinstance(node, ast.Subscript):
        return goes_over_values(node.value)
    return isinstance(node, ast.Attribute) and node.attr in VALUES


def names(*nodes: ast.AST) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def of_generators(key: ast.expr, value: ast.expr, generators: list[ast.comprehension], steps: set[str]) -> bool:
    """Tell whether a comprehension says of each value of some steps which step it is."""
    inner = names(*(g.target for g in generators if goes_over_values(g.iter)))
    outer = names(*(g.target for g in generators if not goes_over_values(g.iter))) | steps
    return bool(names(key) & inner and names(value) & outer)


def entries(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield key and value of table[key] = value, table[key].append(value), table.setdefault(key, value)."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        yield node.targets[0].slice, node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr == "setdefault" and len(node.args) == 2:
            yield node.args[0], node.args[1]
        elif node.func.attr in ("append", "add") and isinstance(node.func.value, ast.Subscript):
            yield node.func.value.slice, node.args[0]


def of_loop(loop: ast.For) -> Iterator[int]:
    """Yield the lines in a loop over steps that enter the step under each value that it reads or writes."""
    steps = names(loop.target)
    for node in ast.walk(loop):
        match node:
            case ast.For() if goes_over_values(node.iter):
                values = names(node.target)
                found = (entry for inner in ast.walk(node) for entry in entries(inner))
                yield from (node.lineno for key, value in found if names(key) & values and names(value) & steps)
            case ast.GeneratorExp(elt=ast.Tuple(elts=[key, value])) | ast.DictComp(key=key, value=value):
                yield from [node.lineno] if of_generators(key, value, node.generators, steps) else []
            case ast.Call(func=ast.Attribute(attr="fromkeys"), args=[values, value]):
                yield from [node.lineno] if goes_over_values(values) and names(value) & steps else []


def tables(source: str) -> list[int]:
    """Return the lines where a table is made that says of each value which step reads or writes it."""
    found = set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.DictComp) and of_generators(node.key, node.value, node.generators, set()):
            found.add(node.lineno)
        elif isinstance(node, ast.For) and not goes_over_values(node.iter):
            found.update(of_loop(node))
    return sorted(found)


def test_the_reader_of_tables_sees_all_forms() -> None:
    source = """
makers = {name: node for node in nodes for name in node.outputs}
shapes = {name: specs[name] for node in nodes for name in node.outputs}
for index, node in enumerate(nodes):
    for position, name in enumerate(node.inputs):
        readers[name].append((index, position))
    for top in node.tops:
        first.setdefault(top, node)
        wide[top] = graph.cast(top)
    last.update((blob, index) for blob in node.bottoms)
    last.update(dict.fromkeys(node.tops, node))
    holds.update({blob: (node.index, top) for top, blob in enumerate(node.tops)})
"""
    assert tables(source) == [2, 5, 7, 10, 11, 12]


def test_no_table_of_writers_and_readers() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): tables(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines and name not in {INDEX, *OTHERS}} == {}
    assert [name for name in OTHERS if not found[name]] == []
