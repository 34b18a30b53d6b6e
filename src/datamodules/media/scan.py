"""One pass over the packets of a video stream, and what it proves about the times that they bear.

A packet's time can be wrong: muxers that know no composition times write decoding times instead, and joined recordings
begin their clocks anew. So times decide the order of the frames only if the headers of the pictures agree with them.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.media.picture_order import picture_order

_CLOCK_BITS = {"mpegts": 33, "mpeg": 33, "flv": 32}  # of timestamps that begin anew at 0 when these are full
_REFUSING = frozenset({"vp9"})  # codecs whose decoder gives an error, not rubbish, where references are missing
_MAX_REORDERED = 16  # frames that a decoder may hold back; the most of H.264 and HEVC


class Scan:
    """The packets of a stream, to the end of the file. Lists have an entry for each packet.

    Args:
        container: the file, at its beginning.
        stream: of its streams.

    Attributes:
        pts, dts: when a packet is to be shown, and decoded, in units of the stream's time base; None if it does not say
            so.
        ticks: in AVI, its time in frames of the stream's rate, which leaves ticks out where a frame stays on show; in
            other formats its place.
        keyframes: places of keyframes, ascending.
        discarded: places of packets that an edit list hides.
        order: in which order packets are shown, by the headers of their pictures.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.order = picture_order(stream)
        self.pts: list[int | None] = []
        self.dts: list[int | None] = []
        self.ticks: list[int] = []
        self.keyframes: list[int] = []
        self.discarded: set[int] = set()
        self._container, self._stream = container, stream
        self._is_avi = container.format.name == "avi"
        self._longest_step = 1 << _CLOCK_BITS.get(container.format.name, 63) - 1

    def read(self) -> None:
        """Go through the packets.

        Raises:
            av.FFmpegError: the file breaks.
        """
        is_cut = False
        for packet in self._container.demux(self._stream):
            if packet.size == 0:  # PyAV's own, at the end
                continue
            is_cut = packet.is_corrupt  # which counts for the last one only: others are there, if damaged
            place = len(self.pts)
            if packet.is_keyframe:
                self.keyframes.append(place)
            if packet.is_discard:
                self.discarded.add(place)
            self.pts.append(packet.pts)
            self.dts.append(packet.dts)
            self.ticks.append(packet.dts if self._is_avi else place)
            self.order.read(bytes(packet))
        if is_cut:
            self._drop_last()

    def _drop_last(self) -> None:
        for entries in (self.pts, self.dts, self.ticks):
            entries.pop()
        self.order.drop_last()
        self.keyframes = [place for place in self.keyframes if place < len(self.pts)]
        self.discarded.discard(len(self.pts))

    @cached_property
    def frames(self) -> list[int]:
        """Places of the packets that hold a frame to be shown."""
        hidden = self.discarded | self.order.second_fields
        return [place for place in range(len(self.pts)) if place not in hidden]

    @cached_property
    def begin(self) -> int:
        """Place of the first packet to decode: the first keyframe, as what those before it need was cut off.

        VP9 can begin with intra-only frames, which are no keyframes; there the decoder decides.
        """
        if self._stream.codec_context.codec.canonical_name in _REFUSING:
            return 0
        return self.keyframes[0] if self.keyframes else len(self.pts)

    @cached_property
    def visible(self) -> list[int]:
        """Those of `frames` that may be shown."""
        return [place for place in self.frames if place >= self.begin]

    @cached_property
    def in_time(self) -> NDArray[np.int64] | None:
        """int64: `visible` in the order of their times; None if these do not tell them apart, or jump."""
        times = {place: pts for place in self.visible if (pts := self.pts[place]) is not None}
        if len(set(times.values())) < len(self.visible):  # two the same, or one missing
            return None
        order = sorted(times, key=times.__getitem__)
        if any(self._is_back(times[a], times[b]) for a, b in pairwise(order)):
            return None
        return np.array(order, dtype=np.int64)

    @property
    def is_proven(self) -> bool:
        """Whether frames are shown in the order of their times, as the headers of the pictures say as well."""
        if self.in_time is None:
            return False
        keys = [self.order.keys[place] for place in self.in_time]
        return all(a is not None and b is not None and a < b for a, b in pairwise([(-1, 0), *keys]))

    def is_in_time(self, shown: Sequence[int]) -> bool:
        """Whether a decoder that gives frames in the order `shown` gives them in the order of their times."""
        if self.in_time is None:
            return False
        ranks = np.full(len(self.pts), -1)
        ranks[self.in_time] = np.arange(len(self.in_time))
        return bool((np.diff(ranks[shown]) > 0).all())

    @property
    def begins_closed(self) -> bool:
        """Whether the first keyframe is shown first, so that no picture after it needs one that was cut off."""
        if self.in_time is None or self.keyframes[:1] != [self.begin]:
            return False
        first, earliest = self.pts[self.begin], self.pts[self.in_time[0]]
        return self.order.begins_closed and first is not None and earliest is not None and first <= earliest

    @cached_property
    def jumps(self) -> list[int]:
        """Places where the clock of the stream jumps back: that of decoding, or the time of a keyframe.

        Where decoding times fall by fewer frames than decoders reorder, it is none: FFmpeg guesses them from the times
        of packets, which may be wrong.
        """
        jumps: list[int] = []
        keyframes = frozenset(self.keyframes)
        latest_pts = latest_dts = None
        for place, (pts, dts) in enumerate(zip(self.pts, self.dts, strict=True)):
            is_back = self._is_back(latest_dts, dts, self._reordered_time)
            if is_back or (place in keyframes and self._is_back(latest_pts, pts)):
                jumps.append(place)
                latest_pts = latest_dts = None
            latest_pts, latest_dts = _later(latest_pts, pts), _later(latest_dts, dts)
        return jumps

    @cached_property
    def _reordered_time(self) -> int:
        """How long as many frames are shown as a decoder may hold back."""
        times = [time for time in self.dts if time is not None] or [time for time in self.pts if time is not None]
        return round(_MAX_REORDERED * np.median(np.abs(np.diff(times)))) if len(times) > 1 else 0

    def _is_back(self, before: int | None, now: int | None, tolerance: int = 0) -> bool:
        """Whether the clock goes back. To what falls far back FFmpeg adds the clock's range, so a huge step is one."""
        return before is not None and now is not None and not -tolerance <= now - before <= self._longest_step

    def ticks_in_order(self, shown: Sequence[int]) -> list[int]:
        """When the frames are shown that a decoder gives in the order `shown`, in frames of the stream's rate."""
        num_skipped = len(self.frames) - len(shown)  # the first ones, at the open beginning of a stream
        if not self._is_avi or num_skipped < 0:
            return [*range(len(shown))]
        return sorted(self.ticks[place] for place in self.frames)[num_skipped:]

    def times_in_order(self, shown: Sequence[int]) -> list[int] | None:
        """When the frames are shown that a decoder gives in the order `shown`, in units of the time base, ascending.

        Between two jumps the frames have the times of their packets, the earliest first; the decoding times, where one
        has no other. If these do not ascend in `shown`, skipped frames have the earliest times, as they would be shown
        first. After a jump the times go on at the usual distance from the frame before.

        Returns:
            None if there are no times; if they are too far from this order; or if an edit list hides frames by them.
        """
        skipped = np.setdiff1d(self.visible, shown)
        skipped_from = np.searchsorted(self.jumps, skipped, side="right")
        stretch_of = np.maximum.accumulate(np.searchsorted(self.jumps, shown, side="right"))
        stretches = []
        for number in np.unique(stretch_of):
            times = self._times_of(np.asarray(shown)[stretch_of == number], skipped[skipped_from == number])
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
        clock = self.pts if all(self.pts[place] is not None for place in places) else self.dts
        times = [time for place in places if (time := clock[place]) is not None]
        num_moved = np.abs(np.argsort(times, kind="stable") - np.arange(len(times))).max()
        if len(times) < len(places) or num_moved > (0 if self.discarded else _MAX_REORDERED):
            return None
        if num_moved:
            times += [time for place in skipped if (time := clock[place]) is not None]
        return sorted(times)[-len(places) :]


def _later(a: int | None, b: int | None) -> int | None:
    return max((time for time in (a, b) if time is not None), default=None)
