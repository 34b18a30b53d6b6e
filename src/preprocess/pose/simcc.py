"""Input and output of networks that estimate a person's points by SimCC, as RTMPose, RTMW and DWPose do.

| function  | what it does                                                                                             |
|-----------|----------------------------------------------------------------------------------------------------------|
| `regions` | boxes of people, 1.25 times as wide and high, and then wider or higher to have the input's aspect ratio  |
| `cropped` | the region of an image as input: bilinear, black outside the image; RGB, less ImageNet's mean, by its    |
|           | standard deviation                                                                                       |
| `decode`  | of each point a distribution along x and one along y, in bins of half a px of the input: x and y are     |
|           | those of the highest bins, the score is the lower of the two highest values                              |

Li et al.: SimCC, ECCV 2022. Sources: open-mmlab/mmpose (`GetBBoxCenterScale`, `TopdownAffine`, `get_simcc_maximum`, the
`data_preprocessor` of RTMPose's configurations), and IDEA-Research/DWPose (`annotator/dwpose/onnxpose.py`). RTMPose is
trained on RGB; DWPose gives it what its caller has.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_PADDING = 1.25
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_STD = np.array([58.395, 57.12, 57.375], np.float32)


def regions(corners: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return float32 [P, 4]: centre x, y, width and height in px of the part of an image that is the input.

    Args:
        corners: float32 [P, 4]: left, top, right, bottom of people's boxes, in px.
        size: (height, width) of the input.
    """
    centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) * _PADDING
    height, width = size
    sides = np.maximum(sides, sides[:, ::-1] * (width / height, height / width))
    centred: NDArray[np.float32] = np.concatenate([centres, sides], 1).astype(np.float32)
    return centred


def cropped(image: NDArray[np.uint8], region: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a region of an image as input, float32 [3, height, width].

    Args:
        image: uint8 [H, W, 3], RGB.
        region: one of `regions`.
        size: (height, width) of the input.
    """
    x, y, region_width, _ = region.astype(float)
    height, width = size
    scale = width / region_width
    to_input = np.array([[scale, 0, width / 2 - scale * x], [0, scale, height / 2 - scale * y]])
    crop = cv2.warpAffine(image, to_input, (width, height), flags=cv2.INTER_LINEAR)
    return ((crop - _MEAN) / _STD).transpose(2, 0, 1).astype(np.float32)


def decode(
    along_x: NDArray[np.float32], along_y: NDArray[np.float32], regions: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return float32 [P, K, 3]: x, y in px of the image, and score, of K points; zeros where no score is above 0.

    Args:
        along_x: float32 [P, K, bins].
        along_y: float32 [P, K, bins].
        regions: [P, 4]; see `regions`.
    """
    shares = np.stack([values.argmax(2) / values.shape[2] for values in (along_x, along_y)], 2)
    points = regions[:, None, :2] + (shares - 0.5) * regions[:, None, 2:]
    scores = np.minimum(along_x.max(2), along_y.max(2))[..., None]
    return np.where(scores > 0, np.concatenate([points, scores], 2), 0).astype(np.float32)
