"""The imagefolder export, as Hugging Face's `load_dataset` reads it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.errors import ConfigError
from datamodules.media.suffixes import IMAGE_SUFFIXES, UNKNOWN_TO_DATASETS
from preprocess.export.format import export
from preprocess.export.image_tree import stored_path
from support.caption_runs import caption_items, make_caption_run
from support.image_files import image_bytes

ITEMS = [
    *caption_items("a.png", "sub dir/ü 1.v2.png", "sub dir/[b]#1.jpg"),
    *caption_items("sub dir/c.webp", "d.PNG", split="dev"),
]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`datasets.load_dataset("imagefolder")`, offline, with a cache of its own."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets

    datasets.disable_progress_bars()
    return lambda folder: datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))


def test_datasets_loads_each_image_with_its_caption_by_split(tmp_path: Path, load: Any) -> None:
    make_caption_run(tmp_path / "run", [*ITEMS, *caption_items("e.jpg", split="dev")], failed=("e",))
    written = export(tmp_path / "run", "imagefolder", tmp_path / "out")
    assert written == [tmp_path / "out" / split / "metadata.jsonl" for split in ("train", "dev")]
    loaded = load(tmp_path / "out")
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 3, "validation": 2}
    for rows, numbers in ((loaded["train"], (0, 1, 2)), (loaded["validation"], (3, 4))):
        by_text = {row["text"]: row for row in rows}
        assert set(by_text) == {f"a cow, <i>{number}</i> & Kühe" for number in numbers}
        for number in numbers:
            row = by_text[f"a cow, <i>{number}</i> & Kühe"]
            assert row["status"] == "ok"
            assert abs(int(np.asarray(row["image"].convert("RGB")).mean().round()) - 10 * number) <= 1


@pytest.mark.parametrize(
    ("key", "image", "ending", "path"),
    [
        ("sub/a", "sub/a.JPG", "jpg", "sub/a.JPG"),
        ("sub/a", "sub/a.png", "jpg", "sub/a.jpg"),
        ("sub/a%2Epng", "sub/a.png", "jpg", "sub/a.png.jpg"),  # beside sub/a.jpg
    ],
)
def test_an_image_has_the_extension_of_the_format_that_is_stored(key: str, image: str, ending: str, path: str) -> None:
    assert str(stored_path(key, {"image": image}, ending)) == path


def test_folders_that_are_named_like_splits_are_not_splits(tmp_path: Path, load: Any) -> None:
    make_caption_run(tmp_path / "run", caption_items("test/a.png", "val/b.png", "c.png"))
    export(tmp_path / "run", "imagefolder", tmp_path / "out")
    assert {name: len(rows) for name, rows in load(tmp_path / "out").items()} == {"train": 3}


def test_names_too_long_for_a_file_are_cut_and_differ_by_their_hashes(tmp_path: Path, load: Any) -> None:
    deep = "ten bytes " + "/".join(["a folder with quite a long nümé"] * 7)  # the cut is in the middle of an ü
    images = [f"{deep}/a.png", f"{deep}/b.jpg", "x" * 33 + f"/{'x' * 200}.png", "y" * 34 + f"/{'y' * 200}.png"]
    make_caption_run(tmp_path / "run", caption_items(*images))
    export(tmp_path / "run", "imagefolder", tmp_path / "out")
    (rows,) = load(tmp_path / "out").values()
    assert sorted(rows["text"]) == [f"a cow, <i>{number}</i> & Kühe" for number in range(4)]
    lines = [json.loads(line) for line in (tmp_path / "out/train/metadata.jsonl").read_text("utf-8").splitlines()]
    names = [line["file_name"] for line in lines]
    encoded = [image.replace("/", "%2F").encode() for image in images]
    assert names[2].encode() == encoded[2]
    assert len(encoded[2]) == 240
    for number, num_bytes in ((0, 239), (1, 239), (3, 240)):
        begin, _, ending = names[number].rpartition("-")
        assert ending == hashlib.sha256(encoded[number]).hexdigest()[:16] + images[number][-4:]
        assert encoded[number].startswith(begin.encode())
        assert len(names[number].encode()) == num_bytes


def test_splits_that_datasets_does_not_tell_apart_fail(tmp_path: Path) -> None:
    items = [*caption_items("a.png"), *caption_items("b.png", split="alice")]
    make_caption_run(tmp_path / "run", items)
    with pytest.raises(ConfigError, match=r"cannot tell the splits train, alice apart: it knows train, validation"):
        export(tmp_path / "run", "imagefolder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("split", "folder", "loaded_as"),
    [
        ("all", "train", "train"),
        ("train_val", "train", "train"),
        ("Val", "train", "train"),
        ("val2017", "val2017", "validation"),
    ],
)
def test_a_run_of_one_split_of_any_name_loads_whole_whatever_its_images_are_called(
    split: str, folder: str, loaded_as: str, tmp_path: Path, load: Any
) -> None:
    make_caption_run(tmp_path / "run", caption_items("a.png", "x/b.png", "crash-test-3.jpg", split=split))
    assert export(tmp_path / "run", "imagefolder", tmp_path / "out") == [tmp_path / "out" / folder / "metadata.jsonl"]
    [(name, rows)] = load(tmp_path / "out").items()
    assert name == loaded_as
    assert sorted(row["text"] for row in rows) == [f"a cow, <i>{number}</i> & Kühe" for number in range(3)]
    assert list(json.loads((tmp_path / "out" / "statistics.json").read_text())) == [split]


def test_splits_with_a_year_in_their_names_are_distinguished(tmp_path: Path, load: Any) -> None:
    items = [*caption_items("a.png", split="train2017"), *caption_items("b.png", split="val2017")]
    make_caption_run(tmp_path / "run", items)
    export(tmp_path / "run", "imagefolder", tmp_path / "out")
    texts = {name: rows["text"] for name, rows in load(tmp_path / "out").items()}
    assert texts == {"train": ["a cow, <i>0</i> & Kühe"], "validation": ["a cow, <i>1</i> & Kühe"]}


def test_the_images_are_the_files_as_they_were_named_by_their_paths(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", ITEMS)
    export(tmp_path / "run", "imagefolder", tmp_path / "out")
    assert (tmp_path / "out/train/sub dir%2F[b]#1.jpg").read_bytes() == image_bytes(20, "jpg")
    with Image.open(tmp_path / "out/dev/sub dir%2Fc.webp") as image:
        assert image.format == "WEBP"
    lines = [json.loads(line) for line in (tmp_path / "out/dev/metadata.jsonl").read_text("utf-8").splitlines()]
    assert lines == [
        {"file_name": "sub dir%2Fc.webp", "text": "a cow, <i>3</i> & Kühe", "status": "ok"},
        {"file_name": "d.PNG", "text": "a cow, <i>4</i> & Kühe", "status": "ok"},
    ]
    statistics = json.loads((tmp_path / "out/statistics.json").read_text())
    assert {split: of["committed"] for split, of in statistics.items()} == {"train": 3, "dev": 2}


def test_a_run_without_images_fails_says_what_to_do_and_leaves_nothing(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", ITEMS, store_images=False)
    with pytest.raises(ConfigError, match=r"a has no image, .*: run the pipeline with --model\.store_images jpg"):
        export(tmp_path / "run", "imagefolder", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_avif_which_datasets_leaves_out_without_a_word_fails(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", caption_items("a.png", "b.avif"))
    with pytest.raises(ConfigError, match=r"Hugging Face's imagefolder would leave out .*b\.avif.*captions-json"):
        export(tmp_path / "run", "imagefolder", tmp_path / "out")


@pytest.mark.parametrize("ending", sorted(IMAGE_SUFFIXES - UNKNOWN_TO_DATASETS))
def test_datasets_takes_all_other_endings(ending: str) -> None:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    assert ending in ImageFolder.EXTENSIONS
