from dataclasses import dataclass, field
from typing import Any

import pytest

from datamodules.run.typed_json import build, load


@dataclass(frozen=True)
class File:
    name: str
    num_bytes: int


@dataclass(frozen=True)
class Document:
    file: File
    counts: dict[str, int]
    rank: str | None
    seconds: float = 0.0
    is_whole: bool = True
    shards: dict[str, tuple[int, float]] = field(default_factory=dict)
    machine: Any = None


WHOLE: dict[str, Any] = {"file": {"name": "a", "num_bytes": 3}, "counts": {"ok": 2}, "rank": None}


def test_a_document_becomes_its_dataclass_with_nested_ones_and_defaults() -> None:
    more = {"seconds": 2, "shards": {"train-000000": [1, 0.5]}, "machine": {"gpu": [None, -1]}}
    built = build(Document, load('{"file": {"name": "a", "num_bytes": 3}, "counts": {"ok": 2}, "rank": "r"}'))
    assert built == Document(File("a", 3), {"ok": 2}, "r")
    whole = Document(File("a", 3), {"ok": 2}, None, 2, True, {"train-000000": (1, 0.5)}, {"gpu": [None, -1]})
    assert build(Document, WHOLE | more) == whole


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"file": "a"}, "file is 'a', not an object"),
        ({"file": {"name": "a", "num_bytes": "3"}}, r"file\.num_bytes is '3', not int"),
        ({"file": {"name": "a"}}, r"file\.num_bytes is missing"),
        ({"file": {"name": ["a"], "num_bytes": 3}}, r"file\.name is list, not str"),
        ({"counts": {"ok": True}}, r"counts\.ok is True, not int"),
        ({"counts": {"ok": 1.0}}, r"counts\.ok is 1\.0, not int"),
        ({"counts": {"ok": -1}}, r"counts\.ok is -1, not int"),
        ({"counts": {"ok": 2**63}}, r"counts\.ok is 9223372036854775808, not int"),
        ({"counts": [1]}, r"counts is list, not dict\[str, int\]"),
        ({"rank": 1}, "rank is 1, not str"),
        ({"seconds": float("nan")}, "seconds is nan, not float"),
        ({"seconds": 10**400}, "seconds is 1000.*, not float"),
        ({"seconds": None}, "seconds is None, not float"),
        ({"is_whole": 1}, "is_whole is 1, not bool"),
        ({"shards": {"a": [1]}}, r"shards\.a is list, not tuple\[int, float\]"),
        ({"shards": {"a": [1, "2"]}}, r"shards\.a is '2', not float"),
        ({"more": 1}, "more is not a known field"),
    ],
)
def test_a_field_of_another_type_fails_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        build(Document, WHOLE | fields)


@pytest.mark.parametrize("document", [[], "text", 1, None])
def test_a_document_that_is_not_an_object_fails(document: list[Any] | str | int | None) -> None:
    with pytest.raises(ValueError, match=r"^the document is .*, not an object$"):
        build(Document, document)


def test_a_document_that_is_nested_too_deeply_fails() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        load("[" * 100_000)
