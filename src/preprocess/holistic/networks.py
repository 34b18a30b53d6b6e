"""The networks of Holistic: which square input each takes, which of its outputs the pass uses, and when it runs.

| network                    | input            | outputs                                                       |
|----------------------------|------------------|---------------------------------------------------------------|
| pose_detection             | 224 px, -1 to 1  | boxes and keypoints of 2254 anchors, their scores             |
| pose_landmark_full         | 256 px, 0 to 1   | 39 points, score, segmentation, heatmaps of 64 px, 39 in 3D   |
| face_detection_short_range | 128 px, -1 to 1  | boxes and keypoints of 896 anchors, their scores              |
| face_landmark              | 192 px, 0 to 1   | 468 points, score                                             |
| hand_recrop                | 256 px, 0 to 1   | two points                                                    |
| hand_landmark_full         | 224 px, 0 to 1   | 21 points, score, handedness, 21 in 3D                        |

`pose_landmark_lite` and `pose_landmark_heavy` take and compute the same as `pose_landmark_full`. Of the outputs of
`face_landmark_with_attention`, `face_refinement` makes those of `face_landmark`, with 478 points.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from datamodules.errors import ConfigError

Border = Literal["zero", "replicate"]
Complexity = Literal[0, 1, 2]


@dataclass(frozen=True)
class Cut:
    """A part of a file's graph: what computes some tensors from others, by the tensors' names in the file."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Network(NamedTuple):
    """Input and outputs of a network.

    Attributes:
        side: of its square input, in px.
        border: values of the input outside of the image: `zero`, or `replicate`, the nearest pixel.
        minimum: what the value 0 of a pixel becomes; 255 becomes 1.
        outputs: indices of the outputs that the pass uses, or a part of the graph; None: all. The rest is not computed.
        strides: of the layers of a detector (SSD), in px; see `detection.anchors`.
    """

    side: int
    border: Border
    minimum: float = 0.0
    outputs: tuple[int, ...] | Cut | None = None
    strides: tuple[int, ...] = ()


REFINED_FACE = "face_landmark_with_attention"
_POSE_NETWORKS = ("pose_landmark_lite", "pose_landmark_full", "pose_landmark_heavy")  # by complexity

NETWORKS = {
    "pose_detection": Network(224, "zero", minimum=-1.0, strides=(8, 16, 32, 32, 32)),
    **dict.fromkeys(_POSE_NETWORKS, Network(256, "replicate", outputs=(0, 1, 3))),
    "face_detection_short_range": Network(128, "zero", minimum=-1.0, strides=(8, 16, 16, 16)),
    "face_landmark": Network(192, "replicate"),
    REFINED_FACE: Network(192, "replicate"),
    "hand_recrop": Network(256, "replicate"),
    "hand_landmark_full": Network(224, "replicate", outputs=(0, 1)),
}


@dataclass(frozen=True)
class HolisticOptions:
    """Options of the pass, as those of `mp.solutions.holistic.Holistic` of the same names.

    Attributes:
        model_complexity: 0, 1 or 2: the pose network is lite, full or heavy.
        refine_face_landmarks: whether the irises are found too, and the lips and eyes more closely.
        min_detection_confidence: 0 to 1, the lowest score of a detected person.
        pose_only: whether faces and hands are left out.

    Raises:
        ConfigError: an option is out of range.
    """

    model_complexity: Complexity = 1
    refine_face_landmarks: bool = False
    min_detection_confidence: float = 0.5
    pose_only: bool = False

    def __post_init__(self) -> None:
        if self.model_complexity not in get_args(Complexity):
            raise ConfigError(f"model_complexity = {self.model_complexity} is not one of 0, 1, 2")
        if not 0 <= self.min_detection_confidence <= 1:
            raise ConfigError(f"min_detection_confidence = {self.min_detection_confidence} is not from 0 to 1")

    @property
    def pose_network(self) -> str:
        """The name of the network that finds the points of the pose."""
        return _POSE_NETWORKS[self.model_complexity]

    @property
    def face_network(self) -> str:
        """The name of the network that finds the points of the face."""
        return REFINED_FACE if self.refine_face_landmarks else "face_landmark"

    @property
    def num_face_points(self) -> int:
        """468; 478 with the irises."""
        return 478 if self.refine_face_landmarks else 468

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of all networks that the pass runs."""
        pose = ("pose_detection", self.pose_network)
        if self.pose_only:
            return pose
        return (*pose, "face_detection_short_range", self.face_network, "hand_recrop", "hand_landmark_full")
