"""Poses of the people in images, as OpenPose's 18 joints. Samples: `datamodules.samples.pose`."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import cv2  # comes with mediapipe
import torch
from torch import Tensor

from datamodules.corpus import JSON_FILES, Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.frames import Batch, FrameRequest, ItemSummary
from datamodules.media.resize import resize as resize_frame
from datamodules.media.stored import StoreImages, stored_as, stored_ending
from datamodules.run.commit import EMPTY, OK
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import as_png, pose_map
from preprocess.job.extractor import Extractor
from preprocess.pose.backend import People, PoseBackend
from preprocess.prompts import PromptTemplate

Resize = Literal["none", "square", "longest_edge", "shortest_edge"]
Resampling = Literal["bilinear", "area_lanczos"]

_SIDE_PX = 64  # sides of `shortest_edge` are multiples of it, as controlnet_aux's `resize_image` makes them


class Pose(Extractor):
    """People and their joints, by one of three backends.

    Args:
        backend: `preprocess.pose.mediapipe.MediaPipe`, `preprocess.pose.openpose.OpenPose`,
            `preprocess.pose.vitpose.VitPose`.
        resize: what becomes of images before people are looked for: `none`; `square`: `size_px` wide and high, whatever
            their shape; `longest_edge`: the longer side `size_px`; `shortest_edge`: the shorter side `size_px`, then
            both sides rounded to multiples of 64, as controlnet_aux's `detect_resolution`.
        size_px: of the processed image.
        resampling: how they are resized: `bilinear`: by torch, with antialiasing; `area_lanczos`: by OpenCV, INTER_AREA
            where the image gets smaller, else INTER_LANCZOS4, as controlnet_aux does.
        batch_size: images in a batch, at most.
        caption: a text for each image, `{name}` being a field of its JSON files, as `{caption}`; empty: none.
        store_pose_map: keep a picture of the skeletons in each sample.
        store_images: keep each image in its sample, as `jpg`, `png` or `original`: see `datamodules/media/stored.py`.

    Raises:
        ConfigError: an argument is none of these.
    """

    samples = PoseSamples()
    retry_invariants = ("extractor.init_args.store_images", "extractor.init_args.store_pose_map")
    reserved_fields = frozenset(
        {"caption", "people", "width", "height", "original_width", "original_height", "resize", "backend"}
    )

    def __init__(
        self,
        backend: PoseBackend,
        resize: Resize = "square",
        size_px: int = 256,
        resampling: Resampling = "bilinear",
        batch_size: int = 16,
        caption: str = "",
        store_pose_map: bool = False,
        store_images: StoreImages = False,
    ) -> None:
        super().__init__()
        if resize not in get_args(Resize):
            raise ConfigError(f"{resize = }: choose from {', '.join(get_args(Resize))}")
        if resampling not in get_args(Resampling):
            raise ConfigError(f"{resampling = }: choose from {', '.join(get_args(Resampling))}")
        if min(size_px, batch_size) < 1:
            raise ConfigError(f"{size_px = } and {batch_size = } must be 1 or more")
        self.save_hyperparameters()
        self._store = self.hparams["store_images"] = stored_as(store_images)
        self.backend, self.store_pose_map = backend, store_pose_map
        self._caption = PromptTemplate(caption, "--model.caption") if caption else None
        in_worker = backend if backend.in_workers else None
        self.frames = FrameRequest(
            batch_size, partial(PoseTransform, resize, size_px, resampling, in_worker), store=self._store
        )

    def setup(self, stage: str) -> None:
        """Load the weights onto the rank's device, if the models run there."""
        if not self.backend.in_workers:
            self.backend.load(self.trainer.strategy.root_device)

    def provenance(self) -> dict[str, str]:
        """What the models are, and the versions of what runs them."""
        uses_opencv = self.hparams["store_pose_map"] or self.hparams["resampling"] == "area_lanczos"
        return {**self.backend.provenance(), **({"opencv": cv2.__version__} if uses_opencv else {})}

    def extract(self, batch: Batch) -> list[Any]:
        """`People` for each image.

        Raises:
            ExtractError: an image cannot be handled.
        """
        results = batch["results"]
        return results if self.backend.in_workers else list(self.backend.people(results))

    def validate(self, item: Item) -> None:
        """Nothing, if it is one image, and what else is told of it can be kept.

        Raises:
            ExtractError: it is none; or the corpus tells of it what has another meaning here.
        """
        if len(item.frames) != 1:
            raise ExtractError(f"{item.path} is no single image, and poses are found in these")
        super().validate(item)

    def check(self, item: Item) -> None:
        """As `validate`; and its caption is filled in.

        Raises:
            ExtractError: likewise; or its JSON files do not have what the caption is made of.
        """
        self.validate(item)
        if self._caption:
            self._caption(item)

    def assemble(self, item: Item, results: Sequence[People], summary: ItemSummary) -> PoseSample:
        """The people, and what is to be stored with them.

        Raises:
            ExtractError: its JSON files do not have what the caption is made of.
        """
        ((keypoints, scores),) = results
        assert summary["size"] is not None
        size = processed_size(summary["size"], self.hparams["resize"], self.hparams["size_px"])
        meta = {
            "image": item.image,
            **{name: value for name, value in item.meta.items() if name != JSON_FILES},
            "caption": self._caption(item) if self._caption else None,
            "height": size[0],
            "width": size[1],
            "original_height": summary["size"][0],
            "original_width": summary["size"][1],
            "resize": self.hparams["resize"],
            "backend": type(self.backend).__name__.lower(),
        }
        drawn = as_png(pose_map(keypoints, size)) if self.store_pose_map else None
        ending = self._store and stored_ending(item.frames[0], self._store)
        return PoseSample(item.key, keypoints, scores, meta, drawn, summary["content"], ending)

    def status(self, sample: PoseSample) -> str:
        """`ok`; or `empty`: there is nobody in the image."""
        return OK if len(sample.scores) else EMPTY


