"""Exports of poses in four formats, as the libraries of these formats read them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.corpora.images import Images
from datamodules.errors import ConfigError, RunError
from datamodules.samples.skeleton import pose_map
from preprocess.cli import main
from preprocess.export.format import export
from support.caption_runs import caption_items
from support.clip_runs import ClipItems, make_clip_run
from support.image_files import image_bytes, write_tree
from support.pose_runs import made_pose, make_pose_run

ITEMS = [
    *caption_items("a.png", "sub dir/ü 1.v2.jpg", "nobody.png"),
    *caption_items("sub dir/c.webp", "d.PNG", split="dev"),
]
PEOPLE = (1, 3, 0, 2, 1)
FORMATS = ("openpose-txt", "openpose-json", "coco-keypoints", "controlnet")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_pose_run(tmp_path / "run", ITEMS, PEOPLE, failed=("d",))
    return tmp_path / "run"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_texts_have_18_lines_each_in_a_tree_that_mirrors_the_images(run: Path, tmp_path: Path) -> None:
    assert export(run, "openpose-txt", tmp_path / "out") == [tmp_path / "out"]
    assert files(tmp_path / "out") == [
        "a.txt", "nobody.txt", "openpose-statistics.json", "sub dir/c.txt", "sub dir/ü 1.v2.txt"
    ]  # fmt: skip
    for item, number in ((ITEMS[0], 1), (ITEMS[1], 3), (ITEMS[3], 2)):
        image = Path(item.meta["image"])
        lines = (tmp_path / "out" / image.with_suffix(".txt")).read_text().splitlines()
        assert len(lines) == 18
        assert lines[10] == "-1 -1"
        result = np.array([list(map(float, line.split(" "))) for line in lines])
        expected = made_pose(item, number).keypoints[0, :, :2]
        np.testing.assert_allclose(np.delete(result, 10, 0), np.delete(expected, 10, 0), atol=0.0051)
    assert (tmp_path / "out" / "nobody.txt").read_text() == "-1 -1\n" * 18
    statistics = json.loads((tmp_path / "out" / "openpose-statistics.json").read_text())
    assert [statistics["dev"][name] for name in ("planned", "committed", "failed")] == [2, 1, 1]


def test_texts_of_everybody_in_the_original_with_another_value_for_what_is_missing(run: Path, tmp_path: Path) -> None:
    options = ["--coordinates", "original", "--people", "all", "--missing", "-5"]
    assert main(["export", str(run), "--format", "openpose-txt", "--dest", str(tmp_path / "out"), *options]) == 0
    lines = (tmp_path / "out" / "sub dir" / "ü 1.v2.txt").read_text().splitlines()
    assert len(lines) == 3 * 18
    assert lines[10] == lines[28] == "-5 -5"
    x, y = made_pose(ITEMS[1], 3).keypoints[1, 0, :2]
    assert lines[18] == f"{(x + 0.5) * 1.5 - 0.5:.2f} {y:.2f}"
    assert (tmp_path / "out" / "nobody.txt").read_text() == ""


def test_openposes_json_has_54_numbers_a_person_and_no_people_where_nobody_is(run: Path, tmp_path: Path) -> None:
    export(run, "openpose-json", tmp_path / "out")
    assert "sub dir/ü 1.v2_keypoints.json" in files(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "sub dir" / "ü 1.v2_keypoints.json").read_text())
    assert (document["version"], len(document["people"])) == (1.3, 3)
    for person, keypoints in zip(document["people"], made_pose(ITEMS[1], 3).keypoints, strict=True):
        np.testing.assert_allclose(person["pose_keypoints_2d"], keypoints.ravel(), atol=1e-3)
        assert person["person_id"] == [-1]
        assert person["hand_left_keypoints_2d"] == []
    nobody = json.loads((tmp_path / "out" / "nobody_keypoints.json").read_text())
    size = made_pose(ITEMS[2], 0).size()
    assert nobody == {"version": 1.3, "people": [], "canvas_width": size[1], "canvas_height": size[0]}
    export(run, "openpose-json", tmp_path / "original", coordinates="original")
    of_original = json.loads((tmp_path / "original" / "a_keypoints.json").read_text())
    meta = made_pose(ITEMS[0]).meta
    assert (of_original["canvas_width"], of_original["canvas_height"]) == (
        meta["original_width"], meta["original_height"]
    )  # fmt: skip
    original = of_original["people"][0]["pose_keypoints_2d"]
    assert original[0] == pytest.approx((made_pose(ITEMS[0]).keypoints[0, 0, 0] + 0.5) * 1.5 - 0.5, abs=1e-3)


@pytest.mark.parametrize("coordinates", ["original", "processed"])
def test_pycocotools_loads_and_evaluates_people(coordinates: str, run: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    export(run, "coco-keypoints", tmp_path / "out", coordinates=coordinates)
    truth = COCO(str(tmp_path / "out" / "train.json"))
    assert [image["file_name"] for image in truth.loadImgs(truth.getImgIds())] == [
        "a.png", "sub dir/ü 1.v2.jpg", "nobody.png"
    ]  # fmt: skip
    sizes = {(image["width"], image["height"]) for image in truth.imgs.values()}
    assert sizes == {(96, 64) if coordinates == "original" else (64, 64)}
    assert [len(truth.imgToAnns[number]) for number in (1, 2, 3)] == [1, 3, 0]
    annotation = truth.imgToAnns[1][0]
    assert annotation["num_keypoints"] == 16
    assert annotation["keypoints"][48:] == [0, 0, 0]
    assert truth.cats[1]["keypoints"][16] == "right_ankle"
    result = truth.loadRes(str(tmp_path / "out" / "train_results.json"))
    evaluation = COCOeval(truth, result, "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    dev = json.loads((tmp_path / "out" / "dev.json").read_text())
    assert [image["id"] for image in dev["images"]] == [4]
    assert [each["id"] for each in dev["annotations"]] == [5, 6]
    assert files(tmp_path / "out") == [
        f"{split}{end}.json" for split in ("dev", "train") for end in ("", "_results", "_statistics")
    ]


def test_images_have_the_numbers_of_their_names_if_asked_for(tmp_path: Path) -> None:
    make_pose_run(tmp_path / "run", caption_items("val/000000000139.jpg", "val/000000000285.jpg"), (1, 0))
    options = ["--image_ids", "name"]
    command = ["export", str(tmp_path / "run"), "--format", "coco-keypoints", "--dest", str(tmp_path / "out"), *options]
    assert main(command) == 0
    written = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [image["id"] for image in written["images"]] == [139, 285]
    assert written["annotations"][0]["image_id"] == 139
    make_pose_run(tmp_path / "same", caption_items("a/1.jpg", "b/1.jpg"), (1, 0))
    with pytest.raises(ConfigError, match="b/1 has the number 1, and another image too"):
        export(tmp_path / "same", "coco-keypoints", tmp_path / "same out", image_ids="name")
    make_pose_run(tmp_path / "none", caption_items("a.jpg"), (1,))
    with pytest.raises(ConfigError, match="a has no number at its name's end: take --image_ids order"):
        export(tmp_path / "none", "coco-keypoints", tmp_path / "none out", image_ids="name")


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`datasets.load_dataset("imagefolder")`, offline, with a cache of its own."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets

    datasets.disable_progress_bars()
    return lambda folder: datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("coordinates", ["processed", "original"])
def test_datasets_loads_images_pose_maps_and_captions(coordinates: Any, run: Path, tmp_path: Path, load: Any) -> None:
    written = export(run, "controlnet", tmp_path / "out", coordinates=coordinates)
    assert written == [tmp_path / "out" / split / "metadata.jsonl" for split in ("train", "dev")]
    loaded = load(tmp_path / "out")
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 3, "validation": 1}
    assert set(loaded["train"].column_names) == {"image", "conditioning_image", "text"}
    rows = {row["text"]: row for part in loaded.values() for row in part}
    for item, number in zip(ITEMS[:4], PEOPLE, strict=False):
        row, sample = rows[f"a <dancer> in {item.key}"], made_pose(item, number)
        size = sample.size(coordinates)
        assert row["image"].size == row["conditioning_image"].size == size[::-1]
        expected = pose_map(sample.keypoints_in(coordinates), size)
        np.testing.assert_array_equal(np.asarray(row["conditioning_image"].convert("RGB")), expected)
        assert abs(int(np.asarray(row["image"].convert("RGB")).mean().round()) - 100) <= 1
    assert not np.asarray(rows["a <dancer> in nobody"]["conditioning_image"]).any()


def test_images_as_they_were_are_the_same_bytes(run: Path, tmp_path: Path) -> None:
    export(run, "controlnet", tmp_path / "out", coordinates="original")
    assert (tmp_path / "out/train/images/sub dir%2Fü 1.v2.jpg").read_bytes() == image_bytes(100, "jpg", (96, 64))
    with Image.open(tmp_path / "out/dev/conditioning_images/sub dir%2Fc.png") as drawn:
        assert drawn.size == (96, 64)


def test_folders_that_are_named_like_splits_are_not_splits(tmp_path: Path, load: Any) -> None:
    make_pose_run(tmp_path / "run", caption_items("test/a.png", "val/b%2F.png", "c.png"), (1, 1, 1))
    export(tmp_path / "run", "controlnet", tmp_path / "out")
    assert {name: len(rows) for name, rows in load(tmp_path / "out").items()} == {"train": 3}


def test_splits_that_datasets_does_not_tell_apart_fail(tmp_path: Path) -> None:
    first, second = caption_items("a.png", "b.png")
    items = [replace(first, split="dev"), replace(second, split="val")]
    make_pose_run(tmp_path / "run", items, (1, 1))
    with pytest.raises(ConfigError, match=r"cannot tell the splits dev, val apart: it knows train, validation"):
        export(tmp_path / "run", "controlnet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_of_one_split_of_any_name_loads_whole(tmp_path: Path, load: Any) -> None:
    make_pose_run(tmp_path / "run", caption_items("a.jpg", "crash-test-3.jpg", "b.jpg", split="all"), (1, 1, 1))
    written = export(tmp_path / "run", "controlnet", tmp_path / "out")
    assert written == [tmp_path / "out" / "train" / "metadata.jsonl"]
    loaded = load(tmp_path / "out")
    assert sorted(loaded["train"]["text"]) == ["a <dancer> in a", "a <dancer> in b", "a <dancer> in crash-test-3"]
    assert list(loaded) == ["train"]


def test_a_missing_caption_is_an_empty_text(tmp_path: Path) -> None:
    make_pose_run(tmp_path / "run", ITEMS[:1], (1,), caption=None)
    export(tmp_path / "run", "controlnet", tmp_path / "out")
    assert json.loads((tmp_path / "out/train/metadata.jsonl").read_text())["text"] == ""


def test_runs_without_images_and_avif_as_it_was_fail(tmp_path: Path) -> None:
    make_pose_run(tmp_path / "run", ITEMS, PEOPLE, store_images=False)
    with pytest.raises(ConfigError, match=r"a has no image, .*: run the pipeline with --model\.store_images jpg"):
        export(tmp_path / "run", "controlnet", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    make_pose_run(tmp_path / "avif", caption_items("b.avif"), (1,))
    with pytest.raises(ConfigError, match=r"would leave out b\.avif .*: take --coordinates processed"):
        export(tmp_path / "avif", "controlnet", tmp_path / "out", coordinates="original")
    export(tmp_path / "avif", "controlnet", tmp_path / "out")
    assert (tmp_path / "out/train/images/b.png").is_file()


def test_images_that_differ_only_by_ending_have_a_file_each(tmp_path: Path) -> None:
    corpus = Images(str(write_tree(tmp_path / "images", "a.jpg", "a.png", "b.png")))
    make_pose_run(tmp_path / "run", corpus.items(), (1, 2, 0))
    for name_of, ending in (("openpose-txt", ".txt"), ("openpose-json", "_keypoints.json")):
        export(tmp_path / "run", name_of, tmp_path / name_of)
        names = [name for name in files(tmp_path / name_of) if "statistics" not in name]
        assert names == [f"a.jpg{ending}", f"a.png{ending}", f"b{ending}"]
    export(tmp_path / "run", "controlnet", tmp_path / "out")
    assert len([name for name in files(tmp_path / "out") if name.endswith(".png")]) == 6


@pytest.mark.parametrize("format", FORMATS)
def test_samples_of_another_kind_fail(format: str, tmp_path: Path) -> None:
    make_clip_run(tmp_path / "run", ClipItems({"train": 1}))
    with pytest.raises(RunError, match=rf"holds ClipSamples, but --format {format} needs PoseSamples"):
        export(tmp_path / "run", format, tmp_path / "out")


@pytest.mark.parametrize("image", ["../x.jpg", "/tmp/x.jpg", None])
@pytest.mark.parametrize("format", FORMATS)
def test_an_image_that_leads_out_of_the_folder_is_refused(format: str, image: Any, tmp_path: Path) -> None:
    make_pose_run(tmp_path / "run", caption_items("a.jpg"), (1,), image=image)
    with pytest.raises(RunError, match="which is no path below a folder"):
        export(tmp_path / "run", format, tmp_path / "deep" / "out")
    assert not [path for path in (tmp_path / "deep").rglob("*") if path.is_file()]


def test_options_that_no_command_has_still_fail(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["view", "O", "--missing", "0"])
    assert "unrecognized arguments: --missing 0" in capsys.readouterr().err
