"""What a video holds, from its packets: a pass over the file that decodes nothing.

Headers lie; the packets tell how many frames there are and when each is shown, so that frames can be asked for by
number, and each that was asked for can be seen to have come. Where packets prove nothing (`scan.py`), the file is
decoded once, and its frames are those that the decoder gives, in its order.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DecodeError, FramemillError
from datamodules.media.first_bytes import read_head, require_whole_matroska
from datamodules.media.limits import MAX_INDEX_BYTES, MAX_PIXELS, limited_memory, require_packets, require_pixels
from datamodules.media.scan import NO_TIME, Scan

_EVENLY = frozenset({"avi", "mpeg", "mpegvideo", "m4v", "h264", "hevc"})  # formats with a rate, but no times of frames
# playlists and the like would open what they name: other files, addresses
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,ivf,obu,h264,hevc,m4v,mxf,nut,rm,dv,wtv,3gp,"
    "apng"
)
_TRUSTED = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_DECODER_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_LONGEST_TICKS = (1 << 63) - 1  # of int64
_TOO_LARGE = ("exceeds specified max pixel count", "exceeds limit")  # in the words of FFmpeg, and of libdav1d


class VideoFacts(TypedDict):
    """What is known of a video file; `*_from_header` is what the container says, None if nothing.

    `fps` and `duration_seconds` come from the times of the frames, see `sampling.frame_rate` and `sampling.frame_gap`.
    `stream` is its number in the file, as ffprobe counts; `num_frames` is the number of frames that can be shown, and
    `begin_seconds` when the first is shown. `num_skipped_frames` is the number of frames that the stream holds but no
    decoder can show, mostly as it begins in the middle of a group of pictures. `backends` are those that decoded the
    frames, more than one only after a fallback. `pixel_aspect_ratio` is the width of a stored pixel over its height,
    before any turn; 1.0 if the file names none. `width` and `height` are in px: as stored until a frame has been
    decoded, then those of the frames, upright and (`Decoding.square_pixels`) with square pixels.
    """

    codec: str
    stream: int
    width: int
    height: int
    pixel_aspect_ratio: float
    num_frames: int
    num_skipped_frames: int
    fps: float | None
    duration_seconds: float
    num_frames_from_header: int | None
    duration_seconds_from_header: float | None
    average_fps_from_header: float | None
    begin_seconds: float
    backends: list[str]


@dataclass(frozen=True)
class Packets:
    """The packets of one video stream, of which each shows one frame or none.

    Attributes:
        stream_pts: int64 [N]: when each packet is to be shown, in units of `time_base`, in the order of the stream; 0
            where it bears no time, in a stream that is not seekable.
        shown: int64 [T]: places in the stream of the packets that show a frame, in the order in which they are shown.
        pts: int64 [T]: when each frame is shown, in units of `time_base`, ascending.
        keyframes: int64 [K]: places in the stream of packets from which decoding can begin, ascending.
        time_base: seconds.
        is_seekable: False where the times of packets do not tell which frame is which: then the frames are found by
            decoding from the first on.
        num_skipped_frames: frames of the stream that no decoder can show.
        begin: place of the first packet to decode: what those before it need was cut off.
        restarts: places of keyframes at which another recording begins, because the stream's clock jumps back.
    """

    stream_pts: NDArray[np.int64]
    shown: NDArray[np.int64]
    pts: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    time_base: Fraction
    is_seekable: bool = True
    num_skipped_frames: int = 0
    begin: int = 0
    restarts: frozenset[int] = frozenset()

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """float64 [T]: when each frame is shown, since the first."""
        seconds: NDArray[np.float64] = (self.pts - self.pts[0]) * float(self.time_base)
        return seconds


def ffmpeg_url(path: Path) -> str:
    """The address under which FFmpeg opens exactly the file `path`, whatever its name.

    Without the protocol FFmpeg takes the beginning of `12:30 talk.mp4` for one, and opens x.mp4 for `file:x.mp4`.
    """
    return f"file:{path.absolute()}"


@contextmanager
def decoder_errors(where: str) -> Iterator[None]:
    """Turn what a decoder library raises in the block into a DecodeError with its type and message.

    Nobody documents what these libraries raise on damaged and unusual files. Whatever it is, the file caused it: it
    must fail one item, and not end the worker. Keep the block to calls of a library and what reads its answers; a bug
    of ours elsewhere still ends the process.

    Args:
        where: the file or the library, for the message.

    Raises:
        DecodeError: for any exception but those below.
        FramemillError, MemoryError: as they are.
        OSError: likewise, if the file system raised it. FFmpeg's errors are OSErrors too where they share a number.
    """
    import av

    try:
        yield
    except (FramemillError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise
        raise DecodeError(f"{where}: {type(error).__name__}: {said(error)}") from error


def open_container(path: Path) -> Any:
    """The file, opened by PyAV; to be closed.

    Raises:
        MissingError, OSError: see `read_head`.
        DecodeError: it is empty, cut off, or of a format that is not read.
    """
    import av

    require_whole_matroska(path, read_head(path))
    try:
        return _opened(ffmpeg_url(path))
    except av.ArgumentError as error:
        raise DecodeError(f"{path.name} does not open as a video: {_refusal(path)}") from error
    except av.FFmpegError as error:
        raise DecodeError(f"{path.name} does not open as a video: {said(error)}") from error


def _refusal(path: Path) -> str:
    """Why FFmpeg refuses to open a file whose format is not in `_FORMATS`; only its log has the name of the format."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)  # prints nothing, but has PyAV keep what FFmpeg logs
    log = None
    try:
        _opened(ffmpeg_url(path)).close()
    except av.FFmpegError as error:
        log = error.log
    finally:
        av.logging.set_level(level)
    name = str(log[1]) if log else "unknown"
    if name == "image2" or name.endswith("_pipe"):
        return f"it is a still image ({name}), for a corpus of images"
    return f"its format ({name}) is not read as a video"


