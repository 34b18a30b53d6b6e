"""The three backends: common tests, and those of each backend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import JOINTS, from_coco_17
from preprocess.pose import openpose
from preprocess.pose.backend import People, PoseBackend, within
from preprocess.pose.mediapipe import LANDMARKS, MediaPipe
from preprocess.pose.openpose import OpenPose
from preprocess.pose.vitpose import VitPose
from support.gpu import tf32_of_modules
from support.pose_checkpoints import make_openpose, make_rtdetr, make_vitpose
from support.pose_runs import rendered, standing

CPU = torch.device("cpu")
FP8: Any = "fp8"  # of no model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_rtdetr(folder / "rtdetr")
    make_vitpose(folder / "vitpose")
    make_openpose(folder / "openpose" / "body_pose_model.pth")
    return folder


@pytest.fixture(scope="module")
def backends(folder: Path) -> dict[str, PoseBackend]:
    made: dict[str, PoseBackend] = {
        "mediapipe": MediaPipe(),
        "openpose": OpenPose(str(folder / "openpose"), scales=(0.25,)),
        "vitpose": vitpose(folder),
    }
    for backend in made.values():
        backend.load(CPU)
    return made


def vitpose(folder: Path, estimator: str = "vitpose", **options: Any) -> VitPose:
    chosen = {"min_score": 0.3, "min_joint_score": 0.0, **options}
    return VitPose(str(folder / "rtdetr"), str(folder / estimator), **chosen)


def picture(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def check(found: People, size: tuple[int, int]) -> None:
    """Check shapes, dtypes and ranges of the fields of `People`."""
    count = len(found.scores)
    assert found.keypoints.shape == (count, 18, 3)
    assert found.keypoints.dtype == found.scores.dtype == np.float32
    assert np.isfinite(found.keypoints).all()
    assert (found.scores > 0).all()
    assert (np.diff(found.scores) <= 0).all()
    missing = found.keypoints[..., 2] <= 0
    assert not found.keypoints[missing].any()
    assert not missing.all(1).any()
    np.testing.assert_array_equal(within(found.keypoints, size), found.keypoints)


@pytest.mark.parametrize("name", ["mediapipe", "openpose", "vitpose"])
@pytest.mark.parametrize("size", [(1, 1), (4, 40), (40, 1), (64, 48)])
def test_images_of_any_size_have_people_or_none(
    name: str, size: tuple[int, int], backends: dict[str, PoseBackend]
) -> None:
    rng = np.random.default_rng(0)
    (found,) = backends[name].people([picture(rng.integers(0, 256, (*size, 3), dtype=np.uint8))])
    check(found, size)


@pytest.mark.parametrize("name", ["mediapipe", "openpose", "vitpose"])
def test_images_of_several_sizes_give_what_each_gives_alone(name: str, backends: dict[str, PoseBackend]) -> None:
    space = astronaut()
    images = [
        picture(each) for each in (space[::4, ::4], space[::8, ::4], space[:128, :128], np.zeros((64, 64, 3), np.uint8))
    ]
    together = backends[name].people(images)
    for image, found in zip(images, together, strict=True):
        check(found, (image.shape[1], image.shape[2]))
        (alone,) = backends[name].people([image])
        assert alone.keypoints.shape == found.keypoints.shape
        np.testing.assert_allclose(alone.keypoints[..., :2], found.keypoints[..., :2], atol=1.01)
    if name != "mediapipe":  # these have random weights
        assert any(len(found.scores) for found in together)


@pytest.mark.parametrize("name", ["mediapipe", "openpose", "vitpose"])
def test_provenance_names_weights_and_versions(name: str, backends: dict[str, PoseBackend]) -> None:
    provenance = backends[name].provenance()
    assert provenance == backends[name].provenance()
    assert all(isinstance(value, str) and value for value in provenance.values())
    assert any(len(value) == 64 for value in provenance.values())


def test_mediapipe_finds_the_astronaut_and_nobody_in_noise(backends: dict[str, PoseBackend]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    nobody, somebody, nobody_again = backends["mediapipe"].people(
        [picture(each) for each in (noise, astronaut(), noise)]
    )
    assert len(nobody.scores) == len(nobody_again.scores) == 0
    assert len(somebody.scores) == 1
    found = dict(zip(JOINTS, somebody.keypoints[0].tolist(), strict=True))
    for joint, x, y in (("nose", 222, 128), ("right_eye", 205, 103), ("left_eye", 248, 112), ("neck", 209, 248)):
        assert np.hypot(found[joint][0] - x, found[joint][1] - y) < 8
    assert found["right_shoulder"][0] < found["neck"][0] < found["left_shoulder"][0]
    assert found["left_ankle"] == [0, 0, 0]
    assert 0.5 < somebody.scores[0] <= 1


def test_min_visibility_of_mediapipe_leaves_joints_out(backends: dict[str, PoseBackend]) -> None:
    sure = MediaPipe(min_visibility=0.9)
    sure.load(CPU)
    (usual,), (found,) = (backend.people([picture(astronaut())]) for backend in (backends["mediapipe"], sure))
    assert 0 < (found.keypoints[..., 2] > 0).sum() < (usual.keypoints[..., 2] > 0).sum()


@pytest.mark.reference
def test_joints_of_mediapipe_are_those_of_its_own_graph() -> None:
    from preprocess.mediapipe_graph import HolisticGraph

    backend = MediaPipe(min_visibility=0)
    backend.load(CPU)
    pictures = [np.ascontiguousarray(view) for view in (astronaut(), astronaut()[:, ::-1], astronaut()[::2, ::2])]
    with HolisticGraph() as graph:
        for pixels, people in zip(pictures, backend.people([picture(pixels) for pixels in pictures]), strict=True):
            pose = graph(pixels).pose
            assert pose is not None
            expected = from_coco_17(
                within(pose[None, LANDMARKS, :][..., [0, 1, 3]], (pixels.shape[0], pixels.shape[1]))
            )
            apart = np.linalg.norm(people.keypoints[..., :2] - expected[..., :2], axis=-1)
            assert np.percentile(apart, 90) < 0.5
            np.testing.assert_allclose(people.keypoints[..., 2], expected[..., 2], atol=0.02)


@pytest.fixture
def drawing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], OpenPose]:
    """Make an OpenPose whose network returns maps of `people` [P, 18, 3] of an image of 100x150 px."""

    def make(people: Any) -> OpenPose:
        backend = OpenPose(str(folder / "openpose"), scales=(0.5, 1.0))

        def net(inputs: Tensor) -> tuple[Tensor, Tensor]:
            seen = people.copy()
            seen[..., :2] = (people[..., :2] + 0.5) * (inputs.shape[2] // 8 * 8 / 100) - 0.5
            scene = rendered(seen, (inputs.shape[2], inputs.shape[3]))
            return torch.from_numpy(scene.pafs)[None], torch.from_numpy(scene.heatmaps)[None]

        backend._net = net
        return backend

    return make


def test_coordinates_of_openpose_are_in_the_image_at_all_scales(drawing: Callable[[Any], OpenPose]) -> None:
    people = np.stack([standing(40, 8, 84), standing(100, 6, 88)])
    for size in ((100, 150), (3000, 4500)):
        scale = size[0] / 100
        (found,) = drawing(people).people([torch.zeros(3, *size, dtype=torch.uint8)])
        assert len(found.scores) == 2
        keypoints = found.keypoints[np.argsort(found.keypoints[:, 1, 0])]
        apart = np.abs((keypoints[..., :2] + 0.5) / scale - 0.5 - people[..., :2])
        assert np.median(apart) < 1
        assert apart.max() < 3


def test_the_input_of_openpose_has_a_longest_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openpose, "_MAX_INPUT_PX", 64)
    backend = OpenPose(str(folder / "openpose"))
    seen = []

    def net(inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(inputs.shape))
        return torch.zeros(1, 38, 1, 8), torch.zeros(1, 19, 1, 8)

    backend._net = net
    backend.people([torch.zeros(3, 2, 3000, dtype=torch.uint8)])
    assert seen == [(1, 3, 8, 64)]


def test_openpose_in_bf16_gives_nearly_the_same_people(folder: Path) -> None:
    backend = OpenPose(str(folder / "openpose"), dtype="bf16", scales=(0.1,))
    backend.load(CPU)
    check(backend.people([picture(astronaut()[::4, ::4])])[0], (128, 128))


def reference(folder: Path, image: Tensor) -> list[tuple[float, Any]]:
    """Return (score, joints [17, 3]) of each person, computed as in the documentation of transformers."""
    from transformers import AutoImageProcessor, AutoModelForObjectDetection, VitPoseForPoseEstimation

    find, estimate = (AutoImageProcessor.from_pretrained(folder / name) for name in ("rtdetr", "vitpose"))
    finder = AutoModelForObjectDetection.from_pretrained(folder / "rtdetr")
    estimator = VitPoseForPoseEstimation.from_pretrained(folder / "vitpose")
    with torch.inference_mode():
        found = find.post_process_object_detection(
            finder(**find(images=image, return_tensors="pt")), 0.3, [tuple(image.shape[1:])]
        )[0]
        boxes = found["boxes"][found["labels"] == 0].clamp(min=0).minimum(torch.tensor([*image.shape[:0:-1]] * 2))
        boxes[:, 2:] -= boxes[:, :2]
        inputs = estimate(image, boxes=[boxes.numpy()], return_tensors="pt")
        poses = estimate.post_process_pose_estimation(estimator(**inputs), boxes=[boxes.numpy()])[0]
    joints = [np.concatenate([each["keypoints"], each["scores"][:, None]], 1) for each in poses]
    return list(zip(found["scores"][found["labels"] == 0].tolist(), joints, strict=True))


def test_results_of_vitpose_are_those_of_transformers(folder: Path, backends: dict[str, PoseBackend]) -> None:
    image = picture(astronaut()[::4, ::2])
    expected, (found,) = reference(folder, image), backends["vitpose"].people([image])
    assert len(expected) == len(found.scores) > 1
    for score, joints in expected:
        inside = within(joints[None].astype(np.float32), (128, 256))[0]
        apart = [np.abs(person[0, :2] - inside[0, :2]).max() for person in found.keypoints]
        person = found.keypoints[int(np.argmin(apart))]
        np.testing.assert_allclose(person[2, :2], inside[6, :2], atol=1e-2)
        assert person[14, 2] == pytest.approx(inside[2, 2], abs=1e-4)
        seen = person[person[:, 2] > 0, 2].mean()
        assert min(abs(found.scores - score * seen)) < 1e-4


@pytest.mark.parametrize("at_once", [1, 3])
def test_vitpose_in_small_batches_gives_the_same(at_once: int, folder: Path, backends: dict[str, PoseBackend]) -> None:
    images = [picture(astronaut()[::4, ::4]), picture(astronaut()[::8, ::4])]
    small = vitpose(folder, people_at_once=at_once)
    small.load(CPU)
    for found, expected in zip(small.people(images), backends["vitpose"].people(images), strict=True):
        np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-2)


def test_vitpose_leaves_out_people_and_joints_with_low_scores(folder: Path) -> None:
    images, joints = [picture(astronaut()[::4, ::4])], []
    choices: list[dict[str, Any]] = [{}, {"min_joint_score": 1.0}, {"min_score": 1.0}]
    for options in choices:
        backend = vitpose(folder, **options)
        backend.load(CPU)
        joints.append(int((backend.people(images)[0].keypoints[..., 2] > 0).sum()))
    assert joints[0] > joints[1] > joints[2] == 0


def test_vitpose_plus_estimates_the_joints_of_coco(folder: Path) -> None:
    make_vitpose(folder / "plus", num_experts=3)
    backend = vitpose(folder, "plus")
    backend.load(CPU)
    check(backend.people([picture(astronaut()[::4, ::4])])[0], (128, 128))


def refused(make: Callable[[], PoseBackend], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make().load(CPU)


def test_models_of_another_kind_fail(folder: Path, tmp_path: Path) -> None:
    detector, estimator = str(folder / "rtdetr"), str(folder / "vitpose")
    refused(lambda: VitPose(estimator, estimator), r"backend\.detector .* is a vitpose model\. Use one of type")
    refused(lambda: VitPose(detector, detector), r"backend\.estimator .* is a rt_detr model\. Use one of type")
    cats = str(make_rtdetr(tmp_path / "cats", ("cat", "dog")))
    refused(lambda: VitPose(cats, estimator), r"has no class 'person'; its classes are cat, dog")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OpenPose("x", scales=()), r"scales = \(\) must be above 0"),
        (lambda: OpenPose("x", scales=(1, 0)), r"scales = \(1, 0\) must be above 0"),
        (lambda: OpenPose("x", dtype=FP8), "dtype = 'fp8': choose from bf16, fp16, fp32"),
        (lambda: VitPose(min_score=2), r"min_score = 2 and .* must be 0 to 1"),
        (lambda: VitPose(dtype=FP8), r"--model\.backend\.dtype fp8: use auto, bf16, fp16, fp32"),
        (lambda: VitPose(people_at_once=0), "people_at_once = 0 must be 1 or more"),
        (lambda: MediaPipe(min_visibility=-1), "min_visibility = -1 is not from 0 to 1"),
        (lambda: MediaPipe(min_detection_confidence=2), "min_detection_confidence = 2 is not from 0 to 1"),
    ],
)
def test_options_out_of_range_fail(make: Callable[[], PoseBackend], message: str) -> None:
    refused(make, message)


@pytest.mark.parametrize("name", ["openpose", "vitpose"])
def test_models_run_without_tf32(backends: dict[str, PoseBackend], name: str) -> None:
    with tf32_of_modules() as states:
        backends[name].people([picture(astronaut()[::8, ::8])])
    assert states == {False}


def test_vitpose_copies_an_image_from_the_device_once_whoever_is_in_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = vitpose(folder)
    backend.load(CPU)
    sizes: list[tuple[int, ...]] = []  # of the images that are copied

    class OnDevice(Tensor):
        """An image that records its copies to the CPU."""

        def cpu(self, *options: Any) -> Tensor:
            sizes.append(tuple(self.shape))
            return self.as_subclass(Tensor)

    boxes = np.array([[4, 4, 60, 100], [40, 8, 50, 90], [20, 20, 80, 80]], np.float32)
    monkeypatch.setattr(backend, "_boxes", lambda images: ([boxes, boxes[:1]], [np.ones(3), np.ones(1)]))
    images = [picture(astronaut()[::4, ::4]), picture(astronaut()[::4, ::2])]
    found = backend.people([image.as_subclass(OnDevice) for image in images])
    assert [len(people.scores) for people in found] == [3, 1]
    assert sizes == [(3, 128, 128), (3, 128, 256)]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["openpose", "vitpose"])
def test_models_on_a_gpu_find_people(name: str, folder: Path) -> None:
    device = torch.device("cuda")
    backend = vitpose(folder) if name == "vitpose" else OpenPose(str(folder / "openpose"), dtype="bf16")
    backend.load(device)
    images = [picture(astronaut()[::4, ::4]).to(device), picture(astronaut()[::4, ::2]).to(device)]
    for image, found in zip(images, backend.people(images), strict=True):
        check(found, (image.shape[1], image.shape[2]))
