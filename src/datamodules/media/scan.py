"""One pass over the packets of a video stream, and what it proves about their timestamps.

A packet's timestamp can be wrong: muxers that know no composition times write decoding times instead, and in joined
recordings the clock begins anew. So timestamps decide the order of the frames only if the codec's headers agree.
"""

import os
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamodules.media.limits import require_own_bytes, require_packets
from datamodules.media.picture_order import UNKNOWN, picture_order

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


NO_TIME = -(1 << 63)  # FFmpeg's AV_NOPTS_VALUE

_CLOCK_BITS = {"mpegts": 33, "mpeg": 33, "flv": 32}  # of timestamps, which begin anew at 0 after their last value
_REFUSING = frozenset({"vp9"})  # codecs whose decoder raises an error where references are missing; others give rubbish
_MAX_REORDERED = 16  # frames that a decoder may hold back: the most in H.264 and HEVC
_NUM_COLUMNS = 5  # of `Scan._table`


class Scan:
    """The packets of a stream, from the beginning to the end of the file.

    "Index" means the index of a packet in the stream, in decoding order. Arrays are empty before `read`.

    Args:
        container: the file, at its beginning.
        stream: of the container.

    Attributes:
        pts: int64 [N], presentation timestamp of each packet, in units of the stream's time base; `NO_TIME` if none.
        dts: int64 [N], decoding timestamp, likewise.
        ticks: int64 [N]. In AVI the time of each packet in frames of the stream's rate, which has gaps where a frame
            stays on screen; in other formats the index.
        keyframes: int64 [K], indices of keyframes, ascending.
        discarded: bool [N], whether an edit list hides the packet's frame.
        order: display order by the codec's headers.
    """

    def __init__(self, container: "InputContainer", stream: "VideoStream") -> None:
        self.order = picture_order(stream)
        self._container, self._stream = container, stream
        self._is_mp4 = "mp4" in container.format.name
        self._is_avi = container.format.name == "avi"
        self._max_step = 1 << _CLOCK_BITS.get(container.format.name, 63) - 1  # a larger step is a jump back
        # rows of (pts, dts, tick, is keyframe, is discarded), 8 bytes each: a day of video has 5 million packets
        self._table = array("q")
        self._set_columns()

    @property
    def num_packets(self) -> int:
        """Number of packets read so far."""
        return len(self._table) // _NUM_COLUMNS

    def read(self) -> None:
        """Read all packets.

        Raises:
            av.FFmpegError: the file is damaged.
            DecodeError: it has too many packets, or too many that repeat the same bytes.
        """
        is_cut, index, name = False, 0, os.path.basename(self._container.name)
        num_bytes, file_bytes = 0, self._container.size
        for number, packet in enumerate(self._container.demux(self._stream)):
            require_packets(name, number)  # one more than read: PyAV ends with an empty packet
            if packet.size == 0:
                continue
            num_bytes += packet.size
            if self._is_mp4:  # other formats cannot repeat bytes, but may compress packets
                require_own_bytes(name, number + 1, num_bytes, file_bytes)
            is_cut = packet.is_corrupt  # only the last one matters: earlier ones are complete, if damaged
            pts, dts = packet.pts, packet.dts
            pts, dts = NO_TIME if pts is None else pts, NO_TIME if dts is None else dts
            tick = dts if self._is_avi else index
            self._table.extend((pts, dts, tick, packet.is_keyframe, packet.is_discard))
            self.order.read(bytes(packet))
            index += 1
        if is_cut:
            del self._table[-_NUM_COLUMNS:]
            self.order.drop_last()
        self._set_columns()

    def _set_columns(self) -> None:
        rows = np.array(self._table, dtype=np.int64).reshape(-1, _NUM_COLUMNS)
        self.pts, self.dts, self.ticks = rows[:, 0], rows[:, 1], rows[:, 2]
        self.keyframes = np.flatnonzero(rows[:, 3])
        self.discarded = rows[:, 4] != 0

    @cached_property
    def frames(self) -> NDArray[np.int64]:
        """int64, ascending: indices of the packets that hold a frame to show."""
        is_hidden = self.discarded.copy()
        is_hidden[list(self.order.second_fields)] = True
        return np.flatnonzero(~is_hidden)

    @cached_property
    def start(self) -> int:
        """Index of the first packet to decode: the first keyframe, because earlier packets need what was cut off.

        VP9 can begin with intra-only frames, which are not keyframes; there the decoder decides.
        """
        if self._stream.codec_context.codec.canonical_name in _REFUSING:
            return 0
        return int(self.keyframes[0]) if len(self.keyframes) else self.num_packets

    @cached_property
    def visible(self) -> NDArray[np.int64]:
        """int64, ascending: those of `frames` from `start` on."""
        return self.frames[self.frames >= self.start]

    @cached_property
    def by_pts(self) -> NDArray[np.int64] | None:
        """int64: `visible`, ordered by timestamp; None if timestamps are missing, repeat, or jump."""
        order = self.visible[np.argsort(self.pts[self.visible], kind="stable")]
        times = self.pts[order]
        steps = np.diff(times)  # a step that overflows int64 is negative
        if (times == NO_TIME).any() or ((steps <= 0) | (steps > self._max_step)).any():
            return None
        return order

    @property
    def is_proven(self) -> bool:
        """Whether the codec's headers prove that frames are shown in the order of their timestamps.

        And no frame is shown so early among the others that a decoder could not have decoded it yet.
        """
        if self.by_pts is None:
            return False
        epochs, counts = self.order.keys[self.by_pts].T
        steps = np.diff(epochs)
        ascends = (steps > 0) | ((steps == 0) & (np.diff(counts) > 0))
        # by how many frames each one is shown earlier than it comes in the stream
        lead = np.searchsorted(self.visible, self.by_pts) - np.arange(len(self.by_pts))
        return bool((epochs != UNKNOWN).all() and ascends.all() and (lead <= _MAX_REORDERED).all())

    def is_by_pts(self, decoded: Sequence[int]) -> bool:
        """Whether frames whose packets have the indices `decoded` ascend in time."""
        if self.by_pts is None:
            return False
        ranks = np.full(self.num_packets, -1)
        ranks[self.by_pts] = np.arange(len(self.by_pts))
        return bool((np.diff(ranks[decoded]) > 0).all())

    @property
    def begins_closed(self) -> bool:
        """Whether the first keyframe is shown first, so that no later picture needs one that was cut off."""
        if self.by_pts is None or self.keyframes[:1].tolist() != [self.start]:
            return False
        return self.order.begins_closed and bool(NO_TIME < self.pts[self.start] <= self.pts[self.by_pts[0]])

    @cached_property
    def jumps(self) -> list[int]:
        """Indices at which the stream's clock jumps back: that of decoding, or the timestamp of a keyframe.

        A small step back of the decoding clock, by fewer frames than decoders reorder, is not a jump: FFmpeg guesses
        decoding times from presentation times, which may be wrong.
        """
        jumps: list[int] = []
        keyframes = frozenset(self.keyframes.tolist())
        latest_pts = latest_dts = NO_TIME  # less than any time
        for index, (pts, dts) in enumerate(zip(self.pts.tolist(), self.dts.tolist(), strict=True)):
            is_back = self._is_back(latest_dts, dts, self._reordered_time)
            if is_back or (index in keyframes and self._is_back(latest_pts, pts)):
                jumps.append(index)
                latest_pts = latest_dts = NO_TIME
            latest_pts, latest_dts = max(latest_pts, pts), max(latest_dts, dts)
        return jumps

    @cached_property
    def _reordered_time(self) -> int:
        """Duration of as many frames as a decoder may hold back, in units of the time base."""
        clock = self.pts if (self.dts == NO_TIME).all() else self.dts
        times = clock[clock != NO_TIME].astype(np.float64)
        return round(_MAX_REORDERED * np.median(np.abs(np.diff(times)))) if len(times) > 1 else 0

    def _is_back(self, before: int, now: int, tolerance: int = 0) -> bool:
        """Whether the clock jumps back from `before` to `now`.

        A huge step forward is a jump back too: FFmpeg adds the clock's range to a timestamp that falls far back.
        """
        return NO_TIME not in (before, now) and not -tolerance <= now - before <= self._max_step

    def ticks_in_order(self, decoded: Sequence[int]) -> list[int]:
        """Return the times of frames in a format that has a rate but no timestamps.

        Args:
            decoded: indices of the frames' packets, in the decoder's order.

        Returns:
            Times in frames of the stream's rate, ascending.
        """
        num_skipped = len(self.frames) - len(decoded)  # the first ones, at the open beginning of a stream
        if not self._is_avi or num_skipped < 0:
            return [*range(len(decoded))]
        ticks: list[int] = np.sort(self.ticks[self.frames])[num_skipped:].tolist()
        return ticks

    def times_in_order(self, decoded: Sequence[int]) -> list[int] | None:
        """Return the times of frames whose timestamps do not prove their order.

        The decoder's order is right, so the timestamps between two jumps are sorted and given to the frames in that
        order; decoding timestamps, if one has no other. Skipped frames are given the earliest timestamps, because they
        would be shown first, unless the timestamps ascend anyway. After a jump the times continue at the usual distance
        from the frame before.

        Args:
            decoded: indices of the frames' packets, in the decoder's order.

        Returns:
            Times in units of the time base, ascending. None if a timestamp is missing, if timestamps are further from
            that order than a decoder reorders, or if an edit list hides frames by wrong timestamps.
        """
        indices = np.asarray(decoded)
        # a stretch is what lies between two jumps; each frame's stretch, ascending in the decoder's order
        stretch_of = np.maximum.accumulate(np.searchsorted(self.jumps, indices, side="right"))
        skipped = np.setdiff1d(self.visible, indices)
        stretch_of_skipped = np.searchsorted(self.jumps, skipped, side="right")
        stretches = []
        starts = np.flatnonzero(np.diff(stretch_of, prepend=-1))
        for start, members in zip(starts, np.split(indices, starts[1:]), strict=True):
            number = stretch_of[start]
            first, end = np.searchsorted(stretch_of_skipped, (number, number + 1))
            times = self._sorted_times(members, skipped[first:end])
            if times is None:
                return None
            stretches.append(times)
        return self._joined(stretches)

    def _sorted_times(self, indices: NDArray[np.int64], skipped: NDArray[np.int64]) -> list[int] | None:
        """Return the sorted times of the frames of one stretch, see `times_in_order`."""
        clock = self.dts if (self.pts[indices] == NO_TIME).any() else self.pts
        times = clock[indices]
        num_moved = np.abs(np.argsort(times, kind="stable") - np.arange(len(times))).max()
        if (times == NO_TIME).any() or num_moved > (0 if self.discarded.any() else _MAX_REORDERED):
            return None
        if num_moved:
            others = clock[skipped]
            times = np.concatenate([times, others[others != NO_TIME]])
        ordered: list[int] = np.sort(times)[-len(indices) :].tolist()
        return ordered

    def _joined(self, stretches: list[list[int]]) -> list[int]:
        """Return the times of all stretches, each shifted to continue after the one before."""
        steps = np.concatenate([np.diff(times) for times in stretches])
        step = round(np.median(steps[steps > 0])) if (steps > 0).any() else 1
        joined: list[int] = []
        offset = 0
        for times in stretches:
            if joined and self._is_back(joined[-1] - offset, times[0]):
                offset = joined[-1] + step - times[0]
            joined += [time + offset for time in times]
        return joined
