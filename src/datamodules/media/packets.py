"""Which frames a video has and when each is shown, from a pass over its packets that decodes nothing.

Headers lie about the number of frames. Packets do not, so frames can be requested by index, and each frame that comes
can be compared with the one that was requested. Where the packets prove nothing (see `scan`), the file is decoded once
to learn its frames, in the decoder's order.
"""

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DecodeError
from datamodules.media.container import error_text, open_url, stream_at
from datamodules.media.decoder import decode_stream
from datamodules.media.limits import MAX_INDEX_BYTES, limited_memory, require_packets
from datamodules.media.scan import NO_TIME, Scan

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


# FFmpeg's names of formats that have a frame rate, but no timestamps
_WITHOUT_TIMES = frozenset({"avi", "mpeg", "mpegvideo", "m4v", "h264", "hevc"})
_MAX_TICKS = (1 << 63) - 1  # of int64


@dataclass(frozen=True)
class Packets:
    """The packets of one video stream, in decoding order, and the frames that they show.

    "Index" means the index of a packet in the stream.

    Attributes:
        stream_pts: int64 [N], timestamp of each packet, in units of `time_base`; 0 where it has none, which happens
            only if not `is_seekable`.
        frame_packets: int64 [T], index of the packet of each frame, in display order.
        pts: int64 [T], timestamp of each frame, in units of `time_base`, ascending.
        keyframes: int64 [K], indices of keyframes, ascending.
        time_base: seconds.
        is_seekable: whether timestamps tell which frame is which. False: frames are identified by decoding from the
            first on.
        num_skipped_frames: frames of the stream that no decoder can show.
        start: index of the first packet to decode; earlier ones need what was cut off.
        restarts: indices of keyframes at which another recording begins: the stream's clock jumps back.
    """

    stream_pts: NDArray[np.int64]
    frame_packets: NDArray[np.int64]
    pts: NDArray[np.int64]
    keyframes: NDArray[np.int64]
    time_base: Fraction
    is_seekable: bool = True
    num_skipped_frames: int = 0
    start: int = 0
    restarts: frozenset[int] = frozenset()

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """float64 [T]: when each frame is shown, since the first frame."""
        seconds: NDArray[np.float64] = (self.pts - self.pts[0]) * float(self.time_base)
        return seconds


def read_packets(container: "InputContainer", stream: "VideoStream") -> Packets:
    """Read the packets of a stream, to the end of the file.

    Args:
        container: the file, at its beginning.
        stream: of the container.

    Raises:
        DecodeError: the stream has no frame; the file holds fewer than its index promises, because it was cut off; or
            it does not say when they are shown.
    """
    name = os.path.basename(container.name)
    scan = _read_scan(container, stream, name)
    if container.format.name in _WITHOUT_TIMES or not scan.is_proven:
        packets = _as_decoded(container, stream, scan)
    else:
        # where leading pictures may need what was cut off, a decoder shows which frame is the first that can be shown
        first_pts = None if scan.begins_closed else _first_pts(container, stream, scan.start)
        packets = _as_timed(stream, scan, first_pts)
    if int(packets.pts[-1]) - int(packets.pts[0]) > _MAX_TICKS:
        raise DecodeError(
            f"{name} has times from {packets.pts[0]} to {packets.pts[-1]}, further apart than can be counted"
        )
    return packets


def _read_scan(container: "InputContainer", stream: "VideoStream", name: str) -> Scan:
    """Scan a stream; raise DecodeError if it has no frames, or fewer than the file promises."""
    import av

    num_promised = _num_promised(container, stream)
    require_packets(name, max(stream.frames, len(stream.index_entries)))
    scan = Scan(container, stream)
    try:
        with limited_memory(name, MAX_INDEX_BYTES):
            scan.read()
    except av.FFmpegError as error:
        raise DecodeError(f"{name} breaks after {scan.num_packets} frames: {error_text(error)}") from error
    num_present = _num_present(scan.ticks)
    if num_present < num_promised:
        raise DecodeError(f"{name} holds {num_present} of the {num_promised} frames that it promises: it was cut off")
    if not scan.num_packets and stream.frames:
        raise DecodeError(
            f"{name} has none of the {stream.frames:,} frames that it promises: it is damaged, or its index takes more "
            f"than {MAX_INDEX_BYTES >> 30} GiB of memory, the limit for one video"
        )
    if not len(scan.visible):
        raise DecodeError(f"{name} has no frames")
    return scan


