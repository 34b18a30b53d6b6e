"""PyAV, which brings FFmpeg's newest decoders in its wheel; one thread.

Frames that nobody wants, and on which no other depends, are not decoded: about half of an H.264 file with B-frames.
Before each packet whose frame is not wanted the decoder is told to skip it if it is a non-reference frame. Decoding
begins at the last keyframe before a wanted frame; and at the beginning of the file, with nothing skipped, where that
does not lead to it: some streams (intra-refresh, some edit lists, MPEG-TS) bear keyframes that are none.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.packets import open_container, said, video_stream

if TYPE_CHECKING:
    from datamodules.media.video import Video


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """The frames `indices` of `video`; see the package.

    Raises:
        DecodeError: one of them does not come, or is damaged.
    """
    todo = deque(indices)
    if video.decoding.skip_non_reference:
        with _Reader(video) as reader:
            for first, last in _stretches(video, indices):
                for index, frame in reader.stretch(first, last, todo):
                    ...
    yield from ()
