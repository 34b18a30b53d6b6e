"""Crops compared with OpenCV's, as MediaPipe calls it; regions, detections and heatmaps with values by hand."""

from math import pi
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from preprocess.holistic.crop import MAX_SIDE_PX, FlatImages, coordinates, crop, crop_by_opencv, scaled
from preprocess.holistic.detection import anchors, best_detection
from preprocess.holistic.heatmap import refine
from preprocess.holistic.networks import NETWORKS, Border
from preprocess.holistic.regions import Region, aligned_square, expanded_square, rotation_to, square_around
from preprocess.holistic.torch_landmarker import flatten_images
from support.people import Picture, demo_pictures, small

REGIONS = [  # center x and y, side, as parts of the sides; rotation
    (0.5, 0.5, 1.0, 0.0),
    (0.5, 0.4, 0.6, 0.3),
    (0.3, 0.7, 0.2, -2.5),
    (0.0, 0.1, 0.9, 1.2),  # half outside
    (0.9, 0.9, 1.7, pi),
    (5.0, 5.0, 0.5, 0.0),  # outside
]

needs_opencv_4 = pytest.mark.skipif(
    int(cv2.__version__.partition(".")[0]) > 4, reason="OpenCV 5 warps in floating point, unlike MediaPipe's OpenCV"
)


def region_of(picture: Picture, place: tuple[float, float, float, float]) -> Region:
    height, width = picture.shape[:2]
    center = torch.tensor([[[place[0] * width, place[1] * height]]], dtype=torch.float64)
    return Region(center, torch.full((1, 1), place[2] * height).double(), torch.full((1, 1), place[3]).double())


def by_opencv(picture: Picture, region: Region, side: int, border: Border) -> NDArray[np.uint8]:
    """Crop as image_to_tensor_converter_opencv.cc of MediaPipe 0.10."""
    (x, y), size, rotation = region.center[0, 0].tolist(), region.side.item(), region.rotation.item()
    corners = cv2.boxPoints(((x, y), (size, size), rotation * 180 / pi))
    ends = np.array([(0, side), (0, 0), (side, 0), (side, side)], np.float32)
    mode = cv2.BORDER_CONSTANT if border == "zero" else cv2.BORDER_REPLICATE
    matrix = cv2.getPerspectiveTransform(corners, ends)
    warped: Any = cv2.warpPerspective(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=mode)
    return warped  # type: ignore[no-any-return]


def pictures_of(*pictures: Picture) -> FlatImages:
    return flatten_images([torch.from_numpy(each).permute(2, 0, 1) for each in pictures], torch.device("cpu"))


def cropped(images: FlatImages, region: Region, side: int, border: Border) -> torch.Tensor:
    return crop(images, coordinates(region, side), border)


