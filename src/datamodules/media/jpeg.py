"""JPEGs that a GPU decodes: by nvJPEG, through torchvision. Workers read the files, and of these the headers.

| file                                            | becomes                                                      |
|-------------------------------------------------|--------------------------------------------------------------|
| JPEG, baseline or progressive, YCbCr or gray;   | RGB, EXIF applied; its values are nvJPEG's, which differ     |
| of several (MPO) the first                      | from Pillow's: `benchmarks/holistic.py --decoders`           |
| JPEG of CMYK or RGB; PNG, and all others        | a failure, which names Pillow                                |
| cut off, or damaged such that nvJPEG says so    | a failure                                                    |
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from PIL import ExifTags, Image
from torch import Tensor

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.image import opened

_WAY_OUT = "--data.decoding.images pillow takes it"
_END = b"\xff\xd9"
_NUM_BYTES_OF_MARKER = 2
_START_OF_SCAN = 0xDA
# torchvision names nvjpegStatus_t by number: 3 BAD_JPEG, 4 JPEG_NOT_SUPPORTED, 9 IMPLEMENTATION_NOT_SUPPORTED,
# 10 INCOMPLETE_BITSTREAM; 5 ALLOCATOR_FAILURE
_REFUSED = re.compile(r"Unknown chroma subsampling|Failed to (?!synchronize)[^:]*: (3|4|9|10)\b")
_NO_MEMORY = re.compile(r"Failed to (?!synchronize)[^:]*: 5\b")

_UPRIGHT: dict[int, Callable[[Tensor], Tensor]] = {  # by EXIF orientation, of [3, H, W]
    2: lambda frame: frame.flip(2),
    3: lambda frame: frame.flip(1, 2),
    4: lambda frame: frame.flip(1),
    5: lambda frame: frame.transpose(1, 2),
    6: lambda frame: frame.transpose(1, 2).flip(2),
    7: lambda frame: frame.transpose(1, 2).flip(1, 2),
    8: lambda frame: frame.transpose(1, 2).flip(1),
}


class Jpeg(NamedTuple):
    """A JPEG that is to be decoded.

    Attributes:
        content: of the file.
        name: of the file, for errors.
        size: (height, width) in px, upright.
        orientation: 1 to 8, by EXIF.
    """

    content: bytes
    name: str
    size: tuple[int, int]
    orientation: int


def read_jpeg(content: bytes, name: str) -> Jpeg:
    """The JPEG in `content`, if nvJPEG is to be asked to decode it.

    Raises:
        DecodeError: it is none, has colours that nvJPEG would take for others, or is cut off.
    """
    with opened(content, name) as image:
        if reason := _refusal(image):
            raise DecodeError(f"{name} {reason}, and nvJPEG takes JPEGs of YCbCr or gray: {_WAY_OUT}")
        if content.find(_END, _scan(content)) < 0:
            raise DecodeError(f"{name} cannot be decoded ({len(content)} bytes): it is cut off")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        width, height = image.size
    return Jpeg(content, name, (width, height) if orientation in (5, 6, 7, 8) else (height, width), orientation)


def decode_jpegs(jpegs: Sequence[Jpeg], device: torch.device) -> Tensor | list[Tensor]:
    """The images, upright: uint8 [B, 3, H, W], or a list of [3, H, W] where sizes differ, RGB, on `device`.

    Raises:
        DecodeError: nvJPEG refuses one of them. There are no others then: try them one by one.
        MemoryError: the memory of the GPU does not suffice.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # takes a second, in each worker too

    contents = [torch.frombuffer(bytearray(jpeg.content), dtype=torch.uint8) for jpeg in jpegs]
    if device.type == "cuda":  # the decoder's stream does not wait for work that still uses memory it is given
        torch.cuda.current_stream(device).synchronize()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deprecated")  # for torchcodec's, which decode no batches yet
            frames: list[Tensor] = decode_jpeg(contents, ImageReadMode.RGB, device)
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            raise MemoryError("nvJPEG is out of memory") from error
        if not _REFUSED.search(str(error)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DecodeError(f"{jpegs[0].name} is refused by nvJPEG ({reason}): {_WAY_OUT}, if anything does") from error
    frames = [_upright(frame, jpeg) for frame, jpeg in zip(frames, jpegs, strict=True)]
    return torch.stack(frames) if len({frame.shape for frame in frames}) == 1 else frames


@cache
def require_nvjpeg(device: torch.device) -> None:
    """Decode a small JPEG on `device`.

    Raises:
        ConfigError: it is no GPU, or torchvision is built without nvJPEG.
    """
    if device.type != "cuda":
        raise ConfigError("--data.decoding.images nvjpeg needs a GPU: --trainer.accelerator gpu, or set pillow")
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        decode_jpegs([read_jpeg(file.getvalue(), "a black JPEG")], device)
    except (RuntimeError, DecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"--data.decoding.images nvjpeg does not work here: {reason}; set pillow") from error


def _refusal(image: Image.Image) -> str | None:
    if image.format not in ("JPEG", "MPO"):
        return f"is no JPEG, but {image.format}"
    if image.mode not in ("L", "RGB"):
        return f"is a JPEG of {image.mode}"
    if "jfif" not in image.info and image.info.get("adobe_transform") == 0 and image.mode == "RGB":
        return "is a JPEG of RGB"
    return None


def _scan(content: bytes) -> int:
    """Where the pixels' first scan begins: what looks like an end before that is a preview's, within EXIF."""
    place = _NUM_BYTES_OF_MARKER
    while place + 4 <= len(content):
        if content[place] != 0xFF or content[place + 1] == 0xFF:  # between segments, which Pillow skips as well
            place += 1
        elif content[place + 1] == _START_OF_SCAN:
            break
        else:
            place += _NUM_BYTES_OF_MARKER + int.from_bytes(content[place + 2 : place + 4], "big")
    return place


def _upright(frame: Tensor, jpeg: Jpeg) -> Tensor:
    if jpeg.orientation in _UPRIGHT:
        frame = _UPRIGHT[jpeg.orientation](frame)
    if frame.shape != (3, *jpeg.size):
        found = tuple(frame.shape)
        raise DecodeError(f"{jpeg.name}: nvJPEG makes {found} of it where (3, {jpeg.size[0]}, {jpeg.size[1]}) is due")
    return frame
