"""What is said of texts that mean something else: Windows paths, quoted types in old layers, fields by other names."""

from __future__ import annotations

import pytest

from caffestat.errors import PrototextError, SchemaError
from caffestat.prototext import parse
from caffestat.schema import LayerParameter, NetParameter, SolverParameter, from_document

DATA = 'layer {{ name: "d" type: "HDF5Data" top: "x"\n  hdf5_data_param {{ source: "{}" }} }}'


def test_a_windows_path_that_became_escapes() -> None:
    message, (finding,) = from_document(parse(DATA.format(r"C:\new\t.txt").encode(), "net.prototxt"), NetParameter)
    assert (finding.place.line, "use / in paths" in finding.message) == (2, True)
    assert message.layer[0].hdf5_data_param.source == "C:\new\t.txt"
    assert from_document(parse(DATA.format("C:/new/t.txt").encode(), "net.prototxt"), NetParameter)[1] == []
    assert from_document(parse(DATA.format(r"C:\\new").encode(), "net.prototxt"), NetParameter)[1] == []


def test_an_escape_that_does_not_exist() -> None:
    with pytest.raises(PrototextError, match=r"invalid escape.*use / in paths"):
        parse(DATA.format(r"C:\data\x").encode(), "net.prototxt")


def test_a_quoted_type_belongs_to_layer() -> None:
    with pytest.raises(
        SchemaError, match=r'found "Input" in quotes, which belongs to `layer`: rename `layers`'
    ) as caught:
        from_document(parse(b'layers { name: "d" type: "Input" }', "net.prototxt"), NetParameter)
    assert "HDF5_OUTPUT" not in str(caught.value)


def test_iter_step_is_iter_size() -> None:
    _, (finding,) = from_document(parse(b"iter_step: 4", "solver.prototxt"), SolverParameter)
    assert finding.message.endswith("did you mean iter_size?")


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("convolutin_param", "; did you mean convolution_param?"),
        ("innerproduct_param", "; did you mean inner_product_param?"),
        ("upsample_param", ""),
        ("norm_param", ""),
        ("resize_param", ""),
        ("roi_pooling_param", ""),
    ],
)
def test_fields_are_alike_by_more_than_their_common_ending(written: str, hint: str) -> None:
    _, (finding,) = from_document(parse(f"{written} {{ }}".encode(), "net.prototxt"), LayerParameter)
    assert finding.message.endswith(f"left out{hint}")
