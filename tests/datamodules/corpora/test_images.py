import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.images import Images
from datamodules.corpus import Corpus, located
from datamodules.errors import CorpusError
from datamodules.run.plan import ShardSize
from datamodules.run.planning import write_plan
from datamodules.run.store import Folder
from support.image_files import write_tree
from support.spies import spied


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = (
        "b.jpg",
        "a.v1.PNG",
        "sub dir/ü 1.webp",
        "sub dir/notes.txt",
        ".hidden/e.jpg",
        "._a.jpg",
        "sub dir/x/c.gif",
    )
    return write_tree(tmp_path / "images", *names)


def keys(corpus: Corpus) -> list[str]:
    return [item.key for item in corpus.items()]


def jsons(corpus: Any) -> dict[str, Any]:
    return {item.key: located(item, corpus.root).meta.get("json_files") for item in corpus.items()}


def write_list(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_images_of_a_folder_are_listed_by_name_each_as_one_frame(root: Path) -> None:
    items = list(Images(str(root), split="dev").items())
    assert [item.key for item in items] == ["a%2Ev1", "b", "sub%20dir/x/c", "sub%20dir/ü%201"]
    assert [(item.path, item.frames) for item in items] == [
        ("", ("a.v1.PNG",)), ("", ("b.jpg",)), ("sub dir/x", ("c.gif",)), ("sub dir", ("ü 1.webp",))
    ]  # fmt: skip
    assert [dict(item.meta) for item in items] == [
        {"image": name} for name in ("a.v1.PNG", "b.jpg", "sub dir/x/c.gif", "sub dir/ü 1.webp")
    ]
    assert {(item.split, item.cost, item.start_byte) for item in items} == {("dev", 1, None)}
    assert items[1].modified == os.stat(root / "b.jpg").st_mtime
    assert items == list(Images(str(root), split="dev").items())


def test_images_that_differ_by_extension_only_keep_it_in_unique_keys(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "sub/a.jpg", "a.JPG.png", "a.jpg.gif", "b.jpg.gif", "c.x.jpg", "c.jpg"]
    write_tree(tmp_path, *names)
    result = {item.meta["image"]: item.key for item in Images(str(tmp_path)).items()}
    assert result == {
        "a.jpg": "a%2Ejpg", "a.png": "a%2Epng", "sub/a.jpg": "sub/a", "a.JPG.png": "a%2EJPG",
        "a.jpg.gif": "a%2Ejpg%2Egif", "b.jpg.gif": "b%2Ejpg", "c.x.jpg": "c%2Ex", "c.jpg": "c",
    }  # fmt: skip
    chance = random.Random(0)
    chance.shuffle(names)
    listed = Images(str(tmp_path), image_list=write_list(tmp_path / "list", *names))
    assert [(item.meta["image"], item.key) for item in listed.items()] == [(name, result[name]) for name in names]


def test_a_split_glob_names_the_splits_and_lists_no_other_images(tmp_path: Path) -> None:
    write_tree(
        tmp_path, "train/frames/b/2.jpg", "train/frames/a.png", "test/frames/a.png", "test/masks/a.png", "c.png",
        ".hidden/frames/d.png", "train/frames.png", "dev/frames/.x.png",
    )  # fmt: skip
    items = list(Images(str(tmp_path), split="all", split_glob="*/frames").items())
    assert [(item.split, item.key) for item in items] == [
        ("test", "test/frames/a"), ("train", "train/frames/a"), ("train", "train/frames/b/2")
    ]  # fmt: skip
    assert items[2].source == "train/frames/b/2.jpg"
    assert items == list(Images(str(tmp_path), split_glob="*/frames").items())[:3]
    assert [item.split for item in Images(str(tmp_path), split_glob="t*", max_items=2).items()] == ["test", "test"]


@pytest.mark.parametrize("glob", ["", ".", "frames", "train/frames", "**/frames", "../*", "/data/*", "a/../*", "t**/*"])
def test_a_split_glob_without_a_wildcard_below_the_root_fails(tmp_path: Path, glob: str) -> None:
    write_tree(tmp_path, "train/frames/a.png")
    with pytest.raises(CorpusError, match=r"--data\.split_glob .*: give folders below --data\.root with a \* for"):
        list(Images(str(tmp_path), split_glob=glob).items())


def test_a_split_glob_that_matches_nothing_or_an_illegal_split_or_is_given_with_a_list_fails(tmp_path: Path) -> None:
    write_tree(tmp_path, "my-train/frames/a.png")
    with pytest.raises(CorpusError, match=r"--data\.split_glob '\*/images' matches no folder below"):
        list(Images(str(tmp_path), split_glob="*/images").items())
    with pytest.raises(CorpusError, match="'my-train' cannot name a split"):
        list(Images(str(tmp_path), split_glob="*/frames").items())
    with pytest.raises(CorpusError, match=r"--data\.split_glob \* and --data\.image_list .*: give one of them"):
        Images(str(tmp_path), image_list=write_list(tmp_path / "list", "a.png"), split_glob="*")


def test_max_items_does_not_change_keys(tmp_path: Path) -> None:
    write_tree(tmp_path, "a.jpg", "a.png", "b.jpg")
    assert keys(Images(str(tmp_path), max_items=1)) == ["a%2Ejpg"]
    listed = write_list(tmp_path / "list", "a.png", "b.jpg", "a.jpg")
    assert keys(Images(str(tmp_path), listed, max_items=1)) == ["a%2Epng"]


def test_listed_images_come_in_the_order_of_the_list(root: Path, tmp_path: Path) -> None:
    write_tree(tmp_path / "elsewhere", "z.jpg")
    names = ["sub dir/ü 1.webp", "", "# b.jpg", "  ./b.jpg ", f"{root}/sub dir/x/c.gif", f"{tmp_path}/elsewhere/z.jpg"]
    items = list(Images(str(root), write_list(tmp_path / "list", *names)).items())
    outside = f"{tmp_path}/elsewhere".lstrip("/")
    assert [item.meta["image"] for item in items] == [
        "sub dir/ü 1.webp", "b.jpg", "sub dir/x/c.gif", f"{outside}/z.jpg"
    ]  # fmt: skip
    assert [item.key for item in items][:3] == ["sub%20dir/ü%201", "b", "sub%20dir/x/c"]
    assert [item.path for item in items] == ["sub dir", "", "sub dir/x", f"{tmp_path}/elsewhere"]
    assert all((root / item.source).is_file() for item in items)


def test_json_files_are_located_in_the_order_of_their_folders_even_if_missing(root: Path, tmp_path: Path) -> None:
    write_tree(root / "jsons", "b.json")
    details = write_tree(tmp_path / "details", "b.json", "a.v1.json")
    result = jsons(Images(str(root), json_dirs=["jsons", str(details)]))
    stems = {
        "a%2Ev1": "a.v1", "b": "b", "sub%20dir/x/c": "sub dir/x/c", "sub%20dir/ü%201": "sub dir/ü 1"
    }  # fmt: skip
    assert result == {
        key: [[f"{folder}/{stem}.json", None, None] for folder in (f"{root}/jsons", details)]
        for key, stem in stems.items()
    }
    listed = write_list(tmp_path / "list", "b.jpg", "a.v1.PNG", "sub dir/ü 1.webp", "sub dir/x/c.gif")
    assert jsons(Images(str(root), listed, json_dirs=["jsons", str(details)])) == result


def test_json_files_may_be_beside_the_images(root: Path) -> None:
    write_tree(root, "sub dir/x/c.json")
    assert jsons(Images(str(root), json_dirs=["."]))["sub%20dir/x/c"] == [[f"{root}/sub dir/x/c.json", None, None]]


def test_relative_json_dirs_are_below_the_root_or_else_below_the_current_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "jsons", "b.json")
    assert jsons(Images("images", json_dirs=["jsons"]))["b"] == [[f"{tmp_path}/jsons/b.json", None, None]]
    write_tree(root / "jsons", "b.json")
    assert jsons(Images("images", json_dirs=["jsons"]))["b"] == [[f"{root}/jsons/b.json", None, None]]


