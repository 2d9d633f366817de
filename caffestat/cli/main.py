"""The `caffestat` command, which knows its subcommands by name only, and turns errors into exit codes."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

from caffestat import __version__
from caffestat.errors import CaffestatError
from caffestat.escape import shown_error, visible

__all__ = ["main"]

# each is a module of this package that holds a command of the same name; what it does, for the list of them
_COMMANDS = {
    "analyze": "Show shapes, fans, fillers and measured means of a net.",
    "calibrate": "Compute ranges of values over batches of data, for quantization.",
    "check": "Check nets and solvers for mistakes; for CI.",
    "compare": "Compare two logs or runs, or two models value by value.",
    "convert": "Write a net as an ONNX model, optionally with its backward pass.",
    "debug": "Print Caffe's debug_info lines for one iteration.",
    "diagnose": "Find what went wrong in a training log.",
    "explain": "Explain what a check looks for, why, and the fix.",
    "fill": "Write or print a net's initial weights, as Caffe draws them.",
    "layers": "List the known layer types and the forks that define them.",
    "rewrite": "Change fillers in prototxt files, or redraw the weights of models.",
    "sweep": "Run many variants of nets: seeds, fillers, fields, widths, rates.",
    "train": "Train a solver's net as `caffe train` does.",
    "upgrade": "Write a prototxt in Caffe's current format.",
}
_INTERRUPTED = 130


class _Failure(click.ClickException):
    """An input that cannot be used: one message, no traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class _Commands(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        sys.stdout, sys.stderr = (stream or _nothing() for stream in (sys.stdout, sys.stderr))
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # whose encoding may lack what is shown
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                return super().main(*arguments, **settings)
            finally:
                sys.stdout.flush()  # here, where a full disk can still be reported
        except OSError as error:
            try:
                click.echo(visible(f"error: {_blamed(error)}: {error.strerror or error}"), err=True)
            except OSError:  # the standard error is what cannot be written to, and would be once more at the end
                sys.stderr = _nothing()
            if not error.filename:
                sys.stdout = _nothing()  # the old one would be written to once more at the end
            sys.exit(_Failure.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CaffestatError as error:
            raise _Failure(shown_error(error)) from error
        except MemoryError as error:
            raise _Failure(f"not enough memory: {error or 'an allocation failed'}") from error
        except (Exception, SystemExit) as error:
            if message := _blame_plugin(error):
                raise _Failure(visible(message)) from error
            raise
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)


def _blamed(error: OSError) -> str:
    """Return what an error is about; without a name, only the working directory can be missing, not a stream."""
    return error.filename or ("the working directory" if isinstance(error, FileNotFoundError) else "<stdout>")


def _nothing() -> io.TextIOWrapper:
    """Return a stream that discards what is written: that of the process was closed."""
    return open(os.devnull, "w", encoding="utf-8")


def _blame_plugin(error: BaseException) -> str | None:
    """Return the message of an error that a plugin raised."""
    plugins = sys.modules.get("caffestat.layers.plugins")  # without it there is none
    return plugins.blame(error) if plugins else None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="caffestat")
def main() -> None:
    """Show what a Caffe network does to its signal, without building Caffe.

    \b
    Examples:
      caffestat analyze net.prototxt               # shapes, fans, xavier values, mean |x| of every blob
      caffestat analyze --static net.prototxt      # the same without running the net
      caffestat debug solver.prototxt              # the debug_info lines that Caffe would print
      caffestat fill net.prototxt -o w.caffemodel  # the weights that Caffe would start with
      caffestat rewrite --filler auto *.prototxt   # better fillers; nothing else changes

    Exit codes: 0; 1 when `check`, `compare`, `diagnose`, `rewrite --check` or `train --watch` finds something; 2 when
    the file, the net or an option cannot be used. For a net that Caffe refuses, `analyze` still shows the layers that
    can be built.
    """
