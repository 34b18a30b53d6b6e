"""The example of an export format: YOLO-pose, without any file of Framemill being edited."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules.corpus import Item
from examples.extending import yolo_pose
from preprocess.cli import main
from support.pose_runs import make_pose_run
from support.run_paths import folder_of

ITEMS = [
    Item("train/a", "train", "train", ("a.png",), cost=1, meta={"image": "train/a.png"}),
    Item("train/b", "train", "train", ("b.jpg",), cost=1, meta={"image": "train/b.jpg"}),
    Item("dev/c", "dev", "dev", ("c.png",), cost=1, meta={"image": "dev/c.png"}),
]


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_images_and_labels_are_those_of_the_samples(tmp_path: Path, margin: float) -> None:
    run = make_pose_run(tmp_path / "run", ITEMS, people=[2, 0, 1])
    arguments = ["--format", "examples.extending.yolo_pose", "--dest", str(tmp_path / "yolo"), "--margin", str(margin)]
    assert main(["export", str(folder_of(run)), *arguments]) == 0

    dataset = tmp_path / "yolo"
    document = yaml.safe_load((dataset / "data.yaml").read_text())
    assert (document["train"], document["val"], document["kpt_shape"]) == ("images/train", "images/dev", [17, 3])
    files = sorted(str(path.relative_to(dataset)) for path in dataset.rglob("*.*") if path.name != "data.yaml")
    assert files == [
        *("images/dev/dev%2Fc.png", "images/train/train%2Fa.png", "images/train/train%2Fb.jpg"),
        *("labels/dev/dev%2Fc.txt", "labels/train/train%2Fa.txt", "labels/train/train%2Fb.txt"),
    ]
    assert (dataset / "labels/train/train%2Fb.txt").read_text() == ""  # nobody
    with Image.open(dataset / "images/train/train%2Fa.png") as image:
        assert image.size == (96, 64)
    rows = np.loadtxt(dataset / "labels/train/train%2Fa.txt")
    assert rows.shape == (2, 5 + 17 * 3)
    # the first person stands at x = 16 px of 64 in the processed image, which is 24 px of 96 in the original
    joints = rows[0, 5:].reshape(17, 3)
    nose = (24 + 0.5 * 96 / 64) / 96, (2 + 0.08 * 58 + 0.5) / 64
    np.testing.assert_allclose(joints[0], (*nose, 2), atol=1e-5)
    np.testing.assert_array_equal(joints[16], 0)  # the right ankle is missing
    # the second person's box, with its margin, is within the image
    joints = rows[1, 5:].reshape(17, 3)
    low, high = joints[joints[:, 2] > 0, :2].min(0), joints[joints[:, 2] > 0, :2].max(0)
    np.testing.assert_allclose(rows[1, 1:3], (low + high) / 2, atol=1e-5)
    np.testing.assert_allclose(rows[1, 3:5], (1 + 2 * margin) * (high - low), atol=1e-5)


def test_a_run_without_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_pose_run(tmp_path / "run", ITEMS, people=[1, 1, 1], store_images=False)
    arguments = ["--format", "examples.extending.yolo_pose", "--dest", str(tmp_path / "yolo")]
    assert main(["export", str(folder_of(run)), *arguments]) == 2
    assert "train/a has no image. Run the pipeline with --model.store_images jpg" in capsys.readouterr().err
    assert not (tmp_path / "yolo").exists()


def test_a_mirrored_image_has_left_for_right() -> None:
    assert [yolo_pose.MIRRORED[joint] for joint in yolo_pose.MIRRORED] == list(range(17))
