"""Each field of a sample's json has one type in all samples of a run."""

import json
from typing import Any

import pyarrow as pa
import pytest
from pyarrow.lib import DataType, ListType

from datamodules.errors import ExtractError
from datamodules.samples.fields import (
    Field,
    TypeInference,
    arrow_type,
    check_type,
    common_type,
    decode_json,
    encode_json,
    size_of_frames,
    struct_of,
    uniform,
)

FIELDS = (
    Field("duration", pa.float64(), "", "s"),
    Field("size", pa.list_(pa.float64()), ""),
    Field("vid", pa.string(), ""),
    Field("info", pa.list_(struct_of(fps=pa.float64(), num_frames=pa.int64())), ""),
)


def inferred(*values: Any) -> Any:
    inference = TypeInference()
    for value in values:
        inference.add({"field": value})
    return inference.types()["field"]


def test_whole_numbers_become_floats_where_the_field_is_one() -> None:
    written = encode_json({"duration": 6, "size": [1, 2.5], "info": [{"fps": 25, "num_frames": 3}], "n": 5}, FIELDS)
    assert written == b'{"duration": 6.0, "info": [{"fps": 25.0, "num_frames": 3}], "n": 5, "size": [1.0, 2.5]}'


def test_null_and_empty_stay_as_they_are_and_what_is_no_text_becomes_one() -> None:
    assert json.loads(encode_json({"duration": None, "size": [], "vid": 7}, FIELDS)) == {
        "duration": None,
        "size": [],
        "vid": "7",
    }


def test_texts_of_numbers_become_numbers_and_pandas_nan_becomes_null() -> None:
    written = encode_json({"duration": "6.5", "size": ["1", "nan"]}, FIELDS)
    assert json.loads(written) == {"duration": 6.5, "size": [1.0, None]}


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("duration", "6.5 s", "a number"),
        ("duration", "6_5", "a number"),
        ("duration", "inf", "a number"),
        ("duration", True, "a number"),
        ("duration", 10**400, "a number"),
        ("duration", {"s": 6}, "a number"),
        ("size", "12", "a list"),  # not its characters, 1.0 and 2.0
        ("size", ["a"], "a number"),
        ("info", ["a"], "an object"),
        ("info", [{"num_frames": 2.5}], "a whole number"),
    ],
)
def test_a_value_of_the_corpus_that_does_not_fit_its_field_fails_the_item(name: str, value: Any, needed: str) -> None:
    with pytest.raises(ExtractError, match=f"its corpus field '{name}' is .*, where {needed} is needed: correct it"):
        encode_json({name: value}, FIELDS)


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert encode_json({"vid": "a\ud800ü"}, FIELDS) == '{"vid": "a?ü"}'.encode()


@pytest.mark.parametrize(
    ("values", "name", "type"),
    [
        ((True, None), "bool", pa.bool_()),
        ((1, -(2**63)), "int64", pa.int64()),
        ((1, 0.5), "float64", pa.float64()),
        (("a", None), "string", pa.string()),
        ((None,), "null", pa.string()),
        (([], [1], None, [0.5, None]), "list<float64>", pa.list_(pa.float64())),
        (([],), "list<null>", pa.list_(pa.string())),
        ((2**53 + 1, 0.5), "json", pa.string()),  # a float would round it
        ((2**63,), "json", pa.string()),
        ((1, "1"), "json", pa.string()),
        ((True, 1), "json", pa.string()),
        (({"a": 1},), "json", pa.string()),
        (([[1]],), "json", pa.string()),
        (([1, "a"],), "json", pa.string()),
        (([1], 1), "json", pa.string()),
    ],
)
def test_a_field_of_the_corpus_gets_the_type_that_holds_all_its_values(
    values: Any, name: str, type: DataType | ListType
) -> None:
    assert inferred(*values) == inferred(*reversed(values)) == name
    assert arrow_type(name) == type


def test_every_sample_has_every_field_of_the_corpus_in_its_type() -> None:
    types = {"rate": "float64", "tags": "list<string>", "mixed": "json", "size": "json", "rest": "string"}
    meta = {"rate": 5, "mixed": "5", "size": [1], "made": 3}
    assert uniform(meta, types, FIELDS) == {
        "rate": 5.0, "tags": None, "mixed": '"5"', "size": [1], "rest": None, "made": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("int64", "int64", "int64"),
        ("int64", "float64", "float64"),
        ("null", "string", "string"),
        ("null", "list<int64>", "list<int64>"),
        ("list<null>", "list<int64>", "list<int64>"),
        ("list<int64>", "list<float64>", "list<float64>"),
        ("string", "int64", None),
        ("string", "json", None),
        ("list<int64>", "int64", None),
        ("list<int64>", "list<string>", None),
    ],
)
def test_two_types_have_a_common_one_only_if_it_reads_both(one: str, other: str, common: str | None) -> None:
    assert common_type(one, other) == common_type(other, one) == common


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "its json is not an object"),
        (b"{", "Expecting"),
        (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"[" * 300 + b"]" * 300 + b"}", "nested more than 200"),
        (b'{"other": "\\ud800"}', "surrogates not allowed"),
        (b'{"count": "5"}', "count in its json is '5', where a whole number is needed"),
        (b'{"count": 5000000000}', "where a whole number of 32 bits is needed"),
        (b'{"seconds": Infinity}', "where a number is needed"),
        (b'{"seconds": 1' + b"0" * 400 + b"}", "where a number is needed"),
        (b'{"is_whole": 1}', "where true or false is needed"),
        (b'{"places": 5}', "where a list is needed"),
        (b'{"places": [[1]]}', "where a number is needed"),
    ],
)
def test_json_whose_fields_have_other_types_than_declared_is_refused(content: bytes, message: str) -> None:
    declared = [
        Field("text", pa.string(), ""),
        Field("count", pa.int32(), ""),
        Field("seconds", pa.float64(), ""),
        Field("is_whole", pa.bool_(), ""),
        Field("places", pa.list_(pa.float64()), ""),
    ]
    with pytest.raises(ValueError, match=message):
        decode_json(content, declared)
    assert decode_json(b'{"seconds": 1, "places": null}', declared) == {"seconds": 1.0, "places": None}


@pytest.mark.parametrize("size", [(0, 5), (None, 5), ("5", 5), (60_000, 60_000)])
def test_a_size_that_no_image_has_is_refused(size: tuple[int, int] | tuple[None, int] | tuple[str, int]) -> None:
    assert size_of_frames({"original_height": 3, "original_width": 4}, "original_") == (3, 4)
    with pytest.raises(ValueError, match=r"its json has the (width|size)"):
        size_of_frames(dict(zip(("height", "width"), size, strict=True)))


@pytest.mark.parametrize("name", ["int32", "list<json>", "list<list<int64>>", "list<", "", "list<" * 2000])
def test_only_the_types_of_the_table_are_types(name: str) -> None:
    assert [check_type(known) for known in ("json", "null", "list<int64>")] == ["json", "null", "list<int64>"]
    with pytest.raises(ValueError, match="is not the type of a field"):
        check_type(name)
