"""The captions-json export: one JSON file per image, in a tree that mirrors the images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.images import Images
from datamodules.errors import ConfigError, RunError
from preprocess.export.format import export
from support.caption_runs import REASON, caption_items, make_caption_run
from support.clip_runs import ClipItems, make_clip_run
from support.image_files import write_tree

ITEMS = [*caption_items("a.jpg", "sub dir/ü 1.v2.png"), *caption_items("sub dir/c.webp", split="dev")]


def tree(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("*") if path.is_file()}


def test_each_image_has_its_json_in_a_tree_that_mirrors_the_images(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", ITEMS, failed=("sub%20dir/c",))
    assert export(tmp_path / "run", "captions-json", tmp_path / "out") == [tmp_path / "out"]
    result = tree(tmp_path / "out")
    statistics = result.pop("captions-statistics.json")
    told = {"model": "made/cow-1B", "prompt": "Describe the <b>Kühe</b>.", "status": "ok"}
    nothing = {"caption": None, "model": None, "prompt": None, "status": "failed", "reason": REASON}
    assert result == {
        "a.json": {"image": "a.jpg", "caption": "a cow, <i>0</i> & Kühe", **told},
        "sub dir/ü 1.v2.json": {"image": "sub dir/ü 1.v2.png", "caption": "a cow, <i>1</i> & Kühe", **told},
        "sub dir/c.json": {"image": "sub dir/c.webp", **nothing},
    }
    counted = {split: [of[name] for name in ("planned", "committed", "failed")] for split, of in statistics.items()}
    assert counted == {"train": [2, 2, 0], "dev": [1, 0, 1]}
    assert "Kühe" in (tmp_path / "out" / "a.json").read_text("utf-8")


def test_entities_are_kept_if_there_are_any(tmp_path: Path) -> None:
    entities = [{"text": "a cow", "begin": 0, "end": 5, "boxes": [[0.1, 0.2, 0.5, 0.9]]}]
    make_caption_run(tmp_path / "run", ITEMS[:1], entities=entities)
    export(tmp_path / "run", "captions-json", tmp_path / "out")
    assert tree(tmp_path / "out")["a.json"]["entities"] == entities


def test_images_of_one_stem_have_a_file_each(tmp_path: Path) -> None:
    names = ("a.jpg", "a.png", "a.jpg.gif", "b.jpg.jpg", "sub/a.jpg")
    corpus = Images(str(write_tree(tmp_path / "images", *names)))
    make_caption_run(tmp_path / "run", corpus.items(), store_images=False)
    export(tmp_path / "run", "captions-json", tmp_path / "out")
    result = {path: document.get("image") for path, document in tree(tmp_path / "out").items()}
    del result["captions-statistics.json"]
    assert result == {
        "a.jpg.json": "a.jpg", "a.png.json": "a.png", "a.jpg.gif.json": "a.jpg.gif", "b.jpg.json": "b.jpg.jpg",
        "sub/a.json": "sub/a.jpg",
    }  # fmt: skip


@pytest.mark.parametrize("format", ["captions-json", "imagefolder"])
@pytest.mark.parametrize(
    "image", ["../x.jpg", "/tmp/x.jpg", "sub/../../x.jpg", "sub/../x.jpg", "", "..", "a\0.jpg", None]
)
def test_an_image_that_leads_out_of_the_folder_is_refused_and_nothing_is_left(
    tmp_path: Path, format: str, image: str
) -> None:
    make_caption_run(tmp_path / "run", caption_items("a.jpg"), image=image)
    with pytest.raises(RunError, match=r"a has the image .*, which is no path below a folder"):
        export(tmp_path / "run", format, tmp_path / "deep" / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "deep"}
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("format", ["captions-json", "imagefolder"])
def test_a_name_that_two_images_share_is_written_once_and_refused(tmp_path: Path, format: str) -> None:
    make_caption_run(tmp_path / "run", caption_items("a.jpg", "b.jpg"), image="sub/a.jpg")
    with pytest.raises(RunError, match=r"b would be written to sub(/|%2F)a\.(json|jpg), which another item has"):
        export(tmp_path / "run", format, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_named_like_a_folder_is_refused(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", caption_items("a.jpg", "a.json/b.jpg"))
    with pytest.raises(RunError, match=r"a%2Ejson/b would be written to a\.json/b\.json, which another item has"):
        export(tmp_path / "run", "captions-json", tmp_path / "out")


def test_a_failure_without_an_image_is_refused(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", [replace(ITEMS[0], meta={})], failed=("a",))
    with pytest.raises(RunError, match="a has the image None"):
        export(tmp_path / "run", "captions-json", tmp_path / "out")


def test_a_folder_with_something_in_it_fails(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", ITEMS)
    write_tree(tmp_path / "out", "a.json")
    with pytest.raises(ConfigError, match="exists, and is not replaced"):
        export(tmp_path / "run", "captions-json", tmp_path / "out")


@pytest.mark.parametrize("format", ["captions-json", "imagefolder"])
def test_samples_of_another_kind_fail(tmp_path: Path, format: str) -> None:
    make_clip_run(tmp_path / "run", ClipItems({"train": 1}))
    with pytest.raises(RunError, match=rf"holds ClipSamples, but --format {format} needs CaptionSamples"):
        export(tmp_path / "run", format, tmp_path / "out")
