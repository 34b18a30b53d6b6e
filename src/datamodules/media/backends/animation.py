"""Frames of an animated GIF, PNG or WebP; see `datamodules.media.animation`."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.animation import over_white, read_frames
from datamodules.media.video import Video


def decode(video: Video, indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the frames `indices` of `video`, which ascend; see the package.

    Raises:
        DecodeError: one of them does not come.
    """
    wanted = frozenset(indices)
    for index, frame in enumerate(read_frames(video.path)):
        if index in wanted:
            yield torch.from_numpy(over_white(frame.rgba)).permute(2, 0, 1)
        if index == indices[-1]:
            return
    raise DecodeError(f"it ends before frame {indices[-1]}")
