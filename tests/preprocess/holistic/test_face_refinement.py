"""The refinement of faces: its numbers, its steps, and the faces, against MediaPipe's graph and the model file."""

from math import atan2, cos, floor, sin
from typing import Any

import numpy as np
import pytest
import torch
from flatbuffers import flexbuffers
from numpy.typing import NDArray

from preprocess import mediapipe_graph
from preprocess.holistic.arrays import Array
from preprocess.holistic.face_refinement import (
    LEFT_EYE,
    LIPS,
    RIGHT_EYE,
    SCALE,
    SIDE,
    Indices,
    find_refined_face,
    indices,
)
from preprocess.holistic.landmarker import HolisticLandmarker
from preprocess.holistic.models import find_models
from preprocess.holistic.networks import REFINED_FACE, HolisticOptions
from preprocess.holistic.tflite import read_model
from preprocess.mediapipe_graph import HolisticGraph
from support.people import demo_pictures, small, tensors

REFINED = HolisticOptions(refine_face_landmarks=True)
PARTS = (LIPS, RIGHT_EYE, LEFT_EYE)
CROP, FEATURES, CHANNELS = 192, 48, 3


def test_numbers_are_those_of_the_model_file() -> None:
    model = read_model(find_models([REFINED_FACE])[REFINED_FACE])
    (graph,) = model.subgraphs
    codes = [model.operatorCodes[operator.opcodeIndex].customCode for operator in graph.operators]
    options = [
        flexbuffers.Loads(bytes(operator.customOptions))
        for operator, code in zip(graph.operators, codes, strict=True)
        if code == b"Landmarks2TransformMatrix"
    ]
    size = {"output_width": SIDE, "output_height": SIDE, "scale_x": SCALE, "scale_y": SCALE}
    assert options == [
        {
            "subset_idxs": list(part.points),
            "left_rotation_idx": part.corners[0],
            "right_rotation_idx": part.corners[1],
            "target_rotation_radians": 0.0,
            **size,
        }
        for part in PARTS
    ]
    assert codes.count(b"TransformTensorBilinear") == 3
    assert codes.count(b"TransformLandmarks") == 5


@pytest.mark.reference
def test_merged_points_are_those_of_the_graph() -> None:
    mp = mediapipe_graph._import_mediapipe()
    from mediapipe.calculators.util.landmarks_refinement_calculator_pb2 import LandmarksRefinementCalculatorOptions

    config = mediapipe_graph._read_config(mp)
    (node,) = (node for node in config.node if node.calculator == "LandmarksRefinementCalculator")
    mesh, *parts, right_iris, left_iris = node.options.Extensions[LandmarksRefinementCalculatorOptions.ext].refinement

    expected = np.arange(478)
    start = 0
    for part in (mesh, *parts, right_iris, left_iris):
        expected[list(part.indexes_mapping)] = start + np.arange(len(part.indexes_mapping))
        start += len(part.indexes_mapping)
    assert indices().merged.tolist() == expected.tolist()
    assert [list(part.indexes_mapping) for part in parts] == [list(part.points) for part in PARTS]
    for iris, eye in ((right_iris, RIGHT_EYE), (left_iris, LEFT_EYE)):
        assert list(iris.z_refinement.assign_average.indexes_for_average) == list(eye.points[:16])
    assert all(part.z_refinement.HasField("none") for part in parts)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_close_ups_and_points_are_those_of_mediapipes_operators(convert: Any) -> None:
    rng = np.random.default_rng(0)
    mesh = rng.uniform(60, 130, (2, 468, 3)).astype(np.float32)
    mesh[:, LIPS.points, 0] += 60  # its close-up leaves the crop
    features = rng.random((2, FEATURES, FEATURES, CHANNELS), np.float32)
    details = [rng.uniform(0, 64, (2, 2 * num_points)).astype(np.float32) for num_points in (80, 71, 71, 5, 5)]
    close_ups: list[Array] = []

    def find_details(*values: Array) -> list[Array]:
        close_ups.extend(values)
        return [convert(points) for points in details]

    points, logit = find_refined_face(
        convert(np.empty((2, 0))),
        CROP,
        lambda images: [convert(mesh.reshape(2, 1, 1, -1)), convert(np.zeros(2)), convert(features)],
        find_details,
        Indices(*map(convert, indices())),
    )

    points = np.asarray(points).reshape(2, 478, 3)
    assert logit.shape == (2,)
    for face in range(2):
        matrices = [_matrix(mesh[face] * np.float32(0.25), part.points, part.corners) for part in PARTS]
        for close_up, matrix in zip(close_ups, matrices, strict=True):
            np.testing.assert_allclose(close_up[face], _sampled(features[face], matrix), atol=2e-4)
        assert 0.1 < np.mean(np.asarray(close_ups[0][face]) == 0) < 0.9
        assert np.asarray(close_ups[1][face]).all()
        expected = np.zeros((478, 3))
        expected[:468] = mesh[face]
        irises = [(range(468, 473), RIGHT_EYE), (range(473, 478), LEFT_EYE)]
        for numbers, values, matrix in zip(
            [*(part.points for part in PARTS), *(iris for iris, _ in irises)],
            details,
            [*matrices, *matrices[1:]],
            strict=True,
        ):
            expected[list(numbers), :2] = _transformed(values[face].reshape(-1, 2), matrix)
        for iris, eye in irises:
            expected[iris, 2] = mesh[face, eye.points[:16], 2].mean()
        np.testing.assert_allclose(points[face], expected, atol=2e-4)


