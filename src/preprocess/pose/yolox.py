"""Input and output of YOLOX, as its published ONNX files have them.

| function      | what it does                                                                                         |
|---------------|------------------------------------------------------------------------------------------------------|
| `letterboxed` | an image, scaled into the top left corner of the input; the rest is gray (114). Values are 0 to 255, |
|               | channels BGR                                                                                         |
| `find_people` | anchors at strides 8, 16, 32: centre = (output + cell) * stride, sides = exp(output) * stride;       |
|               | score = objectness * probability of the class `person`; overlapping boxes leave the best             |

Sources: Megvii-BaseDetection/YOLOX (`demo/ONNXRuntime`, `yolox/data/data_augment.py`), and IDEA-Research/DWPose
(`annotator/dwpose/onnxdet.py`) for the thresholds. YOLOX is trained on BGR; DWPose gives it what its caller has.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

STRIDES = (8, 16, 32)
_GRAY = 114
_PERSON = 0  # of COCO's classes
_MAX_OVERLAP = 0.45  # intersection over union


class Boxes(NamedTuple):
    """P boxes by descending score.

    Attributes:
        corners: float32 [P, 4]: left, top, right, bottom in px.
        scores: float32 [P], 0 to 1.
    """

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]


def num_anchors(size: tuple[int, int]) -> int:
    """Return the number of anchors of an input of `size` (height, width)."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)


def letterboxed(image: NDArray[np.uint8], size: tuple[int, int]) -> tuple[NDArray[np.float32], float]:
    """Return the input for an image, float32 [3, height, width], and the px of the input per px of the image.

    Args:
        image: uint8 [H, W, 3], RGB.
        size: (height, width) of the input.
    """
    ratio = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, int(side * ratio)) for side in image.shape[:2])
    padded = np.full((*size, 3), _GRAY, np.uint8)
    padded[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return padded[..., ::-1].transpose(2, 0, 1).astype(np.float32), ratio


def find_people(output: NDArray[np.float32], size: tuple[int, int], min_score: float) -> Boxes:
    """Return the boxes of people, in px of the input.

    Args:
        output: float32 [A, 5 + C] of one image: x, y, width, height, objectness, probabilities of C classes.
        size: (height, width) of the input, which has A anchors.
        min_score: lowest score of a box.
    """
    cells, strides = zip(*(_grid(size, stride) for stride in STRIDES), strict=True)
    stride = np.concatenate(strides)
    centres = (output[:, :2] + np.concatenate(cells)) * stride
    scores = output[:, 4] * output[:, 5 + _PERSON]
    passed = scores >= min_score
    half = np.exp(output[passed, 2:4]) * stride[passed] / 2  # of these only: elsewhere exp may overflow
    corners = np.concatenate([centres[passed] - half, centres[passed] + half], 1).astype(np.float32)
    kept = nms(torch.from_numpy(corners), torch.from_numpy(scores[passed]), _MAX_OVERLAP).numpy()
    return Boxes(corners[kept], scores[passed][kept])


def _grid(size: tuple[int, int], stride: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (x and y of each cell [N, 2], its stride in px [N, 1]) of the anchors at one stride, row by row."""
    y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
    cells = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    return cells, np.full((len(cells), 1), stride, np.float32)
