"""Packets of a video stream to frames."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from datamodules.errors import DecodeError
from datamodules.media.limits import MAX_PIXELS

_TOO_LARGE = ("exceeds specified max pixel count", "exceeds limit")  # in the words of FFmpeg, and of libdav1d


def decoded(
    container: Any, stream: Any, begin: int, restarts: Collection[int] = (), first: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Decode `stream` from one of its packets on.

    Args:
        container: the file, at its beginning.
        stream: of its streams.
        begin: place of the first packet to decode.
        restarts: places of packets before which the decoder is emptied, and begins anew.
        first: place of the first packet that has to be decoded; None: the first that can be. Errors before it count for
            nothing.

    Returns:
        (place of its packet in the stream, frame), in the order in which the decoder gives them.

    Raises:
        av.FFmpegError: a packet cannot be decoded.
        DecodeError: a frame has more than `MAX_PIXELS`.
    """
    import av

    codec = stream.codec_context
    codec.thread_type, codec.copy_opaque = "NONE", True
    has_begun, place = False, -1
    for packet in container.demux(stream):
        place += packet.size > 0  # an empty one comes at the end, and empties the decoder
        if place < begin:
            continue
        frames = []
        if place in restarts and packet.size > 0:
            frames = codec.decode(None)
            codec.flush_buffers()
        packet.opaque = (place,)  # PyAV files it by its address, and two decoders would share that of a small int
        try:
            with _naming_the_size_limit():
                frames += packet.decode()
        except av.FFmpegError:
            if has_begun or (first is not None and place >= first):
                raise
        has_begun = has_begun or bool(frames)
        yield from ((frame.opaque[0], frame) for frame in frames)


@contextmanager
def _naming_the_size_limit() -> Iterator[None]:
    """Raise DecodeError for a frame that a decoder refuses for its size, which only FFmpeg's log says."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as log:
            yield
    except av.FFmpegError as error:
        if any(words in message for _, _, message in log for words in _TOO_LARGE):
            raise DecodeError(f"a frame is larger than the limit of {MAX_PIXELS:,} px") from error
        raise
    finally:
        av.logging.set_level(level)
