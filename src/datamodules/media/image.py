"""Still images to RGB frames, through Pillow; common JPEGs through libjpeg-turbo alone, to the same pixels.

| file                         | becomes                                                                          |
|------------------------------|----------------------------------------------------------------------------------|
| PNG, JPEG, WebP, AVIF, GIF,  | RGB; gray is repeated, alpha dropped, CMYK converted, EXIF's orientation applied |
| BMP, TIFF, JPEG 2000, HEIC   |                                                                                  |
| 10- to 16-bit gray           | the nearest 8-bit value of the file's range: v / 257 for 16 bits                 |
| 16-bit colour, 16-bit gray   | the higher byte, v / 256 rounded down: Pillow gives no more                      |
| with alpha                   |                                                                                  |
| TIFF whose 0 is white        | the same image, not inverted                                                     |
| JPEG with several images     | the first, the photograph; the others are its depth or gain map                  |
| (MPO, of phones)             |                                                                                  |

Pillow may open no other format. It would run Ghostscript, which executes PostScript, on a file that begins with `%!PS`,
and has decoders of dozens of formats that are seldom used and tested.

Metadata is dropped before Pillow sees it, and only the orientation is read: see `datamodules.media.metadata`.

Refused are animations, TIFFs of several pages, images of more pixels than Pillow's limit against decompression bombs
(178,956,970), and values of unknown range: floating point, signed integers, and gray of more than 16 bits.

torchvision's decoders are faster than Pillow, but deprecated since 0.29, end the process by a segmentation fault on
some damaged files, and ignore EXIF in WebP.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from datamodules.errors import DecodeError, FramemillError
from datamodules.media.content import read_file
from datamodules.media.limits import MAX_DECODING_BYTES, MAX_DECODING_BYTES_PER_PIXEL, limited_memory
from datamodules.media.metadata import Separated, read_orientation, separate
from datamodules.media.suffixes import HAS_HEIF
from datamodules.media.turbo_jpeg import decode_jpeg

if HAS_HEIF:
    from pillow_heif import register_heif_opener

    register_heif_opener()

# Pillow's names of all formats that are read, see docs/images.md
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", *(("HEIF",) if HAS_HEIF else ()))

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]  # [H, W, 3]

_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _YCBCR_SUBSAMPLING = 258, 339, 530  # TIFF tags
_UNSIGNED = 1
# the header of a scan of 1 to 4 components; these four bytes hardly occur by chance, in a video behind a photograph say
_JPEG_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
# as in libtiff; encoders write about ten, and even an empty scan of 10 bytes makes the decoder visit every pixel
_MAX_JPEG_SCANS = 100

_UPRIGHT: dict[int, Callable[[Tensor], Tensor]] = {  # by EXIF orientation; takes [3, H, W]
    2: lambda frame: frame.flip(2),
    3: lambda frame: frame.flip(1, 2),
    4: lambda frame: frame.flip(1),
    5: lambda frame: frame.transpose(1, 2),
    6: lambda frame: frame.transpose(1, 2).flip(2),
    7: lambda frame: frame.transpose(1, 2).flip(1, 2),
    8: lambda frame: frame.transpose(1, 2).flip(1),
}


class OpenedImage(NamedTuple):
    """An image file whose header has been read.

    Attributes:
        image: Pillow's image, neither decoded nor turned.
        content: the file without metadata.
        orientation: EXIF orientation, 1 to 8.
        white_is_zero: whether the values of `image` are inverted.
    """

    image: Image.Image
    content: bytes
    orientation: int
    white_is_zero: bool


def read_image(path: Path) -> Tensor:
    """Read an image file. Its content decides how it is decoded, not its name.

    Returns:
        uint8 [3, H, W], RGB, 0 to 255, upright.

    Raises:
        MissingError: the file is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, damaged, animated, or not an image.
    """
    return decode_image(read_file(path), path.name)


def decode_image(content: bytes, name: str) -> Tensor:
    """Decode an image file that is in memory, as `read_image` does.

    Args:
        content: of the file.
        name: of the file, for errors.

    Returns:
        uint8 [3, H, W], RGB, 0 to 255, upright.

    Raises:
        DecodeError: it is damaged, animated, or not an image.
    """
    if (common := decode_jpeg(content)) is not None:
        return upright(torch.from_numpy(common).permute(2, 0, 1), separate(content).orientation or 1)
    with open_image(content, name) as file:
        pixels = _pixels(file.image, name)
    frame = torch.from_numpy(255 - pixels if file.white_is_zero else pixels).permute(2, 0, 1)
    return upright(frame, file.orientation)


def upright(frame: Tensor, orientation: int) -> Tensor:
    """Turn and mirror `frame`, [3, H, W], by its EXIF orientation, 1 to 8."""
    return _UPRIGHT[orientation](frame) if orientation in _UPRIGHT else frame


@contextmanager
def open_image(content: bytes, name: str) -> Iterator[OpenedImage]:
    """Open an image file with Pillow, which reads its header, and turn Pillow's errors in the block into DecodeError.

    Keep the block to calls of Pillow and to what reads their results, so a bug elsewhere does not count as the
    fault of a file.

    Args:
        content: of the file.
        name: of the file, for errors.

    Raises:
        DecodeError: Pillow fails, here or in the block.
    """
    try:
        with warnings.catch_warnings():
            # warnings are about what Pillow copes with, such as damaged EXIF and half as many pixels as its limit
            warnings.simplefilter("ignore")
            separated = separate(content)
            with Image.open(io.BytesIO(separated.content), formats=IMAGE_FORMATS) as image:
                _require_few_scans(image, separated.content)
                yield OpenedImage(image, separated.content, _orientation(image, separated), separated.white_is_zero)
    except (FramemillError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(IMAGE_FORMATS)
        raise DecodeError(
            f"{name} cannot be decoded ({len(content)} bytes): it is not one of {formats}, or damaged at its beginning"
        ) from error
    # No documentation lists all that Pillow raises (SyntaxError, struct.error, IndexError, …). The bytes are in memory,
    # so the file must be the cause.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DecodeError(
            f"{name} cannot be decoded ({len(content)} bytes): {reason[:200] or type(error).__name__}"
        ) from error


def _require_few_scans(image: Image.Image, content: bytes) -> None:
    if image.format in ("JPEG", "MPO") and (count := len(_JPEG_SCAN.findall(content))) > _MAX_JPEG_SCANS:
        raise ValueError(f"it has {count:,} scans; the limit is {_MAX_JPEG_SCANS}")


def _orientation(image: Image.Image, separated: Separated) -> int:
    if separated.orientation is not None:
        return separated.orientation
    if image.format == "HEIF":
        return 1  # pillow-heif turns images itself
    exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    return read_orientation(exif, b"" if image.format == "AVIF" else xmp)


def _load(image: Image.Image, name: str) -> None:
    """Decode `image`; JPEG 2000 and TIFF within the memory that their size explains.

    The limit would count the stacks of threads, which the decoders of these two formats do not start.
    """
    if image.format not in ("JPEG2000", "TIFF"):
        image.load()
        return
    num_bytes = MAX_DECODING_BYTES + image.width * image.height * MAX_DECODING_BYTES_PER_PIXEL
    with limited_memory(name, num_bytes):
        try:
            image.load()
        except OSError as error:  # openjpeg reports no lack of memory
            limit = f"{num_bytes >> 20:,} MiB of memory, the limit for its size"
            raise ValueError(f"{error}; it is damaged, or takes more than {limit}") from error


def _pixels(image: Image.Image, name: str) -> Pixels:
    """Return the decoded pixels of `image`, neither turned nor inverted."""
    if getattr(image, "is_animated", False):  # `n_frames` would read all frames of a GIF
        raise ValueError("it is animated: list it with a corpus of videos")
    if reason := _unknown_range(image):
        raise ValueError(reason)
    _load(image, name)
    if image.mode.startswith("I;16"):
        return _to_8_bits(np.asarray(image, dtype=np.uint32), num_bits=_num_bits(image))
    if image.mode == "La":  # premultiplied gray, which Pillow converts only to LA
        image = image.convert("LA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _unknown_range(image: Image.Image) -> str | None:
    """Return why the colours that the values of `image` stand for are unknown; None if they are known."""
    if image.mode == "F":
        return "it has floating-point values, and does not say which value is white"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if set(image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))) != {_UNSIGNED}:
            return "it has signed values, and does not say which value is white"
        if image.mode == "YCbCr" and image.tag_v2.get(_YCBCR_SUBSAMPLING, (2, 2)) != (1, 1):
            return "it has subsampled colours without compression, which Pillow cannot read"
    if image.mode == "I":
        return "it has gray values of 32 bits, and does not say which value is white"
    return None


def _num_bits(image: Image.Image) -> int:
    """Return the number of bits of a value in a gray image that has more than 8."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[_BITS_PER_SAMPLE][0])
    return 16  # PNG; and JPEG 2000, whose values Pillow scales to 16 bits


def _to_8_bits(gray: np.ndarray[tuple[int, ...], np.dtype[np.uint32]], num_bits: int) -> Pixels:
    """Return the nearest 8-bit value of each, repeated for RGB; Pillow would clip values at 255 instead."""
    white = (1 << num_bits) - 1
    return np.repeat(((gray * 255 + white // 2) // white).astype(np.uint8)[..., None], 3, axis=2)
