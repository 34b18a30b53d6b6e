"""Which frames of a video are taken.

A selection gets the times of all frames that it may take, and returns the indices of those to take. Times are float64
seconds since the video's first frame, ascending.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError, DecodeError

Short = Literal["fail", "repeat", "pad"]

_NEAR_SECONDS = 0.001


class Selection(Protocol):
    """Chooses frames of a video by their times."""

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return the indices of the frames to take, ascending; one may be repeated.

        Args:
            pts_seconds: float [T], the times of the frames.

        Raises:
            DecodeError: there are too few frames.
        """
        ...


@dataclass(frozen=True)
class Every:
    """Every `step`-th frame, from the first.

    Args:
        step: 1 or more.

    Raises:
        ConfigError: step is below 1.
    """

    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ConfigError(f"step = {self.step}: give 1 for every frame, 2 for every other one, …")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return 0, step, 2 step, …"""
        return np.arange(0, len(pts_seconds), self.step)


@dataclass(frozen=True)
class Uniform:
    """`count` frames spread evenly from the first to the last: `np.linspace(0, total - 1, count)`, rounded down.

    Args:
        count: 1 or more.
        short: what to do with videos of fewer frames. `fail`: raise DecodeError. `repeat`: repeat frames evenly, as the
            formula does. `pad`: repeat the last frame.

    Raises:
        ConfigError: an argument has an invalid value.
    """

    count: int
    short: Short = "fail"

    def __post_init__(self) -> None:
        if self.count < 1 or self.short not in get_args(Short):
            choices = ", ".join(get_args(Short))
            raise ConfigError(f"count = {self.count} must be 1 or more, and short = {self.short!r} one of {choices}")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return `count` indices, or raise DecodeError."""
        total = len(pts_seconds)
        if total < self.count and self.short == "fail":
            raise DecodeError(f"it has {total} frames, and {self.count} are requested")
        if total < self.count and self.short == "pad":
            return np.minimum(np.arange(self.count), total - 1)
        return np.linspace(0, total - 1, self.count).astype(np.int64)


@dataclass(frozen=True)
class AtRate:
    """The frames on screen at the times 0, 1/fps, 2/fps, … after the first frame.

    A frame is on screen from its own time until that of the next frame, so a variable frame rate is handled. A rate
    above the video's takes every frame once.

    Args:
        fps: frames per second, above 0.

    Raises:
        ConfigError: fps is not above 0.
    """

    fps: float

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise ConfigError(f"fps = {self.fps}: give a rate above 0")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return the indices of these frames, each once."""
        if len(pts_seconds) == 0:
            return np.zeros(0, dtype=np.int64)
        since_start = np.asarray(pts_seconds, dtype=np.float64) - pts_seconds[0]
        gap = frame_gap(since_start)
        starts = np.append(since_start, since_start[-1] + gap)  # the last frame is on screen for the usual gap
        # Number of the first sampling time at or after the start of each frame. A frame is taken if the next frame has
        # a higher number. Containers round times, so a start may be a hundredth of a gap late.
        ticks = np.ceil((starts - gap / 100) * self.fps)
        ticks[0], ticks[1:] = 0, np.maximum(ticks[1:], 1)
        return np.flatnonzero(ticks[:-1] < ticks[1:])


@dataclass(frozen=True)
class AtTimes:
    """The frames on screen at given times: for each time the last frame at or before it.

    Args:
        seconds: since the first frame, ascending, from 0 on; at least one.

    Raises:
        ConfigError: there is no time, or they are not ascending from 0.
    """

    seconds: Sequence[float]

    def __post_init__(self) -> None:
        if not self.seconds or not all(a <= b for a, b in zip((0.0, *self.seconds), self.seconds, strict=False)):
            raise ConfigError(f"seconds = {list(self.seconds)}: give ascending times from 0 on")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return one index for each time; raise DecodeError if the video ends before one of them."""
        times = np.asarray(pts_seconds, dtype=np.float64)
        times = times - times[:1]  # of a part of a video, too: since its first frame
        end = times[-1] + frame_gap(times) if len(times) else 0.0
        if self.seconds[-1] >= max(end, np.nextafter(0, 1)):  # a single frame is on screen at 0 s only
            raise DecodeError(f"it ends at {end:.3f} s, and a frame at {self.seconds[-1]:.3f} s is requested")
        return np.searchsorted(times, np.asarray(self.seconds), side="right") - 1


@dataclass(frozen=True)
class NearTimes:
    """The frames nearest to given times. For times that were stored with frames, and are therefore rounded.

    Args:
        seconds: since the first frame, ascending.
    """

    seconds: Sequence[float]

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return one index for each time; raise DecodeError if no frame is within 1 ms of one."""
        requested = np.asarray(self.seconds, dtype=np.float64)
        nearest = np.array([np.abs(pts_seconds - second).argmin() for second in requested], dtype=np.int64)
        is_far = np.abs(pts_seconds[nearest] - requested) > _NEAR_SECONDS
        if is_far.any():
            raise DecodeError(f"it has no frame at {requested[is_far][0]:.3f} s")
        return nearest


def frame_gap(pts_seconds: NDArray[np.floating[Any]]) -> float:
    """Return the median time between frames in s, the duration of the last frame; 0 for a single frame."""
    return float(np.median(np.diff(pts_seconds))) if len(pts_seconds) > 1 else 0.0


def frame_rate(
    pts_seconds: NDArray[np.floating[Any]], nominal: float | None, tolerance_seconds: float = _NEAR_SECONDS
) -> float | None:
    """Return the frame rate of a video.

    Args:
        pts_seconds: float [T], the times of the frames, ascending.
        nominal: the rate that is claimed, for example by a header. It is returned if every frame is
            within `tolerance_seconds` of its time at this rate (containers round times), or if there is only one frame.
        tolerance_seconds: default: the precision of Matroska and FLV.

    Returns:
        The nominal rate, or else the mean rate of the frames, in frames per second; None if neither is known.
    """
    since_start = np.asarray(pts_seconds, dtype=np.float64) - pts_seconds[0]
    if len(since_start) == 1:
        return nominal
    if nominal and np.abs(since_start - np.arange(len(since_start)) / nominal).max() <= tolerance_seconds:
        return nominal
    return round((len(since_start) - 1) / float(since_start[-1]), 6) if since_start[-1] else None


def between(
    pts_seconds: NDArray[np.floating[Any]], start_seconds: float | None, stop_seconds: float | None
) -> NDArray[np.int64]:
    """Return the indices of the frames of a part of a video: `start_seconds` <= time < `stop_seconds`.

    Consecutive parts share no frame and leave none out.

    Args:
        pts_seconds: float [T], the times of the frames, ascending.
        start_seconds: None: no bound.
        stop_seconds: None: no bound.

    Raises:
        DecodeError: the part has no frame.
    """
    start = -math.inf if start_seconds is None else start_seconds
    stop = math.inf if stop_seconds is None else stop_seconds
    indices = np.flatnonzero((pts_seconds >= start) & (pts_seconds < stop))
    if len(indices) == 0 and len(pts_seconds):
        end = "its end" if stop_seconds is None else f"{stop:g} s"
        raise DecodeError(f"it has no frame from {max(start, 0):g} s to {end}; the last is at {pts_seconds[-1]:.3f} s")
    return indices
