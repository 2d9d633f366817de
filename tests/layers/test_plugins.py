"""Layer types from outside: the documented example, the faults of plugins, and packages that announce layer types."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import caffestat
from caffestat.cli import main
from caffestat.errors import InputError, NetError
from caffestat.layers import base, layer_class, plugins
from caffestat.prototext import Message, parse

from .harness import make, run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "models" / "plugins" / "ssd_layers.py"
HEAD = ROOT / "models" / "plugins" / "ssd_head.prototxt"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers."""
    monkeypatch.setattr(base, "_TYPES", {name: base.layer_dialects(name) for name in base.layer_types()})
    monkeypatch.setattr(plugins, "_places", {})
    monkeypatch.setattr(plugins, "_files", [])
    plugins.load_plugin.cache_clear()
    plugins.load_entry_points.cache_clear()
    yield
    plugins.load_plugin.cache_clear()
    plugins.load_entry_points.cache_clear()


def layer(text: str) -> base.Layer:
    """Return a layer that knows its text, after the fields that the schema knows."""
    known, _, own = text.partition("|")
    result = make(known)
    field = parse(f"layer {{ {known} {own} }}".encode(), "net.prototxt").fields[0]
    assert isinstance(field.values[0], Message)
    result.text = field.values[0]
    return result


X = np.random.default_rng(5).normal(1, 2, (2, 3, 4, 5)).astype(np.float32)


def normalized(x: np.ndarray, scale: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    return scale * x / np.sqrt((x * x).sum(axes, keepdims=True) + eps)


@pytest.mark.parametrize(
    ("settings", "axes", "eps", "scale"),
    [
        ("", (1, 2, 3), 1e-10, np.array(0.7)),
        ("norm_param { across_spatial: false eps: 0.5 }", (1,), 0.5, np.array(0.7)),
        ("norm_param { channel_shared: false across_spatial: false }", (1,), 1e-10, np.array([0.7, -2, 3])),
    ],
)
def test_normalize_of_the_example(settings: str, axes: tuple[int, ...], eps: float, scale: np.ndarray) -> None:
    caffestat.load_plugin(str(EXAMPLE))
    it = layer(f'name: "n" type: "Normalize" bottom: "x" top: "y" | {settings}')
    wide = scale.reshape(-1, 1, 1) if scale.ndim else scale
    x, dy = X.astype(np.float64), np.random.default_rng(6).normal(0, 1, X.shape)
    result = run(it, [X], [scale], dys=[dy.astype(np.float32)])
    np.testing.assert_allclose(result.tops[0], normalized(x, wide, axes, eps), rtol=1e-5)

    def loss(value: np.ndarray, by: np.ndarray) -> float:
        return float((normalized(value, by, axes, eps) * dy).sum())

    for index in ((0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 2, 1)):
        step = np.zeros_like(x)
        step[index] = 1e-5
        slope = (loss(x + step, wide) - loss(x - step, wide)) / 2e-5
        assert result.bottoms[0][index] == pytest.approx(slope, rel=1e-3, abs=1e-4)
    unit = normalized(x, np.array(1.0), axes, eps) * dy
    dscale = unit.sum((0, 2, 3)) if scale.ndim else unit.sum()
    np.testing.assert_allclose(result.params[0], dscale, rtol=1e-4, atol=1e-5)


def test_permute_of_the_example() -> None:
    caffestat.load_plugin(str(EXAMPLE))
    it = layer('name: "p" type: "Permute" bottom: "x" top: "y" | permute_param { order: 2 order: [0, 3] }')
    dy = np.random.default_rng(6).normal(0, 1, (4, 2, 5, 3)).astype(np.float32)
    result = run(it, [X], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], X.transpose(2, 0, 3, 1))
    np.testing.assert_array_equal(result.bottoms[0], dy.transpose(1, 3, 0, 2))
    with pytest.raises(NetError, match=r"different axes from 0 to 3 as order, found \[1, 1\]"):
        layer('name: "p" type: "Permute" | permute_param { order: 1 order: 1 }').tops([X.shape])
    with pytest.raises(NetError, match=r"net.prototxt:1:\d+: permute_param.order of layer 'p': expected an integer"):
        layer("name: 'p' type: 'Permute' | permute_param { order: 'a' }").tops([X.shape])


