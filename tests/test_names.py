"""No module asks for a layer type, op or filler by name, but registries, rule tables and the lowering of layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from caffestat.fillers import filler_types
from caffestat.layers import layer_types
from caffestat.ops import ops

PACKAGE = Path(__file__).resolve().parent.parent / "caffestat"
NAMES = frozenset((*filler_types(), *layer_types(), *ops()))

# each of these states facts of its own kind, by name
REGISTRIES = (
    "autodiff/rules/",  # a gradient per op
    "fillers/types.py",  # a filler type each
    "layers/",  # a class per type
    "net/upgrade.py",  # upgrade_proto.cpp: the names of old formats
    "ops/",  # an OpInfo per op
    "theory/rules/",  # moments per op
)


def named(node: ast.expr) -> Iterator[str]:
    """Yield the names in an operand of a comparison: a constant, or those of a tuple, list, set or frozenset(…)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        for element in node.elts:
            yield from named(element)
    elif isinstance(node, ast.Call):
        for argument in node.args:
            yield from named(argument)
    elif isinstance(node, ast.BinOp):
        yield from named(node.left)
        yield from named(node.right)


def tables(tree: ast.Module) -> dict[str, list[str]]:
    """Return the names in each constant of a module: collections, and the keys of dicts."""
    found = {}
    for node in tree.body:
        value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if value is not None and isinstance(targets[0], ast.Name):
            keys = [key for key in value.keys if key] if isinstance(value, ast.Dict) else [value]
            found[targets[0].id] = [name for key in keys for name in named(key)]
    return found


def operands(node: ast.AST) -> list[ast.expr]:
    """Return what a node compares: of ==, !=, in, not in; of match cases; of TABLE[…] and TABLE.get(…)."""
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.MatchValue):
        return [node.value]
    if isinstance(node, ast.Subscript):
        return [node.value]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        return [node.func.value]
    return []


def comparisons(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each comparison with a name of a layer type, an op or a filler."""
    tree = ast.parse(source)
    known = tables(tree)
    for node in ast.walk(tree):
        for operand in operands(node):
            names = known.get(operand.id, []) if isinstance(operand, ast.Name) else list(named(operand))
            yield from ((node.lineno, name) for name in names if name in NAMES)


def test_the_reader_of_comparisons_sees_all_forms() -> None:
    source = """
KINDS = {"ReLU", "TanH"}
LIMITS: dict[str, float] = {"Sigmoid": 4.36}
def f(node, op):
    if node.type == "Split" or op in ("Conv", "Gemm") or node.type in KINDS:
        return LIMITS.get(node.type), LIMITS[node.type]
    match op:
        case "MatMul":
            return "msra" != node.filler
    return emit("Add")
"""
    found = [name for _, name in comparisons(source)]
    assert sorted(found) == sorted(["Split", "Conv", "Gemm", "ReLU", "TanH", "Sigmoid", "Sigmoid", "MatMul", "msra"])


def test_no_comparison_by_name() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    others = {name: path.read_text("utf-8") for name, path in files.items() if not name.startswith(REGISTRIES)}
    found = {name: list(comparisons(text)) for name, text in others.items()}
    assert {name: compared for name, compared in found.items() if compared} == {}
