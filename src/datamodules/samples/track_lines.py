"""The lines of a `tracks.jsonl`: one for every frame taken of a video, even if it has no objects.

| field     | type   | meaning                                                                                        |
|-----------|--------|------------------------------------------------------------------------------------------------|
| frame_idx | int    | number of the frame among the frames taken, from 0 without gaps                                |
| timestamp | float  | when the frame is shown, in seconds since the video's first frame, as the container says       |
| objects   | list   | {"obj_id": int, "label": str, "score": float, "bbox": [x1, y1, x2, y2], "mask": COCO's run     |
|           |        | lengths}, by `obj_id`; the box in px, half-open, around the mask                               |

`frame_idx` comes first in a line, so that bisection finds the line of a frame in a file of any length.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, TypedDict

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import RunError
from datamodules.run.typed_json import load

_NUMBER = re.compile(rb'\{"frame_idx": ?(\d{1,18}),')
_COUNTS = re.compile(r"([P-o]{0,6}[0-O])*")  # numbers in digits of 5 bits, each of up to 35; the last one is below "P"
_MIN_LINE_BYTES = len('{"frame_idx":0,"timestamp":0,"objects":[]}')
_MAX_LINE_BYTES = 64 << 20  # 1000 objects with masks of 4K frames have 10 MB
_MAX_SECONDS = 1e9  # of a video: 30 years
_NEAR_BYTES = 1 << 16  # bisection ends here: the lines that are left are read one after another
_TAIL_BYTES = 1 << 14  # read at once to find the last line


class Rle(TypedDict):
    """A mask in COCO's run lengths, compressed: `size` [H, W], and `counts` as ASCII."""

    size: list[int]
    counts: str


class LineObject(TypedDict):
    """An object in one frame: `score` 0 to 1, `bbox` [x1, y1, x2, y2] in px, half-open, of its mask."""

    obj_id: int
    label: str
    score: float
    bbox: list[int]
    mask: Rle


class TrackLine(TypedDict):
    """A line; the fields are those of the table above."""

    frame_idx: int
    timestamp: float
    objects: list[LineObject]


class TrackLines:
    """The lines of one file. Only the lines that are asked for are read.

    Args:
        file: seekable.
        name: of the sample, for error messages.
        frame_size: (height, width) of the frames in px, and so of all masks.

    Raises:
        RunError: the file has other lines than these; raised by every method.
    """

    def __init__(self, file: BinaryIO, name: str, frame_size: tuple[int, int]) -> None:
        self._file, self._name, self._frame_size = file, name, frame_size
        self._size = file.seek(0, os.SEEK_END)

    def __len__(self) -> int:
        if not self._size:
            return 0
        length = self._number(self._last()) + 1
        if length * _MIN_LINE_BYTES > self._size:
            raise self._damaged(f"{self._size:,} bytes cannot hold {length:,} lines")
        return length

    def __iter__(self) -> Iterator[TrackLine]:
        return self.since(0) if self._size else iter(())

    def raw(self) -> Iterator[bytes]:
        """Yield the lines as bytes, each with its line feed."""
        self._file.seek(0)
        for line in self._lines():
            self._parse(line)
            yield line

    def read(self, first: int, count: int = 1, step: int = 1) -> list[TrackLine]:
        """Return the lines of the frames first, first + step, …, first + (count - 1) step; only these are parsed."""
        parsed = []
        self._file.seek(self._offset_of(first))
        for number in range(first, first + (count - 1) * step + 1):
            line = self._readline()
            if self._number(line) != number:
                raise self._damaged(f"the line of frame {number} is missing, or in the wrong order")
            if (number - first) % step == 0:
                parsed.append(self._parse(line))
        return parsed

    def since(self, first: int) -> Iterator[TrackLine]:
        """Yield the lines from the frame `first` on."""
        self._file.seek(self._offset_of(first))
        for number, line in enumerate(self._lines(), start=first):
            if self._number(line) != number:
                raise self._damaged(f"the line of frame {number} is missing, or in the wrong order")
            yield self._parse(line)

    def _lines(self) -> Iterator[bytes]:
        return iter(self._readline, b"")

    def _readline(self) -> bytes:
        line = self._file.readline(_MAX_LINE_BYTES)
        if len(line) == _MAX_LINE_BYTES:
            raise self._damaged(f"a line has more than {_MAX_LINE_BYTES:,} bytes")
        return line

    def _offset_of(self, frame_idx: int) -> int:
        """Return the offset of the line of this frame, by bisection."""
        low, high = 0, self._size  # at `low` begins the line of this frame, or of an earlier one
        while high - low > _NEAR_BYTES:
            middle = (low + high) // 2
            self._file.seek(middle)
            self._readline()  # the rest of the line around `middle`
            offset = self._file.tell()
            if offset < high and self._number(self._readline()) <= frame_idx:
                low = offset
            else:
                high = middle
        self._file.seek(low)
        for line in self._lines():
            if self._number(line) == frame_idx:
                return low
            low += len(line)
        raise self._damaged(f"it has no frame {frame_idx}")

    def _last(self) -> bytes:
        """Return the last line, without its line feed."""
        tail, size = b"", _TAIL_BYTES // 4
        while b"\n" not in tail[:-1] and len(tail) < self._size:
            if size >= _MAX_LINE_BYTES:
                raise self._damaged(f"a line has more than {_MAX_LINE_BYTES:,} bytes")
            size = min(4 * size, self._size)
            self._file.seek(self._size - size)
            tail = self._file.read(size)
        return tail[:-1].rpartition(b"\n")[2]

    def _number(self, line: bytes) -> int:
        """Return the `frame_idx` of a line without parsing the rest of it."""
        begin = _NUMBER.match(line)
        if begin is None:
            raise self._damaged(f"a line begins {line[:40]!r}")
        return int(begin[1])

    def _parse(self, line: bytes) -> TrackLine:
        try:
            parsed: TrackLine = load(line)
            if b"\\u" in line:  # perhaps a lone surrogate, which `line_of` never writes: encoding fails
                json.dumps(parsed, ensure_ascii=False).encode()
        except ValueError as error:
            raise self._damaged(str(error)) from error
        if not _is_line(parsed, self._frame_size):
            raise self._damaged(f"a line is {line[:80]!r}… in frames of {self._frame_size} px")
        return parsed

    def _damaged(self, problem: str) -> RunError:
        return RunError(f"{self._name}.tracks.jsonl is damaged: {problem}; run `preprocess verify`")


