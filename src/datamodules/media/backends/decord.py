"""decord 0.6.0, the last release, of 2021; one thread.

It is asked for MP4, QuickTime, Matroska and WebM only, and only where it finds the same frames at the same times as the
packets do: it hangs on MPEG-TS and on files that hold fewer frames than they promise, and counts wrongly where an edit
list hides some. These times are the header's. Of the frames it says nothing: where its decoder leaves some out, as at
the open beginning of a stream, later ones take their places. So it is asked only where every packet shows a frame, in
the order that the pictures' headers prove. Every frame up to the last wanted one is decoded: left to itself it would
seek, take every keyframe at its word, and give wrong frames of intra-refresh streams.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import decord
import numpy as np
import torch
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.container import ffmpeg_url

if TYPE_CHECKING:
    from datamodules.media.video import Video

_ERRORS = (decord.DECORDError, RuntimeError, IndexError, StopIteration)  # decord raises all of them on damaged files
decord.logging.set_level(decord.logging.QUIET)


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """The frames `indices` of `video`; see the package.

    Raises:
        DecodeError: one of them does not come, or another one in its place.
    """
    video.require_indexed("decord")
    if video.num_streams > 1:
        raise DecodeError("decord cannot be told which of several video streams to take")
    try:
        reader = decord.VideoReader(ffmpeg_url(video.path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(video.pts_seconds):
            raise DecodeError(f"decord counts {len(reader)} frames where the file shows {len(video.pts_seconds)}")
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        video.require_times("decord", range(len(times)), times - times[0])
        wanted = frozenset(indices)
        for index in range(indices[-1] + 1):
            frame = reader.next()
            if index in wanted:
                yield torch.from_numpy(frame.asnumpy()).permute(2, 0, 1)
    except _ERRORS as error:
        raise DecodeError(f"decord: {_first_words(error)}") from error


def _first_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return "it has no decoder for it" if "st_nb >= 0" in text else text.rpartition(": ")[2][:160] or "no frame came"