def test_a_folder_of_json_files_that_is_missing_fails(root: Path) -> None:
    with pytest.raises(CorpusError, match=r"--data\.json_dirs nowhere is missing, both below .*images and here"):
        Images(str(root), json_dirs=["nowhere"])


def test_listing_scans_each_folder_once_and_opens_no_image(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jsons").mkdir()
    write_tree(root, *(f"{number}.jpg" for number in range(50)))
    corpus = Images(str(root), json_dirs=[str(tmp_path / "jsons")])
    scanned: list[str] = []
    for name in ("scandir", "listdir", "stat"):
        spy = spied(getattr(os, name), lambda path, *_, **__: scanned.append(str(path)))
        monkeypatch.setattr(os, name, spy)
    monkeypatch.setattr("builtins.open", None)
    assert len(jsons(corpus)) == 54
    assert len(scanned) < 12
    assert not [path for path in scanned if path.endswith((".jpg", ".json"))]


def test_options_that_change_the_listing_and_the_hash_of_the_list_are_public(root: Path, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list", "b.jpg")
    (tmp_path / "jsons").mkdir()
    one = vars(Images(str(root), listed, json_dirs=[str(tmp_path / "jsons")], split="dev", max_items=3))
    assert {name: one[name] for name in ("root", "json_dirs", "split", "max_items")} == {
        "root": str(root), "json_dirs": ["../jsons"], "split": "dev", "max_items": 3
    }  # fmt: skip
    write_list(tmp_path / "list", "sub dir/x/c.gif")
    assert vars(Images(str(root), listed))["image_list_sha256"] != one["image_list_sha256"]


def test_a_root_without_images_fails_and_names_the_extensions_and_what_was_skipped(tmp_path: Path) -> None:
    write_tree(tmp_path, "a.txt", "b.TXT", "noext", ".hidden/c.jpg", "._d.jpg", "._e.jpg")
    with pytest.raises(
        CorpusError,
        match=r"--data\.root .* has no images, which are files with the extensions \.avif, \.bmp, .* \.webp; skipped: "
        r"3 files with other extensions \(\.txt 2, none 1\), 2 hidden files, 1 hidden folder",
    ):
        keys(Images(str(tmp_path)))


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("sub dir/notes.txt", "sub%20dir/notes", r"sub dir/notes\.txt does not have the extension of an image: \.avif"),
        ("../x.jpg", "%line-2", "no key can be made"),
        ("a\0.jpg", "a%00", "null (byte|character)"),
        ("a" * 252 + ".jpg", None, "cannot be read: File name too long"),
    ],
)
def test_a_listed_image_with_an_impossible_path_fails_alone(
    root: Path, tmp_path: Path, line: str, key: str | None, message: str
) -> None:
    write_tree(tmp_path, "x.jpg")
    before, bad, after = Images(str(root), write_list(tmp_path / "list", "b.jpg", line, "a.v1.PNG")).items()
    assert (before.problem, after.problem) == (None, None)
    assert (bad.key, bad.path) == (key or bad.key, line)
    assert re.search(rf"list, line 2: .*{message}", bad.problem or "")