def _as_timed(stream: "VideoStream", scan: Scan, first_pts: int | None) -> Packets:
    """Return the packets of a stream whose timestamps are right; frames before `first_pts`, if given, are skipped."""
    assert scan.by_pts is not None
    stream_pts = _times_or_0(scan.pts)
    frame_packets = scan.by_pts if first_pts is None else scan.by_pts[stream_pts[scan.by_pts] >= first_pts]
    # a seek needs a keyframe before each frame, and stretches of packets that do not end between two fields
    is_seekable = not scan.order.second_fields and bool((scan.keyframes[:1] <= frame_packets.min()).any())
    return Packets(
        stream_pts,
        frame_packets,
        stream_pts[frame_packets],
        scan.keyframes,
        cast(Fraction, stream.time_base),
        is_seekable=is_seekable,
        num_skipped_frames=len(scan.frames) - len(frame_packets),
        start=scan.start,
    )


def _first_pts(container: "InputContainer", stream: "VideoStream", start: int) -> int:
    """Return the timestamp of the first frame that is decoded without damage from the packet at index `start` on."""
    with open_url(container.name) as reopened:
        for _, frame in decode_stream(reopened, stream_at(reopened, stream.index), start):
            if not frame.is_corrupt:
                return int(cast(int, frame.pts))
    raise DecodeError(f"{os.path.basename(container.name)} has no frames that can be decoded")


def _as_decoded(container: "InputContainer", stream: "VideoStream", scan: Scan) -> Packets:
    """Return the packets of a stream whose headers do not prove the order of its frames; all of it is decoded once."""
    name, has_no_times = os.path.basename(container.name), container.format.name in _WITHOUT_TIMES
    restarts = frozenset(np.intersect1d(scan.jumps, scan.keyframes).tolist())
    decoded, broken = _decoded_indices(container, stream, scan, restarts)
    if not decoded:
        raise DecodeError(f"{name} has no frames that can be decoded") from broken
    if not has_no_times and scan.is_by_pts(decoded):
        return _as_timed(stream, scan, int(scan.pts[decoded[0]]))
    if broken:
        raise DecodeError(f"{name} breaks after {len(decoded)} frames: {error_text(broken)}") from broken
    rate_base = 1 / Fraction(stream.average_rate) if has_no_times and stream.average_rate else None
    if has_no_times and rate_base is None:
        raise DecodeError(f"{name} has neither timestamps nor a frame rate")
    times = scan.ticks_in_order(decoded) if has_no_times else scan.times_in_order(decoded)
    if times is None:
        raise DecodeError(f"{name} does not say when its frames are shown: re-encode it, with timestamps")
    return Packets(
        _times_or_0(scan.pts),
        np.array(decoded, dtype=np.int64),
        np.array(times, dtype=np.int64),
        scan.keyframes,
        rate_base or cast(Fraction, stream.time_base),
        is_seekable=False,
        num_skipped_frames=max(0, len(scan.frames) - len(decoded)),
        start=scan.start,
        restarts=restarts,
    )


def _decoded_indices(
    container: "InputContainer", stream: "VideoStream", scan: Scan, restarts: frozenset[int]
) -> tuple[list[int], Exception | None]:
    """Return the indices of the packets whose frames a decoder gives, in its order; and the error that ended it.

    Damaged frames at the beginning are left out: they were made without the frames that were cut off.
    """
    import av

    is_visible = np.zeros(scan.num_packets + 1, dtype=bool)  # one more, for a last packet that the scan has dropped
    is_visible[scan.visible] = True
    decoded: list[int] = []
    try:
        with open_url(container.name) as reopened:
            for index, frame in decode_stream(reopened, stream_at(reopened, stream.index), scan.start, restarts):
                if is_visible[index] and (decoded or not frame.is_corrupt):
                    decoded.append(index)
    except av.FFmpegError as error:
        return decoded, error
    return decoded, None


def _times_or_0(pts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(pts == NO_TIME, 0, pts)


def _num_present(ticks: NDArray[np.int64]) -> int:
    """Return the length of the stream in frames of its rate; the last frame is shown as long as most are."""
    return int(ticks[-1]) + (round(np.median(np.diff(ticks))) if len(ticks) > 1 else 1) if len(ticks) else 0


def _num_promised(container: "InputContainer", stream: "VideoStream") -> int:
    """Return the number of packets in the file's index; 0 where the index cannot be trusted.

    In MP4 it is FFmpeg's own index, without what an edit list cuts off.
    """
    if "mp4" in container.format.name:
        return len(stream.index_entries)
    return int(stream.frames) if container.format.name == "avi" else 0  # other muxers write anything there
