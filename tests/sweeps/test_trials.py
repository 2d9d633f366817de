"""Trials, and the variants of nets that they are."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from caffestat.errors import InputError
from caffestat.net.source import net_source
from caffestat.options import NetOptions
from caffestat.prototext import parse
from caffestat.sweeps import Sweep, Trial, as_seeds
from caffestat.sweeps.bench import Bench
from caffestat.sweeps.spec import read_sweep, settings_of
from caffestat.sweeps.variants import variant_of

from .nets import NET


def layers(**changes: Any) -> dict[str, Any]:
    found = variant_of(net_source(parse(NET.encode(), "tiny.prototxt")), Trial("tiny", 1, **changes))
    return {entry.proto.name: entry.proto for entry in found.layers}


def test_every_combination_once_and_the_seeds_fastest() -> None:
    sweep = Sweep(["a", "b"], (1, 2), ("xavier", "msra"), {"conv*.bias_term": ["true", "false"]}, widths=(1, 2))
    trials = list(sweep.trials())
    assert len(trials) == sweep.count == 2 * 2 * 2 * 2 * 2
    assert len({trial.id for trial in trials}) == sweep.count
    assert [trial.seed for trial in trials[:4]] == [1, 2, 1, 2]
    assert trials[0].variant == "a · xavier · conv*.bias_term=true"
    assert trials[-1] == Trial("b", 2, "msra", (("conv*.bias_term", "false"),), 2)


def test_a_trials_name_is_the_same_in_every_process() -> None:
    trial = Trial("net.prototxt", 7, "gaussian:std=0.01", (("c.d", "1"),), 0.5, 0.1, "Adam", 3)
    assert pickle.loads(pickle.dumps(trial)) == trial
    code = f"from caffestat.sweeps import Trial; print({trial!r}.id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == trial.id
    assert trial.id != Trial("net.prototxt", 8, "gaussian:std=0.01", (("c.d", "1"),), 0.5, 0.1, "Adam", 3).id


@pytest.mark.parametrize(
    ("text", "seeds"), [("0:4", (0, 1, 2, 3)), ("2:9:3", (2, 5, 8)), ("1,2,7", (1, 2, 7)), ("5", (5,))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert tuple(as_seeds(text)) == seeds


@pytest.mark.parametrize("text", ["", "a", "3:3", "-1", "0:1:2:3", str(2**32)])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="seeds: expected"):
        as_seeds(text)


def test_a_filler_for_all_weights() -> None:
    found = layers(filler="gaussian:std=0.25,mean=1")
    for name in ("conv1", "dw"):
        filler = found[name].convolution_param.weight_filler
        assert (filler.type, filler.std, filler.mean) == ("gaussian", 0.25, 1)
    assert not found["conv1"].convolution_param.HasField("bias_filler")
    assert found["data"].dummy_data_param.data_filler[0].std == 1


def test_fields_by_layer() -> None:
    found = layers(changes=(("conv*.weight_filler.type", "msra"), ("fc.bias_term", "false"), ("relu1.name", 'a "b"')))
    assert found["conv1"].convolution_param.weight_filler.type == "msra"
    assert not found["fc"].inner_product_param.bias_term
    assert 'a "b"' in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filler": "xaver"}, "filler 'xaver': expected one of"),
        ({"filler": "gaussian:st=1"}, "filler 'gaussian:st=1'"),
        ({"changes": (("conv9.num_output", "1"),)}, "no layer is named 'conv9'"),
        ({"changes": (("conv1.numoutput", "1"),)}, "none of the layers has a field 'numoutput'"),
        ({"changes": (("conv1.weight_filler.sdt", "1"),)}, "FillerParameter has no field 'sdt'"),
        ({"changes": (("conv1.num_output", "many"),)}, "conv1.num_output"),
        ({"changes": (("conv1", "1"),)}, "expected LAYERS.FIELD"),
    ],
)
def test_changes_that_fit_nothing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layers(**changes)


def test_hidden_layers_get_wider_and_classes_stay() -> None:
    found = layers(width=1.5)
    assert found["conv1"].convolution_param.num_output == 12
    assert (found["dw"].convolution_param.num_output, found["dw"].convolution_param.group) == (12, 12)
    assert found["fc"].inner_product_param.num_output == 3
    assert layers()["conv1"].convolution_param.num_output == 8


def test_sweep_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_bytes(b"\xef\xbb\xbfbatch = 8\n")
    assert read_sweep(str(path)) == {"batch": 8}


def test_sweep_files(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        'nets = ["a.prototxt"]\nseeds = "0:3"\nfiller = "msra"\nwidth = [1, 2]\n[set]\n"conv*.std" = [0.1, 0.2]\n'
    )
    assert read_sweep(str(path)) == {
        "nets": [str(tmp_path / "a.prototxt")],
        "seeds": range(3),
        "fillers": ["msra"],
        "widths": [1, 2],
        "changes": {"conv*.std": ["0.1", "0.2"]},
    }
    path.write_text("sedes = 3")
    with pytest.raises(InputError, match=r"sweep\.toml: unknown key 'sedes'; expected one of nets, seeds"):
        read_sweep(str(path))
    path.write_text("nets = [")
    with pytest.raises(InputError, match=r"sweep\.toml: "):
        read_sweep(str(path))
    path.write_bytes(b"nets = '\xff'")
    with pytest.raises(InputError, match=r"sweep\.toml: expected a sweep\.toml, found bytes that are not UTF-8$"):
        read_sweep(str(path))
    with pytest.raises(InputError, match=r"cannot be read: No such file or directory; expected a sweep\.toml$"):
        read_sweep(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nets = [0]", r"nets: expected names of nets or solvers, found \[0\]"),
        ("filler = [true]", "filler: expected names of fillers"),
        ('width = "2"', "width: expected numbers, found '2'"),
        ("lr = [[1]]", "lr: expected numbers"),
        ("seeds = [1, -1]", "seeds: expected .*numbers from 0"),
        ("seeds = 1.5", "seeds: expected"),
        ('iterations = "3"', "iterations: expected a whole number"),
        ("iterations = 3.0", "iterations: expected a whole number"),
        ("batch = 0", "batch: expected a whole number of 1 or more"),
        ("shapes = [2, 3]", "shapes: expected a table"),
        ("shapes = { x = [2, 0] }", "shapes: expected a table"),
        ("[set]\nfc.num_output = [1, 2]", "set: expected a table of values by path"),
        ("set = 3", "set: expected a table"),
    ],
)
def test_values_of_sweep_files_that_no_key_takes(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"sweep\.toml: {message}"):
        read_sweep(str(path))


def test_seeds_without_end_take_no_memory(tmp_path: Path) -> None:
    assert len(as_seeds("0:4000000000")) == 4_000_000_000
    for text in ("0:99999999999", "3:1:0", "1:2:3:4", "5:5"):
        with pytest.raises(InputError, match="seeds: expected numbers from 0"):
            as_seeds(text)


def test_fields_take_truth_values_of_sweep_files(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text('[set]\n"fc.bias_term" = [true, false]\n"fc.num_output" = 3\n')
    assert read_sweep(str(path))["changes"] == {"fc.bias_term": ["true", "false"], "fc.num_output": ["3"]}


def widened(text: str, factor: float) -> dict[str, Any]:
    """Return num_output and group of the layers of a net of another width, by name."""
    source = variant_of(net_source(parse(text.encode(), "n.prototxt")), Trial("n", 1, width=factor))
    found = {}
    for entry in source.layers:
        for name in ("convolution_param", "inner_product_param"):
            if entry.proto.HasField(name):
                param = getattr(entry.proto, name)
                found[entry.proto.name] = (param.num_output, getattr(param, "group", 1))
        if entry.proto.HasField("slice_param"):
            found[entry.proto.name] = list(entry.proto.slice_param.slice_point)
    return found


def conv(name: str, bottom: str, outputs: int, group: int = 1, more: str = "") -> str:
    param = f"convolution_param {{ num_output: {outputs} kernel_size: 1 group: {group} }}"
    return f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {param} {more} }}\n'


def layer(name: str, kind: str, *bottoms: str, more: str = "") -> str:
    reads = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}" {reads} top: "{name}" {more} }}\n'


INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 6 dim: 5 dim: 5 } } }\n'


def test_groups_divide_what_they_read_and_make() -> None:
    """AlexNet's conv2 reads two halves of conv1."""
    found = widened(INPUT + conv("a", "x", 10) + conv("b", "a", 14, 2) + conv("end", "b", 5), 0.5)
    assert found == {"a": (6, 1), "b": (8, 2), "end": (5, 1)}