@pytest.fixture(scope="module")
def refined() -> HolisticLandmarker:
    return HolisticLandmarker.load(options=REFINED)


@pytest.mark.reference
@pytest.mark.parametrize(("backend", "number"), [("litert", 7), ("torch", 3)])
def test_refined_faces_are_those_of_mediapipe(refined: HolisticLandmarker, backend: str, number: int) -> None:
    pictures = [small(picture) for picture in demo_pictures()[:number]]
    landmarker = HolisticLandmarker.load(options=REFINED, backend="torch") if backend == "torch" else refined
    landmarks = landmarker(tensors(pictures))
    with HolisticGraph(refine_face_landmarks=True) as graph:
        expected = [graph(picture) for picture in pictures]

    assert landmarks.presence[:, 1].tolist() == [face.presence[1] for face in expected]
    rows = [row for row, face in enumerate(expected) if face.face is not None]
    theirs = np.stack([face.face for face in expected if face.face is not None])
    apart = np.abs(landmarks.face[rows].numpy() - theirs)
    assert len(rows) == number
    for numbers in (LIPS.points, RIGHT_EYE.points, LEFT_EYE.points, range(468, 478), range(478)):
        distances = np.linalg.norm(apart[:, list(numbers), :2], axis=-1)
        assert np.median(distances) < 0.05
        assert np.percentile(distances, 99) < 1
    assert np.median(apart[..., 2]) < 0.05


def test_refining_changes_faces_only(refined: HolisticLandmarker) -> None:
    images = tensors(demo_pictures()[:2])
    before, after = HolisticLandmarker.load()(images), refined(images)
    assert (before.face.shape, after.face.shape) == ((2, 468, 3), (2, 478, 3))
    for name in ("pose", "left_hand", "right_hand", "visibility", "presence"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    moved = (before.face - after.face[:, :468])[..., :2].norm(dim=-1).median()
    assert 0.1 < moved < 5  # another model, of the same faces


def test_single_images_and_batches_are_refined_alike(refined: HolisticLandmarker) -> None:
    images = [*tensors(demo_pictures()[:2]), torch.zeros(3, 64, 64, dtype=torch.uint8)]
    together = refined(images)
    alone = [refined([image]) for image in images]
    assert together.presence[:, 1].tolist() == [True, True, False]
    assert all(torch.equal(together.face[row], one.face[0]) for row, one in enumerate(alone))
    assert not together.face[2].any()


def _matrix(mesh: NDArray[np.float32], points: tuple[int, ...], corners: tuple[int, int]) -> NDArray[np.float64]:
    """Landmarks2TransformMatrix: from a close-up to the features, as a product of matrices."""
    left, right = mesh[list(corners), :2].astype(float)
    angle = -atan2(right[1] - left[1], right[0] - left[0])
    turned = mesh[list(points), :2] @ _rotation(angle)[:2, :2].T
    (left_side, top), (right_side, bottom) = turned.min(0), turned.max(0)
    x, y, _ = _rotation(-angle) @ [(left_side + right_side) / 2, (top + bottom) / 2, 1]
    scale = np.diag([1.5 * (right_side - left_side) / 16, 1.5 * (bottom - top) / 16, 1])
    result: NDArray[np.float64] = _shift(x, y) @ _rotation(-angle) @ scale @ _shift(-8, -8)
    return result


def _sampled(features: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """TransformTensorBilinear: a close-up, pixel by pixel."""
    result = np.zeros((16, 16, CHANNELS))
    for row, column in np.ndindex(16, 16):
        x, y, _ = matrix @ [column + 0.5, row + 0.5, 1] - 0.5
        if 0 <= x <= FEATURES - 1 and 0 <= y <= FEATURES - 1:
            left, top = floor(x), floor(y)
            values = np.pad(features, ((0, 1), (0, 1), (0, 0)))[top : top + 2, left : left + 2]
            upper, lower = values[:, 0] * (1 - (x - left)) + values[:, 1] * (x - left)
            result[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return result


def _transformed(points: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """MUL and TransformLandmarks: points of a close-up in px of the crop, of which the features are a quarter."""
    result: NDArray[np.float64] = points @ matrix[:2, :2].T + 4 * matrix[:2, 2]
    return result


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[cos(angle), -sin(angle), 0], [sin(angle), cos(angle), 0], [0, 0, 1]])


def _shift(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
