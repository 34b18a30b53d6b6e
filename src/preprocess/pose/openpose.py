"""OpenPose's body network: the joints of everybody in an image at once, on the rank's device."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal

import cv2  # comes with mediapipe
import torch
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import rescaled
from preprocess.checkpoints.digest import sha256_of_file
from preprocess.checkpoints.dtypes import DTYPES
from preprocess.float32 import without_tf32
from preprocess.pose.backend import People, PoseBackend
from preprocess.pose.decoding import decode
from preprocess.pose.maps import Maps, upsampling_matrix
from preprocess.pose.openpose_net import STRIDE, find_weights, load_weights, prepare

_MAX_INPUT_PX = 4096  # the longer side of the network's input, however wide the image
_MAX_MAP_PX = 1024  # the longer side of upsampled maps: coordinates in larger images are whole px of these maps


class OpenPose(PoseBackend):
    """OpenPose's network and its decoding (`decoding`). Images of one size are one batch.

    Args:
        weights: `body_pose_model.pth`: the file, a folder with it, or its name on the hub (lllyasviel/Annotators).
        scales: heights of the network's input, as shares of `box_px`; each scale is another pass. ControlNet's detector
            uses 0.5 alone, OpenPose's original 0.5, 1, 1.5 and 2.
        box_px: the height that an image is resized to at scale 1.
        dtype: of the weights; `fp32` does not use TF32 on a GPU.

    Raises:
        ConfigError: an argument is out of range, or the weights cannot be found.
    """

    def __init__(
        self,
        weights: str,
        scales: Sequence[float] = (0.5,),
        box_px: int = 368,
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    ) -> None:
        if not scales or min(scales) <= 0 or box_px < 1:
            raise ConfigError(f"{scales = } must be above 0, and {box_px = } 1 or more")
        if dtype not in DTYPES:
            raise ConfigError(f"{dtype = }: choose from {', '.join(DTYPES)}")
        self.weights, self.scales, self.box_px, self.dtype = weights, list(scales), box_px, dtype
        self._path = find_weights(weights, "--model.backend.weights")

    def load(self, device: torch.device) -> None:
        """See `Backend`."""
        net = load_weights(self._path, "--model.backend.weights")
        self._net = net.to(device, DTYPES[self.dtype], memory_format=torch.channels_last)  # type: ignore[call-overload]

    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        batches: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            batches.setdefault(tuple(image.shape), []).append(index)
        people: dict[int, People] = {}
        for indices in batches.values():
            people.update(zip(indices, self._batch(torch.stack([images[index] for index in indices])), strict=True))
        return [people[index] for index in range(len(images))]

    def provenance(self) -> dict[str, str]:
        """See `Backend`."""
        return {"weights": sha256_of_file(self._path), "opencv": cv2.__version__, "scipy": version("scipy")}

    @torch.inference_mode()
    def _batch(self, images: Tensor) -> list[People]:
        """Return the people in images uint8 [B, 3, H, W]."""
        size = images.shape[2], images.shape[3]
        shrink = min(1.0, _MAX_MAP_PX / max(size))
        map_size = max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
        with without_tf32():
            decoded = decode([self._maps(images, scale, map_size) for scale in self.scales])
        return [people._replace(keypoints=rescaled(people.keypoints, map_size, size)) for people in decoded]

    def _maps(self, images: Tensor, scale: float, map_size: tuple[int, int]) -> Maps:
        height, width = images.shape[2:]
        factor = min(scale * self.box_px / height, _MAX_INPUT_PX / max(height, width))
        input_size = max(1, round(height * factor)), max(1, round(width * factor))
        inputs = prepare(images, input_size).to(DTYPES[self.dtype], memory_format=torch.channels_last)
        pafs, heatmaps = self._net(inputs)
        rows, columns = (
            upsampling_matrix(cells, used, size, STRIDE)
            for cells, used, size in zip(pafs.shape[2:], input_size, map_size, strict=True)
        )
        return Maps(pafs, heatmaps, rows, columns)