def test_sums_of_layers_stay_possible() -> None:
    text = (
        INPUT + conv("a", "x", 10, 2) + conv("b", "a", 10) + layer("sum", "Eltwise", "a", "b") + conv("end", "sum", 3)
    )
    found = widened(text, 0.5)
    assert found["a"] == (6, 2) and found["b"] == (6, 1)


def test_depthwise_layers_follow_what_they_read() -> None:
    text = INPUT + conv("a", "x", 8) + conv("dw", "a", 8, 8) + conv("wide", "dw", 16, 8) + conv("end", "wide", 5)
    assert widened(text, 1.5) == {"a": (12, 1), "dw": (12, 12), "wide": (24, 12), "end": (5, 1)}


def test_depthwise_layers_of_classes_keep_them() -> None:
    """The upsampling of FCN has a group per class."""
    text = (
        INPUT + conv("a", "x", 8) + conv("score", "a", 4) + conv("up", "score", 4, 4) + layer("prob", "Softmax", "up")
    )
    assert widened(text, 2) == {"a": (16, 1), "score": (4, 1), "up": (4, 4)}


def test_slices_of_hidden_channels_keep_their_proportions() -> None:
    two = 'slice_param { slice_point: 3 } top: "second"'
    text = INPUT + conv("a", "x", 12) + layer("cut", "Slice", "a", more=two) + layer("sum", "Concat", "cut", "second")
    assert widened(text + conv("end", "sum", 5), 2)["cut"] == [6]
    assert widened(INPUT + layer("cut", "Slice", "x", more=two) + conv("end", "cut", 5), 2)["cut"] == [3]


