"""Prompts whose fields are filled in from the corpus and from JSON files."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Item
from datamodules.errors import ConfigError, ExtractError
from preprocess.prompts import PromptTemplate


def item(*json_files: list[Any], **meta: Any) -> Item:
    return Item(
        "a", "train", ".", ("a.png",), meta={**meta, **({"json_files": list(json_files)} if json_files else {})}
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Describe it.", "Describe it."),
        ("A {name}; {material}", "A red chair; oak"),
        ("by { seller.name }", "by Ann"),
        ("{price} {new} {tags}", "12.5 true a, 3"),
        ("{{name}} {}}".replace("{}}", "{{}}"), "{name} {}"),
        ("{seller.x.y} {a.b}", "deep dotted"),
        ("{it's: odd!r}", "odd name"),
    ],
)
def test_fields_are_filled_in(template: str, expected: str) -> None:
    fields = {
        "name": " red chair ", "material": "oak", "seller": {"name": "Ann", "x": {"y": "deep"}}, "price": 12.5,
        "new": True, "tags": ["a", 3], "a.b": "dotted", "a": {"b": "nested"}, "it's: odd!r": "odd name",
    }  # fmt: skip
    assert PromptTemplate(template)(item(**fields)) == expected


def test_fields_come_from_the_corpus_and_the_last_json_file_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_bytes(b'\xef\xbb\xbf{"name": "k\xc3\xa4se", "size": 1}')
    inner = json.dumps({"size": 2}).encode()
    (tmp_path / "2.tar").write_bytes(b"before" + inner + b"after")
    files: list[list[Any]] = [[str(tmp_path / "1.json"), None, None], [str(tmp_path / "2.tar"), 6, len(inner)]]
    assert PromptTemplate("{place} {name} {size}")(item(*files, place="here", name="x")) == "here käse 2"


def test_missing_json_files_are_named_only_if_a_field_is_missing(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text('{"name": "x"}')
    paths = [str(tmp_path / name) for name in ("0.json", "1.json", "1.json/2.json")]
    there = item(*([path, None, None] for path in paths))
    assert PromptTemplate("{name}")(there) == "x"
    message = re.escape("it has no field 'size'; its fields: name; searched in " + ", ".join(paths))
    with pytest.raises(ExtractError, match=f"^{message}$"):
        PromptTemplate("{size}")(there)
    with pytest.raises(ExtractError, match=r"gone\.tar is missing"):
        PromptTemplate("{name}")(item([str(tmp_path / "gone.tar"), 512, 20]))


def test_a_prompt_without_fields_opens_no_file() -> None:
    assert PromptTemplate("Describe {{it}}")(item(["/nowhere.json", None, None])) == "Describe {it}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{colour}", r"it has no field 'colour'; its fields: name, seller, none, blank, list$"),
        ("{seller.town}", r"in its field 'seller': it has no field 'town'; its fields: name$"),
        ("{name.town}", "it has no field 'name.town'"),
        ("{name.__class__}", "it has no field 'name.__class__'"),
        ("{none}", "its field 'none' is null"),
        ("{blank}", "its field 'blank' is empty"),
        ("{list}", "its field 'list' is empty"),
        ("{seller}", r"its field 'seller' is an object\. Name one of seller\.name$"),
        ("{json_files}", "it has no field 'json_files'"),
    ],
)
def test_a_missing_or_empty_field_fails(template: str, message: str) -> None:
    with pytest.raises(ExtractError, match=message):
        PromptTemplate(template)(item(name="x", seller={"name": "y"}, none=None, blank=" \n", list=[]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": "k\xe4se"}', r"a\.json is not JSON in UTF-8: .*0xe4"),
        (b'{"name": ', r"a\.json is not JSON in UTF-8: Expecting value"),
        (b"[" * 100_000, r"a\.json is not JSON"),
        (b'["name"]', r"a\.json is not an object with fields, but list"),
    ],
)
def test_a_damaged_json_file_fails_and_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ExtractError, match=message):
        PromptTemplate("{name}")(item([str(tmp_path / "a.json"), None, None]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("NaN", "its field 'size' is nan, which is not a number"),
        ("-Infinity", "its field 'size' is -inf, which is not a number"),
        ("[1, 1e999]", "its field 'size' is a list with inf, which is not a number"),
        ('["a", {"b": 1}]', "its field 'size' is a list with an object"),
        ('["a", ["b"]]', "its field 'size' is a list with a list"),
        ('["a", null]', "its field 'size' is a list with null"),
        ("null", "its field 'size' is null"),
        (r'"a cup \ud83d"', "its field 'size' is a text with a lone surrogate, which UTF-8 cannot store"),
        (r'["\ude00", "a"]', "its field 'size' is a list with a text with a lone surrogate, which UTF-8 cannot store"),
        ("{}", "its field 'size' is an object. Name one of none"),
    ],
)
def test_a_field_that_is_not_text_fails_and_is_named_with_its_file(tmp_path: Path, value: str, message: str) -> None:
    (tmp_path / "1.json").write_text('{"name": "x", "size": 1}')
    (tmp_path / "2.json").write_text(f'{{"size": {value}, "of": {{"size": {value}}}}}')
    there = item(*([str(tmp_path / name), None, None] for name in ("1.json", "2.json")))
    for field in ("size", "of.size"):
        expected = re.escape(f"{message.replace('size', field)} (in {tmp_path}/2.json)")
        with pytest.raises(ExtractError, match=f"^{expected}$"):
            PromptTemplate("{name} {" + field + "}")(there)
    assert PromptTemplate("{name}")(there) == "x"


def test_messages_are_utf_8_whatever_the_names_of_fields_hold(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(r'{"name": 1, "caf\u00e9 \ud83d": 2}')
    with pytest.raises(ExtractError, match=r"it has no field 'size'; its fields: name, café \?; searched in "):
        PromptTemplate("{size}")(item([str(tmp_path / "1.json"), None, None]))


@pytest.mark.parametrize(("template", "at"), [("a {", 3), ("}", 1), ("{}", 1), ("{a{b}}", 1), ("{{a}", 4)])
def test_braces_without_partner_or_name_fail(template: str, at: int) -> None:
    with pytest.raises(ConfigError, match=rf"at character {at} has no partner, or no name of a field"):
        PromptTemplate(template)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fifo", r"a\.json cannot be read: it is a FIFO, not a regular file"),
        ("device", r"a\.json cannot be read: it is a character device"),
        ("folder", r"a\.json cannot be read: Is a directory"),
        ("large", r"a\.json has 20,000,000,000 bytes; the limit for the JSON of one image is 16,777,216"),
    ],
)
def test_json_that_is_not_a_small_regular_file_fails_and_is_not_read(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "a.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 20_000_000_000)
    with pytest.raises(ExtractError, match=message):
        PromptTemplate("{name}")(item([str(path), None, None]))


def test_json_of_a_tar_that_claims_to_be_large_fails_and_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    with pytest.raises(ExtractError, match=r"the JSON at byte 512 of .*a\.tar has 20,000,000,000 bytes; the limit"):
        PromptTemplate("{name}")(item([str(tmp_path / "a.tar"), 512, 20_000_000_000]))


def test_endless_fields_and_names_are_cut_off_or_refused() -> None:
    with pytest.raises(ExtractError, match=r"^its field 'tags' has 3,999,998 characters; the limit is 1,048,576$"):
        PromptTemplate("{tags}")(item(tags=["ab"] * 1_000_000))
    with pytest.raises(ExtractError, match=r"^it has no field 'x'; its fields: n{80}, b$"):
        PromptTemplate("{x}")(item(**{"n" * 1_000_000: 1, "b": 2}))