def test_a_listed_image_that_is_missing_is_an_item_that_fails_when_read(root: Path, tmp_path: Path) -> None:
    missing, existing = Images(str(root), write_list(tmp_path / "list", "nowhere.jpg", "b.jpg")).items()
    assert (missing.key, missing.cost, missing.modified, missing.problem) == ("nowhere", 0, None, None)
    assert existing.modified is not None
    with pytest.raises(
        CorpusError, match=r"none of the 1 files of .*list is in --data\.root .*: is it the right folder"
    ):
        keys(Images(str(root), write_list(tmp_path / "list", "nowhere.jpg")))


def test_an_image_that_is_listed_twice_is_refused_with_its_path(root: Path, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list", "sub dir/x/c.gif", "b.jpg", f"{root}/sub dir/x/c.gif")
    with pytest.raises(CorpusError, match=r"'sub dir/x/c\.gif' and 'sub dir/x/c\.gif'"):
        write_plan(Images(str(root), listed).items(), Folder(tmp_path / "run"), {}, ShardSize())


def test_a_missing_list_or_root_fails(root: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"--data\.image_list .*nowhere cannot be read"):
        Images(str(root), image_list=str(tmp_path / "nowhere"))
    with pytest.raises(CorpusError, match="nowhere is not a folder"):
        Images(str(tmp_path / "nowhere")).items()


def test_a_listed_name_that_is_not_utf8_is_listed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes("b.jpg\nü.jpg".encode("latin-1"))
    assert keys(Images(str(root), image_list=str(tmp_path / "list"))) == ["b", "%FC"]
