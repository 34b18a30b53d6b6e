"""MediaPipe Holistic as a torch module: the landmarks of a batch of images.

    landmarker = HolisticLandmarker.from_mediapipe_wheel().to("cuda")
    landmarks = landmarker(images)  # uint8 [B, 3, H, W], or a list of [3, H, W] of any sizes

The results equal those of a new `mp.solutions.holistic.Holistic(static_image_mode=True, model_complexity=1)` per image
to hundredths of a pixel; `tests/preprocess/holistic/test_landmarker.py` measures how closely. All shapes are fixed, and
nothing waits for the device: where a part is not detected, the next steps use the whole image, and their results are
dropped.

| step    | region                                         | net                        | detected if         |
|---------|------------------------------------------------|----------------------------|---------------------|
| person  | the image, padded to a square                  | pose_detection             | a score ≥ 0.5       |
| pose    | around the hips, from two keypoints            | pose_landmark_full         | score > 0.5         |
| hand, 1 | of the pose's wrist, little and index finger   | hand_recrop                | wrist visible > 0.1 |
| hand, 2 | from that net's two points                     | hand_landmark_full         | score > 0.5         |
| face, 1 | around the pose's points of the face           | face_detection_short_range | a score ≥ 0.5       |
| face, 2 | around the six detected keypoints              | face_landmark              | sigmoid > 0.5       |

The numbers are those of the graphs in mediapipe/modules: pose_detection_to_roi, pose_landmark_by_roi_cpu,
tensors_to_pose_landmarks_and_segmentation, hand_landmarks_from_pose_to_recrop_roi, hand_recrop_by_roi_cpu,
hand_landmark_cpu, face_landmarks_from_pose_to_recrop_roi, face_detection_front_detections_to_roi, face_landmark_cpu.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import pi
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from datamodules.errors import ConfigError
from preprocess.holistic.crop import Border, PackedImages, crop, pack, scaled
from preprocess.holistic.detection import FACE_DETECTOR, POSE_DETECTOR, BestDetection, anchors, best_detection
from preprocess.holistic.heatmap import refine
from preprocess.holistic.models import HOLISTIC, find_models
from preprocess.holistic.net import Net
from preprocess.holistic.regions import (
    Region,
    aligned_square,
    expanded_square,
    image_square,
    rotation_to,
    square_around,
)

Precision = Literal["fp32", "fp16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_OUTPUTS = {"pose_landmark_full": (0, 1, 3), "hand_landmark_full": (0, 1)}  # used: no segmentation, no points in 3D
_SIDES = {"pose_landmark_full": 256, "hand_recrop": 256, "hand_landmark_full": 224, "face_landmark": 192}  # px
_NUM_POSE, _NUM_FACE, _NUM_HAND = 33, 468, 21
_MIN_PRESENCE, _MIN_WRIST = 0.5, 0.1
_HAND_DEPTH = 0.4  # normalize_z of TensorsToLandmarksCalculator
# indices of pose points: the face; wrists, little fingers and index fingers, left and right
_FACE_POINTS, _LEFT_EYE, _RIGHT_EYE = slice(0, 11), 2, 5
_WRISTS, _PINKIES, _INDEX_FINGERS = slice(15, 17), slice(17, 19), slice(19, 21)


class HolisticLandmarks(NamedTuple):
    """The detected parts of one person in each of B images; zeros where a part was not detected.

    Attributes:
        pose: float32 [B, 33, 3]: x, y, z in px of the image, z towards the camera negative. Points may lie outside.
        face: float32 [B, 468, 3], likewise.
        left_hand: float32 [B, 21, 3], likewise; the person's own left.
        right_hand: float32 [B, 21, 3], likewise.
        visibility: float32 [B, 33], 0 to 1: how likely each pose point is visible.
        presence: bool [B, 4]: whether pose, face, left hand, right hand were detected.
    """

    pose: Tensor
    face: Tensor
    left_hand: Tensor
    right_hand: Tensor
    visibility: Tensor
    presence: Tensor


class HolisticLandmarker(nn.Module):
    """MediaPipe Holistic for batches of images; see the module's text.

    Args:
        models: paths of the six models, by name; see `find_models`.
        precision: of the nets: `fp32`, or `fp16`, which moves points by 0.1 to 0.3 px on average. Regions, crops and
            points are always computed in full precision, and fp32 does not use TF32.

    Raises:
        ConfigError: the precision is not one of these, or a model cannot be read.
    """

    _pose_anchors: Tensor
    _face_anchors: Tensor

    def __init__(self, models: dict[str, Path], precision: Precision = "fp32") -> None:
        super().__init__()
        require_precision(precision)
        self._dtype = _DTYPES[precision]
        self.nets = nn.ModuleDict({name: Net(models[name], _OUTPUTS.get(name)) for name in HOLISTIC}).to(self._dtype)
        self.register_buffer("_pose_anchors", anchors(POSE_DETECTOR))
        self.register_buffer("_face_anchors", anchors(FACE_DETECTOR))

    @classmethod
    def from_mediapipe_wheel(
        cls, precision: Precision = "fp32", folder: str | Path | None = None
    ) -> "HolisticLandmarker":
        """Return a landmarker with the models of mediapipe 0.10.21; `find_models` says where they come from.

        Raises:
            ConfigError: a model is missing and cannot be fetched, or a file in `folder` is that of another release.
        """
        return cls(find_models(HOLISTIC, folder), precision)

    @torch.inference_mode()
    def forward(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """Return the landmarks of each image, on the module's device.

        Args:
            images: uint8 [B, 3, H, W], RGB; or a list of B images [3, H, W], whose sizes may differ. They may be on
                another device; from pinned memory they are copied while it computes.

        Raises:
            ValueError: the images have another dtype or shape.
        """
        values, width, height = flatten_images(images, self.device)
        with without_tf32():
            return self.landmarks(PackedImages(pack(values), width, height))

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self._pose_anchors.device

    def landmarks(self, images: PackedImages) -> HolisticLandmarks:
        """Return the landmarks of images on the device; call it within `without_tf32`."""
        image = image_square(images.width, images.height)
        pose, visibility, has_pose = self._pose(images, image)
        hands, has_hands = self._hands(images, image, pose, visibility, has_pose)
        face, has_face = self._face(images, image, pose, has_pose)
        presence = torch.cat([has_pose[:, None], has_face[:, None], has_hands], 1)
        points = (pose, face, hands[:, 0], hands[:, 1])
        pose, face, left, right = (
            part.float() * is_present[:, None, None]
            for part, is_present in zip(points, presence.unbind(1), strict=True)
        )
        return HolisticLandmarks(pose, face, left, right, visibility.float() * has_pose[:, None], presence)

    def _pose(self, images: PackedImages, image: Region) -> tuple[Tensor, Tensor, Tensor]:
        """Return points [N, 33, 3] in px, their visibility [N, 33], and whether a pose was detected [N]."""
        person = self._detect(images, image, "pose_detection")
        hips, edge = person.keypoints[:, 0], person.keypoints[:, 1]
        box = aligned_square(hips, edge, pi / 2)
        region = expanded_square(box.center, box.side[:, None].expand(-1, 2), box.rotation, 1.25, 0.0)
        region = region.where(person.found, image)
        raw, score, heatmaps = self._run("pose_landmark_full", images, region, "replicate")
        values = raw.double().reshape(len(raw), -1, 5)[:, :_NUM_POSE]
        points = values[..., :3] / _SIDES["pose_landmark_full"]
        points = torch.cat([refine(points[..., :2], heatmaps), points[..., 2:]], -1)
        return region.project(points), values[..., 3].sigmoid(), person.found & (score[:, 0] > _MIN_PRESENCE)

    def _hands(
        self, images: PackedImages, image: Region, pose: Tensor, visibility: Tensor, has_pose: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return points [N, 2, 21, 3] of the left and right hand in px, and whether each was detected [N, 2]."""
        wrist, pinky, index = (pose[:, points, :2] for points in (_WRISTS, _PINKIES, _INDEX_FINGERS))
        is_visible = has_pose[:, None] & (visibility[:, _WRISTS] > _MIN_WRIST)
        image = _for_both_hands(image)
        middle = (2 * index + pinky) / 3  # HandDetectionsFromPoseToRectsCalculator
        side = 2 * torch.linalg.vector_norm(middle - wrist, dim=-1)
        rough = expanded_square(middle, _square(side), rotation_to(wrist, middle, pi / 2), 2.7, -0.1).where(
            is_visible, image
        )
        (raw,) = self._run("hand_recrop", images, rough, "replicate")
        edges = rough.project(raw.double().reshape(-1, 2, 2, 2) / _SIDES["hand_recrop"])
        box = aligned_square(edges[:, :, 0], edges[:, :, 1], -pi / 2)
        region = expanded_square(box.center, _square(box.side), box.rotation, 1.0, -0.1).where(is_visible, image)
        raw, score = self._run("hand_landmark_full", images, region, "replicate")
        points = raw.double().reshape(-1, 2, _NUM_HAND, 3) / _SIDES["hand_landmark_full"]
        points = torch.cat([points[..., :2], points[..., 2:] / _HAND_DEPTH], -1)
        return region.project(points), is_visible & (score.reshape(-1, 2) > _MIN_PRESENCE)

    def _face(self, images: PackedImages, image: Region, pose: Tensor, has_pose: Tensor) -> tuple[Tensor, Tensor]:
        """Return points [N, 468, 3] in px, and whether a face was detected [N]."""
        rough = square_around(
            pose[:, _FACE_POINTS, :2], rotation_to(pose[:, _RIGHT_EYE, :2], pose[:, _LEFT_EYE, :2], 0.0), 3.0, 0.0
        )
        rough = rough.where(has_pose, image)
        detection = self._detect(images, rough, "face_detection_short_range")
        is_found, keypoints = has_pose & detection.found, detection.keypoints
        region = square_around(keypoints, rotation_to(keypoints[:, 0], keypoints[:, 1], 0.0), 2.0, -0.1).where(
            is_found, image
        )
        raw, logit = self._run("face_landmark", images, region, "replicate")
        points = raw.double().reshape(-1, _NUM_FACE, 3) / _SIDES["face_landmark"]
        return region.project(points), is_found & (logit.flatten().float().sigmoid() > _MIN_PRESENCE)

    def _detect(self, images: PackedImages, region: Region, name: str) -> BestDetection:
        """Return the best detection within regions [N], its keypoints in px of the images."""
        detector, centers = {
            "pose_detection": (POSE_DETECTOR, self._pose_anchors),
            "face_detection_short_range": (FACE_DETECTOR, self._face_anchors),
        }[name]
        outputs = self._net(name, images, region, detector.side, "zero", minimum=-1.0)
        detection = best_detection(outputs, centers, detector.side)
        return detection._replace(keypoints=region.project(detection.keypoints))

    def _run(self, name: str, images: PackedImages, region: Region, border: Border) -> list[Tensor]:
        return self._net(name, images, region, _SIDES[name], border, minimum=0.0)

    def _net(
        self, name: str, images: PackedImages, region: Region, side: int, border: Border, minimum: float
    ) -> list[Tensor]:
        """Return the outputs of a net for regions [N] or [N, K]; each output has N * K rows."""
        if region.side.ndim == 1:
            region = Region(*(field[:, None] for field in region))
        outputs: list[Tensor] = self.nets[name](scaled(crop(images, region, side, border), minimum, self._dtype))
        return outputs


