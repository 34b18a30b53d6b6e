"""The example of a backend, in a run of the pose pipeline, without any file of Framemill being edited."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.errors import ConfigError
from datamodules.run.folder import Run
from datamodules.run.reader import CommittedSamples
from datamodules.samples.pose import PoseSamples
from datamodules.samples.skeleton import JOINTS
from examples.extending import keypoint_rcnn
from preprocess.cli import main

CONFIG = Path(__file__).parents[3] / "configs" / "pose.yaml"


class TwoPeople(nn.Module):
    """Has Keypoint R-CNN's interface, and finds two people in any image; the second one with a low score."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(()))

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        assert all(image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1 for image in images)
        positions = torch.arange(17, dtype=torch.float32)[:, None] + torch.tensor([10.5, 20.5])
        keypoints = torch.cat([positions, torch.ones(17, 1)], 1).expand(2, -1, -1)
        logits = torch.tensor([2.0] * 16 + [-2.0]).expand(2, -1)  # the right ankle is unlikely
        scores = torch.stack([self.score, torch.tensor(0.3)])
        return [{"scores": scores, "keypoints": keypoints, "keypoints_scores": logits} for _ in images]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keypoint_rcnn, "keypointrcnn_resnet50_fpn", TwoPeople)
    torch.save({"score": torch.tensor(0.9)}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_run_holds_the_people_that_the_backend_finds(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), (200, 100, 50)).save(tmp_path / "images" / "a.png")
    backend = [
        "--model.backend",
        "examples.extending.keypoint_rcnn.KeypointRcnn",
        "--model.backend.weights",
        str(weights),
    ]
    paths = ["--data.root", str(tmp_path / "images"), "--output.dir", str(tmp_path / "run")]
    options = ["--model.resize", "none", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    assert main(["run", "--config", str(CONFIG), *backend, *paths, *options]) == 0

    [(key, files)] = CommittedSamples(Run(tmp_path / "run"), "train")
    sample = PoseSamples().decode(key, files)
    np.testing.assert_allclose(sample.scores, [0.9])
    [person] = sample.keypoints
    np.testing.assert_allclose(person[0], (10, 20, torch.tensor(2.0).sigmoid().item()), rtol=1e-6)  # the nose
    np.testing.assert_array_equal(person[JOINTS.index("right_ankle")], 0)
    assert sample.meta["backend"] == "keypointrcnn"


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model\.backend\.weights .* is not a file"):
        keypoint_rcnn.KeypointRcnn(str(tmp_path / "none.pth"))
