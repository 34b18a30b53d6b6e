"""Frames of an animated GIF, PNG or WebP; see `datamodules.media.animation`."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.animation import over_white, read_animation

if TYPE_CHECKING:
    from datamodules.media.video import Video


def require() -> None:
    """Return: Pillow and PyAV are always installed."""


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the frames `indices` of `video`, see `Backend.decode`.

    Raises:
        DecodeError: the animation ends earlier than when it was opened.
    """
    requested = frozenset(indices)
    for index, frame in enumerate(read_animation(video.path)):
        if index in requested:
            yield torch.from_numpy(over_white(frame.rgba)).permute(2, 0, 1)
        if index == indices[-1]:
            return
    raise DecodeError(f"it ends before frame {indices[-1]}")
