"""Still images to RGB frames, through Pillow.

| file                         | becomes                                                            |
|------------------------------|--------------------------------------------------------------------|
| PNG, JPEG, WebP, AVIF, GIF   | RGB; gray is repeated, alpha dropped, CMYK converted, EXIF applied |
| 16-bit gray PNG              | the nearest 8-bit value, v / 257                                   |

Not torchvision, whose decoders are some 30 % faster, but deprecated since 0.29, and whose process dies of a
segmentation fault on some damaged files; it also ignores EXIF in WebP.
"""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.errors import DecodeError, MissingError

_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)  # on damaged files


def read_image(path: Path) -> Tensor:
    """The image in `path`, upright: uint8 [3, H, W], RGB, 0 to 255.

    What the file is decides how it is decoded, not what its name says.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, damaged, animated, or no image.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError(f"{path.name} is missing") from error
    except IsADirectoryError as error:  # any other OSError may be the mount's
        raise DecodeError(f"{path.name} cannot be read: {error.strerror}") from error
    if not content:
        raise DecodeError(f"{path.name} is empty (0 bytes)")
    try:
        pixels = _decode(content)
    except _ERRORS as error:
        reason = " ".join(str(error).replace(" <_io.BytesIO object", "").split())
        raise DecodeError(f"{path.name} cannot be decoded ({len(content)} bytes): {reason[:200]}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _decode(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(content)) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"it is animated, {image.n_frames} frames where one image is wanted")  # type: ignore[attr-defined]
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16 bits; Pillow would cut them off at 255
            gray = ((np.asarray(image, dtype=np.int32) + 128) // 257).clip(0, 255).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
