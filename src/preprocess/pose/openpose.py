"""OpenPose's body network: everybody in the image at once, on the rank's device."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal

import cv2  # comes with mediapipe
import torch
from torch import Tensor

from datamodules.errors import ConfigError
from datamodules.samples.skeleton import resized
from preprocess.checkpoints.digest import sha256_of_file
from preprocess.checkpoints.dtypes import DTYPES
from preprocess.pose.backend import People, PoseBackend
from preprocess.pose.decoding import Maps, decode, enlarging
from preprocess.pose.openpose_net import STRIDE, find_weights, load_weights, prepare

_MAX_INPUT_PX = 4096  # the longer side of what the network sees, however wide the image
_MAX_MAP_PX = 1024  # likewise, of the enlarged maps: coordinates of larger images are whole px of these


class OpenPose(PoseBackend):
    """The network, and `decoding`; images of one size are one batch.

    Args:
        weights: `body_pose_model.pth`: the file, a folder with it, or its name on the hub (lllyasviel/Annotators).
        scales: at which the network sees each image, as shares of `box_px`; several cost as much more. ControlNet's
            detector has 0.5 alone; OpenPose's original 0.5, 1, 1.5 and 2.
        box_px: the height that an image is resized to at scale 1.
        dtype: of the weights.

    Raises:
        ConfigError: the weights are nowhere, or an argument is none of these.
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
        """See `PoseBackend`."""
        net = load_weights(self._path, "--model.backend.weights")
        self._net = net.to(device, DTYPES[self.dtype], memory_format=torch.channels_last)  # type: ignore[call-overload]

    def people(self, images: Sequence[Tensor]) -> list[People]:
        """See `PoseBackend`."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            groups.setdefault(tuple(image.shape), []).append(place)
        found: dict[int, People] = {}
        for places in groups.values():
            found.update(zip(places, self._batch(torch.stack([images[place] for place in places])), strict=True))
        return [found[place] for place in range(len(images))]

    def provenance(self) -> dict[str, str]:
        """See `PoseBackend`."""
        return {"weights": sha256_of_file(self._path), "opencv": cv2.__version__, "scipy": version("scipy")}

    @torch.inference_mode()
    def _batch(self, images: Tensor) -> list[People]:
        """Those of images [B, 3, H, W]."""
        size = images.shape[2], images.shape[3]
        shrink = min(1.0, _MAX_MAP_PX / max(size))
        map_size = max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
        found = decode([self._maps(images, scale, map_size) for scale in self.scales])
        return [each._replace(keypoints=resized(each.keypoints, map_size, size)) for each in found]

    def _maps(self, images: Tensor, scale: float, map_size: tuple[int, int]) -> Maps:
        height, width = images.shape[2:]
        factor = min(scale * self.box_px / height, _MAX_INPUT_PX / max(height, width))
        seen = max(1, round(height * factor)), max(1, round(width * factor))
        inputs = prepare(images, seen).to(DTYPES[self.dtype], memory_format=torch.channels_last)
        pafs, heatmaps = self._net(inputs)
        rows, columns = (
            enlarging(cells, used, size, STRIDE)
            for cells, used, size in zip(pafs.shape[2:], seen, map_size, strict=True)
        )
        return Maps(pafs, heatmaps, rows, columns)
