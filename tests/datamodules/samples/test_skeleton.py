"""The order of joints, and how they are drawn."""

import numpy as np
import pytest

from datamodules.samples.skeleton import (
    COCO_17,
    JOINT_COLOURS,
    JOINTS,
    LIMBS,
    MIRRORED,
    draw,
    from_coco_17,
    mirrored,
    pose_map,
    rescaled,
)
from support.pose_runs import standing

COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


def test_joints_are_named_once_and_limbs_make_a_tree_of_them() -> None:
    assert len(JOINTS) == len(set(JOINTS)) == len(JOINT_COLOURS) == len(set(JOINT_COLOURS)) == 18
    assert tuple(JOINTS[joint] for joint in COCO_17) == COCO
    reached = {1}
    for start, end in LIMBS:
        assert start in reached
        assert end not in reached
        reached.add(end)
    assert reached == set(range(18))


def test_a_mirror_swaps_left_and_right_and_two_undo_one_another() -> None:
    swapped = {"left": "right", "right": "left"}
    for joint, other in enumerate(MIRRORED):
        side, _, name = JOINTS[joint].partition("_")
        assert JOINTS[other] == (f"{swapped[side]}_{name}" if side in swapped else JOINTS[joint])
    person = standing(30, 5, 80)[None]
    person[0, 4] = 0
    once = mirrored(person, 100)
    assert once[0, 7].tolist() == [0, 0, 0]
    assert once[0, 2, 0] == pytest.approx(99 - person[0, 5, 0])
    np.testing.assert_allclose(mirrored(once, 100), person, atol=1e-5)


def test_the_neck_is_the_mean_of_the_shoulders_where_both_are_there() -> None:
    coco = np.zeros((2, 17, 3), np.float32)
    coco[:, 5], coco[:, 6], coco[:, 0] = (30, 10, 0.9), (10, 20, 0.4), (5, 6, 0.7)
    coco[1, 6, 2] = 0  # its place is left, and counts no more
    found = from_coco_17(coco)
    assert found[0, 1].tolist() == pytest.approx([20, 15, 0.4])
    assert found[0, 5].tolist() == pytest.approx([30, 10, 0.9])
    assert found[0, 0].tolist() == pytest.approx([5, 6, 0.7])
    assert found[1, 1].tolist() == found[1, 2].tolist() == [0, 0, 0]
    assert from_coco_17(coco[:0]).shape == (0, 18, 3)


def test_coordinates_are_of_the_same_places_in_a_resized_picture() -> None:
    corners = np.array([[[0, 0, 1], [99, 49, 1], [0, 0, 0]]], np.float32)
    assert rescaled(corners, (50, 100), (100, 300)).tolist() == [[[1, 0.5, 1], [298, 98.5, 1], [0, 0, 0]]]
    np.testing.assert_allclose(rescaled(rescaled(corners, (50, 100), (7, 9)), (7, 9), (50, 100)), corners, atol=1e-5)


def test_limbs_and_joints_have_the_usual_colours() -> None:
    person = standing(256, 20, 470)[None]
    picture = pose_map(person, (512, 512))
    for joint, (x, y) in enumerate(person[0, :, :2].round().astype(int)):
        assert tuple(picture[y, x]) == JOINT_COLOURS[joint]
    for (a, b), colour in zip(LIMBS[:12], JOINT_COLOURS, strict=False):
        x, y = person[0, [a, b], :2].mean(0).round().astype(int)
        assert np.abs(picture[y, x] - 0.6 * np.array(colour)).max() <= 1
    assert not picture[0].any()


def test_a_mirrored_person_is_drawn_as_the_mirror_image_but_for_the_sides_colours() -> None:
    person = standing(50, 4, 110)[None]
    drawn, other = (pose_map(each, (128, 128)).any(-1) for each in (person, mirrored(person, 128)))
    assert (drawn[:, ::-1] ^ other).mean() < 0.005


def test_missing_joints_are_not_drawn_nor_limbs_to_them() -> None:
    assert not pose_map(np.zeros((1, 18, 3), np.float32), (64, 64)).any()
    assert not pose_map(np.zeros((0, 18, 3), np.float32), (64, 64)).any()
    person = standing(32, 2, 58)[None]
    with_wrist = pose_map(person, (64, 64))
    person[0, 4] = 0
    x, y = standing(32, 2, 58)[4, :2].round().astype(int)
    assert with_wrist[y, x].any()
    assert not pose_map(person, (64, 64))[y, x].any()


def test_what_is_drawn_on_a_photograph_leaves_it_alone_elsewhere() -> None:
    photograph = np.full((96, 96, 3), 200, np.uint8)
    drawn = draw(photograph, standing(48, 4, 80)[None])
    assert (photograph == 200).all()
    assert 0.02 < (drawn != 200).any(-1).mean() < 0.3


def test_points_outside_the_picture_and_persons_of_one_point_are_drawn_as_far_as_they_can() -> None:
    person = standing(0, -400, 1000)[None]
    assert pose_map(person, (64, 64)).any()
    person[0, :, :2] = 5
    assert pose_map(person, (64, 64)).any()
    assert pose_map(person, (1, 1)).shape == (1, 1, 3)
