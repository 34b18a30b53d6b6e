"""What the formats for PHOENIX-2014-T have in common: the parts of a frame, and the names of frames and videos."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoint_layouts import FACE_68
from datamodules.samples.keypoints import KeypointSample
from preprocess.export.keypoint_statistics import parts_of
from preprocess.export.source import Source

PHOENIX_PARTS = {"face": 68, "left_hand": 21, "right_hand": 21, "pose": 33}  # points of each part, in file order


def require_face(source: Source[KeypointSample]) -> None:
    """Check the first sample of each split, before anything is written.

    Raises:
        ConfigError: its layout has no face.
    """
    for split in source.splits:
        for sample in source.samples(split):
            phoenix_parts(sample)
            break


def phoenix_parts(sample: KeypointSample) -> dict[str, NDArray[np.float32]]:
    """Return float32 [T, n, 3], x, y, z in px, of each of `PHOENIX_PARTS`, in that order.

    Of a layout with more face points these are the 68 that dlib has.

    Raises:
        ConfigError: the layout has no face.
        RunError: the layout is unknown.
    """
    parts = parts_of(sample)
    if "face" not in parts:
        raise ConfigError(
            f"the layout {sample.meta['layout']} of {sample.key} has no face, which the PHOENIX formats need: "
            "run the pipeline with layout 143, 543 or 553, or use --format parquet"
        )
    if parts["face"].shape[1] != len(FACE_68):
        parts["face"] = parts["face"][:, FACE_68]
    return {name: parts[name] for name in PHOENIX_PARTS}


class FrameNames:
    """Video id and image path of each frame, kept in an unnamed file until the keypoints before them are written.

    Args:
        folder: folder of that file.

    Attributes:
        longest_id: length of the longest video id, in characters.
        longest_path: length of the longest image path, in characters.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)
        self.longest_id = self.longest_path = 0

    def add(self, sample: KeypointSample) -> None:
        """Add the frames of `sample`.

        Raises:
            RunError: it names more or fewer frames than it has keypoints for.
        """
        video_id, paths = str(sample.meta.get("sentence_id") or sample.key), _image_paths(sample)
        self.longest_id = max(self.longest_id, len(video_id))
        self.longest_path = max(self.longest_path, *map(len, paths), 0)
        print(json.dumps([video_id, paths]), file=self._file)

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        """Yield (video id, image path of each frame) of each sample."""
        self._file.seek(0)
        return (tuple(json.loads(line)) for line in self._file)

    def __enter__(self) -> "FrameNames":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def _image_paths(sample: KeypointSample) -> list[str]:
    path, frames = sample.meta.get("path"), sample.meta.get("frames")
    if not frames:
        return [f"{path}#{frame_idx}" for frame_idx in range(len(sample.keypoints))]
    if len(frames) != len(sample.keypoints):
        raise RunError(f"{sample.key} names {len(frames)} frames, but has keypoints for {len(sample.keypoints)}")
    return [f"{path}/{frame}" for frame in frames]