def test_heads_whose_outputs_decide_regions_keep_them() -> None:
    """Region proposals are read by layers with weights, and by a loss."""
    pooled = layer("pool", "Eltwise", "a", "rpn") + conv("end", "pool", 5)
    text = INPUT + conv("a", "x", 8) + conv("rpn", "a", 8) + layer("l", "Reduction", "rpn", more="loss_weight: 1")
    assert widened(text + pooled, 2)["rpn"] == (8, 1)


@pytest.mark.parametrize("width", [0.25, 0.3, 1.3, 2])
@pytest.mark.parametrize("name", ["alexnet", "googlenet", "mobilenet", "resnet50", "squeezenet", "cifar10_full"])
def test_nets_of_other_widths_can_be_built(name: str, width: float) -> None:
    path = str(Path(__file__).resolve().parents[2] / "models" / f"{name}.prototxt")
    bench = Bench(settings_of(Sweep([path], batch=1)))
    built = bench.variant(Trial(path, 1, width=width)).build(NetOptions(batch=1, data="synthetic"))
    whole = bench.variant(Trial(path, 1)).build(NetOptions(batch=1, data="synthetic"))
    assert [blob.shape for blob in (built.blobs[n] for n in built.outputs)] == [
        blob.shape for blob in (whole.blobs[n] for n in whole.outputs)
    ]


def test_parts_of_repeated_fields_have_a_number() -> None:
    found = layers(
        changes=(("conv1.param.0.lr_mult", "0"), ("conv1.param.1.decay_mult", "3"), ("fc.param.0.name", "w"))
    )
    assert [param.lr_mult for param in found["conv1"].param] == [0, 1]
    assert found["conv1"].param[1].decay_mult == 3
    assert found["fc"].param[0].name == "w"
    for path, message in (
        ("conv1.param.lr_mult", r"param is repeated \(0 here\)"),
        ("conv1.param.1.lr_mult", r"expected param\.0\.FIELD"),
        ("conv1.weight_filler.0.std", "weight_filler is not repeated"),
        ("conv1.num_output.std", "no field 'num_output' with fields of its own"),
    ):
        with pytest.raises(InputError, match=message):
            layers(changes=((path, "1"),))


def test_parameters_that_a_layer_does_not_write_can_be_set() -> None:
    assert layers(changes=(("relu1.negative_slope", "0.25"),))["relu1"].relu_param.negative_slope == 0.25
