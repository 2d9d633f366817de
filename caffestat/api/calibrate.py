"""`calibrate`: the ranges of a model's values over batches of data, for onnxruntime's quantization tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.options import CALIBRATION_METHODS, DEFAULT_SEED, NetOptions, RunOptions, ValueOptions, one_of

if TYPE_CHECKING:
    import numpy as np

    from caffestat.analysis.calibration import Calibration
    from caffestat.data.batches import Source
    from caffestat.graph.load import Model

__all__ = ["calibrate"]

_ROWS = 32  # of a larger array that are run together


def calibrate(
    path: str | Path,
    output: str | Path | None = None,
    *,
    inputs: Mapping[str, Source],
    method: str = "minmax",
    percentile: float = 99.999,
    symmetric: bool = False,
    percentiles: Sequence[float] = (0.1, 1, 50, 99, 99.9),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dims: Mapping[str, int] | None = None,
    weights: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    compute: str = "float32",
) -> Calibration:
    """Return the ranges of all float values of a model over batches of data, and write them to `output` where given.

    path:   an .onnx model, or a net (.prototxt), whose values get the names that `convert` gives them
    inputs: batches by the input's name: an array, a sequence of arrays, a .npy or .npz file, or a folder of these. An
            array of one axis less than the input is one sample. Larger arrays are run in batches of the size that the
            model fixes, else of `batch` or up to 32 samples. Inputs without data are drawn once
    method: "minmax", or "percentile": the range leaves out (100 - percentile) / 2 % of the elements on either side
    symmetric:   ranges from -a to a
    percentiles: to write beside the ranges, in percent; without any, "minmax" runs each batch once instead of twice
    shapes, batch, dims: see `caffestat.options.NetOptions`; weights, seed: of nets, see `ValueOptions`
    device, compute: see `caffestat.options.RunOptions`

    The file is JSON as `onnxruntime.quantization.load_tensors_data` reads it and `quantize_static` takes it in
    `calibration_cache_path`. Raises a CaffestatError when a file or an option cannot be used.
    """
    from caffestat.analysis import calibration
    from caffestat.engine import choose_device
    from caffestat.files import refuse_unwritable, replace_file
    from caffestat.program import is_onnx
    from caffestat.program.batches import saying_batch
    from caffestat.program.opening import refuse_caffe_options
    from caffestat.report.calibration import render_calibration

    _check_method(method, (percentile, *percentiles))
    if output is not None:
        refuse_unwritable(output)
    if not inputs:
        raise InputError("calibrate: expected data for an input: --input NAME=FOLDER, FILE.npz or FILE.npy")
    options = NetOptions("test", shapes=shapes or {}, batch=batch, data="synthetic", dims=dims or {})
    values, run = ValueOptions(seed, weights), RunOptions(device, compute=compute)
    if is_onnx(str(path)):
        refuse_caffe_options(NetOptions(), values)
    opened = _Opened(str(path), options, values)
    chosen = calibration.CalibrationMethod(method, percentile, symmetric, tuple(percentiles))
    with saying_batch(path, options, lambda: next(opened.batches(inputs), {}), cuts=True):
        found = calibration.calibrate(
            opened.load,
            lambda: opened.batches(inputs),
            chosen,
            DEFAULT_SEED if seed is None else seed,
            choose_device(run.device)[0],
            run.compute,
        )
    found = replace(found, notes=tuple(dict.fromkeys((*found.notes, *opened.notes))))
    if not found.batches:
        raise InputError(f"--input: {', '.join(inputs)}: expected at least one batch, found none")
    if output is not None:
        replace_file(output, render_calibration(found).encode())
    return found


def _check_method(method: str, percentiles: Sequence[float]) -> None:
    one_of("method", method, CALIBRATION_METHODS)
    for percent in percentiles:
        if not (isinstance(percent, Real) and 0 <= percent <= 100):
            raise InputError(f"percentile: expected a number from 0 to 100, found {percent!r}")


@dataclass
class _Opened:
    """A model or net that is built for the shapes of each batch."""

    path: str
    options: NetOptions
    values: ValueOptions
    notes: list[str] = field(default_factory=list)

    def load(self, batch: Mapping[str, np.ndarray]) -> Model:
        """Return the model for batches of the shapes of one."""
        from caffestat.graph.load import load
        from caffestat.program import is_onnx
        from caffestat.program.from_onnx import can_run

        from .convert import converted

        shapes = {**self.options.shapes, **{name: array.shape for name, array in batch.items()}}
        if is_onnx(self.path):
            runs = partial(can_run, inputs=batch)
            return load(self.path, shapes, self.options.batch, given=batch, dims=self.options.dims, runs=runs)
        options = replace(self.options, shapes=shapes, batch=self._size(batch))
        return load(converted(self.path, options, self.values, False))

    def _size(self, batch: Mapping[str, np.ndarray]) -> int | None:
        """Return how many samples a net's other data, such as labels, has beside a batch."""
        sizes = {len(array) for array in batch.values() if array.ndim}
        return sizes.pop() if len(sizes) == 1 and not self.options.shapes else self.options.batch

    @cached_property
    def declared(self) -> dict[str, tuple[int | None, ...]]:
        """The shapes of the inputs, None for an open size; a net takes batches of any size."""
        from caffestat.graph.external import read_model
        from caffestat.program import is_onnx

        from .convert import converted

        is_model = is_onnx(self.path)
        proto = read_model(self.path) if is_model else converted(self.path, self.options, self.values, False)
        stored = {tensor.name for tensor in proto.graph.initializer}
        found: dict[str, tuple[int | None, ...]] = {}
        for value in proto.graph.input:
            if value.name not in stored:
                sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in value.type.tensor_type.shape.dim]
                found[value.name] = tuple(sizes if is_model else [None, *sizes[1:]])
        return found

    def batches(self, inputs: Mapping[str, Source]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the batches of all inputs together. Raises InputError when one has more than another."""
        for name in inputs:
            if name not in self.declared:
                raise InputError(f"--input {name}: expected one of {', '.join(self.declared)}")
        try:
            for arrays in zip(*(self._parts(name, source) for name, source in inputs.items()), strict=True):
                yield dict(zip(inputs, arrays, strict=True))
        except ValueError as error:
            raise InputError(f"--input: {', '.join(inputs)} have different numbers of batches") from error

    def _parts(self, name: str, source: Source) -> Iterator[np.ndarray]:
        """Yield the arrays of an input in batches that the model takes."""
        from caffestat.data.batches import read_arrays

        sizes = self.declared[name]
        fixed = sizes[0] if sizes else None
        arrays = (self._whole(name, array) for array in read_arrays(source, name))
        if not sizes:
            yield from arrays
            return
        rows = fixed or self.options.batch or _ROWS
        for whole in self._filled(name, arrays, fixed) if fixed else arrays:
            yield from (whole[start : start + rows] for start in range(0, len(whole), rows))

    def _whole(self, name: str, array: np.ndarray) -> np.ndarray:
        """Return an array with as many axes as the input has; a sample becomes a batch of one."""
        sizes = self.declared[name]
        whole = array[None] if array.ndim == len(sizes) - 1 else array
        if whole.ndim != len(sizes):
            shown = "x".join(str(size or "?") for size in sizes)
            raise InputError(f"--input {name}: expected arrays of shape {shown}, found one of {array.shape}")
        return whole

    def _filled(self, name: str, arrays: Iterable[np.ndarray], fixed: int) -> Iterator[np.ndarray]:
        """Yield the same samples in arrays that are whole batches of a fixed size; note those that fill none."""
        import numpy as np

        rest: np.ndarray | None = None
        for array in arrays:
            joined = np.concatenate([rest, array]) if rest is not None and len(rest) else array
            end = len(joined) - len(joined) % fixed
            rest = joined[end:]
            yield joined[:end]
        if rest is not None and len(rest):
            left = f"--input {name}: the model takes batches of {fixed}; the last {len(rest)} samples fill none"
            self.notes.append(f"{left} and are left out")
