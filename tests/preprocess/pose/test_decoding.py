"""People decoded from maps of known skeletons, and compared with a plain implementation in loops."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from preprocess.pose import limbs, maps, peaks
from preprocess.pose.backend import People
from preprocess.pose.decoding import decode
from preprocess.pose.limbs import PAFS
from preprocess.pose.maps import Maps, Scale, upsampling_matrix
from preprocess.pose.peaks import find_peaks
from support.openpose_reference import LIMB_SEQUENCE, MAP_INDEX, plain_decode
from support.pose_runs import Scene, crowd, inside, rendered, standing

SIZE = (256, 256)


def maps_of(scenes: Sequence[Scene]) -> Maps:
    height, width = scenes[0].size
    rows, columns = (
        upsampling_matrix(cells, size, size, scenes[0].stride)
        for cells, size in zip(scenes[0].pafs.shape[1:], (height, width), strict=True)
    )
    pafs, heatmaps = (
        torch.from_numpy(np.stack([getattr(scene, name) for scene in scenes])) for name in ("pafs", "heatmaps")
    )
    return Maps(pafs, heatmaps, rows, columns)


def matched(found: People, people: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the found keypoints in the order of `people`, matched by the distance of joints that both have."""
    assert len(found.keypoints) == len(people)
    order = []
    for person in people:
        both = (found.keypoints[..., 2] > 0) & (person[:, 2] > 0)
        apart = np.hypot(*np.moveaxis(found.keypoints[..., :2] - person[:, :2], -1, 0))
        order.append(int(np.argmin(np.where(both, apart, 0).sum(1) / np.maximum(both.sum(1), 1) + 1e3 * ~both.any(1))))
    assert sorted(order) == list(range(len(people)))
    return found.keypoints[order]


def check(found: People, people: NDArray[np.float32], within_px: float = 1.0) -> None:
    keypoints = matched(found, people)
    np.testing.assert_array_equal(keypoints[..., 2] > 0, people[..., 2] > 0)
    assert np.abs(keypoints - people)[..., :2].max() <= within_px


OVERLAPPING = np.stack([standing(x, y, h, t) for x, y, h, t in (
    (128, 12, 159, -0.05), (114, 109, 141, 0.1), (97, 40, 175, 0.11), (176, 42, 171, -0.05), (141, 69, 157, -0.01),
)])  # fmt: skip


@pytest.mark.parametrize("stride", [8, 1])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_people_who_overlap_come_back_with_their_own_joints(count: int, stride: int) -> None:
    people = OVERLAPPING[:count]
    (found,) = decode([maps_of([rendered(people, SIZE, stride)])])
    check(found, people)
    assert found.scores.min() > 0.9
    assert found.keypoints.dtype == found.scores.dtype == np.float32


def test_people_cut_off_by_the_edge_have_the_joints_that_are_inside() -> None:
    people = inside(np.stack([standing(128, 90, 260), standing(238, 20, 150), standing(30, 60, 170)]), SIZE, 8)
    assert ((people[..., 2] > 0).sum(1) < 18).all()
    (found,) = decode([maps_of([rendered(people)])])
    check(found, people)


@pytest.mark.parametrize("joint", range(18))
def test_a_missing_joint_is_missing_and_the_others_are_of_one_person_unless_it_joins_them(joint: int) -> None:
    people = standing(128, 10, 230)[None]
    people[0, joint] = 0
    (found,) = decode([maps_of([rendered(people)])])
    if joint == 1:  # without a neck: a face with arms, joined through the ears; the legs have too few joints
        assert [(person[:, 2] > 0).sum() for person in found.keypoints] == [11]
        return
    beyond = {2: (3, 4), 3: (4,), 5: (6, 7), 6: (7,), 8: (9, 10), 9: (10,), 11: (12, 13), 12: (13,)}
    people[0, beyond.get(joint, ())] = 0  # no limb leads to these joints
    if joint in (14, 15):  # a limb from the shoulder leads to the ear
        people[0, joint + 2] = standing(128, 10, 230)[joint + 2]
    check(found, people)


def test_five_people_without_two_wrists_and_a_hip_are_decoded() -> None:
    people = OVERLAPPING.copy()
    people[0, 4] = people[1, 7] = people[3, 10] = 0
    (found,) = decode([maps_of([rendered(people)])])
    check(found, people)


def test_empty_maps_or_too_few_joints_give_no_people() -> None:
    empty = rendered(OVERLAPPING[:0])
    three = OVERLAPPING[:1].copy()
    three[0, [joint for joint in range(18) if joint not in (1, 2, 3)]] = 0
    for scene in (empty, rendered(three)):
        (found,) = decode([maps_of([scene])])
        assert found.keypoints.shape == (0, 18, 3)
        assert found.scores.shape == (0,)


def test_people_with_low_scores_are_left_out() -> None:
    scene = rendered(OVERLAPPING[:1])
    (found,) = decode([maps_of([scene._replace(pafs=scene.pafs * 0.15, heatmaps=scene.heatmaps * 0.15)])])
    assert not len(found.scores)


def test_people_of_different_images_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scenes = [rendered(crowd(rng, count)) for count in (3, 0, 1, 5, 2)]
    together = decode([maps_of(scenes)])
    monkeypatch.setitem(peaks._MAX_VALUES, "cpu", 7 * 256 * 256)
    monkeypatch.setitem(maps._MAX_GATHERED, "cpu", 5_000)
    for scene, first, second in zip(scenes, together, decode([maps_of(scenes)]), strict=True):
        (alone,) = decode([maps_of([scene])])
        for other in (first, second):
            np.testing.assert_allclose(other.keypoints, alone.keypoints, atol=1e-5)
            np.testing.assert_allclose(other.scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [((256, 256), 8), ((200, 321), 8), ((120, 96), 1)])
