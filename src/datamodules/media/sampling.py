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
    times = np.arange(int(since_start[-1] * fps + 1e-6) + 1) / fps
    indices = np.searchsorted(since_start, times + 1e-6, side="right") - 1
    unique: NDArray[np.int64] = np.unique(indices)
    return unique
