"""Still images to RGB frames, through Pillow.

| file                         | becomes                                                            |
|------------------------------|--------------------------------------------------------------------|
| PNG, JPEG, WebP, AVIF, GIF,  | RGB; gray is repeated, alpha dropped, CMYK converted, EXIF applied |
| BMP, TIFF                    |                                                                    |
| 16-bit gray                  | the nearest 8-bit value, v / 257                                   |
| 16-bit colour                | the higher byte, v / 256 cut off: all that Pillow gives            |
| JPEG of several (MPO), as    | the first, which is the photograph; others are its depth or gain   |
| telephones make              |                                                                    |

Refused are animations, more pixels than Pillow takes for a decompression bomb (178,956,970), and numbers without a
known range: floating point, and gray of more than 16 bits.

Not torchvision, whose decoders are some 30 % faster, but deprecated since 0.29, and whose process dies of a
segmentation fault on some damaged files; it also ignores EXIF in WebP.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.content import read_file

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]  # [H, W, 3]

# on damaged files: TypeError of TIFF, RuntimeError of AVIF
_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, TypeError, RuntimeError, struct.error, Image.DecompressionBombError
)  # fmt: skip


def read_image(path: Path) -> Tensor:
    """The image in `path`, upright: uint8 [3, H, W], RGB, 0 to 255.

    What the file is decides how it is decoded, not what its name says.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, damaged, animated, or no image.
    """
    return decode_image(read_file(path), path.name)


def decode_image(content: bytes, name: str) -> Tensor:
    """The image in `content`, as `read_image` gives it.

    Args:
        content: of the file.
        name: of the file, for errors.

    Raises:
        DecodeError: it is damaged, animated, or no image.
    """
    with opened(content, name) as image:
        return torch.from_numpy(_pixels(image)).permute(2, 0, 1)


@contextmanager
def opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """The image in `content`, of which Pillow has read the header; what it raises in the block is a DecodeError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of what it copes with: half the pixels it takes, damaged EXIF
            with Image.open(io.BytesIO(content)) as image:
                yield image
    except _ERRORS as error:
        reason = " ".join(str(error).partition(" <_io.BytesIO")[0].split())  # whose address tells nothing
        raise DecodeError(f"{name} cannot be decoded ({len(content)} bytes): {reason[:200]}") from error


def _pixels(image: Image.Image) -> Pixels:
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise ValueError(f"it is animated, {image.n_frames} frames where one image is wanted")  # type: ignore[attr-defined]
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image, dtype=np.int32))
    if image.mode == "F":
        raise ValueError("it has floating-point values, and nothing tells which is white")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _from_16_bits(gray: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> Pixels:
    """Each value's nearest of 8 bits; Pillow would cut them off at 255."""
    if gray.min() < 0 or gray.max() > 0xFFFF:
        raise ValueError(f"it has values from {gray.min()} to {gray.max()}, more than 16 bits hold")
    return np.repeat(((gray + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
