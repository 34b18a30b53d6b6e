import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.corpus import Item, check_key, check_split, key_from_path
from datamodules.errors import CorpusError
from datamodules.tar_members import split_name


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("train/sentence-01_a", "train/sentence-01_a"),
        ("a.v1/clip.mp4_3", "a%2Ev1/clip%2Emp4_3"),
        ("A/b C", "A/b%20C"),
        ("ü/日本", "ü/日本"),
        ("100%", "100%25"),
        (".hidden", "%2Ehidden"),
        ("a\nb", "a%0Ab"),
    ],
)
def test_a_key_keeps_letters_digits_dashes_and_encodes_the_rest(path: str, key: str) -> None:
    assert key_from_path(path) == key


@pytest.mark.parametrize("path", ["", "a//b", "/a", "a/", "../a", "a/../b", "./a", "."])
def test_a_path_with_an_empty_or_dotted_part_fails(path: str) -> None:
    with pytest.raises(CorpusError, match="no key can be made from the path"):
        key_from_path(path)


def test_a_part_of_200_bytes_is_a_key() -> None:
    assert key_from_path("a" * 200) == "a" * 200


@pytest.mark.parametrize("name", ["a" * 201, "ü" * 101, "." * 67, "x" + "😀" * 62, "xy" + "हिन्दी" * 14, "व" * 85])
def test_a_part_of_more_than_200_bytes_is_cut_and_ends_with_its_hash(name: str) -> None:
    key = key_from_path(f"folder/{name}/b")
    part = key.split("/")[1]
    begin, digits = part.split("%-")
    assert (key, len(digits)) == (f"folder/{part}/b", 16)
    assert 177 < len(begin.encode()) <= 182
    assert check_key(key) == key
    assert name.startswith(unquote(begin).rstrip("\N{REPLACEMENT CHARACTER}"))
    assert re.fullmatch(r"(\w|-|%[0-9A-F]{2})+", begin)
    assert part != key_from_path(name[:-1] + "z") != key_from_path(name + "z") != part
    assert key_from_path(part) != part


def test_a_cut_key_is_the_same_on_every_machine() -> None:
    assert key_from_path("a" * 201) == "a" * 182 + "%-a616db75c1aa75b4"


def test_bytes_that_are_not_utf8_are_percent_encoded() -> None:
    assert key_from_path("train/x\udcfc") == "train/x%FC"


def test_a_lone_surrogate_fails() -> None:
    with pytest.raises(CorpusError, match="lone surrogate"):
        key_from_path("a lone surrogate \ud83d")


parts = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda part: part not in (".", "..")
)


@given(st.lists(parts, min_size=1, max_size=3), st.lists(parts, min_size=1, max_size=3))
def test_webdataset_keeps_every_key_and_different_paths_have_different_keys(one: str, other: str) -> None:
    key = key_from_path("/".join(one))
    assert split_name(f"{key}.keypoints.npy") == (key, "keypoints.npy")
    assert check_key(key) == key
    assert (key == key_from_path("/".join(other))) == (one == other)


@pytest.mark.parametrize("key", ["a.b", "", "/a", "a/", "a//b", "a b", "../a", "a\n"])
def test_a_key_that_webdataset_would_change_fails(key: str) -> None:
    with pytest.raises(CorpusError, match="cannot be a key"):
        check_key(key)


def test_letters_digits_and_underscores_name_a_split() -> None:
    assert check_split("train_01") == "train_01"


@pytest.mark.parametrize("split", ["", "a-b", "a/b", "a b", "ü", "a\n"])
def test_a_split_with_other_characters_fails(split: str) -> None:
    with pytest.raises(CorpusError, match="cannot name a split"):
        check_split(split)


@pytest.mark.parametrize(
    ("path", "image"), [("", "a.jpg"), (".", "a.jpg"), ("sub/x", "sub/x/a.jpg"), ("shard.tar", "shard.tar/a.jpg")]
)
def test_an_image_has_its_path_below_the_root(path: str, image: str) -> None:
    assert Item("a", "train", path, ("a.jpg",)).image == image
