"""The policies autoinit, orthogonal and lsuv: on texts, built nets and caffemodels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat import api, net
from caffestat.errors import InputError
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse
from caffestat.rewriting import change_of, fill_net, rewrite_text
from caffestat.rewriting.policy import parse_policy

from ..initialization.nets import variances

TEXT = """\
layer { name: "data" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 8 dim: 6 dim: 5 dim: 7 } shape { dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"  # a comment
  convolution_param { num_output: 4 kernel_size: 1 group: 2 weight_filler { type: "xavier" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Convolution" bottom: "c" top: "d" convolution_param { num_output: 9 kernel_size: 1 } }
layer { name: "fc" type: "InnerProduct" bottom: "d" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def built(text: str = TEXT) -> net.Net:
    return net.build(net_source(parse(text.encode(), "net.prototxt")))


def filled(filler: str, seed: int = 1, **which: object) -> dict[str, np.ndarray]:
    found = fill_net(built(), change_of(filler, **which), seed)  # type: ignore[arg-type]
    return {param.layer: param.values for param in found.params if param.role == "weight"}


def test_autoinit_writes_numbers_that_any_caffe_reads() -> None:
    result = rewrite_text(TEXT.encode(), "net.prototxt", change_of("autoinit"))
    text = result.data.decode()
    # 1 / √n behind N(0, 1) with n = 3 of 6 channels, √(2/n) behind a ReLU, 1 / √n behind d of variance 1
    assert 'weight_filler { type: "gaussian" std: 0.57735 }' in text
    assert 'weight_filler { type: "gaussian" std: 0.70711 }' in text
    assert f'type: "gaussian" std: {1 / np.sqrt(315):.5g}' in text
    assert "# a comment" in text
    assert len(result.changes) == 3
    assert rewrite_text(result.data, "net.prototxt", change_of("autoinit")).data == result.data


def test_autoinit_as_uniform_with_a_target() -> None:
    change = change_of("autoinit:distribution=uniform,target=4", layers=["c"])
    text = rewrite_text(TEXT.encode(), "net.prototxt", change).data.decode()
    assert 'type: "uniform" min: -2.0 max: 2.0' in text
    assert 'weight_filler { type: "msra" }' in text


def test_autoinit_counts_what_other_layers_have() -> None:
    """d is solved behind the c that the file has, or the policy for biases gives."""
    change = change_of("autoinit", layers=["d"])
    small = TEXT.replace('type: "xavier"', 'type: "gaussian" std: 0.1')
    text = rewrite_text(small.encode(), "net.prototxt", change).data.decode()
    assert f"std: {0.70711 * 0.57735 / 0.1:.4g}" in text
    change = change_of("autoinit", bias="constant:0.6", layers=["c"])
    assert "std: 0.46188" in rewrite_text(TEXT.encode(), "net.prototxt", change).data.decode()  # √((1 - 0.36) / 3)


def test_what_cannot_be_solved_is_left_alone_with_a_note() -> None:
    change = change_of("autoinit", bias="constant:2", layers=["c"])
    result = rewrite_text(TEXT.encode(), "net.prototxt", change)
    assert "its bias alone has a second moment of more than 1" in str(result.notes[0])
    assert 'weight_filler { type: "xavier" }' in result.data.decode()


def test_fill_draws_from_the_solved_filler_as_caffe_does() -> None:
    solved = filled("autoinit")
    text = rewrite_text(TEXT.encode(), "net.prototxt", change_of("autoinit")).data.decode()
    plain = fill_net(built(text), change_of(), 1)
    same = {param.layer: param.values for param in plain.params if param.role == "weight"}
    assert all(np.array_equal(solved[layer], same[layer]) for layer in ("c", "d", "fc"))


def test_orthogonal_has_the_gain_of_the_nonlinearity_and_heeds_groups() -> None:
    found = filled("orthogonal")
    for block in found["c"].reshape(2, 2, 3):
        assert block @ block.T == pytest.approx(2 * np.eye(2), abs=1e-5)  # ReLU follows: √2
    d = found["d"].reshape(9, 4)
    assert d.T @ d == pytest.approx(np.eye(4), abs=1e-5)
    fc = filled("orthogonal:gain=3")["fc"]
    assert fc @ fc.T == pytest.approx(9 * np.eye(3), abs=1e-4)


def test_seeds_decide_and_only_named_layers_change() -> None:
    one, same, other = (filled("lsuv", seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[layer], same[layer]) for layer in one)
    assert not np.allclose(one["c"], other["c"])
    plain, part = filled("explicit"), fill_net(built(), change_of("lsuv", layers=["d"]), 1)
    values = {part.net.nodes[p.node].name: v for p, v in zip(part.net.params, part.values, strict=True) if p.index == 0}
    assert np.array_equal(values["c"], plain["c"])
    assert not np.allclose(values["d"], plain["d"])


def test_lsuv_gives_every_layer_unit_variance_on_its_data() -> None:
    found = fill_net(built(), change_of("lsuv"), 5)
    measured = variances(from_net(found.net), found.values, 5)
    assert measured.keys() == {"c", "d", "fc"}
    assert [variance for variance, _ in measured.values()] == pytest.approx([1.0] * 3, abs=1e-3)


@pytest.mark.parametrize("method", ["orthogonal", "krahenbuhl:bias=0.2"])
def test_what_a_method_draws_cannot_be_stated_explicitly(method: str) -> None:
    with pytest.raises(InputError, match=f"draws values, which no filler states; use '{method}'"):
        parse_policy(f"explicit:{method}")


@pytest.mark.parametrize("method", ["orthogonal", "lsuv"])
def test_methods_that_draw_values_are_for_files_of_weights(tmp_path: Path, method: str) -> None:
    with pytest.raises(InputError, match=f"net.prototxt: {method} draws values, .* `caffestat fill --filler {method}"):
        rewrite_text(TEXT.encode(), "net.prototxt", change_of(method))
    path, model = tmp_path / "net.prototxt", tmp_path / "w.caffemodel"
    path.write_text(TEXT)
    [refused] = api.rewrite(path, bias=method)
    assert refused.error and "draws values" in refused.error
    assert path.read_text() == TEXT
    api.fill(str(path), model)
    before = model.read_bytes()
    [outcome] = api.rewrite(model, filler=method, net=path)
    assert outcome.error is None or outcome.error == ""
    assert len(outcome.changes) == 3
    assert model.read_bytes() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("autoinit:foo=1", "autoinit has no field 'foo'; expected target, distribution"),
        ("autoinit:target=-1", "target of autoinit: expected a number above 0"),
        ("autoinit:distribution=normal", "expected gaussian or uniform, found 'normal'"),
        ("autoinit:target=data", "target of autoinit: expected a number above 0, or input, found 'data'"),
        ("autoinit:fixup=yes", "fixup of autoinit: expected 0 or 1, found 'yes'"),
        ("lsuv:gain=2", "lsuv has no field 'gain'; expected tolerance, iterations, mean, start"),
        ("lsuv:iterations=0", "iterations of lsuv: expected a count of 1 or more, found '0'"),
        ("lsuv:tolerance=-1", "tolerance of lsuv: expected a number of 0 or more"),
        ("krahenbuhl:first=zca", "first of krahenbuhl: expected gaussian, pca or kmeans, found 'zca'"),
        ("krahenbuhl:bias=nan", "bias of krahenbuhl: expected a number"),
        ("orthogonal:gain=x", "gain of orthogonal: expected a number above 0, found 'x'"),
    ],
)
def test_policies_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(text)


@pytest.mark.parametrize("method", ["orthogonal", "lsuv", "krahenbuhl", "autoinit"])
def test_fill_tells_signal_and_gradient_before_and_after(method: str) -> None:
    found = fill_net(built(), change_of(method), 5)
    assert found.curves is not None
    lines = list(found.curves.lines())
    assert lines[0].split() == [found.curves.kind, "mean", "|x|", "before", "after", "mean", "|dx|", "before", "after"]
    assert [line.split()[0] for line in lines[1:]] == ["c", "d", "fc"]
    assert found.curves.kind == ("measured" if method in ("lsuv", "krahenbuhl") else "predicted")
    x, dx = found.curves.after.points["fc"]
    assert x == pytest.approx(0.8, abs=0.35)
    assert dx is not None
    assert dx > 0
    assert fill_net(built(), change_of("msra"), 5).curves is None


def test_rewrite_tells_what_is_predicted_before_and_after() -> None:
    result = rewrite_text(TEXT.encode(), "net.prototxt", change_of("autoinit"))
    assert result.curves is not None
    assert result.curves.before.points["d"][0] == 0.0  # no filler is written
    assert result.curves.after.points["d"][0] == pytest.approx(np.sqrt(2 / np.pi), rel=0.3)  # few channels
    assert rewrite_text(result.data, "net.prototxt", change_of("autoinit")).curves is None


def test_lsuv_may_start_from_the_file_s_own_weights() -> None:
    own, found = filled("explicit"), filled("lsuv:start=file")
    for layer in ("c", "fc"):
        ratio = found[layer] / own[layer]
        assert ratio == pytest.approx(np.full(ratio.shape, ratio.flat[0]), rel=1e-4)


def test_autoinit_with_fixup_writes_constant_zeros() -> None:
    block = (
        'layer { name: "e" type: "Convolution" bottom: "d" top: "e" '
        "convolution_param { num_output: 9 kernel_size: 1 } }\n"
        'layer { name: "sum" type: "Eltwise" bottom: "d" bottom: "e" top: "sum" }\n'
    )
    text = TEXT.replace('layer { name: "fc"', block + 'layer { name: "fc"').replace(
        'bottom: "d" top: "fc"', 'bottom: "sum" top: "fc"'
    )
    result = rewrite_text(text.encode(), "net.prototxt", change_of("autoinit:fixup=1")).data.decode()
    assert 'inner_product_param { num_output: 3 weight_filler { type: "constant"' in result
    assert 'weight_filler { type: "gaussian" std: 0.57735 }' in result
    assert filled("autoinit:target=4")["c"] == pytest.approx(2 * filled("autoinit")["c"], rel=1e-3)
