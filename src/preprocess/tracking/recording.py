"""The tracks of one video, written to files as they are found: two hours with five objects are 0.8 GB."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.samples.content import Content
from datamodules.samples.npy_rows import NpyRows
from datamodules.samples.track_lines import LineObject, bbox_of, line_of, rle_of
from preprocess.tracking.backend import TrackedObject

_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {  # by file: dtype, and shape of a row
    "boxes.npy": ("<f4", (4,)),
    "obj_ids.npy": ("<i4", ()),
    "frame_idx.npy": ("<i4", ()),
}


def described(objects: Sequence[TrackedObject]) -> tuple[list[LineObject], NDArray[np.bool_]]:
    """Return what a line of `tracks.jsonl` says of each object, and their masks, bool [N, H, W], on the CPU."""
    if not objects:
        return [], np.zeros((0, 0, 0), bool)
    masks: NDArray[np.bool_] = torch.stack([tracked.mask for tracked in objects]).cpu().numpy()
    lines: list[LineObject] = []
    for (obj_id, label, score, _), mask in zip(objects, masks, strict=True):
        rle = rle_of(mask)
        lines.append({"obj_id": obj_id, "label": label, "score": round(score, 4), "bbox": bbox_of(rle), "mask": rle})
    return lines, masks


class Recording:
    """The tracks of one video so far, in files without a name: they are gone with this process.

    Args:
        folder: on the disk that holds the files; made if it is missing.

    Attributes:
        num_frames: number of frames so far.
        obj_ids: ids of the objects so far.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines: BinaryIO = TemporaryFile(dir=folder)
        self._rows = {name: NpyRows(folder, dtype, row_shape) for name, (dtype, row_shape) in _ARRAYS.items()}
        self.num_frames = 0
        self.obj_ids: set[int] = set()

    def add(self, timestamp: float, objects: Sequence[LineObject]) -> None:
        """Write down the next frame.

        Args:
            timestamp: time of the frame in s since the video's first frame.
            objects: in the frame, by ascending id.
        """
        line = line_of({"frame_idx": self.num_frames, "timestamp": timestamp, "objects": list(objects)})
        boxes = np.array([entry["bbox"] for entry in objects], np.float32).reshape(-1, 4)
        obj_ids = np.array([entry["obj_id"] for entry in objects], np.int32)
        self._lines.write(line)  # from here on, nothing but the disk can fail
        self._rows["boxes.npy"].append(boxes)
        self._rows["obj_ids.npy"].append(obj_ids)
        self._rows["frame_idx.npy"].append(np.full(len(objects), self.num_frames, np.int32))
        self.obj_ids.update(obj_ids.tolist())
        self.num_frames += 1

    def files(self) -> dict[str, Content]:
        """Return the files of a sample, by ending: `tracks.jsonl`, `boxes.npy`, `obj_ids.npy`, `frame_idx.npy`."""
        return {"tracks.jsonl": self._lines, **{name: rows.file() for name, rows in self._rows.items()}}

    def close(self) -> None:
        """Remove the files."""
        with suppress(OSError):  # of a full disk, which `add` has reported
            self._lines.close()
        for rows in self._rows.values():
            rows.close()
