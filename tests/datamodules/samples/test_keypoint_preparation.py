"""Keypoints as a model takes them: interpolated hands, mirrored, slower, around 0, fewer points."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoint_layouts import FACE_68, LAYOUTS, PARTS, POSE_NAMES
from datamodules.samples.keypoint_preparation import (
    Augmentation,
    Keypoints,
    at_speed,
    changed,
    fill_hands,
    mirrored,
    relative_to_shoulders,
)
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from support.keypoint_runs import MadeItems, made_samples

LEFT, RIGHT = PARTS.index("left_hand"), PARTS.index("right_hand")


def some(frames: int = 6, layout: int = 143, **presence: list[int]) -> Keypoints:
    """Random keypoints, in px of frames of 210x260; a part in `presence` is found in those frames only."""
    rng = np.random.default_rng(frames)
    found = np.ones((frames, 4), bool)
    for name, in_frames in presence.items():
        found[:, PARTS.index(name)] = np.isin(np.arange(frames), in_frames)
    keypoints = Keypoints(
        LAYOUTS[layout],
        rng.uniform(1, 200, (frames, layout, 3)).astype(np.float32),
        found,
        rng.random((frames, 33), np.float32) * found[:, :1],
        np.zeros((frames, 4), bool),
    )
    return replace(keypoints, points=keypoints.points * keypoints.known[..., None])


def hand(keypoints: Keypoints, part: str = "left_hand") -> NDArray[np.float32]:
    return keypoints.points[:, keypoints.layout.part_slices[part]]


def test_short_gaps_of_hands_are_interpolated_and_marked() -> None:
    keypoints = some(9, left_hand=[1, 4, 8], right_hand=[])
    filled = fill_hands(keypoints, 2)
    np.testing.assert_allclose(hand(filled)[2], 2 / 3 * hand(keypoints)[1] + 1 / 3 * hand(keypoints)[4], rtol=1e-6)
    np.testing.assert_allclose(hand(filled)[3], 1 / 3 * hand(keypoints)[1] + 2 / 3 * hand(keypoints)[4], rtol=1e-6)
    assert filled.filled[:, LEFT].tolist() == [False, False, True, True, False, False, False, False, False]
    assert not filled.filled[:, [0, 1, RIGHT]].any()
    np.testing.assert_array_equal(filled.presence, keypoints.presence)  # says what was found
    for frame in (
        0,
        1,
        4,
        5,
        6,
        7,
        8,
    ):  # the gap of three frames is too long; before the first and after the last: none
        np.testing.assert_array_equal(hand(filled)[frame], hand(keypoints)[frame])
    assert not hand(filled, "right_hand").any()
    assert not keypoints.filled.any()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_mirror_swaps_left_and_right_of_all_parts(layout: int) -> None:
    keypoints = some(3, layout, left_hand=[0, 1], right_hand=[1, 2], pose=[0, 1])
    swapped = mirrored(keypoints, 210)
    np.testing.assert_array_equal(swapped.presence, keypoints.presence[:, [0, 1, RIGHT, LEFT]])
    expected = hand(keypoints, "right_hand")[1:] * (-1, 1, 1) + (210, 0, 0)
    np.testing.assert_allclose(hand(swapped)[1:], expected, rtol=1e-5)
    assert not hand(swapped)[0].any()
    pose, mirrored_pose = hand(keypoints, "pose"), hand(swapped, "pose")
    for name, other in (("LEFT_WRIST", "RIGHT_WRIST"), ("NOSE", "NOSE"), ("MOUTH_RIGHT", "MOUTH_LEFT")):
        point, place = POSE_NAMES.index(name), POSE_NAMES.index(other)
        np.testing.assert_allclose(mirrored_pose[:2, place, 0], 210 - pose[:2, point, 0], rtol=1e-5)
        np.testing.assert_array_equal(mirrored_pose[:2, place, 1:], pose[:2, point, 1:])
        np.testing.assert_array_equal(swapped.visibility[:, place], keypoints.visibility[:, point])
    assert not mirrored_pose[2].any()
    again = mirrored(swapped, 210)
    np.testing.assert_allclose(again.points, keypoints.points, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(again.visibility, keypoints.visibility)


def test_the_face_is_mirrored_as_mediapipes_canonical_face_is() -> None:
    holistic = pytest.importorskip("pose_format.utils.holistic", exc_type=ImportError)  # needs mediapipe
    place = LAYOUTS[553].part_slices["face"]
    assert [index - place.start for index in LAYOUTS[553].mirrored[place]] == holistic.FLIPPED_FACE_POINTS
    assert [FACE_68[index] for index in LAYOUTS[143].mirrored[:68]] == [
        holistic.FLIPPED_FACE_POINTS[point] for point in FACE_68
    ]


def test_at_half_the_speed_frames_lie_between_those_that_have_a_part() -> None:
    keypoints = some(3, right_hand=[0, 1])
    slower = at_speed(keypoints, 0.6)  # 5 frames at 0, 0.5, 1, 1.5 and 2
    assert len(slower) == 5
    np.testing.assert_array_equal(slower.points[[0, 2, 4]], keypoints.points)
    np.testing.assert_allclose(slower.points[1], (keypoints.points[0] + keypoints.points[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(slower.visibility[3], keypoints.visibility[1:].mean(0), rtol=1e-6)
    assert slower.presence[:, RIGHT].tolist() == [True, True, True, False, False]
    assert not hand(slower, "right_hand")[3:].any()  # not drawn towards the zeros of the last frame
    assert len(at_speed(keypoints, 100)) == 1
    assert len(at_speed(some(0), 2)) == 0


def test_shoulders_are_one_apart_around_zero() -> None:
    keypoints = some(4, pose=[0, 1, 3], left_hand=[0, 2])
    normalized = relative_to_shoulders("a", keypoints)
    shoulders = hand(normalized, "pose")[[0, 1, 3]][:, (11, 12), :2]
    np.testing.assert_allclose(shoulders.mean((0, 1)), 0, atol=1e-6)
    assert np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=-1).mean() == pytest.approx(1, rel=1e-5)
    assert not hand(normalized, "pose")[2].any()
    assert not hand(normalized)[[1, 3]].any()
    widths = np.linalg.norm(np.diff(hand(keypoints, "pose")[[0, 1, 3]][:, (11, 12), :2], axis=1)[:, 0], axis=-1)
    np.testing.assert_allclose(hand(normalized)[0, :, 2], hand(keypoints)[0, :, 2] / widths.mean(), rtol=1e-5)


def test_the_normalization_is_that_of_pose_format() -> None:
    from pose_format import Pose
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions

    keypoints = some(5, 75)
    component = PoseHeaderComponent("POSE_LANDMARKS", list(POSE_NAMES), [], [(0, 0, 0)], "XYC")
    pose = keypoints.points[:, None, :33, :2].astype(np.float64)
    header = PoseHeader(0.2, PoseHeaderDimensions(210, 260), [component])
    theirs = Pose(header, NumPyPoseBody(25, pose, np.ones(pose.shape[:3]))).normalize()
    ours = relative_to_shoulders("a", keypoints).points[:, :33, :2]
    np.testing.assert_allclose(ours, theirs.body.data[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [543, 553])
def test_the_reduced_points_are_those_of_pose_format(layout: int) -> None:
    from pose_format import Pose
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions
    from pose_format.utils.generic import reduce_holistic

    components: list[Any] = []
    order: list[int] = []
    for part in sorted(LAYOUTS[layout].parts, key=lambda part: PARTS.index(part.name)):
        names = POSE_NAMES if part.name == "pose" else [str(point) for point in range(478)]
        points = [names[point] for point in part.points]
        components.append(PoseHeaderComponent(f"{part.name.upper()}_LANDMARKS", points, [], [(0, 0, 0)], "XYC"))
        order += range(layout)[LAYOUTS[layout].part_slices[part.name]]
    numbers = np.repeat(np.array(order, np.float32)[None, None, :, None], 2, axis=-1)  # each point is where it is named
    pose = Pose(
        PoseHeader(0.2, PoseHeaderDimensions(1, 1), components), NumPyPoseBody(25, numbers, numbers[..., 0] + 1)
    )
    kept = reduce_holistic(pose).body.data[0, 0, :, 0].astype(int).tolist()
    assert list(LAYOUTS[layout].reduced) == sorted(kept)


@pytest.mark.parametrize("layout", [75, 143])
def test_reduced_points_of_a_layout_without_the_mesh_are_all_but_of_the_pose(layout: int) -> None:
    pose = LAYOUTS[layout].part_slices["pose"]
    kept = [index - pose.start for index in LAYOUTS[layout].reduced if pose.start <= index < pose.stop]
    assert [POSE_NAMES[point] for point in kept] == [
        f"{side}_{joint}" for joint in ("SHOULDER", "ELBOW", "WRIST", "HIP") for side in ("LEFT", "RIGHT")
    ]
    assert len(LAYOUTS[layout].reduced) == layout - 33 + 8


def sample(layout: int = 143) -> KeypointSample:
    return made_samples(MadeItems({"train": 4}), "train", layout)[3]


def test_without_options_a_batch_has_the_stored_values() -> None:
    stored = sample()
    batch = KeypointSamples().collate([stored])
    np.testing.assert_array_equal(batch["keypoints"][0].numpy(), stored.keypoints)
    assert "filled" not in batch


def test_a_batch_has_two_axes_of_the_reduced_points_and_says_what_is_filled() -> None:
    stored = sample()
    stored.presence[:, LEFT] = [1, 0, 1, 1]
    batch = KeypointSamples(points="reduced", dims=2, fill_hands=1).collate([stored, sample()])
    assert batch["keypoints"].shape == (2, 4, len(LAYOUTS[143].reduced), 2)
    assert batch["filled"].dtype == torch.bool
    assert batch["filled"][0, :, LEFT].tolist() == [False, True, False, False]
    np.testing.assert_array_equal(batch["presence"][0], stored.presence)
    first = LAYOUTS[143].reduced.index(LAYOUTS[143].part_slices["left_hand"].start)
    wrist = stored.keypoints[:, LAYOUTS[143].part_slices["left_hand"].start, :2]
    np.testing.assert_allclose(batch["keypoints"][0, 1, first], (wrist[0] + wrist[2]) / 2, rtol=1e-5)


def test_training_samples_are_augmented_by_torchs_generator_and_others_are_not() -> None:
    kind = KeypointSamples(augment=Augmentation(flip=0.5, rotation=10, scale=0.1, shear=0.1, speed=0.3))
    torch.manual_seed(3)
    first, second = kind.collate([sample()]), kind.collate([sample()])
    torch.manual_seed(3)
    again = kind.collate([sample()])
    assert torch.equal(first["keypoints"], again["keypoints"])
    assert first["keypoints"].shape != second["keypoints"].shape or not torch.equal(
        *(b["keypoints"] for b in (first, second))
    )
    evaluated = kind.for_evaluation().collate([sample()])
    np.testing.assert_array_equal(evaluated["keypoints"][0].numpy(), sample().keypoints)


def test_a_rotation_is_about_the_given_centre_and_leaves_absent_parts() -> None:
    keypoints = some(2, left_hand=[0])
    turned = changed(keypoints, np.array([[0, -1], [1, 0]], np.float32), (105, 130))
    x, y, z = hand(keypoints)[0].T
    np.testing.assert_allclose(hand(turned)[0], np.stack([105 - (y - 130), 130 + x - 105, z], 1), rtol=1e-5)
    assert not hand(turned)[1].any()


def test_a_sample_that_cannot_be_normalized_is_named() -> None:
    stored = sample()
    stored.presence[:, 0] = 0
    with pytest.raises(RunError, match=r"^train/v3 has no shoulders to be relative to\. .*where='pose_rate > 0'$"):
        KeypointSamples(normalize="shoulders").collate([stored])
    unknown = replace(sample(), meta={**sample().meta, "layout": 99})
    with pytest.raises(RunError, match=r"^train/v3 has the layout 99; known are 143, 75, 543, 553$"):
        KeypointSamples(points="reduced").collate([unknown])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": "some"}, r"points = 'some': choose from all, reduced"),
        ({"normalize": "hips"}, r"normalize = 'hips': choose from none, shoulders"),
        ({"dims": 1}, r"dims = 1 must be 2 or 3, and fill_hands = 0 0 or more"),
        ({"fill_hands": -1}, r"dims = 3 must be 2 or 3, and fill_hands = -1 0 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KeypointSamples(**options)
    with pytest.raises(ConfigError, match=r"flip=2, .* must have a flip from 0 to 1, and nothing below 0"):
        Augmentation(flip=2)
    with pytest.raises(ConfigError, match=r"speed=nan"):
        Augmentation(speed=float("nan"))