def _is_line(line: Any, frame_size: tuple[int, int]) -> bool:
    """Return whether a JSON value is a `TrackLine` of a video with frames of `frame_size`."""
    match line:
        case {"frame_idx": int(), "timestamp": int() | float() as timestamp, "objects": [*objects]}:
            return abs(timestamp) <= _MAX_SECONDS and all(_is_object(value, *frame_size) for value in objects)
    return False


def _is_object(value: Any, height: int, width: int) -> bool:
    match value:
        case {
            "obj_id": int() as obj_id,
            "label": str(),
            "score": int() | float() as score,
            "bbox": [int() as x1, int() as y1, int() as x2, int() as y2],
            "mask": {"size": [int() as mask_height, int() as mask_width], "counts": str() as counts},
        }:
            return (
                0 <= obj_id < 1 << 31
                and 0 <= score <= 1
                and 0 <= x1 <= x2 <= width
                and 0 <= y1 <= y2 <= height
                and (mask_height, mask_width) == (height, width)
                and _COUNTS.fullmatch(counts) is not None
            )
    return False


def line_of(line: TrackLine) -> bytes:
    """Return `line` as bytes of a `tracks.jsonl`, with its line feed. A lone surrogate becomes a question mark."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def rle_of(mask: NDArray[np.bool_]) -> Rle:
    """Return the run lengths of `mask`, bool [H, W]."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def mask_of(rle: Rle) -> NDArray[np.bool_]:
    """Return the mask, bool [H, W], that has these run lengths.

    Raises:
        RunError: they are damaged.
    """
    from pycocotools import mask as coco

    with suppress(ValueError):
        if not _COUNTS.fullmatch(rle["counts"]):  # the library would read on until a number ends, in foreign memory
            raise ValueError
        mask: NDArray[np.uint8] = coco.decode(rle)
        if coco.encode(mask)["counts"] == rle["counts"].encode():  # where runs end early, the mask has random bytes
            return mask.view(np.bool_)
    raise RunError(f"a mask is damaged: its run lengths do not make {rle['size']} px; run `preprocess verify`")


def bbox_of(rle: Rle) -> list[int]:
    """Return [x1, y1, x2, y2] in px, half-open, the box around a mask; zeros if the mask is empty."""
    from pycocotools import mask as coco

    x, y, width, height = (int(value) for value in coco.toBbox(rle))
    return [x, y, x + width, y + height]
