"""A backend of one's own for the pose pipeline: torchvision's Keypoint R-CNN.

    python -m preprocess run pose --data.root R --output.dir O --trainer.accelerator gpu \
        --model.backend examples.extending.keypoint_rcnn.KeypointRcnn \
        --model.backend.weights keypointrcnn_resnet50_fpn_coco-fc266e95.pth

The weights are those of `torchvision.models.detection.KeypointRCNN_ResNet50_FPN_Weights.COCO_V1`.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import from_coco_17
from preprocess.checkpoints.digest import sha256_of_file
from preprocess.pose.backend import People, PoseBackend, sorted_people, within


class KeypointRcnn(PoseBackend):
    """Finds everybody in an image, on the rank's device.

    Args:
        weights: file with the model's state dict.
        min_score: 0 to 1; people with a lower score are dropped.
        min_joint_score: 0 to 1; joints with a lower score are missing.

    Raises:
        ConfigError: the file of weights does not exist.
    """

    def __init__(self, weights: str, min_score: float = 0.7, min_joint_score: float = 0.5) -> None:
        if not Path(weights).is_file():
            raise ConfigError(f"--model.backend.weights {weights} is not a file")
        # Public attributes go into the fingerprint. What the weights are counts there, not where: see `provenance`.
        self._weights = Path(weights)
        self.min_score, self.min_joint_score = min_score, min_joint_score

    def load(self, device: torch.device) -> None:
        """Load the weights onto the rank's device."""
        model = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        model.load_state_dict(torch.load(self._weights, map_location="cpu", weights_only=True))
        self._model = model.eval().to(device)

    def provenance(self) -> dict[str, str]:
        """Return the weights' sha256, and the version of torchvision."""
        return {"keypoint_rcnn": sha256_of_file(self._weights), "torchvision": version("torchvision")}

    @torch.inference_mode()
    def people(self, images: Sequence[Tensor]) -> list[People]:
        """Return the people in each image, uint8 [3, H, W], the highest score first."""
        outputs = self._model([image.float() / 255 for image in images])
        return [self._people(output, image) for output, image in zip(outputs, images, strict=True)]

    def _people(self, output: Mapping[str, Tensor], image: Tensor) -> People:
        is_kept = output["scores"] >= self.min_score
        positions = output["keypoints"][is_kept, :, :2] - 0.5  # here, whole numbers are the centres of pixels
        scores = output["keypoints_scores"][is_kept].sigmoid()
        scores = torch.where(scores < self.min_joint_score, 0, scores)
        joints = from_coco_17(torch.cat([positions, scores[..., None]], -1).cpu().numpy())
        return sorted_people(within(joints, (image.shape[1], image.shape[2])), output["scores"][is_kept].cpu().numpy())
