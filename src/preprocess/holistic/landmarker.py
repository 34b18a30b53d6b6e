"""MediaPipe Holistic as one torch module: a batch of images in, their landmarks out.

    landmarker = HolisticLandmarker.from_mediapipe_wheel().to("cuda")
    landmarks = landmarker(images)  # uint8 [B, 3, H, W], or a list of [3, H, W] of any sizes

It computes what `mp.solutions.holistic.Holistic(static_image_mode=True, model_complexity=1)` does, made afresh for
every image, to hundredths of a pixel; `tests/preprocess/holistic/test_landmarker.py` says how near. All shapes are
fixed, and nothing waits for the device: where a part is not found, what follows is computed of the whole image, and
dropped.

| step    | region                                         | net                        | found if            |
|---------|------------------------------------------------|----------------------------|---------------------|
| person  | the image, padded to a square                  | pose_detection             | a score ≥ 0.5       |
| pose    | around the hips, by two keypoints              | pose_landmark_full         | score > 0.5         |
| hand, 1 | of the pose's wrist, little and index finger   | hand_recrop                | wrist visible > 0.1 |
| hand, 2 | by that net's two points                       | hand_landmark_full         | score > 0.5         |
| face, 1 | around the pose's points of the face           | face_detection_short_range | a score ≥ 0.5       |
| face, 2 | around the six keypoints found                 | face_landmark              | sigmoid > 0.5       |

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
from preprocess.holistic.crop import Border, Pictures, crop, pack, scaled
from preprocess.holistic.detection import FACE_DETECTOR, POSE_DETECTOR, Detection, anchors, best
from preprocess.holistic.heatmap import refine
from preprocess.holistic.models import MODELS, find_models
from preprocess.holistic.net import Net
from preprocess.holistic.regions import Region, aligned, around, grown, turned, whole

Precision = Literal["fp32", "fp16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_OUTPUTS = {"pose_landmark_full": (0, 1, 3), "hand_landmark_full": (0, 1)}  # without the segmentation, and points in 3D
_SIDES = {"pose_landmark_full": 256, "hand_recrop": 256, "hand_landmark_full": 224, "face_landmark": 192}  # px
_NUM_POSE, _NUM_FACE, _NUM_HAND = 33, 468, 21
_LEAST_PRESENCE, _LEAST_WRIST = 0.5, 0.1
_HAND_DEPTH = 0.4  # normalize_z of TensorsToLandmarksCalculator
# Pose points: of the face; wrists, little fingers and index fingers, left and right
_FACE_POINTS, _LEFT_EYE, _RIGHT_EYE = slice(0, 11), 2, 5
_WRISTS, _PINKIES, _INDEX_FINGERS = slice(15, 17), slice(17, 19), slice(19, 21)


class HolisticLandmarks(NamedTuple):
    """What was found of one person in each of B images; zeros where it was not.

    Attributes:
        pose: float32 [B, 33, 3]: x, y, z in px of the image, z towards the camera negative. Points may lie outside.
        face: float32 [B, 468, 3], likewise.
        left_hand: float32 [B, 21, 3], likewise; the person's own left.
        right_hand: float32 [B, 21, 3], likewise.
        visibility: float32 [B, 33], 0 to 1: how likely each pose point is seen.
        presence: bool [B, 4]: whether pose, face, left hand, right hand were found.
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
        models: the path of each of the six models.
        precision: of the nets: `fp32`, or `fp16`, which moves points by 0.1 to 0.3 px on average. Regions, crops and
            points are computed alike with both. In fp32, TF32 is off.

    Raises:
        ConfigError: another precision; or a model cannot be used.
    """

    _pose_anchors: Tensor
    _face_anchors: Tensor

    def __init__(self, models: dict[str, Path], precision: Precision = "fp32") -> None:
        super().__init__()
        require_precision(precision)
        self._dtype = _DTYPES[precision]
        self.nets = nn.ModuleDict({name: Net(models[name], _OUTPUTS.get(name)) for name in MODELS}).to(self._dtype)
        self.register_buffer("_pose_anchors", anchors(POSE_DETECTOR))
        self.register_buffer("_face_anchors", anchors(FACE_DETECTOR))

    @classmethod
    def from_mediapipe_wheel(
        cls, precision: Precision = "fp32", folder: str | Path | None = None
    ) -> "HolisticLandmarker":
        """With the models in the wheel of mediapipe 0.10.21, which is not imported; or in `folder`.

        Raises:
            ConfigError: they are not there, or are others.
        """
        return cls(find_models(folder), precision)

    @torch.inference_mode()
    def forward(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """The landmarks of each image, on the module's device.

        Args:
            images: uint8 [B, 3, H, W], RGB; or a list of B times [3, H, W], where sizes may differ. They may lie on
                another device; from page-locked memory they are copied while it computes.

        Raises:
            ValueError: they are not such images.
        """
        values, width, height = flat(images, self.device)
        with exact():
            return self.landmarks(Pictures(pack(values), width, height))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._pose_anchors.device

    def landmarks(self, pictures: Pictures) -> HolisticLandmarks:
        """The landmarks of images that are on the device; call it within `exact`."""
        image = whole(pictures.width, pictures.height)
        pose, visibility, has_pose = self._pose(pictures, image)
        hands, has_hands = self._hands(pictures, image, pose, visibility, has_pose)
        face, has_face = self._face(pictures, image, pose, has_pose)
        presence = torch.cat([has_pose[:, None], has_face[:, None], has_hands], 1)
        points = (pose, face, hands[:, 0], hands[:, 1])
        pose, face, left, right = (
            each.float() * there[:, None, None] for each, there in zip(points, presence.unbind(1), strict=True)
        )
        return HolisticLandmarks(pose, face, left, right, visibility.float() * has_pose[:, None], presence)

    def _pose(self, pictures: Pictures, image: Region) -> tuple[Tensor, Tensor, Tensor]:
        """Points [N, 33, 3] in px, their visibility [N, 33], and whether there are any [N]."""
        person = self._detect(pictures, image, "pose_detection")
        hips, edge = person.keypoints[:, 0], person.keypoints[:, 1]
        box = aligned(hips, edge, pi / 2)
        region = grown(box.center, box.side[:, None].expand(-1, 2), box.rotation, 1.25, 0.0)
        region = region.where(person.found, image)
        raw, score, heatmaps = self._run("pose_landmark_full", pictures, region, "replicate")
        values = raw.double().reshape(len(raw), -1, 5)[:, :_NUM_POSE]
        points = values[..., :3] / _SIDES["pose_landmark_full"]
        points = torch.cat([refine(points[..., :2], heatmaps), points[..., 2:]], -1)
        return region.project(points), values[..., 3].sigmoid(), person.found & (score[:, 0] > _LEAST_PRESENCE)

    def _hands(
        self, pictures: Pictures, image: Region, pose: Tensor, visibility: Tensor, has_pose: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Points [N, 2, 21, 3] of the left and the right hand in px, and whether there are any [N, 2]."""
        wrist, pinky, index = (pose[:, points, :2] for points in (_WRISTS, _PINKIES, _INDEX_FINGERS))
        is_seen = has_pose[:, None] & (visibility[:, _WRISTS] > _LEAST_WRIST)
        image = _twice(image)
        middle = (2 * index + pinky) / 3  # HandDetectionsFromPoseToRectsCalculator
        side = 2 * torch.linalg.vector_norm(middle - wrist, dim=-1)
        rough = grown(middle, _square(side), turned(wrist, middle, pi / 2), 2.7, -0.1).where(is_seen, image)
        (raw,) = self._run("hand_recrop", pictures, rough, "replicate")
        edges = rough.project(raw.double().reshape(-1, 2, 2, 2) / _SIDES["hand_recrop"])
        box = aligned(edges[:, :, 0], edges[:, :, 1], -pi / 2)
        region = grown(box.center, _square(box.side), box.rotation, 1.0, -0.1).where(is_seen, image)
        raw, score = self._run("hand_landmark_full", pictures, region, "replicate")
        points = raw.double().reshape(-1, 2, _NUM_HAND, 3) / _SIDES["hand_landmark_full"]
        points = torch.cat([points[..., :2], points[..., 2:] / _HAND_DEPTH], -1)
        return region.project(points), is_seen & (score.reshape(-1, 2) > _LEAST_PRESENCE)

    def _face(self, pictures: Pictures, image: Region, pose: Tensor, has_pose: Tensor) -> tuple[Tensor, Tensor]:
        """Points [N, 468, 3] in px, and whether there are any [N]."""
        rough = around(
            pose[:, _FACE_POINTS, :2], turned(pose[:, _RIGHT_EYE, :2], pose[:, _LEFT_EYE, :2], 0.0), 3.0, 0.0
        )
        rough = rough.where(has_pose, image)
        detection = self._detect(pictures, rough, "face_detection_short_range")
        is_found, keypoints = has_pose & detection.found, detection.keypoints
        region = around(keypoints, turned(keypoints[:, 0], keypoints[:, 1], 0.0), 2.0, -0.1).where(is_found, image)
        raw, logit = self._run("face_landmark", pictures, region, "replicate")
        points = raw.double().reshape(-1, _NUM_FACE, 3) / _SIDES["face_landmark"]
        return region.project(points), is_found & (logit.flatten().float().sigmoid() > _LEAST_PRESENCE)

    def _detect(self, pictures: Pictures, region: Region, name: str) -> Detection:
        """The best detection within regions [N], its keypoints in px."""
        detector, centers = {
            "pose_detection": (POSE_DETECTOR, self._pose_anchors),
            "face_detection_short_range": (FACE_DETECTOR, self._face_anchors),
        }[name]
        outputs = self._net(name, pictures, region, detector.side, "zero", least=-1.0)
        detection = best(outputs, centers, detector.side)
        return detection._replace(keypoints=region.project(detection.keypoints))

    def _run(self, name: str, pictures: Pictures, region: Region, border: Border) -> list[Tensor]:
        return self._net(name, pictures, region, _SIDES[name], border, least=0.0)

    def _net(
        self, name: str, pictures: Pictures, region: Region, side: int, border: Border, least: float
    ) -> list[Tensor]:
        """What a net makes of regions [N] or [N, K]: each output has N · K rows."""
        if region.side.ndim == 1:
            region = Region(*(each[:, None] for each in region))
        outputs: list[Tensor] = self.nets[name](scaled(crop(pictures, region, side, border), least, self._dtype))
        return outputs