def _opened(url: str) -> Any:
    """The file at `url`, whose decoders use one thread each and refuse frames of more than `MAX_PIXELS`."""
    import av

    with limited_memory(os.path.basename(url), MAX_INDEX_BYTES):
        container = av.open(url, metadata_errors="replace", options=_TRUSTED)
    for stream in container.streams:
        if (codec := stream.codec_context) is not None:
            codec.options = _DECODER_LIMITS
            codec.thread_count = 1  # not only `thread_type`, which libdav1d does not know
    return container


def video_stream(container: Any, number: int | None) -> Any:
    """The video stream with that number in the file; None: the one that FFmpeg takes for the best.

    Raises:
        DecodeError: there is none, or no decoder for it.
    """
    from av.stream import Disposition

    name = os.path.basename(container.name)
    stream = container.streams.best("video") if number is None else None
    if number is not None:
        found = [s for s in container.streams.video if s.index == number]
        if not found:
            there = ", ".join(str(s.index) for s in container.streams.video) or "none"
            raise DecodeError(f"{name} has no video stream {number}; its video streams: {there}")
        stream = found[0]
    if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of a record
        raise DecodeError(f"{name} has no video stream")
    if stream.codec_context is None:
        raise DecodeError(f"{name}: there is no decoder for its video stream {stream.index}")
    require_pixels(name, stream.codec_context.width, stream.codec_context.height)
    return stream


