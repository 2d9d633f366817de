"""Cases of texts: nets, solvers, nets of old formats and of forks, settings."""

from __future__ import annotations

import json
import random

from google.protobuf import text_format

from caffestat.schema import NetParameter

from . import mutate
from .cases import NET, RUN, Case, changed_message, changed_text, texts

__all__ = ["fork", "net", "old", "settings", "solver"]

CONFIG = """\
[caffestat]
select = CS0
ignore = CS002, CS011
severity = info
vanish = 0.1
explode = 10
deep = 20
fan-factor = 2
baseline = b.json
"""
FORMATS = ("table", "json", "csv", "markdown", "html")


def _nets() -> list[bytes]:
    return [NET.encode(), *texts("tests/golden/*/net.prototxt")]


def net(rng: random.Random) -> Case:
    data = changed_text(rng.choice(_nets()), rng, _nets())
    commands: list[tuple[str, ...]] = [
        *(("analyze", "--static", "--format", format, "n.prototxt") for format in FORMATS),
        ("analyze", "--static", "--predict", "n.prototxt"),
        ("analyze", *RUN, "--predict", "--format", "json", "n.prototxt"),
        ("debug", *RUN, "n.prototxt"),
        *(
            ("check", "--format", format, "n.prototxt")
            for format in ("text", "json", "github", "sarif", "junit", "html")
        ),
        ("check", "--run", "n.prototxt"),
        ("fill", "--print", "n.prototxt", "-o", "out.npz"),
        ("fill", "n.prototxt", "-o", "out.caffemodel"),
        ("convert", "n.prototxt", "--backward", "-o", "out.onnx"),
        ("upgrade", "n.prototxt"),
        *(("rewrite", "--filler", policy, "--diff", "n.prototxt") for policy in ("auto", "explicit", "msra")),
        ("rewrite", "--fix-check", "--diff", "n.prototxt"),
        ("rewrite", "--filler", "xavier", "--bias", "constant:1", "n.prototxt"),
    ]
    return Case({"n.prototxt": data}, rng.sample(commands, 6), "n.prototxt")


def solver(rng: random.Random) -> Case:
    solver = rng.choice(
        [
            b'net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "step"\ngamma: 0.1\nstepsize: 3\nmax_iter: 2\n',
            *texts("tests/golden/**/*solver.prototxt"),
        ]
    )
    files = {"solver.prototxt": changed_text(solver, rng, [solver, NET.encode()]), "net.prototxt": NET.encode()}
    commands = [("debug", *RUN, "solver.prototxt"), ("check", "solver.prototxt"), ("upgrade", "solver.prototxt")]
    commands.append(("train", *RUN, "--iterations", "2", "solver.prototxt"))
    commands += [("analyze", "--static", "solver.prototxt"), ("check", "."), ("rewrite", "-r", "--filler", "auto", ".")]
    return Case(files, rng.sample(commands, 3), "solver.prototxt")


def old(rng: random.Random) -> Case:
    """Return a net of V0 or V1 layers, as a text or as weights."""
    names = ("v0net", "v1net")
    text = rng.choice([data for name in names for data in texts(f"tests/golden/{name}/net.prototxt")])
    if rng.random() < 0.7:
        data = changed_text(text, rng, [text, NET.encode()])
        commands: list[tuple[str, ...]] = [
            ("upgrade", "n.prototxt"),
            ("analyze", "--static", "--predict", "n.prototxt"),
            ("debug", *RUN, "n.prototxt"),
            ("check", "n.prototxt"),
            ("fill", "n.prototxt", "-o", "out.npz"),
            ("rewrite", "--filler", "auto", "--bias", "constant:1", "n.prototxt"),
            ("rewrite", "--fix-check", "n.prototxt"),
        ]
        return Case({"n.prototxt": data}, rng.sample(commands, 3), "n.prototxt")
    files = {"n.prototxt": text, "w.caffemodel": changed_message(_old_weights(text), NetParameter, rng)}
    commands = [
        ("analyze", *RUN, "--weights", "w.caffemodel", "n.prototxt"),
        ("rewrite", "--filler", "xavier", "w.caffemodel"),
        ("rewrite", "--filler", "msra", "--net", "n.prototxt", "-o", "out.caffemodel", "w.caffemodel"),
    ]
    return Case(files, rng.sample(commands, 2), "w.caffemodel")


def _old_weights(text: bytes) -> bytes:
    """Return a net of V0 or V1 layers with blobs of the old four axes."""
    message = text_format.Parse(text, NetParameter())
    for number, layer in enumerate(message.layers):
        for size in (number % 3 + 2, 1) if number else ():
            blobs = layer.layer.blobs if layer.HasField("layer") else layer.blobs
            blobs.add(num=1, channels=1, height=size, width=5, data=[0.5] * size * 5)
    return bytes(message.SerializeToString())


def fork(rng: random.Random) -> Case:
    """Return a net of a fork's layers."""
    nets = texts("models/forks/*.prototxt")
    commands: list[tuple[str, ...]] = [
        *(("analyze", "--static", "--format", format, "n.prototxt") for format in FORMATS),
        ("analyze", "--static", "--predict", "--phase", "test", "n.prototxt"),
        ("analyze", *RUN, "--data", "synthetic", "--batch", "1", "n.prototxt"),
        ("debug", *RUN, "--phase", "test", "--data", "synthetic", "n.prototxt"),
        ("check", "n.prototxt"),
        ("fill", "--print", "n.prototxt"),
        ("rewrite", "--filler", "auto", "n.prototxt"),
        ("upgrade", "n.prototxt"),
    ]
    return Case({"n.prototxt": changed_text(rng.choice(nets), rng, nets)}, rng.sample(commands, 3), "n.prototxt")


def settings(rng: random.Random) -> Case:
    """Return settings of `check`, or a baseline."""
    finding = {"file": "n.prototxt", "code": "CS002", "layer": "a", "message": "m", "count": 1}
    baseline = json.dumps({"version": 1, "findings": [finding]}).encode()
    name = rng.choice(("caffestat.cfg", "setup.cfg"))
    config = CONFIG.replace("[caffestat]", "[caffestat:check]") if name == "setup.cfg" else CONFIG
    files = {"n.prototxt": NET.encode(), name: config.encode(), "b.json": baseline}
    changed = rng.choice((name, name, "b.json"))
    files[changed] = mutate.text(files[changed], rng)
    return Case(files, [("check", "n.prototxt"), ("check", "--write-baseline", "b.json", ".")], changed)
