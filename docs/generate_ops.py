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
from caffestat.ops import op_info
from caffestat.theory import has_rule
from caffestat.theory import rules as _  # noqa: F401  registers what has_rule looks up

TARGET = Path(__file__).resolve().parent / "ops.md"

HEAD = f"""\
# Ops

Made by `python docs/generate_ops.py`; do not edit.

Every op of ONNX's opset {OPSET} runs forward if onnxruntime implements it. *Versions* are the opsets from 7 on that
changed it; models of any of them are converted to opset {OPSET}. *Gradient*: **rule** (our own), **zero** (no gradient
flows through it), **by definition** (through the ops of its ONNX function definition), or — (GradientError; `analyze`
still reports everything else). *Moments*: **yes** when `theory` has a rule for the op's mean and variance, or declares
them unpredictable.

| op | versions | gradient | moments |
|---|---|---|---|
"""


TAIL = """
Newer ops of ONNX are converted to this opset too, through their ONNX function definitions (Attention, RMSNormalization,
…) or through our own ({newer}). So are ops of the runtime ({fused}), unless they share buffers or keep quantized keys.
MatMulNBits, MatMulBnb4, GatherBlockQuantized and MoE stay: they have gradients for their inputs, scales, weights and
biases of floats.
"""


def table() -> str:
    """Return the page."""
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _rows())
    fused = [op for op in defined_ops(CONTRIB) if not op_info(op, CONTRIB).output_shape]  # the others stay as they are
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
