"""Image files as samples store them: in one format per run, so that stock readers find all images in one column.

| `store_images` | a sample has                                                                            |
|----------------|-----------------------------------------------------------------------------------------|
| jpg            | JPEG files, losslessly; all other images as JPEG of quality 95                          |
| png            | PNG files, and all other images as PNG, losslessly                                      |
| original       | every file byte for byte, whatever its format: stock readers find a column for each     |

The content of a file decides its format, not its name. A converted image is upright and has the pixels that
`decode_image` gives. Except for `original`, all metadata but the orientation is dropped: stock readers parse all of it,
and fail where it is damaged.
"""

import io
import struct
import zlib
from typing import Literal, get_args

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.metadata import separate
from datamodules.media.suffixes import image_ending

Stored = Literal["jpg", "png", "original"]
StoreImages = Stored | bool

_SIGNATURES = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_END_OF_IHDR = 33  # in a PNG file, whose first chunk is always the header of 25 bytes
_JPEG_QUALITY = 95


def stored_as(option: StoreImages | None) -> Stored | None:
    """Return the format for a value of `--model.store_images`: `true` is `jpg`; None: no image is stored.

    Raises:
        ConfigError: the value is none of these.
    """
    if option is True:
        return "jpg"
    if option and option not in get_args(Stored):
        raise ConfigError(f"--model.store_images {option}: choose from {', '.join(get_args(Stored))}, false")
    return option or None


def stored_ending(name: str, store: Stored) -> str:
    """Return the extension, without its dot, that a sample gives to the image of the file `name`."""
    return image_ending(name) if store == "original" else store


def as_stored(content: bytes, name: str, store: Stored) -> bytes:
    """Return the file that a sample stores for an image.

    Args:
        content: of the image's file.
        name: of that file, for errors.
        store: see the module's table.

    Raises:
        DecodeError: it cannot be decoded, or is too large for the format.
    """
    if store == "original":
        return content
    if content.startswith(_SIGNATURES[store]):
        plain, orientation, _ = separate(content)
        return plain if orientation in (None, 1) else _with_orientation(plain, orientation, store)
    from PIL import Image

    from datamodules.media.image import decode_image

    pixels, buffer = decode_image(content, name).permute(1, 2, 0).numpy(), io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, {"jpg": "JPEG", "png": "PNG"}[store], quality=_JPEG_QUALITY)
    except (OSError, ValueError) as error:  # a side of JPEG has at most 65,500 px
        size = f"{pixels.shape[1]}x{pixels.shape[0]} px"
        raise DecodeError(
            f"{name} of {size} cannot be stored as {store} ({error}): use another --model.store_images"
        ) from error
    return buffer.getvalue()


def _with_orientation(content: bytes, orientation: int, store: Literal["jpg", "png"]) -> bytes:
    """Put EXIF with nothing but `orientation` into a JPEG or PNG file that has no metadata."""
    from PIL import ExifTags, Image

    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    exif = tags.tobytes()
    if store == "jpg":
        start, block = 2, struct.pack(">2sH", b"\xff\xe1", 2 + len(exif)) + exif  # APP1, after the start of image
    else:
        chunk = b"eXIf" + exif.removeprefix(b"Exif\0\0")
        start = _END_OF_IHDR
        block = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:start] + block + content[start:]