def require_precision(precision: str) -> None:
    """Check that nets can be run so.

    Raises:
        ConfigError: they cannot, or should not.
    """
    if precision == "bf16":
        raise ConfigError(
            "precision = 'bf16' moves pose points by 2.4 px on average, ten times as far as fp16, which is as fast: "
            "use fp16, or fp32"
        )
    if precision not in get_args(Precision):
        raise ConfigError(f"{precision = } is none of {', '.join(get_args(Precision))}")


@contextmanager
def exact() -> Iterator[None]:
    """Convolutions and products of float32 in float32 while it lasts: TF32 would move points by 0.05 to 0.3 px."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def flat(images: Tensor | Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images with their rows one after the other, on `device`.

    Returns:
        uint8 [B, 3, P], where P are the pixels of the largest; int64 [B]: widths; int64 [B]: heights.

    Raises:
        ValueError: they are not uint8 [B, 3, H, W], nor a list of [3, H, W].
    """
    if not len(images) or any(each.dtype != torch.uint8 or each.ndim != 3 or each.shape[0] != 3 for each in images):
        shapes = [(each.dtype, tuple(each.shape)) for each in images][:3]
        raise ValueError(f"images are uint8 [B, 3, H, W], or a list of [3, H, W]; got {shapes}")
    if min(min(each.shape) for each in images) < 1:
        raise ValueError("an image has no pixels")
    sizes = torch.tensor([each.shape[:0:-1] for each in images])
    sizes = (sizes.pin_memory() if device.type == "cuda" else sizes).to(device, non_blocking=True)
    if isinstance(images, Tensor):
        values = images.to(device, non_blocking=True).flatten(2)
    else:
        values = torch.zeros(len(images), 3, max(each[0].numel() for each in images), dtype=torch.uint8, device=device)
        for row, each in zip(values, images, strict=True):
            row[:, : each[0].numel()] = each.to(device, non_blocking=True).flatten(1)
    return values, sizes[:, 0], sizes[:, 1]


def _twice(region: Region) -> Region:
    """Regions [N] for both hands: [N, 2]."""
    return Region(region.center[:, None].expand(-1, 2, -1), *(each[:, None].expand(-1, 2) for each in region[1:]))


def _square(side: Tensor) -> Tensor:
    return side[..., None].expand(*side.shape, 2)
