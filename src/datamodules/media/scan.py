"""One pass over the packets of a video stream, and what it proves about the times that they bear.

A packet's time can be wrong: muxers that know no composition times write decoding times instead, and joined recordings
begin their clocks anew. So times decide the order of the frames only if the headers of the pictures agree with them.
"""

import os
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.media.limits import require_own_bytes, require_packets
from datamodules.media.picture_order import UNKNOWN, picture_order

NO_TIME = -(1 << 63)  # FFmpeg's AV_NOPTS_VALUE

_CLOCK_BITS = {"mpegts": 33, "mpeg": 33, "flv": 32}  # of timestamps that begin anew at 0 when these are full
_REFUSING = frozenset({"vp9"})  # codecs whose decoder gives an error, not rubbish, where references are missing
_MAX_REORDERED = 16  # frames that a decoder may hold back; the most of H.264 and HEVC
_NUM_COLUMNS = 5  # of `Scan._table`


class Scan:
    """The packets of a stream, to the end of the file. Arrays have an entry for each packet; none before `read`.

    Args:
        container: the file, at its beginning.
        stream: of its streams.

    Attributes:
        pts, dts: int64 [N]: when a packet is to be shown, and decoded, in units of the stream's time base; `NO_TIME` if
            it does not say so.
        ticks: int64 [N]: in AVI, its time in frames of the stream's rate, which leaves ticks out where a frame stays on
            show; in other formats its place.
        keyframes: int64 [K]: places of keyframes, ascending.
        discarded: bool [N]: whether an edit list hides a packet.
        order: in which order packets are shown, by the headers of their pictures.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.order = picture_order(stream)
        self._container, self._stream = container, stream
        self._is_mp4 = "mp4" in container.format.name
        self._is_avi = container.format.name == "avi"
        self._longest_step = 1 << _CLOCK_BITS.get(container.format.name, 63) - 1
        self._table = array("q")  # rows of: pts, dts, tick, whether it is a keyframe, whether an edit list hides it
        self._set_columns()

    @property
    def num_packets(self) -> int:
        """Packets read so far."""
        return len(self._table) // _NUM_COLUMNS

    def read(self) -> None:
        """Go through the packets.

        Raises:
            av.FFmpegError: the file breaks.
            DecodeError: it has too many packets, or too many that repeat the same bytes.
        """
        is_cut, place, name = False, 0, os.path.basename(self._container.name)
        num_bytes, file_bytes = 0, self._container.size
        for number, packet in enumerate(self._container.demux(self._stream)):
            require_packets(name, number)  # PyAV's own at the end is one more
            if packet.size == 0:  # PyAV's own, at the end
                continue
            num_bytes += packet.size
            if self._is_mp4:  # others repeat nothing, but may compress packets
                require_own_bytes(name, number + 1, num_bytes, file_bytes)
            is_cut = packet.is_corrupt  # which counts for the last one only: others are there, if damaged
            pts, dts = packet.pts, packet.dts
            pts, dts = NO_TIME if pts is None else pts, NO_TIME if dts is None else dts
            tick = dts if self._is_avi else place
            self._table.extend((pts, dts, tick, packet.is_keyframe, packet.is_discard))
            self.order.read(bytes(packet))
            place += 1
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
        """int64, ascending: places of the packets that hold a frame to be shown."""
        hidden = self.discarded.copy()
        hidden[list(self.order.second_fields)] = True
        return np.flatnonzero(~hidden)

    @cached_property
    def begin(self) -> int:
        """Place of the first packet to decode: the first keyframe, as what those before it need was cut off.

        VP9 can begin with intra-only frames, which are no keyframes; there the decoder decides.
        """
        if self._stream.codec_context.codec.canonical_name in _REFUSING:
            return 0
        return int(self.keyframes[0]) if len(self.keyframes) else self.num_packets

    @cached_property
    def visible(self) -> NDArray[np.int64]:
        """int64, ascending: those of `frames` that may be shown."""
        return self.frames[self.frames >= self.begin]

    @cached_property
    def in_time(self) -> NDArray[np.int64] | None:
        """int64: `visible` in the order of their times; None if these do not tell them apart, or jump."""
        order = self.visible[np.argsort(self.pts[self.visible], kind="stable")]
        times = self.pts[order]
        steps = np.diff(times)  # one that overflows is negative
        if (times == NO_TIME).any() or ((steps <= 0) | (steps > self._longest_step)).any():
            return None
        return order

    @property
    def is_proven(self) -> bool:
        """Whether frames are shown in the order of their times, as the headers of the pictures say as well.

        And no frame is shown earlier, among the others, than a decoder can give it.
        """
        if self.in_time is None:
            return False
        epochs, counts = self.order.keys[self.in_time].T
        steps = np.diff(epochs)
        ascends = (steps > 0) | ((steps == 0) & (np.diff(counts) > 0))
        earlier = np.searchsorted(self.visible, self.in_time) - np.arange(len(self.in_time))  # than in the stream
        return bool((epochs != UNKNOWN).all() and ascends.all() and (earlier <= _MAX_REORDERED).all())

    def is_in_time(self, shown: Sequence[int]) -> bool:
        """Whether a decoder that gives frames in the order `shown` gives them in the order of their times."""
        if self.in_time is None:
            return False
        ranks = np.full(self.num_packets, -1)
        ranks[self.in_time] = np.arange(len(self.in_time))
        return bool((np.diff(ranks[shown]) > 0).all())

    @property
    def begins_closed(self) -> bool:
        """Whether the first keyframe is shown first, so that no picture after it needs one that was cut off."""
        if self.in_time is None or self.keyframes[:1].tolist() != [self.begin]:
            return False
        return self.order.begins_closed and bool(NO_TIME < self.pts[self.begin] <= self.pts[self.in_time[0]])

    @cached_property
    def jumps(self) -> list[int]:
        """Places where the clock of the stream jumps back: that of decoding, or the time of a keyframe.

        Where decoding times fall by fewer frames than decoders reorder, it is none: FFmpeg guesses them from the times
        of packets, which may be wrong.
        """
        jumps: list[int] = []
        keyframes = frozenset(self.keyframes.tolist())
        latest_pts = latest_dts = NO_TIME  # less than any time
        for place, (pts, dts) in enumerate(zip(self.pts.tolist(), self.dts.tolist(), strict=True)):
            is_back = self._is_back(latest_dts, dts, self._reordered_time)
            if is_back or (place in keyframes and self._is_back(latest_pts, pts)):
                jumps.append(place)
                latest_pts = latest_dts = NO_TIME
            latest_pts, latest_dts = max(latest_pts, pts), max(latest_dts, dts)
        return jumps

    @cached_property
    def _reordered_time(self) -> int:
        """How long as many frames are shown as a decoder may hold back."""
        clock = self.pts if (self.dts == NO_TIME).all() else self.dts
        times = clock[clock != NO_TIME].astype(np.float64)
        return round(_MAX_REORDERED * np.median(np.abs(np.diff(times)))) if len(times) > 1 else 0

    def _is_back(self, before: int, now: int, tolerance: int = 0) -> bool:
        """Whether the clock goes back. To what falls far back FFmpeg adds the clock's range, so a huge step is one."""
        return NO_TIME not in (before, now) and not -tolerance <= now - before <= self._longest_step

    def ticks_in_order(self, shown: Sequence[int]) -> list[int]:
        """When the frames are shown that a decoder gives in the order `shown`, in frames of the stream's rate."""
        num_skipped = len(self.frames) - len(shown)  # the first ones, at the open beginning of a stream
        if not self._is_avi or num_skipped < 0:
            return [*range(len(shown))]
        ticks: list[int] = np.sort(self.ticks[self.frames])[num_skipped:].tolist()
        return ticks

    def times_in_order(self, shown: Sequence[int]) -> list[int] | None:
        """When the frames are shown that a decoder gives in the order `shown`, in units of the time base, ascending.

        Between two jumps the frames have the times of their packets, the earliest first; the decoding times, where one
        has no other. If these do not ascend in `shown`, skipped frames have the earliest times, as they would be shown
        first. After a jump the times go on at the usual distance from the frame before.

        Returns:
            None if there are no times; if they are too far from this order; or if an edit list hides frames by them.
        """
        places = np.asarray(shown)
        stretch_of = np.maximum.accumulate(np.searchsorted(self.jumps, places, side="right"))
        skipped = np.setdiff1d(self.visible, places)
        skipped_from = np.searchsorted(self.jumps, skipped, side="right")
        stretches = []
        starts = np.flatnonzero(np.diff(stretch_of, prepend=-1))
        for start, members in zip(starts, np.split(places, starts[1:]), strict=True):
            number = stretch_of[start]
            first, end = np.searchsorted(skipped_from, (number, number + 1))
            times = self._times_of(members, skipped[first:end])
            if times is None:
                return None
            stretches.append(times)
        steps = np.concatenate([np.diff(times) for times in stretches])
        step = round(np.median(steps[steps > 0])) if (steps > 0).any() else 1
        joined: list[int] = []
        offset = 0
        for times in stretches:
            if joined and self._is_back(joined[-1] - offset, times[0]):
                offset = joined[-1] + step - times[0]
            joined += [time + offset for time in times]
        return joined

    def _times_of(self, places: NDArray[np.int64], skipped: NDArray[np.int64]) -> list[int] | None:
        clock = self.dts if (self.pts[places] == NO_TIME).any() else self.pts
        times = clock[places]
        num_moved = np.abs(np.argsort(times, kind="stable") - np.arange(len(times))).max()
        if (times == NO_TIME).any() or num_moved > (0 if self.discarded.any() else _MAX_REORDERED):
            return None
        if num_moved:
            others = clock[skipped]
            times = np.concatenate([times, others[others != NO_TIME]])
        ordered: list[int] = np.sort(times)[-len(places) :].tolist()
        return ordered
