"""torchcodec in its exact mode; one thread, or NVDEC on a GPU. Needs FFmpeg's libraries on the system.

It is asked for MP4, QuickTime, Matroska and WebM only: of others (MPEG-TS, MPEG-PS, WMV, AVI) it gives wrong frames.
The time of each frame that it decodes is compared with that of the packet; which frame this is, headers have proven.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.container import ffmpeg_url, said

if TYPE_CHECKING:
    from datamodules.media.video import Video

_AT_ONCE = 16  # frames: what one call holds in memory


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """The frames `indices` of `video`; see the package.

    Raises:
        ConfigError: torchcodec is not installed, or does not find FFmpeg.
        DecodeError: one of them does not come, or another one in its place.
    """
    decoder_class = _decoder_class()
    video.require_indexed("torchcodec")
    try:
        decoder = decoder_class(
            ffmpeg_url(video.path),
            stream_index=video.facts["stream"],
            num_ffmpeg_threads=1,
            device=video.decoding.device,
        )
        for start in range(0, len(indices), _AT_ONCE):
            some = list(indices[start : start + _AT_ONCE])
            batch = decoder.get_frames_at(some)
            video.require_times("torchcodec", some, batch.pts_seconds.numpy() - video.facts["begin_seconds"])
            yield from batch.data
    except (RuntimeError, ValueError, IndexError) as error:  # RuntimeError: whatever FFmpeg says
        raise DecodeError(f"torchcodec: {said(error)}") from error


@cache
def _decoder_class() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")  # only this looks for FFmpeg's libraries
    except ImportError as error:
        raise ConfigError("backend torchcodec needs `pip install torchcodec`, of a release for this torch") from error
    except RuntimeError as error:
        if "Could not load libtorchcodec" in str(error):
            raise ConfigError(
                "torchcodec finds no FFmpeg libraries (`apt install ffmpeg`), or is not of a release for this torch"
            ) from error
    return VideoDecoder


def require() -> None:
    """ConfigError unless torchcodec works here."""
    _decoder_class()
