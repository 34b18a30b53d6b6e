"""What a video holds, from its packets: a pass over the file that decodes nothing (0.3 s an hour of video).

Headers lie; the packets tell how many frames there are and when each is shown, so that frames can be asked for by
number, and each that was asked for can be seen to have come.
"""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DecodeError, MissingError

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM


class VideoFacts(TypedDict):
    """What is known of a video file; `*_from_header` is what the container says, None if nothing.

    `stream` is its number in the file, as ffprobe counts; `num_frames` is the number of packets that show one, and
    `begin_seconds` when the first is shown; `width` and `height` are in px, upright; `backends` are those that decoded
    the frames, more than one only after a fallback.
    """

    codec: str
    stream: int
    width: int
    height: int
    num_frames: int
    num_frames_from_header: int | None
    duration_seconds_from_header: float | None
    average_fps_from_header: float | None
    begin_seconds: float
    backends: list[str]


@dataclass(frozen=True)
class Packets:
    """The packets of one video stream that show a frame each.

    Attributes:
        pts: int64 [T], in units of `time_base`, ascending: when each frame is shown.
        decode_order: int64 [T]: the place of each frame's packet in the stream.
        keyframes: int64 [K]: indices of those frames from which decoding can start, ascending.
        time_base: seconds.
    """

    pts: NDArray[np.int64]
    decode_order: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    time_base: Fraction

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """float64 [T]: when each frame is shown, since the first."""
        return (self.pts - self.pts[0]) * float(self.time_base)


def open_container(path: Path) -> Any:
    """The file, opened by PyAV.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, or no format that FFmpeg knows.
    """
    import av

    try:
        with open(path, "rb") as file:  # FFmpeg would not tell a broken mount from a broken video
            content = file.read(64)
    except FileNotFoundError as error:
        raise MissingError(f"{path.name} is missing") from error
    except IsADirectoryError as error:
        raise DecodeError(f"{path.name} is a folder") from error
    if not content:
        raise DecodeError(f"{path.name} is empty (0 bytes)")
    _require_whole_matroska(path, content)
    try:
        return av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise DecodeError(f"{path.name} does not open as a video: {said(error)}") from error


def video_stream(container: Any, number: int | None) -> Any:
    """The video stream with that number in the file; None: the one that FFmpeg takes for the best.

    Raises:
        DecodeError: there is none, or no decoder for it.
    """
    name = os.path.basename(container.name)
    stream = container.streams.best("video") if number is None else None
    if number is not None:
        found = [s for s in container.streams.video if s.index == number]
        if not found:
            there = ", ".join(str(s.index) for s in container.streams.video) or "none"
            raise DecodeError(f"{name} has no video stream {number}; its video streams: {there}")
        stream = found[0]
    if stream is None:
        raise DecodeError(f"{name} has no video stream")
    if stream.codec_context is None:
        raise DecodeError(f"{name}: there is no decoder for its video stream {stream.index}")
    return stream


def read_packets(container: Any, stream: Any) -> Packets:
    """Go through the packets of `stream`, to the end of the file.

    Raises:
        DecodeError: there is no frame; the file holds fewer than its index promises, as one does that was cut off; or
            its packets do not say when they are to be shown.
    """
    import av

    name = os.path.basename(container.name)
    rows: list[tuple[int, int, bool]] = []
    num_packets = 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # PyAV ends with one
                continue
            num_packets += not packet.is_corrupt  # cut off
            is_first = not rows and not packet.is_keyframe  # what was recorded from the middle on
            if packet.is_discard or packet.is_corrupt or is_first:
                continue
            if packet.pts is None:
                raise DecodeError(f"{name}: its packets do not say when they are to be shown; put it into another file")
            rows.append((packet.pts, num_packets, packet.is_keyframe))
    except av.FFmpegError as error:
        raise DecodeError(f"{name} breaks after {num_packets} frames: {said(error)}") from error
    promised = _num_promised(container, stream)
    if num_packets < promised:
        raise DecodeError(f"{name} holds {num_packets} of the {promised} frames that it promises: it was cut off")
    if not rows:
        raise DecodeError(f"{name} has no frames")
    pts, order, is_key = (np.array(column) for column in zip(*rows, strict=True))
    shown = np.argsort(pts, kind="stable")
    if len(np.unique(pts)) < len(pts):
        raise DecodeError(f"{name}: several of its frames are to be shown at one time")
    return Packets(pts[shown], order[shown], np.flatnonzero(is_key[shown]), stream.time_base)


def _num_promised(container: Any, stream: Any) -> int:
    """Frames that the index says there are; of MP4 FFmpeg's own index, which leaves out what an edit list cuts off."""
    if "mp4" in container.format.name:
        return len(stream.index_entries)
    return int(stream.frames)


def _require_whole_matroska(path: Path, content: bytes) -> None:
    """FFmpeg reads a Matroska file that was cut off without a word; but it begins with its length, unless live."""
    if not content.startswith(_EBML):
        return
    header_bytes, width = _ebml_size(content, 4)
    place = 4 + width + (header_bytes or 0)
    if content[place : place + 4] != _SEGMENT:
        return
    segment_bytes, width = _ebml_size(content, place + 4)
    there = os.path.getsize(path)
    if segment_bytes is not None and place + 4 + width + segment_bytes > there:
        promised = place + 4 + width + segment_bytes
        raise DecodeError(f"{path.name} holds {there:,} of the {promised:,} bytes that it promises: it was cut off")


def _ebml_size(content: bytes, place: int) -> tuple[int | None, int]:
    """(the size written at `place`, None for unknown; the bytes it takes)"""
    width = 9 - content[place].bit_length()
    bits = 7 * width
    size = int.from_bytes(content[place : place + width], "big") & ((1 << bits) - 1)
    return (None if size == (1 << bits) - 1 else size), width


def said(error: BaseException) -> str:
    """FFmpeg's words, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:160]
