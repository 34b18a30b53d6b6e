"""Which frames of a video are taken."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError


def at_rate(pts_seconds: NDArray[np.floating[Any]], fps: float) -> NDArray[np.int64]:
    """Indices of the frames on show at the times 0, 1/fps, 2/fps, … after the first frame.

    A frame is on show from its own time until the next one's, so a variable frame rate is handled; a rate above the
    video's takes every frame once, never twice.

    Args:
        pts_seconds: float [T], ascending: when each frame is to be shown.
        fps: frames per second wanted, above 0.

    Raises:
        ConfigError: fps is not above 0.
    """
    if not 0 < fps < math.inf:
        raise ConfigError(f"{fps = }: give a rate above 0, or leave it out for every frame")
    if len(pts_seconds) == 0:
        return np.zeros(0, dtype=np.int64)
    since_start = np.asarray(pts_seconds, dtype=np.float64) - pts_seconds[0]
    gap = float(np.median(np.diff(since_start))) if len(since_start) > 1 else 0.0
    starts = np.append(since_start, since_start[-1] + gap)  # the last frame is on show as long as most are
    ticks = np.ceil((starts - gap / 100) * fps)  # the first time in or after each; decord's seconds are float32
    ticks[0], ticks[1:] = 0, np.maximum(ticks[1:], 1)
    return np.flatnonzero(ticks[:-1] < ticks[1:])
