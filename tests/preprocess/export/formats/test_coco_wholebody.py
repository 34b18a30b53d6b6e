"""Whole bodies in COCO-WholeBody's JSON, as pycocotools evaluates them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.errors import ConfigError
from datamodules.samples.wholebody import PARTS, SIGMAS
from preprocess.cli import main
from preprocess.export.format import export
from support.caption_runs import caption_items
from support.pose_runs import made_pose, make_pose_run

ITEMS = caption_items("a.png", "nobody.png", "sub/b.jpg")
PEOPLE = (1, 0, 2)
FIELDS = {
    "body": "keypoints", "foot": "foot_kpts", "face": "face_kpts", "lefthand": "lefthand_kpts",
    "righthand": "righthand_kpts",
}  # fmt: skip
_MEAN_OKS = 0.72  # at least 0.5, 0.55, 0.6, 0.65 and 0.7: half of COCO's thresholds


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    make_pose_run(folder / "run", ITEMS, PEOPLE, wholebody=True)
    command = ["export", str(folder / "run"), "--format", "coco-wholebody", "--dest", str(folder / "out")]
    assert main(command) == 0
    return folder / "out"


def test_annotations_have_the_published_fields(written: Path) -> None:
    dataset = json.loads((written / "train.json").read_text())
    assert [image["file_name"] for image in dataset["images"]] == ["a.png", "nobody.png", "sub/b.jpg"]
    assert [annotation["image_id"] for annotation in dataset["annotations"]] == [1, 3, 3]
    annotation = dataset["annotations"][0]
    assert {name: len(annotation[field]) // 3 for name, field in FIELDS.items()} == {
        "body": 17, "foot": 6, "face": 68, "lefthand": 21, "righthand": 21
    }  # fmt: skip
    assert [annotation[f"{part}_valid"] for part in FIELDS if part != "body"] == [True] * 4
    expected = made_pose(ITEMS[0], 1, wholebody=True).wholebody_in("original")
    assert expected is not None
    points = np.concatenate([annotation[field] for field in FIELDS.values()]).reshape(-1, 3)
    np.testing.assert_allclose(points[:, :2], expected[0, :, :2], atol=1e-3)
    assert set(points[:, 2]) == {2}
    low, high = (of(np.array(annotation["face_kpts"]).reshape(-1, 3)[:, :2], axis=0) for of in (np.min, np.max))
    np.testing.assert_allclose(annotation["face_box"], [*low, *(high - low)], atol=1e-3)
    _, y, width, height = annotation["bbox"]
    assert points[:, 1].max() == pytest.approx(y + height)
    assert annotation["area"] == pytest.approx(width * height, abs=1e-2)
    results = json.loads((written / "train_results.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "score", *FIELDS.values()}


def test_parts_without_points_are_not_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import pose_runs

    def without_left_hand(*arguments: Any) -> NDArray[np.float32]:
        person = whole(*arguments)
        person[PARTS["lefthand"]] = 0
        return person

    whole = pose_runs.standing_wholebody
    monkeypatch.setattr(pose_runs, "standing_wholebody", without_left_hand)
    make_pose_run(tmp_path / "run", ITEMS[:1], (1,), wholebody=True)
    export(tmp_path / "run", "coco-wholebody", tmp_path / "out")
    (annotation,) = json.loads((tmp_path / "out" / "train.json").read_text())["annotations"]
    assert annotation["lefthand_kpts"] == [0] * 63
    assert (annotation["lefthand_box"], annotation["lefthand_valid"]) == ([0] * 4, False)
    assert annotation["righthand_valid"]


def evaluated(dataset: dict[str, Any], results: list[dict[str, Any]], sigmas: Any) -> float:
    """Return the average precision of keypoints."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = dataset
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("part", [*FIELDS, "wholebody"])
def test_pycocotools_evaluates_each_part_with_the_published_sigmas(part: str, written: Path) -> None:
    fields = list(FIELDS.values()) if part == "wholebody" else [FIELDS[part]]
    sigmas = np.array(SIGMAS if part == "wholebody" else SIGMAS[PARTS[part]])
    dataset, results = (json.loads((written / f"{name}.json").read_text()) for name in ("train", "train_results"))
    for person in (*dataset["annotations"], *results):
        person["keypoints"] = [value for field in fields for value in person[field]]
    for annotation in dataset["annotations"]:
        annotation["num_keypoints"] = len(sigmas)
    assert evaluated(dataset, results, sigmas) == pytest.approx(1)
    # moved as far as makes the similarity of each point 0.72
    for result, annotation in zip(results, dataset["annotations"], strict=True):
        far = 2 * sigmas * np.sqrt(-2 * annotation["area"] * np.log(_MEAN_OKS))
        points = np.array(result["keypoints"]).reshape(-1, 3)
        points[:, 0] += far
        result["keypoints"] = points.ravel().tolist()
    assert evaluated(dataset, results, sigmas) == pytest.approx(0.5)


def test_runs_of_18_joints_are_refused(tmp_path: Path) -> None:
    make_pose_run(tmp_path / "run", ITEMS, PEOPLE)
    with pytest.raises(
        ConfigError, match=r"a has 18 joints of each person, .*: run pose_dwpose, or take --format coco-"
    ):
        export(tmp_path / "run", "coco-wholebody", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