class PoseTransform:
    """In one worker, the processed image, uint8 [3, H, W]; or its `People`, where the backend works here.

    Args:
        resize: see `Pose`.
        size_px: likewise.
        resampling: likewise.
        backend: that is to work here; None: none.
    """

    def __init__(self, resize: Resize, size_px: int, resampling: Resampling, backend: PoseBackend | None) -> None:
        self._resize, self._size_px, self._resampling, self._backend = resize, size_px, resampling, backend
        if backend:
            backend.load(torch.device("cpu"))

    def start(self, item: Item) -> None:
        """Nothing: each image is by itself."""

    def __call__(self, frame: Tensor) -> Tensor | People:
        """Of a frame, uint8 [3, H, W].

        Raises:
            ExtractError: it cannot be handled.
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
    """(height, width) in px that an image of `size` is processed at; see `Pose`."""
    scale = _scale(size, resize, size_px)
    if resize == "none":
        return size
    if resize == "square":
        return size_px, size_px
    if resize == "shortest_edge":
        height, width = (max(1, round(side * scale / _SIDE_PX)) * _SIDE_PX for side in size)
        return height, width
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scale(size: tuple[int, int], resize: Resize, size_px: int) -> float:
    """Return by which factor an image of `size` gets larger, before rounding; for `square`, its shorter side."""
    if resize == "none":
        return 1.0
    return size_px / (max(size) if resize == "longest_edge" else min(size))


def _resized_by_opencv(image: Tensor, size: tuple[int, int], interpolation: int) -> Tensor:
    """Return `image`, uint8 [3, H, W], with `size` (height, width)."""
    resized = cv2.resize(image.permute(1, 2, 0).numpy(), size[::-1], interpolation=interpolation)
    return torch.from_numpy(resized).permute(2, 0, 1)