def differing(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> tuple[float, int]:
    """Return the share of values that differ, and the largest difference."""
    apart = np.abs(ours.astype(int) - theirs.astype(int))
    return float((apart > 0).mean()), int(apart.max())


@needs_opencv_4
@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_crops_equal_opencv_except_for_a_thousandth_of_the_values(border: Border) -> None:
    everything = []
    for picture in (demo_pictures()[1], small(demo_pictures()[0])):
        for place in REGIONS:
            region = region_of(picture, place)
            ours = cropped(pictures_of(picture), region, 192, border)[0, 0].permute(1, 2, 0).numpy()
            everything.append(differing(ours, by_opencv(picture, region, 192, border)))
    shares, most = zip(*everything, strict=True)
    assert np.mean(shares) <= 1e-3
    assert max(most) <= 3


@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_crops_by_opencv_are_the_same_bits_as_those_in_torch(border: Border) -> None:
    """With any release of OpenCV: what it computes in another way than ours is not used."""
    random = np.random.default_rng(0)
    places = [
        *REGIONS,
        *((*random.uniform(-0.5, 1.5, 2), random.uniform(0.01, 3), random.uniform(-4, 4)) for _ in range(20)),
    ]
    for picture in (demo_pictures()[1], small(demo_pictures()[0]), random.integers(0, 256, (7, 5, 3), np.uint8)):
        for place in places:
            for side in (256, 97):
                region = region_of(picture, place)
                expected = cropped(pictures_of(picture), region, side, border)[0, 0].permute(1, 2, 0).numpy()
                ours = crop_by_opencv(picture, numpy_region(region), side, border)
                np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_crops_by_opencv_reach_to_the_ends_of_the_largest_image(border: Border) -> None:
    picture = np.arange(MAX_SIDE_PX, dtype=np.uint32).view(np.uint8).reshape(1, -1, 4)[:, :, :3].copy()
    for x, side, rotation in ((MAX_SIDE_PX, 64, 0), (0, 64, 0), (1e30, 8, 0), (-1e30, 1e30, 0), (2e4, 9e4, 0.7)):
        center = torch.tensor([[[x, 0.5]]]).double()
        region = Region(center, torch.full((1, 1), side).double(), torch.full((1, 1), rotation).double())
        expected = cropped(pictures_of(picture), region, 32, border)[0, 0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(crop_by_opencv(picture, numpy_region(region), 32, border), expected)


def numpy_region(region: Region) -> Region:
    """Return a region [1] in numpy, of one [1, 1] in torch."""
    return Region(*(field[0].numpy() for field in region))


@needs_opencv_4
def test_crops_by_grid_sample_differ_from_opencv() -> None:
    picture = demo_pictures()[1]
    region = region_of(picture, REGIONS[1])
    (x, y), size = region.center[0, 0].tolist(), region.side.item()
    steps = np.arange(192) / 192 - 0.5
    along, down = np.meshgrid(steps, steps)
    cos, sin = np.cos(0.3) * size, np.sin(0.3) * size
    places = np.stack([x + cos * along - sin * down, y + sin * along + cos * down], -1)
    grid = torch.from_numpy(2 * places / (np.array(picture.shape[1::-1]) - 1) - 1)[None].float()
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    sampled = torch.nn.functional.grid_sample(image, grid, align_corners=True)[0].permute(1, 2, 0).round()
    share, _ = differing(sampled.byte().numpy(), by_opencv(picture, region, 192, "zero"))
    assert share > 0.05


def test_each_image_of_a_batch_ends_at_its_own_border() -> None:
    first, second = demo_pictures()[1][:300, :200].copy(), demo_pictures()[0][:250, :490].copy()
    both = pictures_of(first, second)
    assert both.width.tolist() == [200, 490]
    for border in ("zero", "replicate"):
        for row, picture in enumerate((first, second)):
            region = region_of(picture, REGIONS[3])
            together = cropped(both, Region(*(each.expand(2, *each.shape[1:]) for each in region)), 96, border)
            assert torch.equal(together[row], cropped(pictures_of(picture), region, 96, border)[0])


def test_a_region_of_any_size_fits_into_integers() -> None:
    picture = demo_pictures()[1]
    place = torch.full((1, 1, 2), 1e30).double()
    values = cropped(pictures_of(picture), Region(place, place[..., 0], torch.zeros(1, 1).double()), 8, "replicate")
    assert (values[0, 0, :, 4:, 4:] == torch.from_numpy(picture[-1, -1])[:, None, None]).all()


def test_several_regions_of_an_image_equal_single_ones() -> None:
    picture = demo_pictures()[1]
    regions = [region_of(picture, place) for place in REGIONS[:2]]
    both = cropped(
        pictures_of(picture), Region(*(torch.cat(each, 1) for each in zip(*regions, strict=True))), 64, "zero"
    )
    alone = [cropped(pictures_of(picture), region, 64, "zero")[0, 0] for region in regions]
    assert torch.equal(both[0], torch.stack(alone))


def test_values_are_rounded_before_they_are_scaled() -> None:
    values = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    assert scaled(values, -1.0, torch.float32).flatten().tolist() == pytest.approx([-1, 1, -0.6])
    assert scaled(values, 0.0, torch.float16).flatten().tolist() == pytest.approx([0, 1, 0.2], abs=1e-3)


def points(*values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_line_is_rotated_to_its_target_angle() -> None:
    start = points((0, 0))
    assert rotation_to(start, points((0, -5)), pi / 2).item() == pytest.approx(0)  # upwards already
    assert rotation_to(start, points((5, 0)), pi / 2).item() == pytest.approx(pi / 2)
    assert rotation_to(start, points((-5, 0.001)), 0.0).item() == pytest.approx(pi, abs=1e-3)


def test_an_aligned_region_has_its_edge_in_the_middle_of_its_upper_side() -> None:
    region = aligned_square(points((10, 20)), points((13, 16)), pi / 2)
    assert region.side.item() == pytest.approx(10)
    assert region.project(points((0.5, 0.0))[None])[0, 0].tolist() == pytest.approx([13, 16])


def test_a_region_is_expanded_and_moved_along_its_own_axis() -> None:
    region = expanded_square(points((10, 20)), points((4, 8)), points((pi / 2,))[0], 2.0, -0.5)
    assert region.side.tolist() == [16]
    assert region.center[0].tolist() == pytest.approx([14, 20])  # its down points left


def test_a_region_around_points_is_their_bounding_box() -> None:
    region = square_around(points((1, 2), (5, 3), (2, 8))[None], points((0,))[0], 1.0, 0.0)
    assert region.center[0].tolist() == [3, 5]
    assert region.side.tolist() == [6]


def test_projection_scales_depth_and_rotates_the_rest() -> None:
    region = Region(points((100, 50)), points((20,))[0], points((pi / 2,))[0])
    found = region.project(points((0.5, 0.5, 0.25), (1.0, 0.5, 0))[None])
    np.testing.assert_allclose(found[0], [[100, 50, 5], [100, 60, 0]], atol=1e-9)


def test_anchors_are_two_per_layer_and_merged_by_stride() -> None:
    pose, face = (anchors(NETWORKS[name]) for name in ("pose_detection", "face_detection_short_range"))
    assert (pose.shape, face.shape) == ((2254, 2), (896, 2))
    np.testing.assert_array_equal(pose[:3], [[4, 4], [4, 4], [12, 4]])
    np.testing.assert_array_equal(face[512:518], [[8, 8]] * 6)
    np.testing.assert_array_equal(face[518], [24, 8])


def detected(*boxes: tuple[float, float, float, float]) -> tuple[torch.Tensor, bool]:
    """Keypoint and whether it is found, of boxes (x, size, keypoint's x, logit), of side 100, anchors at 0."""
    values = torch.tensor([[(x, 0.0, size, size, keypoint, 0.0) for x, size, keypoint, _ in boxes]])
    logits = torch.tensor([[(logit,) for *_, logit in boxes]])
    found = best_detection((values, logits), torch.zeros(len(boxes), 2), 100)
    return found.keypoints[0, 0], bool(found.found[0])


def test_the_best_detection_is_averaged_with_those_that_overlap() -> None:
    keypoint, found = detected((0, 10, 20, 2.0), (1, 10, 40, 1.0), (50, 10, 90, 1.5), (0, 10, 1000, -1.0))
    scores = torch.tensor([2.0, 1.0]).sigmoid()
    assert found
    assert keypoint[0].item() == pytest.approx(float((scores * torch.tensor([0.2, 0.4])).sum() / scores.sum()))


def test_low_scores_and_negative_sizes_are_not_detections() -> None:
    assert not detected((0, 10, 20, -0.1))[1]
    assert not detected((0, -10, 20, 5.0))[1]
    assert detected((0, 10, 20, 0.0))[1]  # 0.5 is enough
    assert detected((0, 0, 20, 5.0))[0][0].item() == pytest.approx(0.2)  # without an area, it is itself still


def refined(x: float, y: float, *hot: tuple[int, int]) -> list[float]:
    heatmap = torch.full((1, 64, 64, 1), -30.0)
    for column, row in hot:
        heatmap[0, row, column] = 30.0
    found: list[float] = refine(torch.tensor([[[x, y]]], dtype=torch.float64), heatmap)[0, 0].tolist()
    return found


def test_points_move_to_the_center_of_their_heatmap() -> None:
    assert refined(0.5, 0.25, (33, 16), (35, 18)) == pytest.approx([34 / 64, 17 / 64])
    assert refined(0.5, 0.25, (36, 16)) == pytest.approx([36 / 64, 16 / 64])  # 4 from 32: within the window of 9
    assert refined(0.5, 0.25, (37, 16)) == [0.5, 0.25]
    assert refined(-0.01, 0.25, (2, 16)) == pytest.approx([2 / 64, 0.25])  # cut off towards 0 it is within
    assert refined(-0.02, 0.25, (2, 16)) == [-0.02, 0.25]
    assert refined(1.0, 0.25, (63, 16)) == [1.0, 0.25]
    assert refined(0.99, 0.99, (63, 63)) == pytest.approx([63 / 64, 63 / 64])


def test_numpy_and_torch_compute_the_same() -> None:
    random = np.random.default_rng(0)
    detector = NETWORKS["face_detection_short_range"]
    outputs = [random.normal(0, 40, (3, 896, 16)), random.normal(-2, 2, (3, 896, 1))]
    outputs = [output.astype(np.float32) for output in outputs]
    found, expected = (
        best_detection([convert(output) for output in outputs], convert(anchors(detector)), detector.side)
        for convert in (np.asarray, torch.from_numpy)
    )
    assert found.found.all()
    np.testing.assert_array_equal(found.found, expected.found)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, rtol=1e-6)
    places, heatmaps = random.uniform(-0.1, 1.1, (2, 33, 2)), random.normal(0, 3, (2, 64, 64, 39)).astype(np.float32)
    in_torch = refine(torch.from_numpy(places), torch.from_numpy(heatmaps))
    np.testing.assert_allclose(refine(places, heatmaps), in_torch, rtol=1e-12)
    start, stop = random.normal(0, 100, (2, 5, 2))
    ours, theirs = (aligned_square(convert(start), convert(stop), 1.0) for convert in (np.asarray, torch.from_numpy))
    for ours_field, theirs_field in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(ours_field, theirs_field, rtol=1e-12)
