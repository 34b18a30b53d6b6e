"""What is found in a video, written down as it goes: two hours with five objects are 0.8 GB, and never in memory."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from datamodules.samples.track_lines import LineObject, bbox_of, line_of, rle_of
from preprocess.tracking.backend import TrackedObject

_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {  # by file: dtype, and shape of a row
    "boxes.npy": ("<f4", (4,)),
    "obj_ids.npy": ("<i4", ()),
    "frame_idx.npy": ("<i4", ()),
}


def described(objects: Sequence[TrackedObject]) -> tuple[list[LineObject], NDArray[np.bool_]]:
    """(what a line says of each of `objects`; their masks, bool [N, H, W], on the CPU)"""
    if not objects:
        return [], np.zeros((0, 0, 0), bool)
    masks: NDArray[np.bool_] = torch.stack([each.mask for each in objects]).cpu().numpy()
    found: list[LineObject] = []
    for (obj_id, label, score, _), mask in zip(objects, masks, strict=True):
        rle = rle_of(mask)
        found.append({"obj_id": obj_id, "label": label, "score": round(score, 4), "bbox": bbox_of(rle), "mask": rle})
    return found, masks


class Recording:
    """The lines and rows of one video so far, in files without a name: they are gone with this process.

    Args:
        folder: on whose disk; it is made if it is not there.

    Attributes:
        num_frames: so far.
        obj_ids: of the objects so far.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lines = self._open()
        self._rows = {name: self._open() for name in _ARRAYS}
        self.num_frames = 0
        self.obj_ids: set[int] = set()

    def add(self, timestamp: float, objects: Sequence[LineObject]) -> None:
        """Write down the next frame.

        Args:
            timestamp: seconds since the video's first frame.
            objects: in the frame, by ascending id.
        """
        line = line_of({"frame_idx": self.num_frames, "timestamp": timestamp, "objects": list(objects)})
        values = {
            "boxes.npy": [each["bbox"] for each in objects],
            "obj_ids.npy": [each["obj_id"] for each in objects],
            "frame_idx.npy": [self.num_frames] * len(objects),
        }
        rows = {name: np.array(values[name], dtype).tobytes() for name, (dtype, _) in _ARRAYS.items()}
        self._lines.write(line)  # from here on, nothing but the disk can fail
        for name, content in rows.items():
            self._rows[name].write(content)
        self.obj_ids.update(each["obj_id"] for each in objects)
        self.num_frames += 1

    def files(self) -> dict[str, BinaryIO]:
        """The files of a sample, by ending: `tracks.jsonl`, `boxes.npy`, `obj_ids.npy`, `frame_idx.npy`."""
        return {"tracks.jsonl": self._lines, **{name: self._array(name) for name in _ARRAYS}}

    def close(self) -> None:
        """Drop the files."""
        for file in (self._lines, *self._rows.values()):
            with suppress(OSError):  # of a disk that is full
                file.close()

    def _array(self, name: str) -> BinaryIO:
        """The rows with an .npy header before them."""
        dtype, row = _ARRAYS[name]
        rows, array = self._rows[name], self._open()
        count = rows.tell() // (np.dtype(dtype).itemsize * int(np.prod(row, dtype=int)))
        header = BytesIO()
        described: dict[str, Any] = {"descr": dtype, "fortran_order": False, "shape": (count, *row)}
        npy.write_array_header_1_0(header, described)  # type: ignore[no-untyped-call]
        array.write(header.getvalue())
        rows.seek(0)
        shutil.copyfileobj(rows, array)
        self._rows[name] = array  # closes the rows, and is closed in their place
        rows.close()
        return array

    def _open(self) -> BinaryIO:
        return TemporaryFile(dir=self._folder)
