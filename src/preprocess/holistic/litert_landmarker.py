"""Holistic on a CPU: networks by LiteRT, crops by OpenCV, geometry in numpy, all on the calling thread.

Networks whose result cannot matter are skipped: without a person only the first runs, and neither of an invisible
hand's two. Each network runs for all images of a group before the next one does, so that its weights stay in the cache;
the results are the same bits for any grouping.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.errors import ExtractError
from preprocess.holistic.arrays import Array
from preprocess.holistic.crop import MAX_SIDE_PX, crop_by_opencv
from preprocess.holistic.detection import anchors
from preprocess.holistic.holistic_pass import find_landmarks
from preprocess.holistic.landmarks import HolisticLandmarks, check_images
from preprocess.holistic.litert import LiteRTNetwork, LiteRTRefinedFace
from preprocess.holistic.networks import NETWORKS, REFINED_FACE, HolisticOptions
from preprocess.holistic.regions import Region

_DEFAULT = HolisticOptions()
GROUP = 4  # images: more are hardly faster, and a worker holds them in memory together


class LiteRTLandmarker:
    """Holistic for images on the CPU. An instance cannot be pickled or shared by threads: make it where it is used.

    Args:
        models: paths of the networks' files, by name.
        options: what to find; the networks that this needs are in `models`.

    Raises:
        ConfigError: a file is not a TensorFlow Lite model; see `LiteRTNetwork`.
    """

    def __init__(self, models: Mapping[str, Path], options: HolisticOptions = _DEFAULT) -> None:
        self._options = options
        self._networks = {
            name: (LiteRTRefinedFace if name == REFINED_FACE else LiteRTNetwork)(path, NETWORKS[name])
            for name, path in models.items()
        }
        self._anchors = {name: anchors(NETWORKS[name]) for name in models if NETWORKS[name].strides}

    def __call__(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """Return the landmarks of each image; see `HolisticLandmarker`.

        Raises:
            ExtractError: a side of an image exceeds `MAX_SIDE_PX`.
            ValueError: the images have another dtype or shape.
        """
        check_images(images)
        groups = [self._find(images[start : start + GROUP]) for start in range(0, len(images), GROUP)]
        return HolisticLandmarks(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*groups, strict=True)))

    def _find(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """Return the landmarks of a group of images, in arrays of numpy."""
        pixels = [_rows(image) for image in images]
        height, width = np.array([image.shape[:2] for image in pixels]).T

        def run(name: str, region: Region, is_used: Array) -> list[NDArray[np.float32]]:
            return self._run(pixels, name, region, is_used)

        return find_landmarks(width, height, run, self._anchors, self._options)

    def _run(
        self, pixels: Sequence[NDArray[np.uint8]], name: str, region: Region, is_used: NDArray[np.bool_]
    ) -> list[NDArray[np.float32]]:
        """Return the outputs of a network for regions [N] or [N, K]; zeros for regions whose result is not used."""
        network, (side, border, *_) = self._networks[name], NETWORKS[name]
        images = np.arange(len(pixels)).repeat(is_used.size // len(pixels))
        rows = (
            images,
            is_used.ravel(),
            *(field.reshape(is_used.size, 1, *field.shape[is_used.ndim :]) for field in region),
        )
        outputs = [
            network(crop_by_opencv(pixels[image], Region(*square), side, border)) if is_row_used else network.zeros
            for image, is_row_used, *square in zip(*rows, strict=True)
        ]
        return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def litert_versions() -> dict[str, str]:
    """Return the versions of what computes here, by name, for a run's fingerprint."""
    return {"litert": version("ai-edge-litert"), "opencv": cv2.__version__}


def _rows(image: Tensor) -> NDArray[np.uint8]:
    """Return an image, uint8 [3, H, W], as [H, W, 3].

    Raises:
        ExtractError: a side exceeds `MAX_SIDE_PX`.
    """
    height, width = image.shape[1:]
    if max(height, width) > MAX_SIDE_PX:
        raise ExtractError(f"the image has {width}x{height} px; Holistic takes sides up to {MAX_SIDE_PX} px")
    rows: NDArray[np.uint8] = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return rows