def test_example_in_a_net() -> None:
    without = caffestat.analyze(str(HEAD), device="cpu")
    assert "type 'Normalize' is a fork's, taken as that of dialect ssd" in without.findings[0].message
    caffestat.load_plugin(str(EXAMPLE))
    result = caffestat.analyze(str(HEAD), device="cpu")
    assert result.findings == ()  # the plugin's classes took the place of those of dialect ssd
    measured = [[top.mean_abs for row in report.layers for top in row.tops] for report in (without, result)]
    assert measured[0] == pytest.approx(measured[1], rel=1e-6)
    rows = {row.name: row for row in result.layers}
    assert rows["conv4_3_norm"].params[0].filler == "constant 20"
    assert rows["conv4_3_norm"].params[0].diff_mean_abs
    assert rows["conv4_3_norm_mbox_loc_perm"].tops[0].shape == (2, 5, 7, 16)


def test_the_page_shows_the_example() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown == [EXAMPLE.read_text(encoding="utf-8")]


NET = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "o" type: "Odd" bottom: "x" top: "y" }
layer { name: "loss" type: "Reduction" bottom: "y" top: "l" loss_weight: 1 }
"""
ODD = """from caffestat.layers import Layer, layer

@layer("Odd")
class Odd(Layer):
    def tops(self, bottoms):
        return {}
    def lower(self, g, bottoms, params):
        return {}
