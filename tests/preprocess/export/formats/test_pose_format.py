"""The pose-format export, as the library pose-format reads and draws it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.errors import ConfigError
from datamodules.samples.keypoint_layouts import HAND_NAMES, LAYOUTS, PARTS, POSE_NAMES
from preprocess.export.format import export
from support.keypoint_runs import PART_SLICES, MadeItems, made_samples, make_run

CORPUS = MadeItems({"train": 3, "dev": 1})
COMPONENTS = ["POSE_LANDMARKS", "FACE_LANDMARKS", "LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS"]


def read(path: Path) -> Any:
    from pose_format import Pose

    return Pose.read(path.read_bytes())


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_library_reads_the_keypoints_of_each_sample(tmp_path: Path, layout: int) -> None:
    from pose_format.utils.generic import detect_known_pose_format

    make_run(tmp_path / "run", CORPUS, layout, failed=("train/v1",))
    assert export(tmp_path / "run", "pose-format", tmp_path / "out", fps=25.0) == [tmp_path / "out"]

    names = [str(path.relative_to(tmp_path / "out")) for path in sorted(tmp_path.glob("out/**/*.pose"))]
    assert names == ["dev/v0.pose", "train/v0.pose", "train/v2.pose"]
    parts = [name for name in PARTS if name in PART_SLICES[layout]]
    for sample in made_samples(CORPUS, "train", layout, failed=("train/v1",)):
        pose = read(tmp_path / "out" / f"{sample.key}.pose")
        assert detect_known_pose_format(pose) == "holistic"
        assert [component.name for component in pose.header.components] == [
            f"{name.upper()}_LANDMARKS" for name in parts
        ]
        size = pose.header.dimensions
        assert (size.width, size.height, pose.body.fps) == (210, 260, 25.0)
        points = np.concatenate([sample.keypoints[:, PART_SLICES[layout][name]] for name in parts], axis=1)
        assert pose.body.data.shape == (len(points), 1, layout, 3)
        np.testing.assert_array_equal(pose.body.data.data[:, 0, :, :2], points[..., :2])
        np.testing.assert_array_equal(pose.body.data.data[:, 0, :, 2], points[..., 2] / np.float32(210))
        confidence = dict(zip(parts, np.split(pose.body.confidence[:, 0], _ends(layout, parts), axis=1), strict=True))
        for name in parts:
            found = sample.presence[:, PARTS.index(name), None] > 0
            expected = sample.visibility if name == "pose" else np.ones_like(confidence[name])
            np.testing.assert_array_equal(confidence[name], found * expected)
        np.testing.assert_array_equal(pose.body.data.mask[:, 0, :, 0], pose.body.confidence[:, 0] == 0)
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert {split: (values["videos"], values["failed"]) for split, values in statistics.items()} == {
        "train": (2, 1),
        "dev": (1, 0),
    }


def _ends(layout: int, parts: list[str]) -> Any:
    lengths = [PART_SLICES[layout][name].stop - PART_SLICES[layout][name].start for name in parts]
    return np.cumsum(lengths)[:-1]


def test_the_library_finds_shoulders_and_draws_the_limbs(tmp_path: Path) -> None:
    from pose_format.pose_visualizer import PoseVisualizer
    from pose_format.utils.generic import pose_normalization_info

    make_run(tmp_path / "run", MadeItems({"train": 1}), 143)
    export(tmp_path / "run", "pose-format", tmp_path / "out", fps=25.0)
    pose = read(tmp_path / "out" / "train" / "v0.pose")
    info = pose_normalization_info(pose.header)
    assert {info.p1, info.p2} == {11, 12}
    wrist = pose.header.get_point_index("LEFT_HAND_LANDMARKS", "WRIST")
    assert wrist == 33 + 68

    pose.body.data.data[:], pose.body.confidence[:] = 0, 0
    pose.body.data.mask[:] = True
    thumb = pose.header.get_point_index("LEFT_HAND_LANDMARKS", "THUMB_CMC")
    for point, place in ((wrist, (20, 30, 0)), (thumb, (80, 90, 0))):
        pose.body.data[:, 0, point], pose.body.confidence[:, 0, point] = place, 1
    [frame, *_] = PoseVisualizer(pose).draw()
    assert frame[60, 50].tolist() == [0, 128, 0]  # halfway between both
    assert frame[60, 100].tolist() == [255, 255, 255]


def test_points_are_named_as_mediapipe_names_them() -> None:
    holistic = pytest.importorskip("mediapipe", exc_type=ImportError).solutions.holistic
    assert list(POSE_NAMES) == holistic.PoseLandmark._member_names_
    assert list(HAND_NAMES) == holistic.HandLandmark._member_names_


def test_images_need_a_frame_rate(tmp_path: Path) -> None:
    make_run(tmp_path / "run", CORPUS)
    with pytest.raises(
        ConfigError, match=r"^train/v0 has no frame rate, as its frames are images\. Give it with --fps$"
    ):
        export(tmp_path / "run", "pose-format", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"^--fps -1 must be above 0$"):
        export(tmp_path / "run", "pose-format", tmp_path / "out", fps=-1)
    assert not (tmp_path / "out").exists()


def test_without_the_library_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", CORPUS)
    monkeypatch.setitem(sys.modules, "pose_format", None)
    with pytest.raises(ConfigError, match=r"needs the library of this name .* pip install 'framemill\[pose-format\]'$"):
        export(tmp_path / "run", "pose-format", tmp_path / "out", fps=25.0)
