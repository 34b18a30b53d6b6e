"""The keypoint layouts, against MediaPipe's own constants and against points that can be told apart."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.samples.keypoint_layouts import (
    FACE_68,
    FACE_68_EDGES,
    FACE_468_EDGES,
    FACE_478_EDGES,
    HAND_EDGES,
    LAYOUTS,
    PARTS,
    POSE_EDGES,
)
from preprocess import mediapipe_graph
from preprocess.mediapipe_graph import Landmarks


@pytest.fixture
def everything() -> Landmarks:
    """All parts; point i of the parts has x = 1000 i, 1000 i + 1, … for pose, face, left and right hand."""

    def points(part: int, num_points: int, num_values: int) -> NDArray[np.float32]:
        rows = np.zeros((num_points, num_values), np.float32)
        rows[:, 0] = 1000 * np.arange(num_points) + part
        rows[:, 1:3] = -1, 7
        return rows

    pose = points(0, 33, 4)
    pose[:, 3] = np.linspace(0, 1, 33)
    return Landmarks(pose, points(1, 478, 3), points(2, 21, 3), points(3, 21, 3))


@pytest.mark.parametrize(
    ("name", "order"),
    [
        (143, [("face", 68), ("left_hand", 21), ("right_hand", 21), ("pose", 33)]),
        (75, [("pose", 33), ("left_hand", 21), ("right_hand", 21)]),
        (543, [("pose", 33), ("face", 468), ("left_hand", 21), ("right_hand", 21)]),
        (553, [("pose", 33), ("face", 478), ("left_hand", 21), ("right_hand", 21)]),
    ],
)
def test_parts_follow_one_another_as_documented(everything: Landmarks, name: int, order: list[tuple[str, int]]) -> None:
    layout = LAYOUTS[name]
    keypoints = everything.keypoints(layout)

    assert layout.num_keypoints == name
    assert (keypoints.shape, keypoints.dtype) == ((name, 3), np.dtype(np.float32))
    assert [(part, place.stop - place.start) for part, place in layout.part_slices.items()] == order
    assert [place.start for place in layout.part_slices.values()] == np.cumsum([0] + [n for _, n in order])[
        :-1
    ].tolist()
    for part, place in layout.part_slices.items():
        points = FACE_68 if (part, name) == ("face", 143) else np.arange(place.stop - place.start)
        assert keypoints[place, 0].tolist() == [1000 * i + PARTS.index(part) for i in points]
        assert (keypoints[place, 1:] == [-1, 7]).all()


def test_parts_not_found_are_zeros(everything: Landmarks) -> None:
    found = Landmarks(face=everything.face, right_hand=everything.right_hand)
    layout = LAYOUTS[143]
    keypoints = found.keypoints(layout)

    assert found.presence.tolist() == [0, 1, 0, 1]
    assert (found.pose_visibility.tolist(), found.pose_visibility.dtype) == ([0] * 33, np.dtype(np.float32))
    for part, is_there in zip(PARTS, found.presence, strict=True):
        assert keypoints[layout.part_slices[part]].any(axis=1).all() == is_there
        assert keypoints[layout.part_slices[part]].any() == is_there


def test_presence_and_visibility_of_what_was_found(everything: Landmarks) -> None:
    assert (everything.presence.tolist(), everything.presence.dtype) == ([1, 1, 1, 1], np.dtype(np.uint8))
    assert np.array_equal(everything.pose_visibility, np.linspace(0, 1, 33).astype(np.float32))
    assert Landmarks().presence.tolist() == [0, 0, 0, 0]
    assert not Landmarks().keypoints(LAYOUTS[543]).any()


@pytest.mark.reference
def test_skeletons_are_those_of_mediapipe() -> None:
    solutions = mediapipe_graph._import_mediapipe().solutions

    assert (set(POSE_EDGES), len(POSE_EDGES)) == (solutions.pose.POSE_CONNECTIONS, 35)
    assert (set(HAND_EDGES), len(HAND_EDGES)) == (solutions.hands.HAND_CONNECTIONS, 21)
    assert (set(FACE_468_EDGES), len(FACE_468_EDGES)) == (solutions.face_mesh.FACEMESH_CONTOURS, 124)
    irises = solutions.face_mesh_connections.FACEMESH_IRISES
    assert (set(FACE_478_EDGES), len(FACE_478_EDGES)) == ({*FACE_468_EDGES, *irises}, 132)


@pytest.mark.reference
def test_the_68_lie_on_the_contours_of_the_face_they_are_named_after() -> None:
    mesh = mediapipe_graph._import_mediapipe().solutions.face_mesh_connections

    def vertices(name: str) -> set[int]:
        return {point for edge in getattr(mesh, f"FACEMESH_{name}") for point in edge}

    assert len(set(FACE_68)) == 68
    assert set(FACE_68[:17]) <= vertices("FACE_OVAL")
    assert set(FACE_68[36:42]) <= vertices("RIGHT_EYE")
    assert set(FACE_68[42:48]) <= vertices("LEFT_EYE")
    assert set(FACE_68[48:]) <= vertices("LIPS")
    assert {FACE_68[30], FACE_68[33], FACE_68[27]} <= vertices("NOSE")  # tip, below it, between the eyes


def test_the_68_are_drawn_as_dlib_draws_them() -> None:
    def line(first: int, last: int) -> list[tuple[int, int]]:
        return [(i, i + 1) for i in range(first, last)]

    def loop(first: int, last: int) -> list[tuple[int, int]]:
        return [*line(first, last), (last, first)]

    assert [*FACE_68_EDGES] == [
        *line(0, 16),
        *line(17, 21),
        *line(22, 26),
        *line(27, 30),
        *(edge for first, last in ((30, 35), (36, 41), (42, 47), (48, 59), (60, 67)) for edge in loop(first, last)),
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_edges_stay_within_their_part(name: int) -> None:
    layout = LAYOUTS[name]

    assert list(layout.part_edges) == list(layout.part_slices)
    for part, edges in layout.part_edges.items():
        place = layout.part_slices[part]
        assert edges
        assert all(place.start <= point < place.stop for edge in edges for point in edge)


def test_edges_join_the_points_they_join_in_mediapipe() -> None:
    edges = LAYOUTS[143].part_edges

    assert (68, 69) in edges["left_hand"]  # wrist to thumb
    assert (89, 90) in edges["right_hand"]
    assert (110 + 11, 110 + 12) in edges["pose"]  # the shoulders
    assert (30, 35) not in edges["face"]
    assert (35, 30) in edges["face"]


def test_layouts_import_neither_torch_nor_a_model() -> None:
    program = (
        "import sys, datamodules.samples.keypoint_layouts;"
        "sys.exit(sorted({'mediapipe', 'torch', 'cv2', 'preprocess'} & {*sys.modules}) or 0)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
