"""Common JPEGs decoded by libjpeg-turbo alone, in some 0.6 of the time that Pillow takes.

Pillow decodes with libjpeg-turbo too, but strip by strip, into pixels of 4 bytes, and copies them. The pixels are the
same, because both use the accurate transform and smooth upsampling. Each brings its own build of the library, so a
process compares their pixels before it relies on that.
"""

import io
from functools import cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from datamodules.media.limits import MAX_PIXELS

_START, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_MAX_SCANS = 100  # and bytes that look like one; see `datamodules.media.image`
_SUBSAMPLINGS = ("444", "422", "420", "440", "411")


def decode_jpeg(content: bytes) -> NDArray[np.uint8] | None:
    """Decode a JPEG of YCbCr, the colours of nearly all.

    Args:
        content: of the file. EXIF's orientation is not applied.

    Returns:
        uint8 [H, W, 3], RGB; None: it is another file, damaged, or above a limit, or this machine's builds of
        libjpeg-turbo differ. Pillow decodes it or says why not.
    """
    if not content.startswith(_START) or content.count(_SCAN) > _MAX_SCANS or not _is_like_pillow():
        return None
    return _decode(content)


def _decode(content: bytes) -> NDArray[np.uint8] | None:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours != "YCbCr" or height * width > MAX_PIXELS:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB")
    except ValueError:
        return None
    return pixels


@cache
def _is_like_pillow() -> bool:
    """Return whether both builds of libjpeg-turbo give the same pixels, of each subsampling and way of coding."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8))
    image = coarse.resize((67, 35), Image.Resampling.BICUBIC)  # neither a multiple of 8, to have partial blocks
    contents = [simplejpeg.encode_jpeg(np.array(image), 75, "RGB", subsampling) for subsampling in _SUBSAMPLINGS]
    progressive = io.BytesIO()
    image.save(progressive, "JPEG", quality=75, progressive=True)
    contents.append(progressive.getvalue())
    scans = progressive.getvalue().split(_SCAN)
    contents.append(_SCAN.join(scans[:3]) + _END)  # smoothed, because its last scans are missing
    return all(_equals_pillow(content) for content in contents)


def _equals_pillow(content: bytes) -> bool:
    pixels = _decode(content)
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        return pixels is not None and np.array_equal(pixels, np.asarray(image))
