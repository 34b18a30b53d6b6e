"""The networks of Holistic: which square input each takes, and which of its outputs the pass uses.

| network                    | input            | outputs                                                       |
|----------------------------|------------------|---------------------------------------------------------------|
| pose_detection             | 224 px, -1 to 1  | boxes and keypoints of 2254 anchors, their scores             |
| pose_landmark_full         | 256 px, 0 to 1   | 39 points, score, segmentation, heatmaps of 64 px, 39 in 3D   |
| face_detection_short_range | 128 px, -1 to 1  | boxes and keypoints of 896 anchors, their scores              |
| face_landmark              | 192 px, 0 to 1   | 468 points, score                                             |
| hand_recrop                | 256 px, 0 to 1   | two points                                                    |
| hand_landmark_full         | 224 px, 0 to 1   | 21 points, score, handedness, 21 in 3D                        |
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from preprocess.holistic.arrays import Array
from preprocess.holistic.regions import Region

Border = Literal["zero", "replicate"]


class Network(NamedTuple):
    """Input and outputs of a network.

    Attributes:
        side: of its square input, in px.
        border: values of the input outside of the image: `zero`, or `replicate`, the nearest pixel.
        minimum: what the value 0 of a pixel becomes; 255 becomes 1.
        outputs: indices of the outputs that the pass uses; None: all. The rest is not computed.
        strides: of the layers of a detector (SSD), in px; see `detection.anchors`.
    """

    side: int
    border: Border
    minimum: float = 0.0
    outputs: tuple[int, ...] | None = None
    strides: tuple[int, ...] = ()


NETWORKS = {
    "pose_detection": Network(224, "zero", minimum=-1.0, strides=(8, 16, 32, 32, 32)),
    "pose_landmark_full": Network(256, "replicate", outputs=(0, 1, 3)),
    "face_detection_short_range": Network(128, "zero", minimum=-1.0, strides=(8, 16, 16, 16)),
    "face_landmark": Network(192, "replicate"),
    "hand_recrop": Network(256, "replicate"),
    "hand_landmark_full": Network(224, "replicate", outputs=(0, 1)),
}

RunNetwork: TypeAlias = Callable[[str, Region, Array], Sequence[Array]]
"""Runs a network on regions of N images: (name, regions [N] or [N, K], whether each region's result is used).

The outputs have N * K rows. Rows whose result is not used may hold any finite values.
"""
