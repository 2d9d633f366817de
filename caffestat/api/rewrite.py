"""`rewrite`: other fillers in prototxt files, other weights in models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.options import DEFAULT_SEED, NetOptions, ValueOptions

if TYPE_CHECKING:
    from caffestat.rewriting import Outcome

__all__ = ["rewrite"]


def rewrite(
    paths: str | Path | Sequence[str | Path],
    *,
    filler: str | None = None,
    bias: str | None = None,
    variance_norm: str | None = None,
    layers: Sequence[str] = (),
    types: Sequence[str] = (),
    excludes: Sequence[str] = (),
    only_missing: bool = False,
    recursive: bool = False,
    output: str | Path | None = None,
    backup: bool = False,
    dry_run: bool = False,
    net: str | Path | None = None,
    seed: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    watch: Callable[[Outcome, int], None] | None = None,
) -> list[Outcome]:
    """Change the fillers of prototxt files, or the weights of .caffemodel and .onnx models, and nothing else in them.

    paths:         files, or with `recursive` folders of prototxt files
    filler, bias:  policies for weights and for biases: "xavier", "gaussian:std=0.01", "auto", "explicit:msra", …
    variance_norm: "fan_in", "fan_out" or "average", for xavier and msra
    layers, types, excludes: which layers, by globs over their names and by types; frozen and recurrent layers and
                   bilinear upsampling are skipped unless `layers` or `types` name them
    only_missing:  add missing fillers and keep existing ones
    output:        a file, or for several files a folder, to write to; default: in place
    backup:        keep the original as FILE.bak
    dry_run:       write nothing
    net, seed:     the net of .caffemodel files (default: the layers in the model), and Caffe's random_seed for models
    shapes, batch: see `caffestat.options.NetOptions`, for policies that need fans
    watch:         is called with each file's outcome, and how many files there are

    Each file is replaced atomically. One that cannot be rewritten does not change; its outcome gives the reason.
    Raises a CaffestatError when an option cannot be used.
    """
    from caffestat.files import refuse_inputs
    from caffestat.program import open_file
    from caffestat.rewriting import Job, change_of, find_files, rewrite_file, targets

    if filler is None and bias is None:
        raise InputError("expected a filler policy for the weights (--filler), the biases (--bias) or both, found none")
    change = change_of(filler, bias, variance_norm, layers, types, excludes, only_missing)
    options, values = NetOptions(shapes=shapes or {}, batch=batch), ValueOptions(seed)
    refuse_inputs(output, [] if net is None else [net])
    file = None if net is None else open_file(str(net))
    job = Job(change, DEFAULT_SEED if values.seed is None else values.seed, file, options, backup, dry_run)
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = find_files(given, recursive)
    to = None if output is None else Path(output)
    is_folder = to is not None and (os.path.isdir(to) or str(output).endswith(("/", os.sep)) or _is_several(given))
    outcomes = []
    for (path, _), target in zip(files, targets(files, to, is_folder), strict=True):
        outcomes.append(rewrite_file(path, target, job))
        if watch:
            watch(outcomes[-1], len(files))
    return outcomes


def _is_several(paths: Sequence[str | Path]) -> bool:
    return len(paths) != 1 or os.path.isdir(paths[0])
