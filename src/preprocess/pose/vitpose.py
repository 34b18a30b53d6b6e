"""ViTPose on the rank's device: the joints of people whom a detector of transformers finds."""

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
from preprocess.device_copies import to_device
from preprocess.float32 import without_tf32
from preprocess.pose.backend import NOBODY, People, PoseBackend, sorted_people, within

_PACKAGES = ("transformers", "torchvision", "scipy")  # whose versions change results
_PERSON = "person"
_COCO = 0  # index of COCO, with its 17 joints, among the datasets that ViTPose++ was trained on


class VitPose(PoseBackend):
    """A detector of people and ViTPose, which estimates COCO's 17 joints of each.

    The neck is the mean of the shoulders, if both are detected. The score of a person is the detection's score times
    the mean of its joints' scores, as in COCO's evaluation of such methods.

    Args:
        detector: a folder, or a name on the Hugging Face hub, of a model that transformers loads as
            `AutoModelForObjectDetection`, with a class `person`.
        estimator: a folder or a name, likewise, of a ViTPose or ViTPose++.
        min_score: 0 to 1, the lowest score of a detected person.
        min_joint_score: 0 to 1, the lowest score of a joint. Other joints are left out, and so are joints outside the
            image.
        people_at_once: the largest number of people in one batch of the estimator.
        dtype: of the weights of both models; `fp32` does not use TF32 on a GPU.

    Raises:
        ConfigError: an argument is out of range, or a model cannot be found, is incomplete or has another type.
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
                f"{min_score = } and {min_joint_score = } must be 0 to 1, and {people_at_once = } must be 1 or more"
            )
        require_dtype(dtype, "--model.backend.dtype")
        self.detector, self.estimator, self.dtype = detector, estimator, dtype
        self.min_score, self.min_joint_score, self.people_at_once = min_score, min_joint_score, people_at_once
        self._detector_folder = ModelFolder.find(detector, "--model.backend.detector", types=_detector_types())
        self._estimator_folder = ModelFolder.find(estimator, "--model.backend.estimator", types=("vitpose",))
        self._person = _person_label(self._detector_folder)

    def load(self, device: torch.device) -> None:
        """See `Backend`."""
        from transformers import AutoModelForObjectDetection, VitPoseForPoseEstimation

        self._device = device
        self._detector: Any = self._detector_folder.load(AutoModelForObjectDetection, self.dtype, device)
        self._estimator: Any = self._estimator_folder.load(VitPoseForPoseEstimation, self.dtype, device)
        self._detector_processor = self._detector_folder.processor()
        self._estimator_processor = self._estimator_folder.processor()
        self._num_experts = self._estimator.config.backbone_config.num_experts

    @torch.inference_mode()
    @without_tf32()
    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        boxes, scores = self._boxes(images)
        # transformers warps images on the CPU: of one on the GPU, it would copy all of it for each person
        joints = self._joints([image.cpu() for image in images], boxes)
        return [self._people_of(*results) for results in zip(images, joints, scores, strict=True)]

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        models = {"detector": self._detector_folder.identity(), "estimator": self._estimator_folder.identity()}
        return {**models, **{name: version(name) for name in _PACKAGES}}

    def _boxes(self, images: Sequence[Tensor]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """Return for each image people's boxes, float32 [P, 4]: x, y, width, height in px; and their scores [P]."""
        inputs = self._detector_processor(images=list(images), return_tensors="pt")
        inputs = inputs.to(self._device, self._detector.dtype)
        sizes = torch.tensor([image.shape[1:] for image in images])
        detections = self._detector_processor.post_process_object_detection(
            self._detector(**inputs), threshold=self.min_score, target_sizes=sizes
        )
        boxes, scores = [], []
        for detection, (height, width) in zip(detections, sizes.tolist(), strict=True):
            corners = detection["boxes"].float().cpu().numpy().clip(0, (width, height, width, height))
            sides = corners[:, 2:] - corners[:, :2]
            is_person = (detection["labels"].cpu().numpy() == self._person) & (sides > 0).all(1)
            boxes.append(np.concatenate([corners[:, :2], sides], 1)[is_person])
            scores.append(detection["scores"].float().cpu().numpy()[is_person])
        return boxes, scores

    def _joints(self, images: Sequence[Tensor], boxes: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return for each image float32 [P, 17, 3]: x, y in px, score of the joints of the people in `boxes`."""
        people = [(image, box) for image, of_image in zip(images, boxes, strict=True) for box in of_image]
        joints = np.zeros((len(people), len(COCO_17), 3), np.float32)
        for start in range(0, len(people), self.people_at_once):
            part = people[start : start + self.people_at_once]
            joints[start : start + len(part)] = self._estimated(part)
        ends = np.cumsum([len(of_image) for of_image in boxes])
        return np.split(joints, ends[:-1])

    def _estimated(self, people: Sequence[tuple[Tensor, NDArray[np.float32]]]) -> NDArray[np.float32]:
        """Return float32 [P, 17, 3], as `_joints`, for (image, box) of each of P people."""
        images, boxes = [image for image, _ in people], [box[None] for _, box in people]
        inputs = self._estimator_processor(images=images, boxes=boxes, return_tensors="pt")
        pixels = to_device(inputs["pixel_values"].to(self._estimator.dtype), self._device)
        dataset = (
            {} if self._num_experts == 1 else {"dataset_index": torch.full((len(pixels),), _COCO, device=self._device)}
        )
        output = self._estimator(pixels, **dataset)
        output.heatmaps = output.heatmaps.float()
        poses = self._estimator_processor.post_process_pose_estimation(output, boxes=boxes)
        joints = [np.concatenate([pose["keypoints"], pose["scores"].reshape(-1, 1)], 1) for (pose,) in poses]
        return np.array(joints, np.float32)

    def _people_of(self, image: Tensor, joints: NDArray[np.float32], scores: NDArray[np.float32]) -> People:
        """Return the people of an image who have a joint with a high enough score, with these joints alone."""
        joints = np.where(joints[..., 2:] >= max(self.min_joint_score, 1e-6), joints, np.float32(0))
        keypoints: Keypoints = from_coco_17(within(joints, (image.shape[1], image.shape[2])))
        has_joint = keypoints[..., 2] > 0
        kept = has_joint.any(1)
        if not kept.any():
            return NOBODY
        means = keypoints[kept, :, 2].sum(1) / has_joint[kept].sum(1)
        return sorted_people(keypoints[kept], (scores[kept] * means).astype(np.float32))


def _detector_types() -> list[str]:
    """Return the `model_type` of all object detectors of transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    return list(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)


def _person_label(folder: ModelFolder) -> int:
    labels = {str(name).lower(): int(label) for label, name in folder.config().id2label.items()}
    if _PERSON not in labels:
        some = ", ".join(list(labels)[:5])
        raise ConfigError(
            f"{folder.option} {folder.name} has no class {_PERSON!r}; its classes are {some}, …. Use a detector of "
            "people"
        )
    return labels[_PERSON]
