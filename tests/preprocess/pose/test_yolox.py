"""YOLOX's input, and the boxes in its output."""

import numpy as np
import pytest
from numpy.typing import NDArray

from preprocess.pose.yolox import find_people, letterboxed, num_anchors

SIZE = (64, 96)


def output_of(*found: tuple[int, float, float, float, float, float, float]) -> NDArray[np.float32]:
    """Return an output of two classes in which each of `found` is (anchor, x, y, w, h, objectness, P(person))."""
    output = np.zeros((num_anchors(SIZE), 7), np.float32)
    output[:, 2:4] = 500  # exp of it is infinite
    for anchor, *values, person in found:
        output[anchor] = (*values, person, 1 - person)
    return output


def test_an_image_is_scaled_into_the_corner_of_a_gray_input_of_bgr() -> None:
    image = np.zeros((50, 20, 3), np.uint8)
    image[...] = (10, 20, 30)
    pixels, ratio = letterboxed(image, SIZE)
    assert ratio == 64 / 50
    assert pixels.shape == (3, *SIZE)
    assert pixels.dtype == np.float32
    assert pixels[:, :, : int(20 * ratio)].reshape(3, -1).T.tolist() == [[30, 20, 10]] * (64 * 25)
    assert (pixels[:, :, int(20 * ratio) :] == 114).all()
    assert letterboxed(np.zeros((1, 5000, 3), np.uint8), SIZE)[0].shape == (3, *SIZE)


def test_boxes_are_decoded_at_each_stride() -> None:
    cells_8, cells_16 = 8 * 12, 4 * 6
    boxes = find_people(
        output_of(
            (12 * 2 + 3, 0.5, 0.25, np.log(2), np.log(4), 0.9, 0.5),  # row 2, column 3 of stride 8
            (cells_8 + 6 * 1 + 4, 0, 0, 0, np.log(2), 1, 0.8),  # row 1, column 4 of stride 16
            (cells_8 + cells_16 + 2, 0.5, 0.5, 0, 0, 1, 0.6),  # row 0, column 2 of stride 32
        ),
        SIZE,
        0.3,
    )
    assert boxes.scores.tolist() == pytest.approx([0.8, 0.6, 0.45])
    np.testing.assert_allclose(boxes.corners, [[56, 0, 72, 32], [64, 0, 96, 32], [20, 2, 36, 34]], rtol=1e-5)
    assert boxes.corners.dtype == boxes.scores.dtype == np.float32


def test_of_overlapping_boxes_the_best_is_left_and_of_other_classes_none() -> None:
    boxes = find_people(
        output_of(
            (0, 1, 1, np.log(2), np.log(2), 1, 0.7),  # 0 to 16
            (1, 0.1, 1, np.log(2), np.log(2), 1, 0.9),  # 0.8 to 16.8: the same person
            (13, 1, 1, np.log(2), np.log(2), 1, 0.5),  # 8 to 24: an overlap of 1 / 7
            (40, 0, 0, 0, 0, 1, 0.2),  # of the other class
            (60, 0, 0, 0, 0, 0.3, 0.9),  # nothing is there
        ),
        SIZE,
        0.3,
    )
    assert boxes.scores.tolist() == pytest.approx([0.9, 0.5])
    nobody = find_people(output_of(), SIZE, 0.3)
    assert (nobody.corners.shape, nobody.scores.shape) == ((0, 4), (0,))
