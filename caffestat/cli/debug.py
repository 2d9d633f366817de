"""`caffestat debug`: the lines that Caffe prints when a solver says `debug_info: true`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffestat.files import refuse_inputs

from . import options, terminal

__all__ = ["debug"]


@click.command()
@options.net_argument
@click.option("--glog", is_flag=True, help="Print glog's prefix before each line, for scripts that parse Caffe's logs.")
@options.output
@options.common
@options.inputs_hold("zeros")
def debug(path: str, glog: bool, output: Path | None, **settings: Any) -> None:
    """Print Caffe's debug_info lines for one iteration.

    For a solver it is iteration 0 of `caffe train`: test nets first when they are due, then the train net, with the
    lines about losses, outputs and the learning rate.

    NET is a net or a solver prototxt; - is the standard input.

    \b
    Examples:
      caffestat debug models/lenet_solver.prototxt
      caffestat debug --seed 7 models/lenet.prototxt | grep Backward
      caffestat debug --glog models/lenet.prototxt > lenet.log
      caffestat debug --phase test --weights lenet.caffemodel lenet.prototxt
    """
    from caffestat import api

    refuse_inputs(output, [path, *settings["weights"]])
    with terminal.progress(f"running {path}"):
        log = api.debug_log(path, glog=glog, **settings)
        text = "".join(f"{line}\n" for line in log.lines)
    terminal.tell(log)
    terminal.write(text, output)
