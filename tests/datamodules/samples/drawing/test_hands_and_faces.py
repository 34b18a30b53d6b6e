"""Hands and faces of whole bodies, as DWPose draws them."""

from colorsys import hsv_to_rgb

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.samples.drawing.hands_and_faces import draw_hands_and_faces
from datamodules.samples.skeleton import draw, from_coco_17, pose_map
from datamodules.samples.wholebody import PARTS
from support.pose_runs import standing_wholebody

EDGES = (
    (0, 1), (1, 2), (2, 3), (3, 4), (0, 5), (5, 6), (6, 7), (7, 8), (0, 9), (9, 10), (10, 11), (11, 12), (0, 13),
    (13, 14), (14, 15), (15, 16), (0, 17), (17, 18), (18, 19), (19, 20),
)  # fmt: skip


def reference(points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return what DWPose's `draw_handpose` and `draw_facepose` draw of a person on 512x512 px."""
    canvas = np.zeros((512, 512, 3), np.uint8)
    pixels = points[:, :2].astype(int).tolist()
    for part in ("lefthand", "righthand"):
        hand = pixels[PARTS[part]]
        for number, (start, end) in enumerate(EDGES):
            colour = [255 * value for value in hsv_to_rgb(number / len(EDGES), 1, 1)]
            cv2.line(canvas, hand[start], hand[end], colour, thickness=2)
        for point in hand:
            cv2.circle(canvas, point, 4, (0, 0, 255), thickness=-1)
    for point in pixels[PARTS["face"]]:
        cv2.circle(canvas, point, 3, (255, 255, 255), thickness=-1)
    return canvas


def test_on_512_px_hands_and_faces_are_those_of_dwpose_but_for_the_rims_of_points() -> None:
    person = standing_wholebody(256, 40, 450).round()
    canvas, expected = np.zeros((512, 512, 3), np.uint8), reference(person)
    draw_hands_and_faces(canvas, person[None])
    drawn, there = canvas.any(-1), expected.any(-1)
    for mask, other in ((drawn, there), (there, drawn)):
        assert (mask & ~cv2.dilate(other.astype(np.uint8), np.ones((3, 3))).astype(bool)).sum() == 0
    both = drawn & there
    assert both.sum() > 0.9 * there.sum() > 2000
    assert (canvas[both] == expected[both]).all(-1).mean() > 0.95


def test_missing_points_are_not_drawn_nor_lines_to_them() -> None:
    person = standing_wholebody(256, 40, 450)
    left, face = PARTS["lefthand"].start, PARTS["face"].start
    alone = person.copy()
    alone[[*range(left + 2, 133), *range(face, face + 67)]] = 0  # a wrist, the root of a thumb, a point of the face
    canvas = np.zeros((512, 512, 3), np.uint8)
    draw_hands_and_faces(canvas, alone[None])
    drawn = np.argwhere(canvas.any(-1))[:, ::-1]
    kept = alone[[left, left + 1, face + 67], :2]
    assert np.linalg.norm(drawn[:, None] - kept, axis=2).min(1).max() < 8
    draw_hands_and_faces(canvas, alone[None][:0])


def test_a_pose_map_has_hands_and_faces_over_the_skeletons_in_any_size() -> None:
    person = standing_wholebody(64, 10, 110)
    joints = from_coco_17(person[None, PARTS["body"]])
    skeleton, whole = pose_map(joints, (128, 128)), pose_map(joints, (128, 128), person[None])
    x, y = person[PARTS["face"].start, :2].round().astype(int)
    assert whole[y, x].tolist() == [255, 255, 255]
    assert (whole[80:] == skeleton[80:]).all()  # the legs
    photograph = np.full((128, 128, 3), 90, np.uint8)
    assert (draw(photograph, joints, person[None])[y, x] == 255).all()
    assert (photograph == 90).all()
    assert pose_map(joints, (1, 1), person[None]).shape == (1, 1, 3)
