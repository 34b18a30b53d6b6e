"""decord 0.6.0, the last release, of 2021; one thread.

decord gives wrong frames of some files and says nothing, so it gets only files where that cannot happen:

- MP4, QuickTime, Matroska and WebM. It hangs on MPEG-TS.
- Files of which it counts the same frames, at the same times, as the packets do. It counts wrongly where an edit list
  hides frames, and hangs on files that hold fewer frames than they promise.
- Files whose every packet shows a frame, in the order that the codec's headers prove. decord's times are those of the
  container. Where its decoder drops frames, as at the open beginning of a stream, later frames would take their times.

All frames up to the last requested one are decoded. To seek, decord trusts every keyframe, and so gives wrong frames of
intra-refresh streams.
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


def require() -> None:
    """Return: importing this module has loaded decord's library."""


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the frames `indices` of `video`, see `Backend.decode`.

    Raises:
        DecodeError: decord cannot read the file, or cannot be trusted with it.
    """
    video.require_indexed("decord")
    if video.num_streams > 1:
        raise DecodeError("decord cannot choose between several video streams")
    try:
        reader = decord.VideoReader(ffmpeg_url(video.path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(video.pts_seconds):
            raise DecodeError(f"decord counts {len(reader)} frames where the file shows {len(video.pts_seconds)}")
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
        video.require_times("decord", range(len(times)), times - times[0])
        requested = frozenset(indices)
        for index in range(indices[-1] + 1):
            frame = reader.next()
            if index in requested:
                yield torch.from_numpy(frame.asnumpy()).permute(2, 0, 1)
    except _ERRORS as error:
        raise DecodeError(f"decord: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the part of decord's message that means something to users."""
    text = " ".join(str(error).split())
    return "it has no decoder for it" if "st_nb >= 0" in text else text.rpartition(": ")[2][:160] or "no frame came"
