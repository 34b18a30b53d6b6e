"""Poses pipeline: people in images, as OpenPose's 18 joints, and the 133 points of COCO-WholeBody with some backends.

Samples: `datamodules.samples.pose`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import cv2

from datamodules.corpus import JSON_FILES, Item
from datamodules.errors import ConfigError, ExtractError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.media.stored import StoreImages, stored_as, stored_ending
from datamodules.run.result import EMPTY, OK
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import as_png, pose_map
from preprocess.job.extractor import Extractor
from preprocess.pose.backend import People, PoseBackend
from preprocess.pose.transform import PoseTransform, Resampling, Resize, processed_size
from preprocess.prompts import PromptTemplate


class Pose(Extractor):
    """Detects people and their joints in images.

    Args:
        backend: `preprocess.pose.mediapipe.MediaPipe`, `preprocess.pose.openpose.OpenPose`,
            `preprocess.pose.vitpose.VitPose`, `preprocess.pose.dwpose.DwPose`.
        resize: how the image that the backend gets is resized. `none`: not at all; `square`: to `size_px` x `size_px`,
            whatever its shape; `longest_edge`: to a longer side of `size_px`; `shortest_edge`: to a shorter side of
            `size_px`, then both sides rounded to multiples of 64, as controlnet_aux's `detect_resolution`.
        size_px: see `resize`.
        resampling: `bilinear`: with antialiasing, by torch; `area_lanczos`: as controlnet_aux, by OpenCV's INTER_AREA
            where the image gets smaller, else INTER_LANCZOS4.
        batch_size: the largest number of images in a batch.
        caption: a text for each image, in which `{name}` is a field of its JSON files, such as `{caption}`; empty: no
            captions.
        store_pose_map: store a drawing of the skeletons in each sample.
        store_images: store each image in its sample, as `jpg`, `png` or `original`; see `datamodules/media/stored.py`.

    Raises:
        ConfigError: an argument is out of range.
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
            self.backend.load(self.rank_device)

    def provenance(self) -> dict[str, str]:
        """See `Extractor`: the weights of the backend, and the versions that change its results."""
        uses_opencv = self.hparams["store_pose_map"] or self.hparams["resampling"] == "area_lanczos"
        return {**self.backend.provenance(), **({"opencv": cv2.__version__} if uses_opencv else {})}

    def extract(self, batch: Batch) -> list[Any]:
        """Return `People` for each image.

        Raises:
            ExtractError: an image cannot be processed.
        """
        results = batch["results"]
        return results if self.backend.in_workers else list(self.backend.people(results))

    def validate(self, item: Item) -> None:
        """Check that `item` is one image; see `Extractor`.

        Raises:
            ExtractError: it is not, or the corpus has a field that the pipeline writes.
        """
        if len(item.frames) != 1:
            raise ExtractError(f"{item.path} is not a single image, which poses need")
        super().validate(item)

    def check(self, item: Item) -> None:
        """Check what `validate` checks, and that the caption can be filled in.

        Raises:
            ExtractError: the item would fail in a run.
        """
        self.validate(item)
        if self._caption:
            self._caption(item)

    def assemble(self, item: Item, results: Sequence[People], summary: ItemSummary) -> PoseSample:
        """Return the sample of an image.

        Raises:
            ExtractError: the caption cannot be filled in.
        """
        ((keypoints, scores, wholebody),) = results
        assert summary.size is not None
        size = processed_size(summary.size, self.hparams["resize"], self.hparams["size_px"])
        meta = {
            "image": item.image,
            **{name: value for name, value in item.meta.items() if name != JSON_FILES},
            "caption": self._caption(item) if self._caption else None,
            "height": size[0],
            "width": size[1],
            "original_height": summary.size[0],
            "original_width": summary.size[1],
            "resize": self.hparams["resize"],
            "backend": type(self.backend).__name__.lower(),
        }
        drawn = as_png(pose_map(keypoints, size, wholebody)) if self.store_pose_map else None
        ending = self._store and stored_ending(item.frames[0], self._store)
        return PoseSample(item.key, keypoints, scores, meta, drawn, summary.content, ending, wholebody)

    def status(self, sample: PoseSample) -> str:
        """Return `ok`, or `empty` if nobody was detected in the image."""
        return OK if len(sample.scores) else EMPTY
