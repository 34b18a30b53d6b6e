"""The points of COCO-WholeBody."""

from itertools import chain

from datamodules.samples.skeleton import COCO_17, JOINTS
from datamodules.samples.wholebody import MIRRORED, PARTS, POINTS


def test_the_parts_hold_all_points_once_in_order() -> None:
    parts = [list(range(133))[part] for part in PARTS.values()]
    assert [len(part) for part in parts] == [17, 6, 68, 21, 21]
    assert [*chain(*parts)] == list(range(133))
    assert len(set(POINTS)) == 133
    assert POINTS[PARTS["body"]] == tuple(JOINTS[joint] for joint in COCO_17)
    assert [POINTS[point] for point in (17, 22, 23, 90, 91, 95, 112, 132)] == [
        "left_big_toe", "right_heel", "face-0", "face-67", "left_hand_root", "left_thumb4", "right_hand_root",
        "right_pinky_finger4",
    ]  # fmt: skip


def test_a_mirror_swaps_pairs_within_their_part_or_the_hands() -> None:
    assert [MIRRORED[point] for point in MIRRORED] == list(range(133))
    pairs = {
        "face-0": "face-16", "face-8": "face-8", "face-21": "face-22", "face-30": "face-30", "face-31": "face-35",
        "face-36": "face-45", "face-37": "face-44", "face-39": "face-42", "face-40": "face-47", "face-41": "face-46",
        "face-48": "face-54", "face-51": "face-51", "face-55": "face-59", "face-60": "face-64", "face-65": "face-67",
        "nose": "nose", "left_small_toe": "right_small_toe", "left_forefinger1": "right_forefinger1",
    }  # fmt: skip
    assert {name: POINTS[MIRRORED[POINTS.index(name)]] for name in pairs} == pairs
