"""torchcodec in its exact mode; one thread, or NVDEC on a GPU. Needs FFmpeg's libraries on the system.

It gets MP4, QuickTime, Matroska and WebM only: of others (MPEG-TS, MPEG-PS, WMV, AVI) it gives wrong frames. The time
of each frame that it gives is compared with that of the packet; which frame has that time, the headers have proven.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.container import error_text, ffmpeg_url

if TYPE_CHECKING:
    from datamodules.media.video import Video

_FRAMES_PER_CALL = 16  # all frames of a call are in memory at once
_NAME = "torchcodec"
_ON_CPU = "torchcodec-cpu"  # in the facts, where NVDEC was asked for


def require() -> None:
    """Raise ConfigError unless torchcodec is installed and finds FFmpeg's libraries."""
    _decoder_class()


def decode(video: "Video", indices: Sequence[int]) -> Iterator[Tensor]:
    """Yield the frames `indices` of `video`, see `Backend.decode`.

    For a GPU, torchcodec uses NVDEC, or else the CPU: for codecs, formats and sizes that this NVDEC does not have, or
    if the driver's libnvcuvid is missing. `video.facts` names the decoder `torchcodec-cpu` then.

    Raises:
        ConfigError: torchcodec is not installed, or does not find FFmpeg.
        DecodeError: torchcodec cannot read the file, cannot be trusted with it, or gives another frame.
    """
    decoder_class = _decoder_class()
    video.require_indexed(_NAME)
    try:
        decoder = decoder_class(
            ffmpeg_url(video.path),
            stream_index=video.facts["stream"],
            num_ffmpeg_threads=1,
            device=video.decoding.device,
        )
        if video.decoding.device != "cpu" and decoder.cpu_fallback:
            video.rename_backend(_NAME, _ON_CPU)
        for start in range(0, len(indices), _FRAMES_PER_CALL):
            some = list(indices[start : start + _FRAMES_PER_CALL])
            batch = decoder.get_frames_at(some)
            video.require_times(_NAME, some, batch.pts_seconds.numpy() - video.facts["begin_seconds"])
            yield from batch.data
    except (RuntimeError, ValueError, IndexError) as error:  # RuntimeError: any error of FFmpeg
        raise DecodeError(f"{_NAME}: {error_text(error)}") from error


@cache
def _decoder_class() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")  # only this loads FFmpeg's libraries
    except ImportError as error:
        raise ConfigError("backend torchcodec needs `pip install torchcodec`, of a release for this torch") from error
    except RuntimeError as error:
        if "Could not load libtorchcodec" in str(error):
            raise ConfigError(
                "torchcodec finds no FFmpeg libraries (`apt install ffmpeg`), or is not of a release for this torch"
            ) from error
    return VideoDecoder