def require_precision(precision: str) -> None:
    """Check that the nets can be run in `precision`.

    Raises:
        ConfigError: it is not one of `Precision`, or would move points too far.
    """
    if precision == "bf16":
        raise ConfigError(
            "precision = 'bf16' moves pose points by 2.4 px on average, ten times as far as fp16, which is as fast. "
            "Use fp16 or fp32"
        )
    if precision not in get_args(Precision):
        raise ConfigError(f"{precision = } is not one of {', '.join(get_args(Precision))}")


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute convolutions and products of float32 without TF32, which would move points by 0.05 to 0.3 px."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def flatten_images(images: Tensor | Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return images with their rows one after the other, on `device`.

    Returns:
        Pixels, uint8 [B, 3, P], where P is the number of pixels of the largest image; widths and heights, int64 [B].

    Raises:
        ValueError: the images are not uint8 [B, 3, H, W], nor a list of [3, H, W], or one is empty.
    """
    if not len(images) or any(image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 for image in images):
        shapes = [(image.dtype, tuple(image.shape)) for image in images][:3]
        raise ValueError(f"images are uint8 [B, 3, H, W], or a list of [3, H, W]; got {shapes}")
    if min(min(image.shape) for image in images) < 1:
        raise ValueError("an image has no pixels")
    sizes = torch.tensor([image.shape[:0:-1] for image in images])
    sizes = (sizes.pin_memory() if device.type == "cuda" else sizes).to(device, non_blocking=True)
    if isinstance(images, Tensor):
        values = images.to(device, non_blocking=True).flatten(2)
    else:
        num_pixels = max(image[0].numel() for image in images)
        values = torch.zeros(len(images), 3, num_pixels, dtype=torch.uint8, device=device)
        for row, image in zip(values, images, strict=True):
            row[:, : image[0].numel()] = image.to(device, non_blocking=True).flatten(1)
    return values, sizes[:, 0], sizes[:, 1]


def _for_both_hands(region: Region) -> Region:
    """Return regions [N, 2] for both hands, from regions [N]."""
    return Region(region.center[:, None].expand(-1, 2, -1), *(field[:, None].expand(-1, 2) for field in region[1:]))


def _square(side: Tensor) -> Tensor:
    """Return width and height [..., 2] of squares of `side` [...]."""
    return side[..., None].expand(*side.shape, 2)
