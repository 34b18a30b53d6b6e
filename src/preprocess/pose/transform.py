"""What DataLoader workers do with images for poses. Imports no Lightning, which workers do not need."""

from typing import Literal

import cv2
import torch
from torch import Tensor

from datamodules.corpus import Item
from datamodules.media.resize import resize as resize_frame
from preprocess.pose.backend import People, PoseBackend

Resize = Literal["none", "square", "longest_edge", "shortest_edge"]
Resampling = Literal["bilinear", "area_lanczos"]

_MULTIPLE_PX = 64  # of the sides for `shortest_edge`, as in controlnet_aux's `resize_image`


class PoseTransform:
    """Resizes images in a DataLoader worker; and detects people in them, if the backend runs in workers.

    Args:
        resize: see `Pose`.
        size_px: see `Pose`.
        resampling: see `Pose`.
        backend: the backend, if it runs in workers; it is loaded here.
    """

    def __init__(self, resize: Resize, size_px: int, resampling: Resampling, backend: PoseBackend | None) -> None:
        self._resize, self._size_px, self._resampling, self._backend = resize, size_px, resampling, backend
        cv2.setNumThreads(1)  # the workers share the cores
        if backend:
            backend.load(torch.device("cpu"))

    def start(self, item: Item) -> None:
        """Do nothing: no state is kept from image to image."""

    def __call__(self, frame: Tensor) -> Tensor | People:
        """Return `frame`, uint8 [3, H, W], resized; or the people in it, if there is a backend.

        Raises:
            ExtractError: the backend cannot process it.
        """
        size = frame.shape[1], frame.shape[2]
        processed = processed_size(size, self._resize, self._size_px)
        if self._resampling == "area_lanczos":
            is_larger = _scale(size, self._resize, self._size_px) > 1
            resized = _resized_by_opencv(frame, processed, cv2.INTER_LANCZOS4 if is_larger else cv2.INTER_AREA)
        else:
            resized = resize_frame(frame, processed)
        image = resized.contiguous()
        return self._backend.people([image])[0] if self._backend else image


def processed_size(size: tuple[int, int], resize: Resize, size_px: int) -> tuple[int, int]:
    """Return (height, width) in px of a resized image of `size` (height, width); see `Pose`."""
    scale = _scale(size, resize, size_px)
    if resize == "none":
        return size
    if resize == "square":
        return size_px, size_px
    if resize == "shortest_edge":
        height, width = (max(1, round(side * scale / _MULTIPLE_PX)) * _MULTIPLE_PX for side in size)
        return height, width
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scale(size: tuple[int, int], resize: Resize, size_px: int) -> float:
    """Return the factor by which an image of `size` is enlarged, before rounding; `square`: by its shorter side."""
    if resize == "none":
        return 1.0
    return size_px / (max(size) if resize == "longest_edge" else min(size))


def _resized_by_opencv(image: Tensor, size: tuple[int, int], interpolation: int) -> Tensor:
    """Return `image`, uint8 [3, H, W], resized to `size` (height, width)."""
    resized = cv2.resize(image.permute(1, 2, 0).numpy(), size[::-1], interpolation=interpolation)
    return torch.from_numpy(resized).permute(2, 0, 1)
