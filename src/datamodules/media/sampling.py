"""Which frames of a video are taken.

A selection is given the times of all frames that it may take, and answers with their indices. Times are float64
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
        """Ascending indices of the wanted ones among frames shown at `pts_seconds`; one may come several times.

        Raises:
            DecodeError: there are too few frames.
        """
        ...


@dataclass(frozen=True)
class Every:
    """Every `step`-th frame, from the first.

    Raises:
        ConfigError: step is below 1.
    """

    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ConfigError(f"step = {self.step}: give 1 for every frame, 2 for every other one, …")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """0, step, 2 step, …"""
        return np.arange(0, len(pts_seconds), self.step)


@dataclass(frozen=True)
class Uniform:
    """`count` frames spread evenly from the first to the last: `np.linspace(0, total - 1, count)`, rounded down.

    Args:
        count: 1 or more.
        short: what to do with fewer frames than that: `fail`; `repeat`: each comes several times, evenly, as the
            formula gives it; `pad`: the last one comes again until there are enough.

    Raises:
        ConfigError: an argument is none of these.
    """

    count: int
    short: Short = "fail"

    def __post_init__(self) -> None:
        if self.count < 1 or self.short not in get_args(Short):
            choices = ", ".join(get_args(Short))
            raise ConfigError(f"count = {self.count} must be 1 or more, and short = {self.short!r} one of {choices}")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """`count` indices, or DecodeError."""
        total = len(pts_seconds)
        if total < self.count and self.short == "fail":
            raise DecodeError(f"it has {total} of the {self.count} frames that are wanted")
        if total < self.count and self.short == "pad":
            return np.minimum(np.arange(self.count), total - 1)
        return np.linspace(0, total - 1, self.count).astype(np.int64)


@dataclass(frozen=True)
class AtRate:
    """The frames on show at the times 0, 1/fps, 2/fps, … after the first one.

    A frame is on show from its own time until the next one's, so a variable frame rate is handled; a rate above the
    video's takes every frame once, never twice.

    Raises:
        ConfigError: fps is not above 0.
    """

    fps: float

    def __post_init__(self) -> None:
        if not 0 < self.fps < math.inf:
            raise ConfigError(f"fps = {self.fps}: give a rate above 0")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """At most one index for each time."""
        if len(pts_seconds) == 0:
            return np.zeros(0, dtype=np.int64)
        since_start = np.asarray(pts_seconds, dtype=np.float64) - pts_seconds[0]
        gap = frame_gap(since_start)
        starts = np.append(since_start, since_start[-1] + gap)  # the last frame is on show as long as most are
        ticks = np.ceil((starts - gap / 100) * self.fps)  # the first time in or after each; containers round times
        ticks[0], ticks[1:] = 0, np.maximum(ticks[1:], 1)
        return np.flatnonzero(ticks[:-1] < ticks[1:])


@dataclass(frozen=True)
class AtTimes:
    """The frames on show at given times: the last one at or before each.

    Args:
        seconds: since the first frame, ascending.

    Raises:
        ConfigError: there are none, they do not ascend, or begin before 0.
    """

    seconds: Sequence[float]

    def __post_init__(self) -> None:
        if not self.seconds or not all(a <= b for a, b in zip((0.0, *self.seconds), self.seconds, strict=False)):
            raise ConfigError(f"seconds = {list(self.seconds)}: give times from 0 on that ascend")

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """One index for each time; DecodeError if the video ends before."""
        since_start = np.asarray(pts_seconds, dtype=np.float64)
        gap = frame_gap(since_start)
        end = since_start[-1] + gap if len(since_start) else 0.0
        if self.seconds[-1] >= max(end, np.nextafter(0, 1)):
            raise DecodeError(f"it ends at {end:.3f} s, and a frame at {self.seconds[-1]:.3f} s is wanted")
        return np.searchsorted(since_start, np.asarray(self.seconds), side="right") - 1


@dataclass(frozen=True)
class NearTimes:
    """The frames shown at times that were written down of them, and rounded: the nearest to each.

    Args:
        seconds: since the first frame, ascending.
    """

    seconds: Sequence[float]

    def indices(self, pts_seconds: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """One index for each time; DecodeError if no frame is shown within 1 ms of one."""
        wanted = np.asarray(self.seconds, dtype=np.float64)
        nearest = np.array([np.abs(pts_seconds - second).argmin() for second in wanted], dtype=np.int64)
        far = np.abs(pts_seconds[nearest] - wanted) > _NEAR_SECONDS
        if far.any():
            raise DecodeError(f"it has no frame at {wanted[far][0]:.3f} s")
        return nearest


def frame_gap(pts_seconds: NDArray[np.floating[Any]]) -> float:
    """Seconds from one frame to the next, the median: what the last one is on show for. 0 for a single frame."""
    return float(np.median(np.diff(pts_seconds))) if len(pts_seconds) > 1 else 0.0


def frame_rate(
    pts_seconds: NDArray[np.floating[Any]], nominal: float | None, tolerance_seconds: float = _NEAR_SECONDS
) -> float | None:
    """Frames per second of frames shown at `pts_seconds`, ascending.

    Args:
        pts_seconds: float [T].
        nominal: the rate that is claimed, as by a header. It is the answer where no frame is further than
            `tolerance_seconds` from its time at this rate, because containers round times, and for a single frame.
        tolerance_seconds: by default what Matroska and FLV round to.

    Returns:
        The nominal rate, or else the mean of the frames' own; None if neither is known.
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
    """Indices of the frames whose time t is `start_seconds` <= t < `stop_seconds`; None: no bound.

    So parts that follow one another share no frame, and leave none out.

    Raises:
        DecodeError: there is none.
    """
    start = -math.inf if start_seconds is None else start_seconds
    stop = math.inf if stop_seconds is None else stop_seconds
    found = np.flatnonzero((pts_seconds >= start) & (pts_seconds < stop))
    if len(found) == 0 and len(pts_seconds):
        end = "its end" if stop_seconds is None else f"{stop:g} s"
        raise DecodeError(f"it has no frame from {max(start, 0):g} s to {end}; the last is at {pts_seconds[-1]:.3f} s")
    return found
