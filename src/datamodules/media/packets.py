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

_UNTIMED = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo"})  # formats, by FFmpeg's names, without such times
_HEAD_BYTES = 64  # more than the first two headers of Matroska take
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM


class VideoFacts(TypedDict):
    """What is known of a video file; `*_from_header` is what the container says, None if nothing.

    `stream` is its number in the file, as ffprobe counts; `num_frames` is the number of packets that show one, and
    `begin_seconds` when the first is shown; `width` and `height` are in px, upright once a frame has been decoded;
    `backends` are those that decoded the frames, more than one only after a fallback.
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
    """The packets of one video stream, of which each shows one frame or none.

    Attributes:
        stream_pts: int64 [N]: when each packet is to be shown, in units of `time_base`; in the order of the stream.
        shown: int64 [T]: places in the stream of the packets that show a frame, in the order in which they are shown.
        keyframes: int64 [K]: places in the stream of packets from which decoding can begin, ascending.
        time_base: seconds.
        is_timed: False where the file does not say when its frames are shown: then `shown` counts them as they are
            decoded, and they are taken to follow one another evenly, as AVI means it.
    """

    stream_pts: NDArray[np.int64]
    shown: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    time_base: Fraction
    is_timed: bool = True

    @property
    def pts(self) -> NDArray[np.int64]:
        """int64 [T]: when each frame is shown, in units of `time_base`, ascending."""
        return self.stream_pts[self.shown]

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """float64 [T]: when each frame is shown, since the first."""
        pts = self.pts
        seconds: NDArray[np.float64] = (pts - pts[0]) * float(self.time_base)
        return seconds


def open_container(path: Path) -> Any:
    """The file, opened by PyAV; to be closed.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, or no format that FFmpeg knows.
    """
    import av

    try:
        with open(path, "rb") as file:  # FFmpeg would not tell a broken mount from a broken video
            content = file.read(_HEAD_BYTES)
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
        DecodeError: there is no frame; or the file holds fewer than its index promises, as one does that was cut off.
    """
    import av

    name = os.path.basename(container.name)
    pts: list[int | None] = []
    keyframes: list[int] = []
    hidden: set[int] = set()  # by an edit list; or from before the first keyframe, in what was cut out of something
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_corrupt:  # PyAV ends with an empty one; the last one may be cut off
                continue
            if packet.is_keyframe:
                keyframes.append(len(pts))
            if packet.is_discard or not keyframes:
                hidden.add(len(pts))
            pts.append(packet.pts)
    except av.FFmpegError as error:
        raise DecodeError(f"{name} breaks after {len(pts)} frames: {said(error)}") from error
    promised = _num_promised(container, stream)
    if len(pts) < promised:
        raise DecodeError(f"{name} holds {len(pts)} of the {promised} frames that it promises: it was cut off")
    if len(pts) == len(hidden):
        raise DecodeError(f"{name} has no frames")
    if container.format.name in _UNTIMED or None in pts or len(set(pts)) < len(pts):
        return _counted(container, stream)
    stream_pts = np.array(pts, dtype=np.int64)
    visible = np.array([place for place in range(len(pts)) if place not in hidden])
    return Packets(
        stream_pts, visible[np.argsort(stream_pts[visible])], np.array(keyframes, dtype=np.int64), stream.time_base
    )


def _counted(container: Any, stream: Any) -> Packets:
    """The frames of a file that does not say when they are shown: all are decoded, to count them."""
    import av

    name, count = os.path.basename(container.name), 0
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise DecodeError(f"{name} says neither when its frames are shown nor how many a second")
    try:
        with av.open(container.name) as again:
            for _ in again.decode(again.streams[stream.index]):
                count += 1
    except av.FFmpegError as error:
        raise DecodeError(f"{name} breaks after {count} frames: {said(error)}") from error
    if not count:
        raise DecodeError(f"{name} has no frames")
    every = np.arange(count)
    return Packets(every, every, np.zeros(1, dtype=np.int64), 1 / Fraction(rate), is_timed=False)


def _num_promised(container: Any, stream: Any) -> int:
    """Packets that the index says there are; of MP4 FFmpeg's own index, which leaves out what an edit list cuts off."""
    if "mp4" in container.format.name:
        return len(stream.index_entries)
    return int(stream.frames)


def _require_whole_matroska(path: Path, content: bytes) -> None:
    """FFmpeg reads a Matroska file that was cut off without a word; but it begins with its length, unless live."""
    if not content.startswith(_EBML):
        return
    if len(content) < _HEAD_BYTES:
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
