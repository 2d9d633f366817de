"""Write docs/ops.md, a table of how each op's gradient and moments are known; with --check, only compare it."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import onnx

from caffestat.autodiff import differentiable
from caffestat.graph import CONTRIB, OPSET
from caffestat.graph import load as _load  # noqa: F401  registers what defined_ops looks up
from caffestat.graph.writer import defined_ops
from caffestat.theory import has_rule
from caffestat.theory import rules as _  # noqa: F401  registers what has_rule looks up

TARGET = Path(__file__).resolve().parent / "ops.md"

HEAD = f"""\
# Ops

Made by `python docs/generate_ops.py`; do not edit.

Every op of ONNX's opset {OPSET} runs forward where onnxruntime has it. *Versions* are the opsets from 7 on that
changed it; models of any of them are brought to opset {OPSET}. *Gradient*: **rule** (one of ours), **zero** (none flows
through it), **by definition** (through the ops that ONNX defines it by), or — (GradientError; `analyze` reports what
else there is). *Moments*: whether `theory` knows what the op does to mean and variance, or declares that it cannot
tell.

| op | versions | gradient | moments |
|---|---|---|---|
"""


TAIL = """
Newer ops of ONNX are brought to this opset too, by what ONNX defines them by (Attention, RMSNormalization, …) or by
definitions of ours ({newer}). So are ops of the runtime ({fused}), as far as they neither share buffers nor keep
quantized keys; of MatMulNBits there is a gradient by the input, the scales and the bias.
"""


def table() -> str:
    """Return the page."""
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _rows())
    fused = defined_ops(CONTRIB)
    newer = [op for op in defined_ops("") if op not in fused]
    tail = TAIL.format(newer=", ".join(newer), fused=", ".join(fused))
    return f"{HEAD}{rows}\n{textwrap.fill(tail.strip(), 120)}\n"


def _rows() -> Iterator[tuple[str, str, str, str]]:
    versions: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain and schema.since_version <= OPSET and not schema.deprecated:
            versions.setdefault(schema.name, []).append(schema.since_version)
    for op in sorted(versions):
        if not onnx.defs.get_schema(op, OPSET).deprecated:
            shown = [version for version in sorted(versions[op]) if version >= 7] or ["7"]
            yield op, ", ".join(map(str, shown)), differentiable(op) or "—", "yes" if has_rule(op) else "—"


def main() -> int:
    """Write the page, or with --check compare it."""
    if "--check" in sys.argv[1:]:
        is_current = TARGET.read_text(encoding="utf-8") == table()
        print("" if is_current else f"{TARGET} is not current: run python docs/generate_ops.py", end="")
        return not is_current
    TARGET.write_text(table(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
