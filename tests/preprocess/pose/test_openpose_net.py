"""The network has the names, shapes and outputs of the public one; its weights are found or refused."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.errors import ConfigError
from preprocess.pose.openpose_net import OpenPoseNet, find_weights, load_weights, prepare

PUBLIC: dict[str, Any] = json.loads(Path(__file__).with_name("body_pose_model.json").read_text())
OPTION = "--model.backend.weights"


def made_weights() -> dict[str, Tensor]:
    """Return weights made of waves, with which the outputs in the fixture were computed."""
    return {name: _wave(PUBLIC["tensors"][name], place) for place, name in enumerate(sorted(PUBLIC["tensors"]))}


def _wave(shape: list[int], place: int) -> Tensor:
    count = int(np.prod(shape))
    scale = 1.9 / (count // shape[0]) ** 0.5 if len(shape) > 1 else 0.05
    return (torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + place).reshape(shape) * scale).float()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "body_pose_model.pth"
    torch.save(OrderedDict(made_weights()), path)
    return path


def test_names_and_shapes_are_those_of_the_public_weights() -> None:
    with torch.device("meta"):
        net = OpenPoseNet()
    assert {name: list(tensor.shape) for name, tensor in net.state_dict().items()} == PUBLIC["tensors"]


@torch.inference_mode()
def test_outputs_are_those_of_the_public_network_with_the_same_weights(weights: Path) -> None:
    net = load_weights(weights, OPTION)
    values = torch.sin(torch.arange(3 * 16 * 24, dtype=torch.float64) * 0.3).reshape(1, 3, 16, 24).float() * 0.5
    pafs, heatmaps = net(torch.cat([values, values.flip(3)]))
    assert (pafs.shape, heatmaps.shape) == ((2, 38, 2, 3), (2, 19, 2, 3))
    for found, name, step in ((pafs, "pafs", 23), (heatmaps, "heatmaps", 11)):
        np.testing.assert_allclose(found[0].flatten()[::step], PUBLIC["outputs"][name], atol=2e-5)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_inputs_are_those_of_the_public_code() -> None:
    image: Any = np.random.default_rng(0).integers(0, 256, (50, 41, 3), dtype=np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    seen = cv2.resize(image[..., ::-1], (60, 75), interpolation=cv2.INTER_CUBIC)
    expected = np.full((80, 64, 3), 128, np.uint8)
    expected[:75, :60] = seen
    found = prepare(torch.from_numpy(image).permute(2, 0, 1)[None], (75, 60))
    assert found.shape == (1, 3, 80, 64)
    np.testing.assert_allclose(found[0].permute(1, 2, 0), expected / 256 - 0.5, atol=1.01 / 256)
    assert (found[0, :, 75:] == 0).all()
    assert (found[0, :, :, 60:] == 0).all()
    as_it_is = prepare(torch.from_numpy(image).permute(2, 0, 1)[None], (50, 41))
    np.testing.assert_array_equal(as_it_is[0, :, :50, :41].permute(1, 2, 0), image[..., ::-1] / 256 - 0.5)


def test_weights_are_a_file_or_in_a_folder_as_the_hub_has_it(weights: Path, tmp_path: Path) -> None:
    assert find_weights(str(weights), OPTION) == weights
    assert find_weights(str(weights.parent), OPTION) == weights
    nested = tmp_path / "annotator" / "ckpts" / "body_pose_model.pth"
    nested.parent.mkdir(parents=True)
    nested.write_bytes(b"x")
    assert find_weights(str(tmp_path), OPTION) == nested
    with pytest.raises(ConfigError, match=r"--model\.backend\.weights .*annotator has no body_pose_model\.pth"):
        find_weights(str(tmp_path / "annotator"), OPTION)


def test_a_name_too_long_for_a_path_fails() -> None:
    with pytest.raises(ConfigError, match=r"^--model\.backend\.weights x+: there is no folder "):
        find_weights("x" * 5000, OPTION)


def test_missing_weights_fail_with_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> None:
        raise FileNotFoundError(f"no network for {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("huggingface_hub.model_info", offline)
    with pytest.raises(ConfigError, match=r"lllyasviel/Annotators: .*no network.*\. Give a file, or a folder with"):
        find_weights("lllyasviel/Annotators", OPTION)


def test_weights_of_another_network_fail_with_what_differs(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(3, 64, 3).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"of another network: conv1_1\.weight is missing in the file and \[64"):
        load_weights(tmp_path / "other.pth", OPTION)
    with torch.device("meta"):
        weights = OpenPoseNet().state_dict()
    named = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in weights.items()}
    hand = {**named, "Mconv7_stage6_L2.weight": torch.zeros(22, 128, 1, 1)}
    torch.save(hand, tmp_path / "hand.pth")
    with pytest.raises(ConfigError, match=r"Mconv7_stage6_L2\.weight is \[22, 128, 1, 1\] in the file and \[19"):
        load_weights(tmp_path / "hand.pth", OPTION)
    torch.save({**named, "fc.weight": torch.zeros(2)}, tmp_path / "more.pth")
    with pytest.raises(ConfigError, match=r"fc\.weight is \[2\] in the file and missing in OpenPose's body"):
        load_weights(tmp_path / "more.pth", OPTION)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 a damaged zip"])
def test_files_without_weights_fail(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--model.*a\.pth cannot be read: "):
        load_weights(tmp_path / "a.pth", OPTION)


def test_a_file_with_code_or_without_a_state_dict_fails(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "module.pth")
    with pytest.raises(
        ConfigError,
        match=r"it needs torch\.nn\.modules\.conv\.Conv2d, and no code of",
    ):
        load_weights(tmp_path / "module.pth", OPTION)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="is not a dictionary of plain tensors"):
        load_weights(tmp_path / "list.pth", OPTION)
