"""The options that commands share, each named once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from caffestat.options import COMPUTE, DATA, DEVICES, INPUTS_HOLD, PHASES

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FILE",
    "FILE_OR_FOLDER",
    "FOLDER",
    "TARGET",
    "arrays",
    "assume_filler",
    "batch",
    "common",
    "compute",
    "device",
    "dims",
    "inputs_hold",
    "model_arrays",
    "net_argument",
    "output",
    "page",
    "seed",
    "shapes",
    "sources",
    "split_commas",
    "state",
    "ste",
    "text_output",
    "training",
    "weights",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Named(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in new versions of click only
    """NAME=VALUE; the value is converted by a function that raises ValueError for one that cannot be used."""

    def __init__(self, value_name: str, convert: Callable[[str], Any]) -> None:
        self.name = f"name={value_name}"
        self._convert = convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, equals, text = value.partition("=")
        if not (name and equals and text):
            self.fail(f"expected {self.name.upper()}, found {value!r}", param, ctx)
        try:
            return name, self._convert(text)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class _FileName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The name of a file. An empty one comes from a variable that the shell does not know."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value or self.fail("expected the name of a file, found an empty text", param, ctx)


class _Target(click.Path):
    """The name of a file to write, as a Path; an empty one would be that of the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
            self.fail("expected the name of a file; what goes to the standard output needs no option", param, ctx)
        return super().convert(FILE.convert(value, param, ctx), param, ctx)


FILE = _FileName()
TARGET = _Target(dir_okay=False, path_type=Path)
FOLDER = _Target(file_okay=False, path_type=Path)
FILE_OR_FOLDER = _Target(path_type=str)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(axis) for axis in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError("expected comma-separated sizes of 1 or more, such as 2,3,224,224")
    return shape


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError("expected a size of 1 or more")
    return int(text)


def _array(text: str) -> np.ndarray:
    """Return the array of a file, or a number as an array without axes."""
    from caffestat.data.batches import number_of, read_array

    number = number_of(text)
    return read_array(text) if number is None else number


_INPUTS = (
    *(".prototxt", ".pbtxt", ".prototext", ".caffemodel", ".solverstate", ".binaryproto"),
    *(".h5", ".npz", ".npy", ".onnx", ".py"),
)


def text_output(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Refuse the name of a net or other input, meant as one as in `check -o *.prototxt`, and what cannot be written."""
    if value is not None:
        from caffestat.files import refuse_unwritable

        if value.suffix in _INPUTS:
            kinds = "a net, model, array or plugin"
            raise click.BadParameter(f"{str(value)!r} looks like {kinds}; expected the name of a report or log")
        refuse_unwritable(value)
    return value


def split_commas(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of repeated texts with commas between them, without the space around a part."""
    parts = (part.strip() for text in value for part in text.split(","))
    return tuple(part for part in parts if part)


def _pairs(ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return dict(value)


def _load(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    if value:
        from caffestat import api

        for path in value:
            api.load_plugin(path)


net_argument = click.argument("path", metavar="NET", type=FILE)

output = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=TARGET,
    callback=text_output,
    help="Write to FILE, atomically, instead of standard output.",
)


def report_page(text: str) -> Callable[[Any], Any]:
    """Return the option that names a page about a run; text: what the page has."""
    return click.option("--report", "page", type=TARGET, callback=text_output, metavar="FILE", help=text)


page = click.option(
    "--format",
    type=click.Choice(["text", "html"]),
    default="text",
    show_default=True,
    help="Output format: text, or an HTML page.",
)

shapes = click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=_Named("sizes", _shape),
    metavar="NAME=2,3,224,224",
    callback=_pairs,
    help="Shape of a data blob, where the file has none or to override it; repeatable.",
)

dims = click.option(
    "--dim",
    "dims",
    multiple=True,
    type=_Named("n", _size),
    metavar="NAME=N",
    callback=_pairs,
    help="For .onnx models: size of a named dimension; repeatable.",
)

batch = click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Batch size of all data blobs.")


plugin = click.option(
    "--plugin",
    multiple=True,
    type=FILE,
    metavar="FILE.py",
    callback=_load,
    expose_value=False,
    help="Python file that defines layer types; repeatable.",
)

dialect = click.option(
    "--dialect",
    metavar="NAME",
    help="Fork whose layer types to use where forks differ: ssd, rcnn, …; see `caffestat layers`.",
)

seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Caffe's random_seed.  [default: the solver's, else 1701]",
)

