"""Packets of a video stream to frames, all in one thread."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from datamodules.errors import DecodeError
from datamodules.media.limits import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


_TOO_LARGE = ("exceeds specified max pixel count", "exceeds limit")  # in the logs of FFmpeg and of libdav1d


def decode_stream(
    container: "InputContainer",
    stream: "VideoStream",
    start: int,
    restarts: Collection[int] = (),
    strict_from: int | None = None,
) -> Iterator[tuple[int, "VideoFrame"]]:
    """Decode a stream from one of its packets on.

    Args:
        container: the file, at its beginning.
        stream: of the container.
        start: index of the first packet to decode.
        restarts: indices of packets before which the decoder is drained and reset.
        strict_from: index of the first packet that must be decoded: errors before it are ignored. None: errors are
            ignored until the first frame comes.

    Yields:
        (index of the frame's packet, frame), in the decoder's order.

    Raises:
        av.FFmpegError: a packet cannot be decoded.
        DecodeError: a frame has more than `MAX_PIXELS`.
    """
    import av

    codec = stream.codec_context
    codec.thread_type, codec.copy_opaque = "NONE", True
    has_begun, index = False, -1
    for packet in container.demux(stream):
        index += packet.size > 0  # the last packet is empty, and drains the decoder
        if index < start:
            continue
        frames = []
        if index in restarts and packet.size > 0:
            frames = codec.decode(None)
            codec.flush_buffers()
        # `opaque` travels to the packet's frame. It is a new tuple, because PyAV files it by its address, and the small
        # ints of two decoders would share one.
        packet.opaque = (index,)
        try:
            with _naming_the_size_limit():
                frames += packet.decode()
        except av.FFmpegError:
            if has_begun or (strict_from is not None and index >= strict_from):
                raise
        has_begun = has_begun or bool(frames)
        yield from ((cast(tuple[int], frame.opaque)[0], frame) for frame in frames)


@contextmanager
def _naming_the_size_limit() -> Iterator[None]:
    """Raise DecodeError for a frame that the decoder refuses for its size, which only FFmpeg's log says."""
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
