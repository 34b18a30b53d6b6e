"""MediaPipe Holistic for batches of images, on a CPU or a GPU.

    landmarker = HolisticLandmarker.load("cuda")
    landmarks = landmarker(images)  # uint8 [B, 3, H, W], or a list of [3, H, W] of any sizes

The results equal those of a new `mp.solutions.holistic.Holistic(static_image_mode=True, model_complexity=1)` per image
to hundredths of a pixel; `tests/preprocess/holistic/test_landmarker.py` measures how closely. The order of images, and
how they are batched, change nothing on a CPU, and at most the last digits on a GPU.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.errors import ConfigError
from preprocess.holistic.landmarks import HolisticLandmarks
from preprocess.holistic.litert_landmarker import LiteRTLandmarker
from preprocess.holistic.models import find_models
from preprocess.holistic.networks import HolisticOptions
from preprocess.holistic.replay import Replay
from preprocess.holistic.torch_landmarker import Precision, TorchLandmarker

Backend = Literal["auto", "litert", "torch"]

_DEFAULT = HolisticOptions()


class HolisticLandmarker:
    """Detects pose, face and hands of the most prominent person in each image; made by `load`."""

    def __init__(self, find: Callable[[Tensor | Sequence[Tensor]], HolisticLandmarks]) -> None:
        self._find = find

    @classmethod
    def load(
        cls,
        device: str | torch.device = "cpu",
        options: HolisticOptions = _DEFAULT,
        *,
        backend: Backend = "auto",
        precision: Precision = "fp32",
        compile: bool = False,
        cuda_graph: bool = False,
        model_dir: str | Path | None = None,
    ) -> "HolisticLandmarker":
        """Return a landmarker for a device.

        Args:
            device: such as `cpu`, `cuda` or `cuda:1`.
            options: what to find, and by which networks.
            backend: `litert`: on the CPU, the fastest there, a few images at a time on the calling thread; `torch`:
                in batches on any device; `auto`: litert on a CPU, else torch.
            precision: of the networks in torch: `fp32`; or `fp16`, which moves points by 0.1 to 0.3 px on average.
            compile: compile the pass in torch by torch.compile, which takes minutes with the first batch.
            cuda_graph: capture the pass in torch as a CUDA graph for each batch size; on a GPU.
            model_dir: a folder with model files that are preferred to those found elsewhere; see `find_models`.

        Raises:
            ConfigError: an option is not for this backend, or the models are missing.
        """
        device = torch.device(device)
        if backend not in get_args(Backend):
            raise ConfigError(f"{backend = } is not one of {', '.join(get_args(Backend))}")
        if backend == "torch" or (backend == "auto" and device.type != "cpu"):
            landmarker = TorchLandmarker(find_models(options.networks, model_dir), precision, options, device)
            return cls(Replay(landmarker, compile, cuda_graph))
        if device.type != "cpu" or precision != "fp32" or compile or cuda_graph:
            raise ConfigError(
                f"backend litert runs in fp32 on the CPU, not with {device = !s}, {precision = }, {compile = }, "
                f"{cuda_graph = }. Use backend torch for these"
            )
        return cls(LiteRTLandmarker(find_models(options.networks, model_dir), options))

    def __call__(self, images: Tensor | Sequence[Tensor]) -> HolisticLandmarks:
        """Return the landmarks of each image, on the device.

        Args:
            images: uint8 [B, 3, H, W], RGB; or a list of B images [3, H, W], whose sizes may differ. They may be on
                another device; from pinned memory they are copied to a GPU while it computes.

        Raises:
            ExtractError: on a CPU, a side of an image exceeds 32,766 px.
            ValueError: the images have another dtype or shape.
        """
        return self._find(images)