def read_packets(container: Any, stream: Any) -> Packets:
    """Go through the packets of `stream`, to the end of the file.

    Raises:
        DecodeError: there is no frame; the file holds fewer than its index promises, as one does that was cut off; or
            it does not say when they are shown.
    """
    import av

    name = os.path.basename(container.name)
    promised = _num_promised(container, stream)
    require_packets(name, max(stream.frames, len(stream.index_entries)))
    scan = Scan(container, stream)
    try:
        with limited_memory(name, MAX_INDEX_BYTES):
            scan.read()
    except av.FFmpegError as error:
        raise DecodeError(f"{name} breaks after {scan.num_packets} frames: {said(error)}") from error
    held = _num_held(scan.ticks)
    if held < promised:
        raise DecodeError(f"{name} holds {held} of the {promised} frames that it promises: it was cut off")
    if not scan.num_packets and stream.frames:
        raise DecodeError(
            f"{name} has none of the {stream.frames:,} frames that it promises: it is damaged, or its index takes more "
            f"than {MAX_INDEX_BYTES >> 30} GiB of memory, the limit for one video"
        )
    if not len(scan.visible):
        raise DecodeError(f"{name} has no frames")
    if container.format.name in _EVENLY or not scan.is_proven:
        packets = _as_decoded(container, stream, scan)
    else:
        packets = _as_timed(stream, scan, None if scan.begins_closed else _first_pts(container, stream, scan.begin))
    if int(packets.pts[-1]) - int(packets.pts[0]) > _LONGEST_TICKS:
        raise DecodeError(
            f"{name} has times from {packets.pts[0]} to {packets.pts[-1]}, further apart than can be counted"
        )
    return packets


def _as_timed(stream: Any, scan: Scan, first_pts: int | None) -> Packets:
    """The frames in the order of their packets' times; from the one of `first_pts` on, where that is known."""
    assert scan.in_time is not None
    stream_pts = _times_or_0(scan.pts)
    shown = scan.in_time if first_pts is None else scan.in_time[stream_pts[scan.in_time] >= first_pts]
    return Packets(
        stream_pts,
        shown,
        stream_pts[shown],
        scan.keyframes,
        stream.time_base,
        # not where a stretch of packets would end with half a frame, or frames come before the first keyframe
        is_seekable=not scan.order.second_fields and bool((scan.keyframes[:1] <= shown.min()).any()),
        num_skipped_frames=len(scan.frames) - len(shown),
        begin=scan.begin,
    )


def _first_pts(container: Any, stream: Any, begin: int) -> int:
    """When the first frame is shown that the decoder gives undamaged, if it begins at the packet at place `begin`."""
    with _opened(container.name) as again:
        for _, frame in decoded(again, again.streams[stream.index], begin):
            if not frame.is_corrupt:
                return int(frame.pts)
    raise DecodeError(f"{os.path.basename(container.name)} has no frames that can be decoded")


def _as_decoded(container: Any, stream: Any, scan: Scan) -> Packets:
    """The frames of a file whose packets do not prove which is which: all are decoded once, to know of them."""
    import av

    name, is_even = os.path.basename(container.name), container.format.name in _EVENLY
    is_visible = np.zeros(scan.num_packets + 1, dtype=bool)  # one more, as the last may have been dropped
    is_visible[scan.visible] = True
    restarts = frozenset(np.intersect1d(scan.jumps, scan.keyframes).tolist())
    shown: list[int] = []
    broken: av.FFmpegError | None = None
    try:
        with _opened(container.name) as again:
            for place, frame in decoded(again, again.streams[stream.index], scan.begin, restarts):
                if is_visible[place] and (shown or not frame.is_corrupt):
                    shown.append(place)
    except av.FFmpegError as error:
        broken = error
    if not shown:
        raise DecodeError(f"{name} has no frames that can be decoded") from broken
    if not is_even and scan.is_in_time(shown):
        return _as_timed(stream, scan, int(scan.pts[shown[0]]))
    if broken:
        raise DecodeError(f"{name} breaks after {len(shown)} frames: {said(broken)}") from broken
    num_skipped = len(scan.frames) - len(shown)
    if is_even and not stream.average_rate:
        raise DecodeError(f"{name} says neither when its frames are shown nor how many a second")
    times = scan.ticks_in_order(shown) if is_even else scan.times_in_order(shown)
    if times is None:
        raise DecodeError(f"{name} does not say when its frames are shown: re-encode it, with timestamps")
    return Packets(
        _times_or_0(scan.pts),
        np.array(shown, dtype=np.int64),
        np.array(times, dtype=np.int64),
        scan.keyframes,
        1 / Fraction(stream.average_rate) if is_even else stream.time_base,
        is_seekable=False,
        num_skipped_frames=max(0, num_skipped),
        begin=scan.begin,
        restarts=restarts,
    )