def test_results_equal_those_of_a_plain_implementation(size: tuple[int, int], stride: int) -> None:
    rng = np.random.default_rng(1)
    noise = np.random.default_rng(2)
    for count in (0, 1, 2, 3, 5) if stride == 8 else (1, 2):
        scene = rendered(crowd(rng, count, size), size, stride)
        scene.heatmaps[:18] += noise.uniform(0, 0.03, scene.heatmaps[:18].shape)
        scene.pafs[:] += noise.normal(0, 0.05, scene.pafs.shape)
        people, scores = plain_decode(scene.pafs, scene.heatmaps, size, stride)
        (found,) = decode([maps_of([scene])])
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_allclose(found.keypoints, people[order], atol=1e-3)
        np.testing.assert_allclose(found.scores, scores[order], atol=1e-3)


def faint_scenes() -> list[Scene]:
    """Return scenes whose heatmaps, fields and noise are close to the thresholds."""
    rng = np.random.default_rng(3)
    scenes = []
    for _ in range(12):
        scene = rendered(crowd(rng, 3, SIZE), SIZE)
        scene.heatmaps[:18] *= rng.uniform(0.1, 0.4, (18, 1, 1))
        scene.heatmaps[:18] += rng.uniform(0, 0.04, scene.heatmaps[:18].shape)
        scene.pafs[:] *= rng.uniform(0.05, 0.4, (len(scene.pafs), 1, 1))
        scene.pafs[:] += rng.normal(0, 0.05, scene.pafs.shape)
        scenes.append(scene)
    return scenes


def equals_plain_decoding(scene: Scene) -> bool:
    people, scores = plain_decode(scene.pafs, scene.heatmaps, SIZE, 8)
    (found,) = decode([maps_of([scene])])
    order = np.argsort(-scores, kind="stable")
    return found.keypoints.shape == people.shape and np.allclose(found.keypoints, people[order], atol=1e-3)


def test_faint_people_are_those_of_a_plain_implementation() -> None:
    assert all(map(equals_plain_decoding, faint_scenes()))


@pytest.mark.parametrize(
    ("module", "name", "value"), [(limbs, "_MIN_POINTS", 8), (limbs, "_MIN_ALONG", 0.1), (peaks, "_MIN_VALUE", 0.15)]
)
def test_faint_people_depend_on_each_threshold(
    module: ModuleType, name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    assert not all(map(equals_plain_decoding, faint_scenes()))


def test_several_scales_are_averaged() -> None:
    scene = rendered(OVERLAPPING[:2])
    other = rendered(OVERLAPPING[:2], SIZE, 4)
    nothing = scene._replace(pafs=scene.pafs * 0, heatmaps=scene.heatmaps * 0)
    (both,) = decode([maps_of([scene]), maps_of([other])])
    check(both, OVERLAPPING[:2])
    (half,) = decode([maps_of([scene]), maps_of([nothing])])
    (alone,) = decode([maps_of([scene])])
    np.testing.assert_allclose(half.scores, alone.scores / 2, rtol=1e-3)


def test_the_padding_is_cut_and_maps_reach_images_of_any_size() -> None:
    people = OVERLAPPING[:1]
    scene = rendered(people, (256, 256), 8)
    rows, columns = upsampling_matrix(32, 250, 500, 8), upsampling_matrix(32, 256, 128, 8)
    scene_maps = Maps(torch.from_numpy(scene.pafs[None]), torch.from_numpy(scene.heatmaps[None]), rows, columns)
    (found,) = decode([scene_maps])
    expected = people.copy()
    expected[0, :, 0], expected[0, :, 1] = (people[0, :, 0] + 0.5) / 2 - 0.5, (people[0, :, 1] + 0.5) * 2 - 0.5
    check(found, expected, 2)
    assert upsampling_matrix(1, 1, 1, 8).shape == (1, 1)


def test_noise_gives_at_most_127_peaks_of_a_joint() -> None:
    heatmaps = torch.zeros(1, 19, 64, 64)
    heatmaps[0, :, ::2, ::2] = torch.rand(19, 32, 32, generator=torch.Generator().manual_seed(0)) + 5
    lines = np.kron(np.eye(64), np.ones((4, 1))).astype(np.float32)
    positions = find_peaks([Scale.of(Maps(torch.zeros(1, 38, 64, 64), heatmaps, lines, lines))]).positions
    counts = np.bincount(positions[:, 1], minlength=18)
    assert counts.max() <= 127
    assert (np.diff(positions[:, 1]) >= 0).all()


def test_channels_of_fields_are_those_of_pytorch_openpose() -> None:
    printed = [(a - 1, b - 1, x - 19) for (a, b), (x, y) in zip(LIMB_SEQUENCE, MAP_INDEX, strict=True) if y == x + 1]
    assert list(PAFS) == printed


def test_equal_neighbours_are_one_peak() -> None:
    heatmaps = torch.zeros(1, 19, 32, 32)
    heatmaps[0, 3, 10, 10:12] = heatmaps[0, 3, 11, 10:12] = 4.0
    line = np.eye(32, dtype=np.float32)
    found = find_peaks([Scale.of(Maps(torch.zeros(1, 38, 32, 32), heatmaps, line, line))])
    assert len(found.positions) == 1


@pytest.mark.gpu
def test_results_on_a_gpu_equal_those_on_the_cpu() -> None:
    rng = np.random.default_rng(0)
    on_cpu = maps_of([rendered(crowd(rng, count)) for count in (3, 0, 5)])
    on_gpu = on_cpu._replace(pafs=on_cpu.pafs.cuda(), heatmaps=on_cpu.heatmaps.cuda())
    for found, expected in zip(decode([on_gpu]), decode([on_cpu]), strict=True):
        np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
