"""The yolo-pose export, as Ultralytics publishes the format: https://docs.ultralytics.com/datasets/pose.

Ultralytics itself is not installed with the tests, because it needs another OpenCV than mediapipe does.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.corpus import Item
from datamodules.errors import ConfigError
from datamodules.samples.pose import PoseSample, PoseSamples
from preprocess.cli import main
from preprocess.export.format import export
from support.caption_runs import caption_items
from support.pose_runs import make_pose_run
from support.run_paths import folder_of

ITEMS = [*caption_items("sub/a.png", "sub/b.v2.jpg"), *caption_items("c.png", split="dev")]
COCO_NAMES = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip  # those of coco8-pose.yaml, which Ultralytics publishes
COCO_FLIP = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]  # likewise


def label_of(image: Path) -> Path:
    """Where Ultralytics looks for the labels of an image: its `img2label_paths`."""
    return Path("/labels/".join(str(image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")


def document_of(run: Path, dest: Path) -> Any:
    export(run, "yolo-pose", dest)
    return yaml.safe_load((dest / "data.yaml").read_text())


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_images_and_labels_are_those_of_the_samples(tmp_path: Path, margin: float) -> None:
    run, dataset = make_pose_run(tmp_path / "run", ITEMS, people=[2, 0, 1]), tmp_path / "yolo"
    arguments = ["--format", "yolo-pose", "--dest", str(dataset), "--margin", str(margin)]
    assert main(["export", str(folder_of(run)), *arguments]) == 0

    document = yaml.safe_load((dataset / "data.yaml").read_text())
    assert document == {
        "train": "images/train", "val": "images/dev", "kpt_shape": [17, 3], "flip_idx": COCO_FLIP,
        "names": {0: "person"}, "kpt_names": {0: COCO_NAMES},
    }  # fmt: skip
    images = sorted(path for path in (dataset / "images").rglob("*.*"))
    assert [path.name for path in images] == ["c.png", "sub%2Fa.png", "sub%2Fb.v2.jpg"]
    assert sorted(map(label_of, images)) == sorted((dataset / "labels").rglob("*.*"))
    assert label_of(images[2]).read_text() == ""  # nobody
    with Image.open(images[1]) as image:
        assert image.size == (96, 64)
    rows = np.loadtxt(label_of(images[1]))
    assert rows.shape == (2, 5 + 17 * 3)
    assert ((rows >= 0) & (rows <= 2)).all()
    # the first person stands at x = 16 px of 64 in the processed image, which is 24 px of 96 in the original
    joints = rows[0, 5:].reshape(17, 3)
    nose = (24 + 0.5 * 96 / 64) / 96, (2 + 0.08 * 58 + 0.5) / 64
    np.testing.assert_allclose(joints[0], (*nose, 2), atol=1e-5)
    np.testing.assert_array_equal(joints[COCO_NAMES.index("right_ankle")], 0)  # it is missing
    # the second person's box, with its margin, is within the image
    joints = rows[1, 5:].reshape(17, 3)
    low, high = joints[joints[:, 2] > 0, :2].min(0), joints[joints[:, 2] > 0, :2].max(0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    if not margin:
        low, high = low - 0.5 / np.array([96, 64]), high + 0.5 / np.array([96, 64])  # half a px beyond the centres
    np.testing.assert_allclose(rows[1, 1:3], (low + high) / 2, atol=1e-5)
    np.testing.assert_allclose(rows[1, 3:5], high - low, atol=1e-5)


def test_joints_outside_the_image_are_missing_and_people_outside_have_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_moved(self: PoseSamples, key: str, members: Any) -> PoseSample:
        sample = decode(self, key, members)
        sample.keypoints[0, 0] = (64, 20, 1)  # the nose is right of the last px
        sample.keypoints[0, 15] = (-2, 20, 1)  # an eye is left of the first
        sample.keypoints[1, :, 0] = 400
        return sample

    make_pose_run(tmp_path / "run", ITEMS[:1], people=[2])
    decode = PoseSamples.decode
    monkeypatch.setattr(PoseSamples, "decode", with_moved)
    export(tmp_path / "run", "yolo-pose", tmp_path / "yolo")
    rows = np.loadtxt(tmp_path / "yolo" / "labels" / "train" / "sub%2Fa.txt", ndmin=2)
    assert len(rows) == 1  # Ultralytics skips an image with a coordinate above 1
    joints = rows[0, 5:].reshape(17, 3)
    np.testing.assert_array_equal(joints[:2], 0)
    assert set(joints[:, 2]) == {0, 2}


def test_images_of_one_stem_have_labels_each(tmp_path: Path) -> None:
    items = [
        Item("a%2Ejpg", "train", "", ("a.jpg",), meta={"image": "a.jpg"}),
        Item("a%2Epng", "train", "", ("a.png",), meta={"image": "a.png"}),
    ]
    make_pose_run(tmp_path / "run", items, people=[1, 2])
    export(tmp_path / "run", "yolo-pose", tmp_path / "yolo")
    labels = tmp_path / "yolo" / "labels" / "train"
    assert [len((labels / name).read_text().splitlines()) for name in ("a.jpg.txt", "a.png.txt")] == [1, 2]


def test_a_single_split_is_trained_and_validated_on_with_a_comment(tmp_path: Path) -> None:
    make_pose_run(tmp_path / "run", caption_items("a.png", split="frames"), people=[1])
    document = document_of(tmp_path / "run", tmp_path / "yolo")
    assert (document["train"], document["val"]) == ("images/frames", "images/frames")
    assert "val names the images of train" in (tmp_path / "yolo" / "data.yaml").read_text()


def test_two_splits_for_val_are_refused(tmp_path: Path) -> None:
    items = [*caption_items("a.png"), *caption_items("b.png", split="dev"), *caption_items("c.png", split="val")]
    make_pose_run(tmp_path / "run", items, people=[1, 1, 1])
    with pytest.raises(ConfigError, match="train, dev, val cannot be distinguished: two of them would be `val`"):
        export(tmp_path / "run", "yolo-pose", tmp_path / "yolo")
    assert not (tmp_path / "yolo").exists()


def test_a_run_without_images_and_a_negative_margin_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pose_run(tmp_path / "run", ITEMS, people=[1, 1, 1], store_images=False)
    arguments = ["export", str(tmp_path / "run"), "--format", "yolo-pose", "--dest", str(tmp_path / "yolo")]
    assert main(arguments) == 2
    assert "sub/a has no image, which this format needs: run the pipeline with" in capsys.readouterr().err
    assert main([*arguments, "--margin", "-0.5"]) == 2
    assert "--margin -0.5 must be 0 or more" in capsys.readouterr().err
    assert not (tmp_path / "yolo").exists()
