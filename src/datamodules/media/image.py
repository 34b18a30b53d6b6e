"""Still images to RGB frames.

| file                       | decoded by  | becomes                                                            |
|----------------------------|-------------|--------------------------------------------------------------------|
| PNG, JPEG, GIF (one frame) | torchvision | RGB; gray is repeated, alpha dropped, CMYK converted, EXIF applied |
| 16-bit PNG                 | torchvision | the nearest 8-bit value, v / 257                                   |
| WebP, AVIF                 | Pillow      | RGB, alpha dropped, EXIF applied                                   |

Pillow, because torchvision ignores EXIF in WebP and reads no AVIF.
"""

import io
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from datamodules.errors import DecodeError


def read_image(path: Path) -> Tensor:
    """The image in `path`, upright: uint8 [3, H, W], RGB, 0 to 255.

    What the file is decides how it is decoded, not what its name says.

    Raises:
        DecodeError: it is missing, empty, damaged, animated, or no image.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DecodeError(f"{path.name} is missing") from error
    except (IsADirectoryError, PermissionError) as error:  # any other OSError is the mount's, not the file's
        raise DecodeError(f"{path.name} cannot be read: {error.strerror}") from error
    if not content:
        raise DecodeError(f"{path.name} is empty (0 bytes)")
    try:
        if content[8:12] == b"WEBP" or content[4:8] == b"ftyp":
            return _by_pillow(content)
        image: Tensor = decode_image(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB, apply_exif_orientation=True
        )
    except (RuntimeError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DecodeError(f"{path.name} cannot be decoded ({len(content)} bytes): {reason[:200]}") from error
    if image.dim() == 4:
        if len(image) != 1:
            raise DecodeError(f"{path.name} is animated: {len(image)} frames where one image is wanted")
        image = image[0]
    return image if image.dtype == torch.uint8 else ((image.int() + 128) // 257).to(torch.uint8)


def _by_pillow(content: bytes) -> Tensor:
    with Image.open(io.BytesIO(content)) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise OSError(f"animated, {image.n_frames} frames where one image is wanted")  # type: ignore[attr-defined]
        upright = ImageOps.exif_transpose(image).convert("RGB")
    height, width = upright.height, upright.width
    return torch.frombuffer(bytearray(upright.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)
