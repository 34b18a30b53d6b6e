"""Holistic in torch: batches of images on one device, in one pass without data-dependent steps.

All shapes are fixed, and nothing waits for the device: where a part is not detected, its networks run all the same, on
the whole image. So the pass can be compiled, and captured as a CUDA graph; see `replay`.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.errors import ConfigError
from preprocess.float32 import without_tf32
from preprocess.holistic.crop import FlatImages, network_input
from preprocess.holistic.detection import anchors
from preprocess.holistic.holistic_pass import find_landmarks
from preprocess.holistic.landmarks import HolisticLandmarks, check_images
from preprocess.holistic.net import Net, RefinedFaceNet
from preprocess.holistic.networks import NETWORKS, REFINED_FACE, HolisticOptions
from preprocess.holistic.regions import Region

Precision = Literal["fp32", "fp16"]

_DEFAULT = HolisticOptions()
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class TorchLandmarker(nn.Module):
    """Holistic for batches of images, on the module's device.

    Args:
        models: paths of the networks' files, by name.
        precision: of the networks: `fp32`, or `fp16`, which moves points by 0.1 to 0.3 px on average. Regions, crops
            and points are always computed in full precision, and fp32 does not use TF32.
        options: what to find; the networks that this needs are in `models`.
        device: to compute on.

    Raises:
        ConfigError: the precision is not one of these, or a model cannot be read.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        precision: Precision = "fp32",
        options: HolisticOptions = _DEFAULT,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self._options = options
        require_precision(precision)
        self._dtype, self._layout = _DTYPES[precision], _fastest_layout(precision, torch.device(device))
        nets = {name: _make_net(name, path, self._layout) for name, path in models.items()}
        self.nets = nn.ModuleDict(nets).to(self._dtype)
        self._anchors = {}
        for name in models:
            if NETWORKS[name].strides:
                self._anchors[name] = f"_{name}_anchors"
                self.register_buffer(self._anchors[name], torch.from_numpy(anchors(NETWORKS[name])))
        self.to(device)

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return next(self.buffers()).device

    @torch.inference_mode()
    def forward(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """Return the landmarks of each image; see `HolisticLandmarker`.

        Raises:
            ValueError: the images have another dtype or shape.
        """
        flat = flatten_images(images, self.device)
        with without_tf32():
            return self.landmarks(flat)

    def landmarks(self, images: FlatImages) -> HolisticLandmarks:
        """Return the landmarks of images on the device; call it within `without_tf32`."""

        def run(name: str, region: Region, is_used: Tensor) -> list[Tensor]:
            return self._run(images, name, region)

        centers = {name: getattr(self, buffer) for name, buffer in self._anchors.items()}
        return find_landmarks(images.width, images.height, run, centers, self._options)

    def _run(self, images: FlatImages, name: str, region: Region) -> list[Tensor]:
        """Return the outputs of a network for regions [N] or [N, K]; each output has N * K rows."""
        side, border, minimum, *_ = NETWORKS[name]
        if region.side.ndim == 1:
            region = Region(*(field[:, None] for field in region))
        crops = network_input(images, region, side, border, minimum, self._dtype, self._layout)
        outputs: list[Tensor] = self.nets[name](crops)
        return outputs


def _make_net(name: str, path: Path, layout: torch.memory_format) -> nn.Module:
    side, outputs = NETWORKS[name].side, NETWORKS[name].outputs
    return RefinedFaceNet(path, side, layout) if name == REFINED_FACE else Net(path, outputs, layout)


def _fastest_layout(precision: Precision, device: torch.device) -> torch.memory_format:
    """Return the layout in memory of images and weights: channels_last, except for fp32 on a GPU.

    In fp16, convolutions of a GPU's tensor cores read channels_last, and cuDNN would copy each input to it and each
    output back. Those of fp32 without TF32 do not run there. In the contiguous layout, torch runs depthwise
    convolutions by kernels of its own, which add the bias, and moves a tenth less memory.
    """
    return torch.contiguous_format if precision == "fp32" and device.type == "cuda" else torch.channels_last


def require_precision(precision: str) -> None:
    """Check that the networks can be run in `precision`.

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


def flatten_images(images: Tensor | Sequence[Tensor], device: torch.device) -> FlatImages:
    """Return images one after the other in one tensor on `device`.

    Args:
        images: uint8 [B, 3, H, W], or a list of [3, H, W]; on any device.
        device: see above.

    Raises:
        ValueError: the images have another dtype or shape, or one is empty.
    """
    check_images(images)
    if isinstance(images, Tensor):
        pixels = images.to(device, non_blocking=True).flatten()
    else:
        pixels = torch.cat([image.to(device, non_blocking=True).flatten() for image in images])
    height, width = zip(*(image.shape[1:] for image in images), strict=True)
    start = [0, *accumulate(image.numel() for image in images)][:-1]
    sizes = torch.tensor([start, width, height])
    sizes = (sizes.pin_memory() if device.type == "cuda" else sizes).to(device, non_blocking=True)
    return FlatImages(pixels, *sizes)
