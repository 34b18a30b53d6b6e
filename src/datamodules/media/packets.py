"""What a video holds, from its packets: a pass over the file that decodes nothing.

Headers lie; the packets tell how many frames there are and when each is shown, so that frames can be asked for by
number, and each that was asked for can be seen to have come. Where packets prove nothing (`scan.py`), the file is
decoded once, and its frames are those that the decoder gives, in its order.
"""

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import DecodeError
from datamodules.media.container import open_url, said
from datamodules.media.decoder import decoded
from datamodules.media.limits import MAX_INDEX_BYTES, limited_memory, require_packets
from datamodules.media.scan import NO_TIME, Scan

_EVENLY = frozenset({"avi", "mpeg", "mpegvideo", "m4v", "h264", "hevc"})  # formats with a rate, but no times of frames
_LONGEST_TICKS = (1 << 63) - 1  # of int64


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
    with open_url(container.name) as again:
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
        with open_url(container.name) as again:
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


def _times_or_0(pts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(pts == NO_TIME, 0, pts)


def _num_held(ticks: NDArray[np.int64]) -> int:
    """Frames of the stream's rate up to the end of the last packet, which is shown as long as most are."""
    return int(ticks[-1]) + (round(np.median(np.diff(ticks))) if len(ticks) > 1 else 1) if len(ticks) else 0


def _num_promised(container: Any, stream: Any) -> int:
    """Packets that the index says there are; of MP4 FFmpeg's own index, which leaves out what an edit list cuts off."""
    if "mp4" in container.format.name:
        return len(stream.index_entries)
    return int(stream.frames) if container.format.name == "avi" else 0  # others fill it with what they like
