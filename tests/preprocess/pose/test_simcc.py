"""Crops of people, and the points in the output of SimCC."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from preprocess.pose.simcc import cropped, decode, regions

SIZE = (384, 288)


def test_a_region_is_its_box_with_a_margin_and_the_inputs_aspect_ratio() -> None:
    found = regions(np.array([[10, 20, 50, 220], [0, 0, 120, 40]], np.float32), SIZE)
    assert found.tolist() == [[30, 120, 187.5, 250], [60, 20, 150, 200]]
    assert regions(np.zeros((0, 4), np.float32), SIZE).shape == (0, 4)


def test_a_crop_is_that_of_mmpose() -> None:
    image = astronaut()
    (region,) = regions(np.array([[100.5, 20, 330, 500]], np.float32), SIZE)
    x, y, width, _ = region
    # get_warp_matrix of mmpose: the centre, and the points half a width above it and to its left
    there = np.array([[x, y], [x, y - width / 2], [x - width / 2, y]], np.float32)
    here = np.array([[144, 192], [144, 192 - 144], [0, 192]], np.float32)
    expected = cv2.warpAffine(image, cv2.getAffineTransform(there, here), SIZE[::-1], flags=cv2.INTER_LINEAR)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    found = cropped(image, region, SIZE)
    assert found.shape == (3, *SIZE)
    assert found.dtype == np.float32
    apart = np.abs(found.transpose(1, 2, 0) * std + mean - expected)
    assert apart.mean() < 0.01
    np.testing.assert_allclose(found[:, 0, 0], -mean / std, rtol=1e-5)  # above the image


def test_points_are_where_both_distributions_are_highest() -> None:
    along_x, along_y = np.zeros((2, 3, 576), np.float32), np.zeros((2, 3, 768), np.float32)
    along_x[0, 0, 288], along_y[0, 0, 384] = 0.9, 0.7  # the middle
    along_x[0, 1, 0], along_y[0, 1, 767] = 0.4, 0.6
    along_x[0, 2, 100], along_y[0, 2] = 0.8, -0.1  # not found along y
    along_x[1, :, 144], along_y[1, :, 576] = 1, 1
    found = decode(along_x, along_y, np.array([[30, 120, 187.5, 250], [60, 20, 150, 200]], np.float32))
    assert found.dtype == np.float32
    assert found[0, 0].tolist() == pytest.approx([30, 120, 0.7])
    assert found[0, 1].tolist() == pytest.approx([30 - 187.5 / 2, 120 + 125 - 250 / 768, 0.4])
    assert found[0, 2].tolist() == [0, 0, 0]
    assert found[1, 0].tolist() == pytest.approx([60 - 150 / 4, 20 + 200 / 4, 1])
    assert decode(along_x[:0], along_y[:0], np.zeros((0, 4), np.float32)).shape == (0, 3, 3)


def test_a_point_of_an_image_that_is_seen_in_the_crop_comes_back() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    image[118:123, 248:253] = 255  # around x 250, y 120
    region = regions(np.array([[180, 60, 300, 260]], np.float32), SIZE)
    bright = cropped(image, region[0], SIZE).sum(0)
    along_x, along_y = (np.repeat(bright.sum(axis), 2)[None, None] for axis in (0, 1))
    centred = [
        cv2.GaussianBlur(values - values.min(), (0, 0), 4).astype(np.float32) for values in (along_x[0], along_y[0])
    ]
    found = decode(centred[0][None], centred[1][None], region)[0, 0]
    assert np.abs(found[:2] - (250, 120)).max() < 1
