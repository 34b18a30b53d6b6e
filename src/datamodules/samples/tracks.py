"""Tracks: objects that were detected by a text prompt and followed through a video.

| file in the shard | type, shape    | meaning                                                      |
|-------------------|----------------|--------------------------------------------------------------|
| tracks.jsonl      | JSON Lines     | a line for every frame taken: see `track_lines.py`           |
| boxes.npy         | float32 [M, 4] | the `bbox` of each object of each frame, in the lines' order |
| obj_ids.npy       | int32 [M]      | the `obj_id` of each                                         |
| frame_idx.npy     | int32 [M]      | the frame of each                                            |
| json              | object         | see below                                                    |

The json holds the `FIELDS` below, and any other fields that the corpus has for the item.

A `tracks.jsonl` can have any length (5 objects through two hours are 0.8 GB), so it is read in parts from the tar.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.errors import ConfigError, DecodeError, RunError
from datamodules.objects import join, local_copy
from datamodules.samples import SampleKind
from datamodules.samples.arrays import Array, read_arrays
from datamodules.samples.batching import stack
from datamodules.samples.columns import Column, span
from datamodules.samples.content import size_of
from datamodules.samples.drawing import SourceFrames, VideoDrawing
from datamodules.samples.fields import Field, decode_json, encode_json, size_of_frames, struct_of
from datamodules.samples.metrics import Metric, mean
from datamodules.samples.track_batches import object_tensors, pad_objects
from datamodules.samples.track_lines import TrackLine, TrackLines

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.media.decoding import Decoding

Start = Literal["random", "first"]

FIELDS = (
    Field("path", pa.string(), "of the video; relative to the corpus root, or absolute"),
    Field("prompt", pa.string(), "what was looked for"),
    Field(
        "video_info",
        struct_of(
            width=pa.int32(),
            height=pa.int32(),
            fps=pa.float64(),
            num_frames=pa.int64(),
            duration=pa.float64(),
            pixel_aspect_ratio=pa.float64(),
            num_skipped_frames=pa.int32(),
            num_frames_from_header=pa.int64(),
            duration_seconds_from_header=pa.float64(),
            average_fps_from_header=pa.float64(),
        ),
        "of the whole video: width and height in px, fps, num_frames and duration in s, by its frames; and what its "
        "header says, null if nothing, which may contradict the frames",
    ),
    Field("num_frames", pa.int64(), "that were taken, and have a line in `tracks.jsonl`"),
    Field("num_objects", pa.int32(), "of all frames"),
    Field("backend", pa.string(), "what found the objects"),
)
ARRAYS = {
    "boxes.npy": Array("float32", ("M", 4)),
    "obj_ids.npy": Array("int32", ("M",)),
    "frame_idx.npy": Array("int32", ("M",)),
}
FILES = ("tracks.jsonl", *ARRAYS)
_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
COLUMNS = (
    Column("frames", "of a video", lambda sample: sample.meta.get("num_frames"), summary=span),
    Column("objects", "of all frames of a video", lambda sample: sample.meta.get("num_objects"), summary=span),
    Column("frame_idx", "[M]: of each object of each frame", lambda sample: sample.array("frame_idx.npy"), _INTS),
    Column("obj_ids", "[M]", lambda sample: sample.array("obj_ids.npy"), _INTS),
    Column("labels", "[M]", lambda sample: [label for label, _ in sample.labels_and_scores], pa.list_(pa.string())),
    Column("scores", "[M], 0 to 1", lambda sample: [score for _, score in sample.labels_and_scores], _FLOATS),
    Column(
        "boxes",
        "[M, 4], flat: x1, y1, x2, y2 in px, half-open. Masks stay in the shards",
        lambda sample: np.ravel(sample.array("boxes.npy")),
        _FLOATS,
    ),
)
METRICS = (
    Metric("num_objects", "of all frames", lambda sample: sample.meta.get("num_objects"), worst="low"),
    Metric("mean_score", "of each object of each frame, 0 to 1", lambda sample: sample.mean_score, worst="low"),
    Metric("mean_track_frames", "frames that an object is in", lambda sample: mean(sample.track_lengths), worst="low"),
)
# entries of a batch with a dimension of N objects, and which dimension that is without B
_PADDED = (("obj_ids", 0), ("boxes", 1), ("scores", 1), ("present", 1), ("masks", 1))


@dataclass
class TrackSample:
    """The tracks of one video, or of a part of it.

    Attributes:
        key: of the item; in the names of the files, not in their content.
        meta: the json of the table above.
        files: the other files of the table, by ending: bytes, or seekable files at their starts.
    """

    key: str
    meta: dict[str, Any]
    files: dict[str, bytes | BinaryIO]

    @property
    def lines(self) -> TrackLines:
        """The lines of `tracks.jsonl`."""
        content = self.files["tracks.jsonl"]
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        return TrackLines(file, self.key, size_of_frames(self.meta["video_info"]))

    def array(self, name: str) -> NDArray[Any]:
        """Return the array in `boxes.npy`, `obj_ids.npy` or `frame_idx.npy`.

        Raises:
            RunError: the file is damaged.
        """
        return self._arrays[name]

    @cached_property
    def labels_and_scores(self) -> list[tuple[str, float]]:
        """Label and score of each object of each frame, in the lines' order."""
        return [(entry["label"], entry["score"]) for line in self.lines for entry in line["objects"]]

    @property
    def mean_score(self) -> float | None:
        """Mean score of each object of each frame, 0 to 1; None without any. Holds one line in memory."""
        total, count = 0.0, 0
        for line in self.lines:
            total += sum(entry["score"] for entry in line["objects"])
            count += len(line["objects"])
        return total / count if count else None

    @property
    def track_lengths(self) -> NDArray[np.int64]:
        """Number of frames that each object is in, ascending by its id."""
        lengths: NDArray[np.int64] = np.unique(self.array("obj_ids.npy"), return_counts=True)[1]
        return lengths

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        try:
            return read_arrays(self.files, ARRAYS)
        except ValueError as error:
            raise RunError(f"{self.key}.{error}; run `preprocess verify`") from error


