"""Video files, opened by PyAV."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from datamodules.errors import DecodeError, FramemillError
from datamodules.media.first_bytes import read_head, require_whole_matroska
from datamodules.media.limits import MAX_INDEX_BYTES, MAX_PIXELS, limited_memory, require_pixels

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


# FFmpeg's names. Playlists (HLS, DASH, concat, …) are left out, because they open the files and addresses they name.
_VIDEO_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,ivf,obu,h264,hevc,m4v,mxf,nut,rm,dv,wtv,3gp,"
    "apng"
)
_CONTAINER_OPTIONS = {"format_whitelist": _VIDEO_FORMATS, "protocol_whitelist": "file"}
_DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}


def open_container(path: Path) -> "InputContainer":
    """Open a video file with PyAV. The caller closes it.

    Raises:
        MissingError: the file is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, cut off, or of a format that is not read.
    """
    import av

    require_whole_matroska(path, read_head(path))
    try:
        return open_url(ffmpeg_url(path))
    except av.ArgumentError as error:
        raise DecodeError(f"{path.name} does not open as a video: {_describe_refusal(path)}") from error
    except av.FFmpegError as error:
        raise DecodeError(f"{path.name} does not open as a video: {error_text(error)}") from error


def open_url(url: str) -> "InputContainer":
    """Open a file whose first bytes have been checked. Its decoders use one thread and refuse oversized frames.

    Args:
        url: from `ffmpeg_url`, which is also the `name` of an open container.

    Raises:
        av.FFmpegError: FFmpeg does not open it.
        DecodeError: it takes too much memory.
    """
    import av

    with limited_memory(os.path.basename(url), MAX_INDEX_BYTES):
        container = av.open(url, metadata_errors="replace", options=_CONTAINER_OPTIONS)
    for stream in container.streams:
        if (codec := stream.codec_context) is not None:
            codec.options = _DECODER_OPTIONS
            codec.thread_count = 1  # `thread_type` alone is not enough: libdav1d does not know it
    return container


def video_stream(container: "InputContainer", number: int | None) -> "VideoStream":
    """Return a video stream of an open file.

    Args:
        container: of PyAV.
        number: of the stream among all streams, as ffprobe counts; None: FFmpeg's choice of the best.

    Raises:
        DecodeError: there is no such stream, there is no decoder for it, or its frames are too large.
    """
    from av.stream import Disposition

    name = os.path.basename(container.name)
    if number is None:
        stream = cast("VideoStream | None", container.streams.best("video"))
    else:
        stream = next((stream for stream in container.streams.video if stream.index == number), None)
        if stream is None:
            numbers = ", ".join(str(stream.index) for stream in container.streams.video) or "none"
            raise DecodeError(f"{name} has no video stream {number}; its video streams: {numbers}")
    if stream is None or stream.disposition & Disposition.attached_pic:  # a cover image of an audio file
        raise DecodeError(f"{name} has no video stream")
    if stream.codec_context is None:
        raise DecodeError(f"{name}: there is no decoder for its video stream {stream.index}")
    require_pixels(name, stream.codec_context.width, stream.codec_context.height)
    return stream


def stream_at(container: "InputContainer", index: int) -> "VideoStream":
    """Return the video stream with that number among all streams, in a file that has been opened again."""
    return cast("VideoStream", container.streams[index])


def ffmpeg_url(path: Path) -> str:
    """Return the URL under which FFmpeg opens exactly the file `path`, whatever its name.

    Without the protocol, FFmpeg would read the beginning of `12:30 talk.mp4` as one, and open x.mp4 for `file:x.mp4`.
    """
    return f"file:{path.absolute()}"


@contextmanager
def decoder_errors(where: str) -> Iterator[None]:
    """Turn what a decoder library raises in the block into a DecodeError with its type and message.

    No documentation lists what these libraries raise on damaged and unusual files. Whatever it is, the file caused it:
    one item must fail, and the worker go on. Keep the block to calls of a library and to what reads their results, so
    that a bug elsewhere still ends the process.

    Args:
        where: the file or the library, for the message.

    Raises:
        DecodeError: for any exception but those below.
        FramemillError, MemoryError: unchanged.
        OSError: unchanged if the file system raised it. FFmpeg's errors are OSErrors too where they share a number.
    """
    import av

    try:
        yield
    except (FramemillError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise
        raise DecodeError(f"{where}: {type(error).__name__}: {error_text(error)}") from error


def error_text(error: BaseException) -> str:
    """Return the first 160 characters of an error's message, in one line; of FFmpeg's errors without the file name."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:160]


def _describe_refusal(path: Path) -> str:
    """Return why FFmpeg refuses a file whose format is not in `_VIDEO_FORMATS`; only FFmpeg's log names the format."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)  # prints nothing, but lets PyAV keep FFmpeg's log in the error
    log = None
    try:
        open_url(ffmpeg_url(path)).close()
    except av.FFmpegError as error:
        log = error.log
    finally:
        av.logging.set_level(level)
    name = str(log[1]) if log else "unknown"
    if name == "image2" or name.endswith("_pipe"):
        return f"it is a still image ({name}), for a corpus of images"
    return f"its format ({name}) is not read as a video"
