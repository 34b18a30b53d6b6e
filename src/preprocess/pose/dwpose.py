"""DWPose on the rank's device: YOLOX detects people, and a network with SimCC outputs estimates 133 points of each.

The files are those of IDEA-Research/DWPose (yzd-v/DWPose on the Hugging Face hub). RTMPose and RTMW for COCO-WholeBody,
exported by mmdeploy with SimCC outputs, have the same inputs and outputs as DWPose's estimator.

Differences from DWPose's own code:

- YOLOX gets BGR and the estimator RGB, as they were trained. There, both get the order that the caller has.
- Where YOLOX finds nobody, nobody is in the image. There, the whole image is taken for a person.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import cv2  # comes with mediapipe
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import from_coco_17
from datamodules.samples.wholebody import PARTS, POINTS, WholeBody
from preprocess.checkpoints.digest import sha256_of_file
from preprocess.checkpoints.onnx_network import OnnxNetwork, Signature, require_onnxruntime
from preprocess.checkpoints.weights_file import find_weights_file
from preprocess.pose.backend import People, PoseBackend, sorted_people, within
from preprocess.pose.simcc import cropped, decode, regions
from preprocess.pose.yolox import Boxes, find_people, letterboxed, num_anchors

YOLOX = Signature("a YOLOX", lambda size: [(num_anchors(size), None)])
# bins of half a px
SIMCC = Signature("a network of 133 points", lambda size: [(len(POINTS), 2 * size[1]), (len(POINTS), 2 * size[0])])

_DETECTOR, _ESTIMATOR = "--model.backend.detector", "--model.backend.estimator"
_Pixels = NDArray[np.uint8]  # [H, W, 3], RGB


class DwPose(PoseBackend):
    """Body, feet, face and hands of everybody in an image: the 133 points of COCO-WholeBody.

    The 18 joints are the body's, with the mean of the shoulders as neck. The score of a person is the detection's score
    times the mean of its points' scores, as in mmpose's evaluation.

    Args:
        detector: `yolox_l.onnx`: the file, a folder with it, or its name on the hub. Other sizes of YOLOX do, too.
        estimator: `dw-ll_ucoco_384.onnx`, likewise; or the file of an RTMPose or RTMW with 133 points.
        min_score: 0 to 1, the lowest score of a detected person.
        min_joint_score: the lowest score of a point. Other points are left out, and so are points outside the image.
        people_at_once: the largest number of people in one batch of the estimator.

    Raises:
        ConfigError: an argument is out of range, a file cannot be found, or onnxruntime is not installed.
    """

    def __init__(
        self,
        detector: str = "yzd-v/DWPose",
        estimator: str = "yzd-v/DWPose",
        min_score: float = 0.3,
        min_joint_score: float = 0.3,
        people_at_once: int = 64,
    ) -> None:
        if not 0 <= min_score <= 1 or min_joint_score < 0 or people_at_once < 1:
            raise ConfigError(
                f"{min_score = } must be 0 to 1, {min_joint_score = } 0 or more, and {people_at_once = } 1 or more"
            )
        self.min_score, self.min_joint_score, self.people_at_once = min_score, min_joint_score, people_at_once
        self._onnxruntime = require_onnxruntime("the backend DwPose")
        self._detector_path = _found(detector, _DETECTOR, "yolox_l.onnx")
        self._estimator_path = _found(estimator, _ESTIMATOR, "dw-ll_ucoco_384.onnx")

    def load(self, device: torch.device) -> None:
        """See `Backend`."""
        self._detector = OnnxNetwork(self._detector_path, _DETECTOR, YOLOX, device)
        self._estimator = OnnxNetwork(self._estimator_path, _ESTIMATOR, SIMCC, device)

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        weights = {
            "detector": sha256_of_file(self._detector_path), "estimator": sha256_of_file(self._estimator_path)
        }  # fmt: skip
        versions = {"onnxruntime": self._onnxruntime, "torchvision": version("torchvision"), "opencv": cv2.__version__}
        return {**weights, **versions}

    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        pixels = [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
        boxes = self._boxes(pixels)
        points = self._points(pixels, [found.corners for found in boxes])
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [self._people_of(*found) for found in zip(points, boxes, sizes, strict=True)]

    def _boxes(self, images: Sequence[_Pixels]) -> list[Boxes]:
        """Return the people's boxes in each image, in its px."""
        size = self._detector.size
        inputs, ratios = zip(*(letterboxed(image, size) for image in images), strict=True)
        (outputs,) = self._detector(np.stack(inputs))
        found = (find_people(output, size, self.min_score) for output in outputs)
        return [Boxes(boxes.corners / ratio, boxes.scores) for boxes, ratio in zip(found, ratios, strict=True)]

    def _points(self, images: Sequence[_Pixels], corners: Sequence[NDArray[np.float32]]) -> list[WholeBody]:
        """Return float32 [P, 133, 3] for each image: the points of the people in the boxes `corners`."""
        size = self._estimator.size
        regions_of = [regions(of_image, size) for of_image in corners]
        people = [(image, region) for image, found in zip(images, regions_of, strict=True) for region in found]
        points = np.zeros((len(people), len(POINTS), 3), np.float32)
        for start in range(0, len(people), self.people_at_once):
            part = slice(start, start + self.people_at_once)
            inputs = np.stack([cropped(image, region, size) for image, region in people[part]])
            along_x, along_y = self._estimator(inputs)
            points[part] = decode(along_x, along_y, np.stack([region for _, region in people[part]]))
        return np.split(points, np.cumsum([len(of_image) for of_image in corners])[:-1])

    def _people_of(self, points: WholeBody, boxes: Boxes, size: tuple[int, int]) -> People:
        """Return the people of an image of `size` (height, width) who have a joint with a high enough score."""
        points = within(np.where(points[..., 2:] >= self.min_joint_score, points, np.float32(0)), size)
        keypoints = from_coco_17(points[:, PARTS["body"]])
        kept = (keypoints[..., 2] > 0).any(1)
        points, has_point = points[kept], points[kept, :, 2] > 0
        scores = boxes.scores[kept] * points[..., 2].sum(1) / has_point.sum(1)
        return sorted_people(keypoints[kept], scores, points)


def _found(name: str, option: str, file: str) -> Path:
    return find_weights_file(name, option, [file], f"Give a file, or a folder with {file}, as yzd-v/DWPose has it")
