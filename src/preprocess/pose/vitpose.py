"""People found by a detector of transformers, and the joints of each by ViTPose, on the rank's device."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import COCO_17, Keypoints, from_coco_17
from preprocess.checkpoints.dtypes import Dtype, require_dtype
from preprocess.checkpoints.model_folder import ModelFolder
from preprocess.pose.backend import NOBODY, People, PoseBackend, sorted_people, within

_DECIDE = ("transformers", "torchvision", "scipy")
_PERSON = "person"
_COCO = 0  # of the datasets that ViTPose++ was trained with, the one with COCO's 17 joints


class VitPose(PoseBackend):
    """Both models; a person's joints are COCO's 17, and the neck is the mean of the shoulders, where both are there.

    A person's score is the detection's times the mean of its joints', as is usual where such methods are evaluated.

    Args:
        detector: a model that transformers loads as `AutoModelForObjectDetection`, with a class `person`: a folder, or
            a name on the hub.
        estimator: a ViTPose or ViTPose++, likewise.
        min_score: 0 to 1, least score of a detected person.
        min_joint_score: likewise, of a joint; others are missing, as are those outside the image.
        people_at_once: people in one batch of the estimator, at most.
        dtype: of the weights of both.

    Raises:
        ConfigError: a checkpoint is not there, not whole, or of another kind; or an argument is none of these.
    """

    def __init__(
        self,
        detector: str = "PekingU/rtdetr_r50vd_coco_o365",
        estimator: str = "usyd-community/vitpose-base-simple",
        min_score: float = 0.5,
        min_joint_score: float = 0.3,
        people_at_once: int = 64,
        dtype: Dtype = "auto",
    ) -> None:
        if not 0 <= min_score <= 1 or not 0 <= min_joint_score <= 1 or people_at_once < 1:
            raise ConfigError(
                f"{min_score = } and {min_joint_score = } go from 0 to 1, and {people_at_once = } must be 1 or more"
            )
        require_dtype(dtype, "--model.backend.dtype")
        self.detector, self.estimator, self.dtype = detector, estimator, dtype
        self.min_score, self.min_joint_score, self.people_at_once = min_score, min_joint_score, people_at_once
        self._folders = (
            ModelFolder.find(detector, "--model.backend.detector", types=_detector_types()),
            ModelFolder.find(estimator, "--model.backend.estimator", types=("vitpose",)),
        )
        self._person = _person_label(self._folders[0])

    def load(self, device: torch.device) -> None:
        """See `PoseBackend`."""
        from transformers import AutoModelForObjectDetection, VitPoseForPoseEstimation

        find, estimate = self._folders
        self._device = device
        self._find: Any = find.load(AutoModelForObjectDetection, self.dtype, device)
        self._estimate: Any = estimate.load(VitPoseForPoseEstimation, self.dtype, device)
        self._find_processor, self._estimate_processor = find.processor(), estimate.processor()
        self._num_experts = self._estimate.config.backbone_config.num_experts

    @torch.inference_mode()
    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        boxes, scores = self._boxes(images)
        joints = self._joints(images, boxes)
        return [self._kept(*each) for each in zip(images, joints, scores, strict=True)]

    def provenance(self) -> dict[str, str]:
        """See `PoseBackend`."""
        find, estimate = (folder.identity() for folder in self._folders)
        return {"detector": find, "estimator": estimate, **{name: version(name) for name in _DECIDE}}

    def _boxes(self, images: Sequence[Tensor]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Of each image people's boxes, x, y, width, height in px: float32 [P, 4]; and their scores [P]."""
        inputs = self._find_processor(images=list(images), return_tensors="pt").to(self._device, self._find.dtype)
        sizes = torch.tensor([image.shape[1:] for image in images])
        found = self._find_processor.post_process_object_detection(
            self._find(**inputs), threshold=self.min_score, target_sizes=sizes
        )
        boxes, scores = [], []
        for each, (height, width) in zip(found, sizes.tolist(), strict=True):
            corners = each["boxes"].float().cpu().numpy().clip(0, (width, height, width, height))
            sides = corners[:, 2:] - corners[:, :2]
            people = (each["labels"].cpu().numpy() == self._person) & (sides > 0).all(1)
            boxes.append(np.concatenate([corners[:, :2], sides], 1)[people])
            scores.append(each["scores"].float().cpu().numpy()[people])
        return boxes, scores

    def _joints(self, images: Sequence[Tensor], boxes: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Of each image, float32 [P, 17, 3]: x, y in px, score."""
        everybody = [(image, box) for image, found in zip(images, boxes, strict=True) for box in found]
        joints = np.zeros((len(everybody), len(COCO_17), 3), np.float32)
        for start in range(0, len(everybody), self.people_at_once):
            part = everybody[start : start + self.people_at_once]
            joints[start : start + len(part)] = self._estimated(part)
        ends = np.cumsum([len(found) for found in boxes])
        return np.split(joints, ends[:-1])

    def _estimated(self, people: Sequence[tuple[Tensor, NDArray[np.float32]]]) -> NDArray[np.float32]:
        """[P, 17, 3], as `_joints`, of (image, box) of each of P people."""
        images, boxes = [image for image, _ in people], [box[None] for _, box in people]
        inputs = self._estimate_processor(images=images, boxes=boxes, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self._device, self._estimate.dtype)
        which = {} if self._num_experts == 1 else {"dataset_index": torch.full((len(pixels),), _COCO).to(self._device)}
        output = self._estimate(pixels, **which)
        output.heatmaps = output.heatmaps.float()
        found = self._estimate_processor.post_process_pose_estimation(output, boxes=boxes)
        joints = [np.concatenate([each["keypoints"], each["scores"].reshape(-1, 1)], 1) for (each,) in found]
        return np.array(joints, np.float32)

    def _kept(self, image: Tensor, joints: NDArray[np.float32], scores: NDArray[np.float32]) -> People:
        """The people of an image with a joint that is sure enough."""
        joints = np.where(joints[..., 2:] >= max(self.min_joint_score, 1e-6), joints, np.float32(0))
        keypoints: Keypoints = from_coco_17(within(joints, (image.shape[1], image.shape[2])))
        seen = keypoints[..., 2] > 0
        there = seen.any(1)
        if not there.any():
            return NOBODY
        means = keypoints[there, :, 2].sum(1) / seen[there].sum(1)
        return sorted_people(keypoints[there], scores[there] * means)


def _detector_types() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    return list(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)


def _person_label(folder: ModelFolder) -> int:
    labels = {str(name).lower(): int(label) for label, name in folder.config().id2label.items()}
    if _PERSON not in labels:
        some = ", ".join(list(labels)[:5])
        raise ConfigError(f"{folder.option} {folder.name}: none of its classes is {_PERSON!r}; they are {some}, …")
    return labels[_PERSON]
