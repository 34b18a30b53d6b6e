"""A pipeline of your own: a depth map for each frame of a video, in one file.

    python -m preprocess run --model examples.extending.depth.Depth --data.corpus datamodules.corpora.videos.Videos \\
        --data.corpus.root /data/videos --output.dir O
    python -m preprocess view O --kind examples.extending.depth.DepthSamples
    python -m preprocess visualize O --kind examples.extending.depth.DepthSamples --dest D
    python -m preprocess export O --kind examples.extending.depth.DepthSamples --format parquet --dest D

and for training `FramesDataModule(shards="O", samples=DepthSamples())`. The "model" takes dark pixels for far
ones, so that the example needs no weights. An hour of maps does not fit into memory: `depth.npy` is written map by map
and read in parts.

| file in the shard | type, shape       | meaning                                        |
|-------------------|-------------------|------------------------------------------------|
| depth.npy         | float16 [T, H, W] | distance of each pixel from the camera, in m   |
| json              | object            | the `fields` of `DepthSamples`                 |
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from datamodules.corpus import Item
from datamodules.errors import ConfigError, RunError
from datamodules.loading.batch import Batch, ItemSummary
from datamodules.loading.request import FrameRequest
from datamodules.samples import SampleKind
from datamodules.samples.arrays import read_header, read_rows
from datamodules.samples.columns import Column, span
from datamodules.samples.content import Content
from datamodules.samples.drawing import Image, LegendEntry, SourceFrames, VideoDrawing, at_rate, display_size, resized
from datamodules.samples.fields import Field, decode_json, encode_json
from datamodules.samples.npy_rows import NpyRows
from preprocess.job.assembly import Assembly, disk_errors
from preprocess.job.extractor import Extractor

_NEAR_M, _FAR_M = 1.0, 10.0


@dataclass
class DepthSample:
    """The depth maps of one video.

    Attributes:
        key: of the item.
        file: `depth.npy`.
        meta: the json.
    """

    key: str
    file: Content
    meta: dict[str, Any]

    def __len__(self) -> int:
        return read_header(self.file).shape[0]

    def maps(self, start: int, stop: int) -> NDArray[np.float16]:
        """Return float16 [stop - start, H, W], in m: the maps of these frames."""
        return read_rows(self.file, start, stop)

    def mean_depths(self) -> NDArray[np.float32]:
        """Return float32 [T], in m; holds one map in memory."""
        maps = (self.maps(frame_idx, frame_idx + 1) for frame_idx in range(len(self)))
        return np.array([depth.mean(dtype=np.float32) for depth in maps], np.float32)


class DepthSamples(SampleKind[DepthSample]):
    """The sample kind of `Depth`; for training: the first maps of each video.

    Args:
        num_frames: maps in a batch, of each video.
    """

    opens_files = True
    fields = (
        Field("path", pa.string(), "of the video; relative to the corpus root"),
        Field("num_frames", pa.int64(), "T"),
        Field("width", pa.int32(), "of the maps", "px"),
        Field("height", pa.int32(), "of the maps", "px"),
    )
    columns = (Column("mean_depth", "of each frame", DepthSample.mean_depths, pa.list_(pa.float32()), span, "m"),)

    def __init__(self, num_frames: int = 8) -> None:
        if num_frames < 1:
            raise ConfigError(f"{num_frames = } must be 1 or more")
        self.num_frames = num_frames

    def encode(self, sample: DepthSample) -> dict[str, Content]:
        """Return the files of the table above."""
        return {"depth.npy": sample.file, "json": encode_json(sample.meta, self.fields)}

    def decode(self, key: str, members: Mapping[str, Any]) -> DepthSample:
        """Return the sample of `encode`'s files.

        Raises:
            RunError: a file is missing, or is not what `encode` writes.
        """
        try:
            header = read_header(members["depth.npy"])
            if header.dtype != np.float16 or len(header.shape) != 3:
                raise ValueError(f"depth.npy is {header.dtype} {list(header.shape)}, where float16 [T, H, W] is needed")
            return DepthSample(key, members["depth.npy"], decode_json(members["json"], self.fields))
        except (KeyError, ValueError) as error:
            raise RunError(f"{key} is no depth sample: {error}; run `preprocess verify`") from error

    def collate(self, samples: Sequence[DepthSample]) -> dict[str, Any]:
        """Return `depth`, a list of B times float16 [T, H, W], T at most `num_frames`; `key` and `meta`, lists of B."""
        return {
            "depth": [torch.from_numpy(sample.maps(0, min(len(sample), self.num_frames))) for sample in samples],
            "key": [sample.key for sample in samples],
            "meta": [sample.meta for sample in samples],
        }

    def draw(self, sample: DepthSample, source: SourceFrames) -> VideoDrawing:
        """Return each frame beside its depth map, in which near is bright."""
        height, width = display_size(sample.meta["height"], sample.meta["width"])

        def images() -> Iterator[Image]:
            for frame_idx, frame in zip(range(len(sample)), source.images((height, width)), strict=False):
                depth = sample.maps(frame_idx, frame_idx + 1)[0].astype(np.float32)
                nearness = (255 * (_FAR_M - depth) / (_FAR_M - _NEAR_M)).clip(0, 255).astype(np.uint8)
                gray = resized(np.repeat(nearness[..., None], 3, axis=2), (height, width))
                yield np.concatenate([frame, gray], axis=1)

        return VideoDrawing(
            frames=at_rate(images(), 25.0),
            num_frames=len(sample),
            size=(height, 2 * width),
            facts=[f"{len(sample):,} frames"],
            legend=[LegendEntry(f"{_NEAR_M:.0f} m", (255, 255, 255)), LegendEntry(f"{_FAR_M:.0f} m", (0, 0, 0))],
        )


class Depth(Extractor):
    """Depth from luminance: black is 10 m away, white 1 m.

    Args:
        batch_size: frames in a batch.
    """

    samples = DepthSamples()
    reserved_fields = frozenset({"path", "num_frames", "width", "height"})

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.frames = FrameRequest(batch_size)

    def extract(self, batch: Batch) -> list[NDArray[np.float16]]:
        """Return float16 [H, W], in m, for each frame; frames are uint8 [3, H, W]."""
        return [self._depth(frame.to(self.device)).cpu().numpy() for frame in batch["frames"]]

    def _depth(self, frame: torch.Tensor) -> torch.Tensor:
        luminance = (frame.float() * torch.tensor([[[0.299]], [[0.587]], [[0.114]]], device=frame.device)).sum(0) / 255
        return (_FAR_M - (_FAR_M - _NEAR_M) * luminance).half()

    def open_assembly(self, item: Item, scratch: Callable[[], Path]) -> Assembly:
        """Return what collects the maps of `item`: a file, because an hour of maps does not fit into memory."""
        return _MapFile(item, scratch())


class _MapFile(Assembly):
    """Writes the maps of one video to `depth.npy` as they are computed.

    Args:
        item: as planned.
        folder: for the file.
    """

    def __init__(self, item: Item, folder: Path) -> None:
        self._item, self._folder = item, folder
        self._maps: NpyRows | None = None  # opened when the size of the maps is known

    def add(self, frame_idx: int, result: NDArray[np.float16]) -> None:
        """Append the map of the next frame."""
        with disk_errors():
            if self._maps is None:
                self._maps = NpyRows(self._folder, "<f2", result.shape)
            self._maps.append(result[None])

    def finish(self, summary: ItemSummary) -> DepthSample:
        """Return the sample."""
        assert self._maps is not None
        assert summary.size is not None
        height, width = summary.size
        facts = {"path": self._item.path, "num_frames": summary.num_frames, "width": width, "height": height}
        with disk_errors():
            return DepthSample(self._item.key, self._maps.file(), {**self._item.meta, **facts})

    def close(self) -> None:
        """Remove the file; if the item is finished, its content is in the shard by now."""
        if self._maps is not None:
            self._maps.close()
