"""DWPose with small networks whose answers are known."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.wholebody import POINTS
from preprocess.checkpoints.onnx_network import OnnxNetwork
from preprocess.pose.dwpose import SIMCC, YOLOX, DwPose
from support.onnx_networks import make_simcc, make_yolox

CPU = torch.device("cpu")
CROSSES = ((40, 60), (200, 180))
PX = 160 / 48  # of the image per px of the estimator's input: a box of 128 px becomes a region of 160 px in width


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dwpose")
    make_yolox(folder / "yolox_l.onnx")
    make_simcc(folder / "dw-ll_ucoco_384.onnx")
    return folder


def dwpose(folder: Path, **options: Any) -> DwPose:
    backend = DwPose(str(folder), str(folder), **options)
    backend.load(CPU)
    return backend


def scene(*crosses: tuple[int, int]) -> Tensor:
    """Return a black image of 256x256 px; around each of `crosses` (x, y) a gray square of 128 px, with the cross."""
    image = torch.zeros(3, 256, 256, dtype=torch.uint8)
    for x, y in crosses:
        left, top = x // 128 * 128, y // 128 * 128
        square = image[:, top : top + 128, left : left + 128]
        square[:] = 100
        square[:, y - top - 4 : y - top + 5] = square[:, :, x - left - 4 : x - left + 5] = 255
    return image


def test_each_person_of_an_image_has_133_points_in_its_px(folder: Path) -> None:
    (people,) = dwpose(folder, min_joint_score=0.01).people([scene(*CROSSES)])
    assert people.wholebody is not None
    assert (people.wholebody.shape, people.keypoints.shape) == ((2, len(POINTS), 3), (2, 18, 3))
    assert (people.wholebody[..., 2] > 0).any(1).all()
    for points, joints in zip(people.wholebody, people.keypoints, strict=True):
        (x, y), nose = min(CROSSES, key=lambda cross: abs(cross[0] - points[0, 0])), points[0, :2]
        assert np.abs(nose - (x, y)).max() < PX
        np.testing.assert_allclose(points[5:7, :2] - nose, [[2.5 * PX] * 2, [3 * PX] * 2], atol=1e-2)  # shoulders
        np.testing.assert_array_equal(joints[[0, 2, 5]], points[[0, 6, 5]])
        np.testing.assert_allclose(joints[1, :2], points[5:7, :2].mean(0), rtol=1e-5)
    assert people.scores.tolist() == pytest.approx([0.16, 0.16], abs=0.01)  # brightness of the box times 0.34


def test_points_with_low_scores_and_points_outside_the_image_are_missing(folder: Path) -> None:
    images = [scene((120, 250))]
    (found,), (nobody,) = (dwpose(folder, min_joint_score=score).people(images) for score in (0.3, 0.6))
    assert found.wholebody is not None
    missing = found.wholebody[0, :, 2] == 0
    assert 0 < missing.sum() < len(POINTS)
    assert not found.wholebody[0, missing].any()
    assert found.wholebody[..., :2].max() < 255.5
    assert (len(nobody.scores), nobody.keypoints.shape) == (0, (0, 18, 3))
    assert nobody.wholebody is not None
    assert nobody.wholebody.shape == (0, 133, 3)


@pytest.mark.parametrize("options", [{}, {"people_at_once": 1}, {"people_at_once": 2}])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_images_in_batches_give_what_each_gives_alone(options: Any, batch: Any, folder: Path, tmp_path: Path) -> None:
    make_yolox(tmp_path / "yolox_l.onnx", batch=batch)
    make_simcc(tmp_path / "dw-ll_ucoco_384.onnx", batch=batch)
    images = [scene(*CROSSES), scene(), scene((60, 60))[:, :100], scene((40, 200), (200, 40), (30, 30))]
    options = {"min_joint_score": 0.01, **options}
    together, alone = dwpose(tmp_path, **options).people(images), dwpose(folder, min_joint_score=0.01)
    assert [len(people.scores) for people in together] == [2, 0, 1, 3]
    for image, people in zip(images, together, strict=True):
        for values, expected in zip(people, alone.people([image])[0], strict=True):
            assert values is not None
            assert expected is not None
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-3)


def test_provenance_tells_the_weights_and_versions_but_not_where_they_are(folder: Path) -> None:
    backend = DwPose(str(folder), str(folder / "dw-ll_ucoco_384.onnx"))
    assert set(backend.provenance()) == {"detector", "estimator", "onnxruntime", "torchvision", "opencv"}
    assert [len(backend.provenance()[name]) for name in ("detector", "estimator")] == [64, 64]
    assert str(folder) not in str({name: value for name, value in vars(backend).items() if name[0] != "_"})


@pytest.mark.parametrize(
    ("make", "signature", "message"),
    [
        (
            lambda path: make_simcc(path, num_points=17),
            SIMCC,
            "is not a network of 133 points: its outputs for an image of 48 x 64 px are [1, 17, 96] and [1, 17, 128]. "
            "Expected are [1, 133, 96] and [1, 133, 128]",
        ),
        (
            make_simcc,
            YOLOX,
            "is not a YOLOX: its outputs for an image of 48 x 64 px are [1, 133, 96] and [1, 133, 128]",
        ),
        (make_yolox, SIMCC, "are [1, 84, 6]. Expected are [1, 133, 128] and [1, 133, 128]"),
        (
            lambda path: make_yolox(path, batch=2),
            YOLOX,
            "is not a YOLOX: its input is tensor(float) [2, 3, 64, 64]. Expected is tensor(float) [1 or dynamic, 3, "
            "height, width]",
        ),
        (lambda path: path.write_bytes(b"no network"), YOLOX, "cannot be loaded on cpu: [ONNXRuntimeError]"),
    ],
)
def test_files_of_other_networks_are_refused(make: Any, signature: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.onnx")
    with pytest.raises(ConfigError) as raised:
        OnnxNetwork(tmp_path / "a.onnx", "--model.backend.detector", signature, CPU)
    assert str(raised.value).startswith(f"--model.backend.detector {tmp_path / 'a.onnx'} ")
    assert message in str(raised.value)


def test_a_gpu_needs_another_onnxruntime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match=r"does not support cuda:0: pip install onnxruntime-gpu in place of"):
        DwPose(str(folder), str(folder)).load(torch.device("cuda:0"))


def test_outputs_that_do_not_fit_into_memory_raise_what_halves_the_batch(folder: Path) -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    class Full:
        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="images")]

        def run(self, *args: Any) -> None:
            raise Fail("bfc_arena.cc Failed to allocate memory for requested buffer of size 40000000000")

    backend = dwpose(folder)
    backend._detector._session = Full()
    with pytest.raises(MemoryError, match="buffer of size 40000000000"):
        backend.people([scene()])


def test_without_onnxruntime_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"DwPose needs onnxruntime \(.*\)\. pip install 'framemill\[dwpose\]'"):
        DwPose(str(folder), str(folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 1.5}, "min_score = 1.5 must be 0 to 1"),
        ({"people_at_once": 0}, "people_at_once = 0 1 or more"),
        ({"detector": "."}, r"--model\.backend\.detector \. has no yolox_l\.onnx\. Give a file, or a folder with"),
    ],
)
def test_options_out_of_range_fail(options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        DwPose(**{"detector": str(folder), "estimator": str(folder), **options})
