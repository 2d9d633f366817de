"""An ONNX model's new weights, with what decided them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from caffestat.errors import Finding, InputError
from caffestat.files import replacing
from caffestat.options import NetOptions
from caffestat.rewriting.filled import FilledParam, table
from caffestat.rewriting.onnx_model import OnnxRewrite, rewrite_onnx
from caffestat.rewriting.selection import Change

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves

__all__ = ["FilledModel", "fill_model"]


@dataclass(frozen=True)
class FilledModel:
    """A model in which the chosen weights are new; the others are as they were."""

    rewritten: OnnxRewrite

    @property
    def params(self) -> list[FilledParam]:
        """The new params, in the order in which the model lists them: each has its initializer's name."""
        found = ((change.place, change.after.filler) for change in self.rewritten.changes)
        values = self.rewritten.values
        return [FilledParam(p.layer, p.type, 0, p.role, filler, values(p.layer)) for p, filler in found]

    @property
    def notes(self) -> Sequence[Finding]:
        """What could not be decided or done."""
        return self.rewritten.notes

    @property
    def curves(self) -> Curves | None:
        """Signal and gradient before and after, where a method chose the weights."""
        return self.rewritten.curves

    def save(self, path: str | Path) -> None:
        """Write the model as .onnx, or the new arrays by initializer as .npz. Raises InputError for another format."""
        path = Path(path)
        if path.suffix == ".onnx":
            self.rewritten.write(path)
        elif path.suffix == ".npz":
            with replacing(path) as fresh, fresh.open("wb") as file:
                np.savez(file, **{param.layer: param.values for param in self.params})  # type: ignore[arg-type]
        else:
            expected, found = ".onnx, .npz", path.suffix or "none"
            raise InputError(f"{path}: expected a name that ends in one of {expected}, found {found}")

    def __str__(self) -> str:
        return table(self.params)


def fill_model(path: str, change: Change, seed: int, options: NetOptions) -> FilledModel:
    """Draw new values for the chosen weights of an ONNX model.

    Raises InputError without a policy, for such a model has no fillers; and as `rewrite_onnx` does.
    """
    if change.filler is None and change.bias is None:
        raise InputError(f"{path}: an .onnx model has no fillers: name one, such as --filler msra")
    return FilledModel(rewrite_onnx(Path(path), change, seed, options))
