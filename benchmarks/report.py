"""Size and speed of HTML reports: bytes, time to make the page, to its first paint, and to a drawn frame after a zoom.

    python benchmarks/report.py [NET …]

Needs the extra `caffestat[report]`, Playwright's Python package, and a chromium. Nets are not run: the page shows what
is predicted. Without arguments the nets of models/ and one of 5,342 layers are measured.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import caffestat

MODELS = Path(__file__).resolve().parent.parent / "models"
DEEP = 5342
FRAMES = 20

PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
READY = "document.body.dataset.ready && (document.body.dataset.charts || !document.querySelector('.plot'))"
ZOOM = """async (frames) => {
  const canvas = document.getElementById("canvas"), times = [];
  document.getElementById("zoom-fit").click();
  for (let i = 0; i < frames; i++) {
    const start = performance.now();
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: i % 2 ? 100 : -100, cancelable: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[frames >> 1];
}"""


def deep(layers: int) -> str:
    """Return a net of residual blocks of Convolution, BatchNorm and ReLU."""
    lines = ['layer { name: "x0" type: "Input" top: "x0" input_param { shape { dim: 1 dim: 4 dim: 6 dim: 5 } } }']
    for block in range(1, layers // 7 + 1):
        bottom = f"x{block - 1}"
        for part in "ab":
            name = f"c{block}{part}"
            param = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"
            lines += [
                f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {param} }}',
                f'layer {{ name: "{name}n" type: "BatchNorm" bottom: "{name}" top: "{name}" }}',
                f'layer {{ name: "{name}r" type: "ReLU" bottom: "{name}" top: "{name}" }}',
            ]
            bottom = name
        bottoms = f'bottom: "x{block - 1}" bottom: "{bottom}"'
        lines.append(f'layer {{ name: "x{block}" type: "Eltwise" {bottoms} top: "x{block}" }}')
    return "\n".join(lines)


def measure(browser: Any, path: Path, folder: Path, predict: bool) -> str:
    """Return a line about one net."""
    report = caffestat.analyze(path, static=True, predict=predict, detail=True)
    start = time.perf_counter()
    page = report.to_html()
    built = time.perf_counter() - start
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    start = time.perf_counter()
    opened.goto(file.as_uri())
    while not opened.evaluate(READY):
        opened.wait_for_timeout(20)
    ready = time.perf_counter() - start
    paint, zoom = opened.evaluate(PAINT) / 1000, opened.evaluate(ZOOM, FRAMES)
    opened.close()
    layers = sum(not row.inserted for row in report.layers)
    size = len(page.encode()) / 1e6
    return f"{path.stem:<16}{layers:>7}{size:>9.2f}{built:>10.2f}{paint:>13.2f}{ready:>9.2f}{zoom:>11.1f}"


def main() -> None:
    """Print one line per net."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no chromium was found")
    nets = [Path(name) for name in sys.argv[1:]] or sorted(MODELS.glob("*[!r].prototxt"))
    print(f"{'net':<16}{'layers':>7}{'MB':>9}{'made, s':>10}{'painted, s':>13}{'done, s':>9}{'zoom, ms':>11}")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for path in nets:
            print(measure(browser, path, Path(name), True), flush=True)
        if len(sys.argv) == 1:
            path = Path(name) / f"deep_{DEEP}.prototxt"
            path.write_text(deep(DEEP))
            print(measure(browser, path, Path(name), False), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
