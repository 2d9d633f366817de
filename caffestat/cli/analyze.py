"""`caffestat analyze`: a net's shapes, fans, fillers and measured means as a table, JSON, CSV or Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffestat.errors import RefusedError
from caffestat.files import refuse_inputs
from caffestat.options import STATS

from . import options, terminal

__all__ = ["analyze"]


@click.command()
@options.net_argument
@click.option("--static", is_flag=True, help="Do not run the net: sizes, fans and fillers only.")
@click.option(
    "--stats",
    multiple=True,
    metavar="NAMES",
    callback=options.split_commas,
    help=f"Also compute statistics of the elements, such as max,nan; any of {', '.join(STATS)}.",
)
@click.option("--predict", is_flag=True, help="Also show predicted values, and the gain of each layer.")
@click.option(
    "--format",
    type=click.Choice(["table", "json", "csv", "markdown", "html"]),
    help="Output format; see docs/json.md and docs/html.md.  [default: table, with --open html]",
)
@click.option("--open", "opens", is_flag=True, help="Write a page (--format html) and open it in the browser.")
@options.output
@options.common
@options.inputs_hold("noise")
def analyze(path: str, format: str | None, opens: bool, output: Path | None, **settings: Any) -> None:
    """Show each layer's shapes, fans, filler and xavier values, and mean |x| of every blob and gradient.

    NET is a net or a solver prototxt, or an .onnx model; - is the standard input.

    \b
    Examples:
      caffestat analyze models/lenet.prototxt
      caffestat analyze --static --batch 1 models/alexnet.prototxt
      caffestat analyze --predict models/experiments/relu_xavier.prototxt
      caffestat analyze --static --predict --loss cross-entropy model.onnx
      caffestat analyze --stats max,min,zeros,nan models/lenet.prototxt
      caffestat analyze --format json -o lenet.json models/lenet.prototxt
      caffestat analyze --predict --format html -o lenet.html models/lenet.prototxt
      caffestat analyze --predict --open models/lenet.prototxt
      caffestat analyze --assume-filler xavier models/deploy/lenet_deploy.prototxt
      caffestat analyze --phase test --weights lenet.caffemodel lenet.prototxt
      caffestat analyze --input data=images.npy --shape data=8,1,28,28 net.prototxt
    """
    from caffestat import api, report

    format = format or ("html" if opens else "table")
    if opens and format != "html":
        raise click.UsageError(f"--open shows a page: expected --format html with it, found {format}")
    page = terminal.page_file(format, output, opens)
    refuse_inputs(output, [path, *settings["weights"]])
    with terminal.progress(f"analyzing {path}"):
        refused = None
        try:
            result = api.analyze(path, detail=format == "html", **settings)
        except RefusedError as error:
            refused, result = error, error.report
        text = report.render(result, format, terminal.width(output))
    terminal.tell(result)
    terminal.write(text, page)
    if opens and page:
        terminal.open_page(page)
    if refused:
        raise refused
