"""Animated GIF, PNG and WebP, as browsers show them, whatever `Decoding.backend` is.

GIF and WebP are read by Pillow: FFmpeg 8 does not notice that a GIF was cut off, and does not read animated WebP. PNG
is read by FFmpeg (PyAV): Pillow 13 blends half transparent frames wrongly. Frames are composed by the rules of the
file, transparent pixels are white, and a frame of at most 10 ms is shown for 100 ms, as in Chromium, Firefox and
WebKit.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from PIL import ImageSequence

from datamodules.errors import DecodeError
from datamodules.media.container import error_text, open_container, video_stream
from datamodules.media.content import read_file
from datamodules.media.decoder import decode_stream
from datamodules.media.image import Pixels, open_image
from datamodules.media.limits import require_animation_pixels, require_packets

_PNG = b"\x89PNG\r\n\x1a\n"
_TOO_SHORT_MS, _INSTEAD_MS = 10, 100  # Chromium, blink: `kMinimumDurationForDefault`
# offset of the byte, and the bit: developers.google.com/speed/webp/docs/riff_container
_WEBP_FLAGS, _WEBP_ALPHA = 20, 0x10


class AnimationFrame(NamedTuple):
    """A composed frame.

    Attributes:
        rgba: uint8 [H, W, 4].
        duration_ms: how long the file says to show it.
    """

    rgba: Pixels
    duration_ms: float


def animation_codec(head: bytes) -> str | None:
    """Return `gif`, `png` or `webp`, animated or not, for a file that begins with `head`; None for any other file."""
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(_PNG):
        return "png"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def read_durations(path: Path) -> tuple[tuple[int, int], list[float]]:
    """Decode an animation to learn the size and the durations of its frames, which no header has.

    Returns:
        (height, width) in px, and for how many ms each frame is shown.

    Raises:
        MissingError: the file is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is a still image, damaged, cut off, or above a limit of `limits.py`.
    """
    size: tuple[int, int] = (0, 0)
    durations: list[float] = []
    for frame in read_animation(path):
        size = frame.rgba.shape[0], frame.rgba.shape[1]
        require_packets(path.name, len(durations) + 1)
        require_animation_pixels(path.name, (len(durations) + 1) * size[0] * size[1])
        durations.append(_INSTEAD_MS if frame.duration_ms <= _TOO_SHORT_MS else frame.duration_ms)
    return size, durations


def read_animation(path: Path) -> Iterator[AnimationFrame]:
    """Yield the composed frames of an animation, in order.

    Raises:
        MissingError, OSError, DecodeError: see `read_durations`.
    """
    content = read_file(path)
    return _png_frames(path) if content.startswith(_PNG) else _pillow_frames(content, path.name)


def over_white(rgba: Pixels) -> Pixels:
    """Return uint8 [H, W, 4], RGBA, as it looks on a white page: uint8 [H, W, 3], RGB."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _png_frames(path: Path) -> Iterator[AnimationFrame]:
    import av

    try:
        with open_container(path) as container:
            for _, frame in decode_stream(container, video_stream(container, None), start=0, strict_from=0):
                seconds = frame.duration * cast(Fraction, frame.time_base)
                yield AnimationFrame(cast(Pixels, frame.to_ndarray(format="rgba")), float(1000 * seconds))
    except av.FFmpegError as error:
        raise DecodeError(f"{path.name} cannot be decoded: {error_text(error)}") from error


def _pillow_frames(content: bytes, name: str) -> Iterator[AnimationFrame]:
    if content[8:16] == b"WEBPVP8X":
        # libwebp does not set this flag where only the surroundings of the frames are transparent, and Pillow then
        # drops the alpha channel
        content = content[:_WEBP_FLAGS] + bytes([content[_WEBP_FLAGS] | _WEBP_ALPHA]) + content[_WEBP_FLAGS + 1 :]
    with open_image(content, name) as file:
        if not getattr(file.image, "is_animated", False):
            kind = str(file.image.format).lower()
            raise DecodeError(f"{name} does not open as a video: it is a still image ({kind}), for a corpus of images")
        for image in ImageSequence.Iterator(file.image):
            image.load()
            yield AnimationFrame(np.asarray(image.convert("RGBA")), image.info.get("duration", 0))
