"""Videos, opened by PyAV."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules.errors import DecodeError, FramemillError
from datamodules.media.first_bytes import read_head, require_whole_matroska
from datamodules.media.limits import MAX_INDEX_BYTES, MAX_PIXELS, limited_memory, require_pixels

# playlists and the like would open what they name: other files, addresses
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,ivf,obu,h264,hevc,m4v,mxf,nut,rm,dv,wtv,3gp,"
    "apng"
)
_TRUSTED = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
_DECODER_LIMITS = {"max_pixels": str(MAX_PIXELS)}


def ffmpeg_url(path: Path) -> str:
    """The address under which FFmpeg opens exactly the file `path`, whatever its name.

    Without the protocol FFmpeg takes the beginning of `12:30 talk.mp4` for one, and opens x.mp4 for `file:x.mp4`.
    """
    return f"file:{path.absolute()}"


@contextmanager
def decoder_errors(where: str) -> Iterator[None]:
    """Turn what a decoder library raises in the block into a DecodeError with its type and message.

    Nobody documents what these libraries raise on damaged and unusual files. Whatever it is, the file caused it: it
    must fail one item, and not end the worker. Keep the block to calls of a library and what reads its answers; a bug
    of ours elsewhere still ends the process.

    Args:
        where: the file or the library, for the message.

    Raises:
        DecodeError: for any exception but those below.
        FramemillError, MemoryError: as they are.
        OSError: likewise, if the file system raised it. FFmpeg's errors are OSErrors too where they share a number.
    """
    import av

    try:
        yield
    except (FramemillError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
            raise
        raise DecodeError(f"{where}: {type(error).__name__}: {said(error)}") from error


def open_container(path: Path) -> Any:
    """The file, opened by PyAV; to be closed.

    Raises:
        MissingError, OSError: see `read_head`.
        DecodeError: it is empty, cut off, or of a format that is not read.
    """
    import av

    require_whole_matroska(path, read_head(path))
    try:
        return open_url(ffmpeg_url(path))
    except av.ArgumentError as error:
        raise DecodeError(f"{path.name} does not open as a video: {_refusal(path)}") from error
    except av.FFmpegError as error:
        raise DecodeError(f"{path.name} does not open as a video: {said(error)}") from error


def _refusal(path: Path) -> str:
    """Why FFmpeg refuses to open a file whose format is not in `_FORMATS`; only its log has the name of the format."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)  # prints nothing, but has PyAV keep what FFmpeg logs
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


def open_url(url: str) -> Any:
    """The file at `url`, whose decoders use one thread each and refuse frames of more than `MAX_PIXELS`."""
    import av

    with limited_memory(os.path.basename(url), MAX_INDEX_BYTES):
        container = av.open(url, metadata_errors="replace", options=_TRUSTED)
    for stream in container.streams:
        if (codec := stream.codec_context) is not None:
            codec.options = _DECODER_LIMITS
            codec.thread_count = 1  # not only `thread_type`, which libdav1d does not know
    return container


def video_stream(container: Any, number: int | None) -> Any:
    """The video stream with that number in the file; None: the one that FFmpeg takes for the best.

    Raises:
        DecodeError: there is none, or no decoder for it.
    """
    from av.stream import Disposition

    name = os.path.basename(container.name)
    stream = container.streams.best("video") if number is None else None
    if number is not None:
        found = [s for s in container.streams.video if s.index == number]
        if not found:
            there = ", ".join(str(s.index) for s in container.streams.video) or "none"
            raise DecodeError(f"{name} has no video stream {number}; its video streams: {there}")
        stream = found[0]
    if stream is None or stream.disposition & Disposition.attached_pic:  # the cover of a record
        raise DecodeError(f"{name} has no video stream")
    if stream.codec_context is None:
        raise DecodeError(f"{name}: there is no decoder for its video stream {stream.index}")
    require_pixels(name, stream.codec_context.width, stream.codec_context.height)
    return stream


def said(error: BaseException) -> str:
    """FFmpeg's words, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:160]