def decoded(
    container: Any, stream: Any, begin: int, restarts: Collection[int] = (), first: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Decode `stream` from one of its packets on.

    Args:
        container: the file, at its beginning.
        stream: of its streams.
        begin: place of the first packet to decode.
        restarts: places of packets before which the decoder is emptied, and begins anew.
        first: place of the first packet that has to be decoded; None: the first that can be. Errors before it count for
            nothing.

    Returns:
        (place of its packet in the stream, frame), in the order in which the decoder gives them.

    Raises:
        av.FFmpegError: a packet cannot be decoded.
        DecodeError: a frame has more than `MAX_PIXELS`.
    """
    import av

    codec = stream.codec_context
    codec.thread_type, codec.copy_opaque = "NONE", True
    has_begun, place = False, -1
    for packet in container.demux(stream):
        place += packet.size > 0  # an empty one comes at the end, and empties the decoder
        if place < begin:
            continue
        frames = []
        if place in restarts and packet.size > 0:
            frames = codec.decode(None)
            codec.flush_buffers()
        packet.opaque = (place,)  # PyAV files it by its address, and two decoders would share that of a small int
        try:
            with _naming_the_size_limit():
                frames += packet.decode()
        except av.FFmpegError:
            if has_begun or (first is not None and place >= first):
                raise
        has_begun = has_begun or bool(frames)
        yield from ((frame.opaque[0], frame) for frame in frames)


@contextmanager
def _naming_the_size_limit() -> Iterator[None]:
    """Raise DecodeError for a frame that a decoder refuses for its size, which only FFmpeg's log says."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as log:
            yield
    except av.FFmpegError as error:
        if any(words in message for _, _, message in log for words in _TOO_LARGE):
            raise DecodeError(f"a frame is larger than the limit of {MAX_PIXELS:,} px") from error
        raise
    finally:
        av.logging.set_level(level)


def _times_or_0(pts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(pts == NO_TIME, 0, pts)


def _num_held(ticks: NDArray[np.int64]) -> int:
    """Frames of the stream's rate up to the end of the last packet, which is shown as long as most are."""
    return int(ticks[-1]) + (round(np.median(np.diff(ticks))) if len(ticks) > 1 else 1) if len(ticks) else 0


def display_matrix(frame: Any) -> NDArray[np.int32] | None:
    """How a frame is to be turned and mirrored: int32 [2, 2], of 65536; None if the file does not say."""
    # not `frame.side_data`: frame and container would hold each other, until Python's collector comes by
    matrix = _side_data_container()(frame).get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)[:2, :2]


@cache
def _side_data_container() -> Any:
    """PyAV's container of a frame's side data, which takes every kind of it.

    PyAV 18 has names for 28 of FFmpeg's kinds, and raises ValueError at a frame that has another (31: EXIF). Python's
    enums ask `_missing_` for unknown values; here it gives them a name.
    """
    from av.sidedata.sidedata import SideDataContainer, Type

    def unnamed(cls: type[Type], value: int) -> Any:
        kind: Any = object.__new__(cls)
        kind._name_, kind._value_ = f"UNNAMED_{value}", value
        return kind

    Type._missing_ = classmethod(unnamed)  # type: ignore[assignment]
    return SideDataContainer


def is_turned(matrix: NDArray[np.int32] | None) -> bool:
    """Whether a display matrix turns a frame by 90 or 270 degrees, so that its stored rows become columns."""
    return matrix is not None and bool(abs(matrix[0, 1]) > abs(matrix[0, 0]))


def _num_promised(container: Any, stream: Any) -> int:
    """Packets that the index says there are; of MP4 FFmpeg's own index, which leaves out what an edit list cuts off."""
    if "mp4" in container.format.name:
        return len(stream.index_entries)
    return int(stream.frames) if container.format.name == "avi" else 0  # others fill it with what they like


def said(error: BaseException) -> str:
    """FFmpeg's words, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:160]