weights = click.option(
    "--weights",
    multiple=True,
    type=FILE,
    metavar="FILE",
    callback=split_commas,
    help="Trained weights (.caffemodel, .h5 or .npz), layers matched by name; repeatable, or FILE,FILE.",
)

assume_filler = click.option(
    "--assume-filler",
    metavar="TYPE",
    help="Filler type for weights without a weight_filler, such as xavier or msra.",
)


def _arrays(words: str) -> Callable[[F], F]:
    kind = _Named("file.npy", _array)
    return click.option(
        "--input", "inputs", multiple=True, type=kind, metavar="NAME=FILE.npy", callback=_pairs, help=words
    )


arrays = _arrays("Array for a data blob, in the blob's shape, or a number for all of it; repeatable.")

model_arrays = _arrays("For .onnx models: array for an input, or a number, such as sr=16000; repeatable.")

sources = click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    type=_Named("path", str),
    metavar="NAME=PATH",
    callback=_pairs,
    help="Batches for an input: a folder of .npy and .npz files, or one such file; repeatable.",
)

_RULES = (
    click.option(
        "--stage",
        "stages",
        multiple=True,
        metavar="NAME",
        help="Stage for include and exclude rules; repeatable.",
    ),
    click.option("--level", type=int, metavar="N", help="Level for include and exclude rules."),
    shapes,
    batch,
    plugin,
    dialect,
)

_STATE = (
    click.option(
        "--phase",
        type=click.Choice(PHASES),
        help="Phase to build the net in.  [default: what the file says, else train]",
    ),
    *_RULES,
)


_AUTO = "Data source: auto (files if available, else noise), real (files or fail), synthetic (noise)."
_REAL = "Data source: auto or real (files or fail), synthetic (noise)."


def data(default: str | None, words: str = _AUTO) -> Callable[[F], F]:
    """Return the option for the source of data; None as default tells that it was not given."""
    return click.option("--data", type=click.Choice(DATA), default=default, help=f"{words}  [default: {DATA[0]}]")


_VALUES = (seed, weights, assume_filler)

device = click.option(
    "--device",
    metavar=f"[{'|'.join(DEVICES)}]",
    default="auto",
    show_default=True,
    help="Device to run on: auto is CUDA if it works, else the CPU; cuda:N is the GPU with index N.",
)

compute = click.option(
    "--compute",
    type=click.Choice(COMPUTE),
    default=COMPUTE[0],
    show_default=True,
    help="Type to compute in; float16 rounds every value, and statistics stay float32.",
)

ste = click.option(
    "--ste",
    "straight_through",
    is_flag=True,
    help="For quantized .onnx models: straight-through gradients, as if QuantizeLinear did not round.",
)


def _loss(words: str) -> Callable[[F], F]:
    return click.option("--loss", metavar="LOSS", help=words)


_RUN = (
    arrays,
    data(DATA[0]),
    click.option("--forward-only", is_flag=True, help="Skip the backward pass."),
    _loss("For .onnx models: noise, ones, cross-entropy, or the name of a value to sum.  [default: noise]"),
    device,
    compute,
    ste,
)

_TRAINING = (
    _arrays(
        "Array for a data blob, in the blob's shape, the same in every iteration; for .onnx models all samples, "
        "from which batches are taken in order; repeatable."
    ),
    data(DATA[0], _REAL),
    _loss("For .onnx models, required: cross-entropy, or the name of a value whose sum is the loss."),
    device,
)


def common(function: F) -> F:
    """Add the options that say how a net is built, filled and run."""
    return _add((*_STATE, dims, *_VALUES, *_RUN), function)


def training(function: F) -> F:
    """Add the options that say how a solver's nets are built, filled and run; it decides about phases itself."""
    return _add((*_RULES, dims, *_VALUES, *_TRAINING), function)


def state(function: F) -> F:
    """Add the options that say how a net is built."""
    return _add(_STATE, function)


def _add(options: Sequence[Callable[[F], F]], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def inputs_hold(default: str) -> Callable[[F], F]:
    """Return the option that says what Input layers hold; commands differ in its default."""
    return click.option(
        "--inputs-hold",
        type=click.Choice(INPUTS_HOLD),
        default=default,
        show_default=True,
        help="What Input layers hold: N(0, 1) noise, or zeros as under `caffe train`.",
    )