class TrackSamples(SampleKind[TrackSample]):
    """The sample kind of the tracking pipeline. Its training batches have clips of frames with their objects.

    Args:
        num_frames: number of frames of a clip.
        step: distance of successive frames of a clip, in frames taken; 1: all of them.
        root: folder or URL that the paths of the videos are relative to: the run's `--data.root`, or where it is now.
            Only training needs it.
        size: (height, width) in px to which frames, boxes and masks are resized; None: the size of the video.
        start: where in the video a clip begins: at a `random` frame, by torch's generator, or at the `first` one. In
            validation and test it is the first one.
        decoding: how the videos are decoded: the run's `--data.decoding`; None: `Decoding()`.

    Raises:
        ConfigError: an argument has none of these values.
    """

    opens_files = True
    fields = FIELDS
    columns = COLUMNS
    metrics = METRICS

    def __init__(
        self,
        num_frames: int = 8,
        step: int = 1,
        root: str | Path | None = None,
        size: tuple[int, int] | None = None,
        start: Start = "random",
        decoding: "Decoding | None" = None,
    ) -> None:
        if min(num_frames, step, *(size or ())) < 1:
            raise ConfigError(f"{num_frames = }, {step = } and {size = } must be 1 or more")
        if start not in get_args(Start):
            raise ConfigError(f"{start = }: choose from {', '.join(get_args(Start))}")
        self.num_frames, self.step, self.root, self.size = num_frames, step, root, size
        self.start, self.decoding = start, decoding

    def for_evaluation(self) -> "TrackSamples":
        """Return the same kind, whose clips begin at the first frame."""
        return TrackSamples(self.num_frames, self.step, self.root, self.size, "first", self.decoding)

    def encode(self, sample: TrackSample) -> dict[str, bytes | BinaryIO]:
        """Return the files of the table above; open files stay open files."""
        return {**{name: sample.files[name] for name in FILES}, "json": encode_json(sample.meta, FIELDS)}

    def decode(self, key: str, members: Mapping[str, bytes | BinaryIO]) -> TrackSample:
        """Return the sample that has these files, which are open or bytes. Only the json is read here.

        Raises:
            RunError: a file is missing, or is not what `encode` writes.
        """
        try:
            meta = decode_json(members["json"], FIELDS)
            if missing := [name for name in ("path", "prompt", "video_info") if meta.get(name) is None]:
                raise KeyError(f"{missing[0]} of its json")
            size_of_frames(meta["video_info"])
            if not size_of(members["tracks.jsonl"]):
                raise ValueError("its tracks.jsonl has no frames")
            return TrackSample(key, meta, {name: members[name] for name in FILES})
        except (KeyError, ValueError) as error:
            raise RunError(f"{key} is no track sample: {error}; run `preprocess verify`") from error

    def draw(self, sample: TrackSample, source: SourceFrames) -> VideoDrawing:
        """Return all frames of the video with the masks, boxes, labels and ids of the objects found in them."""
        from datamodules.samples.drawing.tracks import draw_sample

        return draw_sample(sample, source)

    def collate(self, samples: Sequence[TrackSample]) -> dict[str, Any]:
        """Return a batch with a clip of T frames for each sample, and with the N objects that are in any of its frames.

        The frames are read from the videos below `root`. The clip of a shorter video is padded with its last frame and
        its objects; `frames_mask` is False for these frames. A clip with fewer than N objects is padded with zeros;
        `objects_mask` is False for these objects.

        Returns:
            `frames` uint8 [B, T, 3, H, W], RGB; `masks` bool [B, T, N, H, W]; lists of B of these where sizes differ;
            `boxes` float32 [B, T, N, 4], x1, y1, x2, y2 in px, half-open; `scores` float32 [B, T, N]; `present` bool
            [B, T, N]: whether the object is in the frame, all others of it are zeros; `obj_ids` int64 [B, N];
            `timestamps` float64 [B, T], seconds since the video's first frame; `frames_mask` bool [B, T];
            `objects_mask` bool [B, N]; `labels` list of B lists of the objects' labels; `key` and `meta` lists of B.

        Raises:
            ConfigError: `root` is None.
            RunError: a video is missing or differs from the one that was tracked, or a shard is damaged.
        """
        import torch  # exports and `view` decode samples without it

        clips = [self._clip(sample) for sample in samples]
        num_objects = max(len(clip["labels"]) for clip in clips)
        batch: dict[str, Any] = {
            name: pad_objects([clip[name] for clip in clips], num_objects, dim) for name, dim in _PADDED
        }
        batch["frames"] = stack([clip["frames"] for clip in clips])
        for name in ("timestamps", "frames_mask"):
            batch[name] = torch.stack([clip[name] for clip in clips])
        counts = torch.tensor([len(clip["labels"]) for clip in clips])
        batch["objects_mask"] = torch.arange(num_objects) < counts[:, None]
        batch["labels"] = [clip["labels"] for clip in clips]
        batch["key"] = [sample.key for sample in samples]
        batch["meta"] = [sample.meta for sample in samples]
        return batch

    def _clip(self, sample: TrackSample) -> dict[str, Any]:
        """Return the entries of a batch for one sample, without the dimension B."""
        import torch

        lines = self._lines(sample)
        num_frames = len(lines)
        frames = self._frames(sample, [line["timestamp"] for line in lines])
        lines += [lines[-1]] * (self.num_frames - num_frames)
        frames = torch.cat([frames, frames[-1:].expand(self.num_frames - num_frames, -1, -1, -1)])
        return {
            "frames": frames,
            "timestamps": torch.tensor([line["timestamp"] for line in lines], dtype=torch.float64),
            "frames_mask": torch.arange(self.num_frames) < num_frames,
            **object_tensors(lines, (frames.shape[2], frames.shape[3]), sample.meta["video_info"]),
        }

    def _lines(self, sample: TrackSample) -> list[TrackLine]:
        """Return the lines of the frames of a clip, fewer if the video is shorter."""
        import torch

        lines = sample.lines
        num_lines = len(lines)
        count = min(self.num_frames, -(-num_lines // self.step))
        last_start = num_lines - 1 - (count - 1) * self.step
        can_vary = self.start == "random" and count == self.num_frames
        return lines.read(int(torch.randint(last_start + 1, ())) if can_vary else 0, count, self.step)

    def _frames(self, sample: TrackSample, seconds: list[float]) -> "Tensor":
        from datamodules.media.decoding import Decoding
        from datamodules.media.sampling import NearTimes
        from datamodules.media.video import read_frames

        if self.root is None:
            raise ConfigError(
                "track samples store no frames, so training reads the videos. Give their folder, which is the run's "
                "--data.root, as TrackSamples(root=…)"
            )
        path = join(str(self.root), sample.meta["path"])
        try:
            with local_copy(path) as file:
                frames = read_frames(file, NearTimes(seconds), self.size, self.decoding or Decoding()).frames
        except (DecodeError, OSError) as error:
            raise RunError(
                f"the frames of {sample.key} cannot be read from {path}: {error}. Set root, now {str(self.root)!r}, to "
                "the folder of the videos that were tracked"
            ) from error
        height, width = frames.shape[2:]
        info = sample.meta["video_info"]
        if self.size is None and (width, height) != (info["width"], info["height"]):
            tracked = f"{info['width']}x{info['height']}"
            raise RunError(
                f"{path} has frames of {width}x{height} px, but {sample.key} was tracked in frames of {tracked} px. "
                "Give TrackSamples the decoding of the run, such as decoding=Decoding(square_pixels=False)"
            )
        return frames