"""


def analyze(folder: Path, source: str, *options: str) -> Result:
    (folder / "net.prototxt").write_text(NET)
    (folder / "odd.py").write_text(source)
    return CliRunner().invoke(main, ["analyze", "--device", "cpu", *options, "--plugin", "odd.py", "net.prototxt"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plugin_on_the_command_line(folder: Path) -> None:
    result = analyze(folder, ODD.format(SAME, "(g.emit('Softsign', bottoms[0]),)"), "--forward-only")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Odd" in result.stdout


LINE = "error: net.prototxt:2:1: layer 'o' (Odd): "
LOWER = LINE + "`lower` of its class Odd: "
SAME = "(bottoms[0],)"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import caffestat\n1 / 0\n", "error: odd.py:2: in <module>: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)\n", "error: odd.py:2: in <module>: SystemExit: 0"),
        ("def f(:\n", "error: odd.py:1: invalid syntax"),
        ("import nowhere_at_all\n", "error: odd.py:1: in <module>: ModuleNotFoundError: No module named"),
        (
            ODD.format("0", "0").replace("Odd", "ReLU"),
            "error: odd.py:3: in <module>: ValueError: layer type 'ReLU' is already registered by ReLU",
        ),
        (ODD.format("bottoms[7]", "0"), "error: odd.py:6: in tops: IndexError: list index out of range"),
        (ODD.format(SAME, "0 / 0"), "error: odd.py:8: in lower: ZeroDivisionError: division by zero"),
        (ODD.format(SAME, "exit('no')"), "error: odd.py:8: in lower: SystemExit: no"),
        (ODD.format("(bottoms[0], (2,))", "0"), LINE + "its class Odd returns 2 shapes for 1 tops"),
        (ODD.format(SAME, "()"), LOWER + "it returns 0 values for 1 tops"),
        (
            ODD.format("((5,),)", "(g.emit('Relu', bottoms[0]),)"),
            LOWER + "it returns a value of shape (2, 3) for a top of shape (5,) by its `tops`",
        ),
        (ODD.format(SAME, "('z',)"), LOWER + "it returns 'z', which nothing computes"),
        (ODD.format(SAME, "(g.emit('Nope', 'x'),)"), LOWER + "opset 22 has no op 'Nope'"),
        (
            ODD.format(SAME, "(g.emit('Relu', 'z'),)"),
            LOWER + "op Relu reads 'z', which nothing computes",
        ),
        (
            ODD.format(SAME, "(g.emit('Relu', 'x', 'x'),)"),
            LOWER + "op Relu takes 1 inputs, found 2",
        ),
        (
            ODD.format(SAME, "(g.emit('Concat', 'x'),)"),
            LOWER + "op Concat needs the attribute 'axis'",
        ),
        (ODD.format("None", "0"), LINE + "its class Odd returns None for the shapes of its tops"),
        (
            ODD.format("0", "0").replace("(Layer)", "(object)"),
            "error: odd.py:3: in <module>: ValueError: layer type 'Odd': class Odd does not derive from Layer",
        ),
        (ODD.format(SAME, "None"), LOWER + "it returns None, not a sequence of values"),
        (
            ODD.format(SAME, "0") + "    def params(self, bottoms): return [(3, 4)]",
            LINE + "its class Odd returns (3, 4) as param 0; expected a Param",
        ),
        (
            ODD.format(SAME, "0") + "    def macs(self, bottoms): return 'many'",
            LINE + "`macs` of its class Odd returns 'many'; expected an int",
        ),
        (
            ODD.format(SAME, "0") + "    def nonlinearity(self): return 'relu'",
            LINE + "`nonlinearity` of its class Odd returns 'relu'; expected a Nonlinearity or None",
        ),
        (
            ODD.format(SAME, "(g.emit('Mul', 'x', g.input('mask', (2, 3))),)"),
            LINE + "its class Odd draws 0 arrays for the 1 inputs that its `lower` declares",
        ),
    ],
)
def test_faults_of_a_plugin(folder: Path, source: str, message: str) -> None:
    result = analyze(folder, source)
    assert result.exit_code == 2, result.output
    assert any(line.startswith(message) for line in result.stderr.splitlines()), result.stderr


def test_check_tells_what_a_layer_cannot_be_predicted_for(folder: Path) -> None:
    (folder / "net.prototxt").write_text(NET)
    (folder / "odd.py").write_text(ODD.format(SAME, "(g.emit('Nope', 'x'),)"))
    result = CliRunner().invoke(main, ["check", "--plugin", "odd.py", "net.prototxt"])
    assert "net.prototxt:2:1: CS026 info: o: no prediction: layer 'o' (Odd): `lower` of its" in result.stdout


@pytest.mark.parametrize("path", ["absent.py", ".", "odd.txt"])
def test_files_that_are_no_plugins(folder: Path, path: str) -> None:
    (folder / "odd.txt").write_text("")
    with pytest.raises(InputError, match=f"{path}: expected a Python file with layer types"):
        caffestat.load_plugin(path)


def test_a_plugin_is_run_once(folder: Path) -> None:
    (folder / "odd.py").write_text(ODD.format("0", "0"))
    for _ in range(2):
        caffestat.load_plugin("odd.py")
    assert layer_class("Odd")


def test_a_plugin_that_fails_counts_as_not_loaded(folder: Path) -> None:
    path = folder / "odd.py"
    path.write_text("import nowhere_at_all\n")
    for _ in range(2):
        with pytest.raises(InputError, match="No module named"):
            caffestat.load_plugin("odd.py")
    assert not plugins.loaded_plugins()
    path.write_text(ODD.format("0", "0"))
    caffestat.load_plugin("odd.py")
    assert layer_class("Odd")
    assert plugins.loaded_plugins() == (str(path.resolve()),)


def install(folder: Path, source: str) -> None:
    """Make a folder on the path that has a package with an entry point, as pip would install it."""
    (folder / "odd_layers").mkdir()
    (folder / "odd_layers" / "__init__.py").write_text("from . import types\n")
    (folder / "odd_layers" / "types.py").write_text(source)
    info = folder / "odd_layers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd_layers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[caffestat.layers]\nodd = odd_layers\n")
    importlib.invalidate_caches()


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the folder on the path, and forget its modules in the end."""
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("odd_layers")]:
        del sys.modules[name]


def test_an_installed_package_is_asked_when_a_type_is_unknown(installed: Path) -> None:
    install(installed, ODD.format(SAME, "(g.emit('Relu', bottoms[0]),)"))
    assert layer_class("ReLU") is not None
    assert "odd_layers" not in sys.modules
    (installed / "net.prototxt").write_text(NET)
    assert caffestat.analyze("net.prototxt", device="cpu").layers[1].tops[0].mean_abs is not None


def test_faults_of_an_installed_package(installed: Path) -> None:
    install(installed, "1 / 0\n")
    (installed / "net.prototxt").write_text(NET)
    result = CliRunner().invoke(main, ["analyze", "--static", "net.prototxt"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: entry point 'odd' of group caffestat.layers (odd_layers): ")
    assert "types.py:1: in <module>: ZeroDivisionError: division by zero" in result.stderr
