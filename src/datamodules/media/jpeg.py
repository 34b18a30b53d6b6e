"""JPEGs decoded on the GPU by nvJPEG, through torchvision. Workers read the files and parse only their headers.

| file                                            | becomes                                                      |
|-------------------------------------------------|--------------------------------------------------------------|
| JPEG, baseline or progressive, YCbCr or gray;   | RGB, EXIF's orientation applied; values are nvJPEG's, which  |
| of several images (MPO) the first               | differ from Pillow's: `benchmarks/holistic.py --decoders`    |
| JPEG of CMYK or RGB; PNG, and all others        | a failure, whose reason names Pillow                         |
| cut off, or damaged such that nvJPEG notices    | a failure                                                    |
"""

import io
import re
import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.image import open_image, upright
from datamodules.media.metadata import START_OF_SCAN, jpeg_segments

_USE_PILLOW = "--data.decoding.images pillow takes it"
_END_OF_IMAGE = b"\xff\xd9"
_FIRST_WITH_SIDES_SWAPPED = 5  # EXIF orientations from 5 on exchange width and height
# torchvision names nvjpegStatus_t by number: 3 BAD_JPEG, 4 JPEG_NOT_SUPPORTED, 9 IMPLEMENTATION_NOT_SUPPORTED,
# 10 INCOMPLETE_BITSTREAM; 5 ALLOCATOR_FAILURE
_REFUSED = re.compile(r"Unknown chroma subsampling|Failed to (?!synchronize)[^:]*: (3|4|9|10)\b")
_NO_MEMORY = re.compile(r"Failed to (?!synchronize)[^:]*: 5\b")


class Jpeg(NamedTuple):
    """A JPEG to decode.

    Attributes:
        content: the file without metadata.
        name: of the file, for errors.
        size: (height, width) in px, upright.
        orientation: EXIF orientation, 1 to 8.
    """

    content: bytes
    name: str
    size: tuple[int, int]
    orientation: int


def read_jpeg(content: bytes, name: str) -> Jpeg:
    """Parse the header of a file that nvJPEG is to decode.

    Args:
        content: of the file.
        name: of the file, for errors.

    Raises:
        DecodeError: it is not a JPEG, has colours that nvJPEG would misread, or is cut off.
    """
    with open_image(content, name) as file:
        if reason := _refusal(file.image):
            raise DecodeError(f"{name} {reason}, and nvJPEG takes JPEGs of YCbCr or gray: {_USE_PILLOW}")
        width, height = file.image.size
    scan = next((start for marker, start, _ in jpeg_segments(file.content) if marker == START_OF_SCAN), 0)
    if file.content.find(_END_OF_IMAGE, scan) < 0:  # tables before the scan may have the same bytes
        raise DecodeError(f"{name} cannot be decoded ({len(content)} bytes): it is cut off")
    size = (width, height) if file.orientation >= _FIRST_WITH_SIDES_SWAPPED else (height, width)
    return Jpeg(file.content, name, size, file.orientation)


def decode_jpegs(jpegs: Sequence[Jpeg], device: torch.device) -> Tensor | list[Tensor]:
    """Decode a batch of JPEGs.

    Args:
        jpegs: from `read_jpeg`.
        device: a GPU; or the CPU, in tests.

    Returns:
        uint8 [B, 3, H, W], or a list of [3, H, W] where sizes differ; RGB, upright, on `device`.

    Raises:
        DecodeError: nvJPEG refuses one of them, and gives none: try them one by one.
        MemoryError: the GPU's memory does not suffice.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # takes a second, also in each worker

    contents = [torch.frombuffer(bytearray(jpeg.content), dtype=torch.uint8) for jpeg in jpegs]
    if device.type == "cuda":
        # the decoder runs on a stream of its own, which does not wait for kernels that still use the memory it is given
        torch.cuda.current_stream(device).synchronize()
    try:
        with warnings.catch_warnings():
            # the function is deprecated in favour of torchcodec's, which do not decode batches yet
            warnings.filterwarnings("ignore", message=".*deprecated")
            frames: list[Tensor] = decode_jpeg(contents, ImageReadMode.RGB, device)
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            raise MemoryError("nvJPEG is out of memory") from error
        if not _REFUSED.search(str(error)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DecodeError(
            f"{jpegs[0].name} is refused by nvJPEG ({reason}): {_USE_PILLOW}, unless it is damaged"
        ) from error
    frames = [_upright(frame, jpeg) for frame, jpeg in zip(frames, jpegs, strict=True)]
    return torch.stack(frames) if len({frame.shape for frame in frames}) == 1 else frames


@cache
def require_nvjpeg(device: torch.device) -> None:
    """Check that nvJPEG works, by decoding a small JPEG on `device`.

    Raises:
        ConfigError: `device` is not a GPU, or torchvision is built without nvJPEG.
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
    """Return why nvJPEG would not decode `image` as Pillow does; None if it would."""
    if image.format not in ("JPEG", "MPO"):
        return f"is not a JPEG, but {image.format}"
    if image.mode not in ("L", "RGB"):
        return f"is a JPEG of {image.mode}"
    if "jfif" not in image.info and image.info.get("adobe_transform") == 0 and image.mode == "RGB":
        return "is a JPEG of RGB"
    return None


def _upright(frame: Tensor, jpeg: Jpeg) -> Tensor:
    frame = upright(frame, jpeg.orientation)
    if frame.shape != (3, *jpeg.size):
        expected = (3, *jpeg.size)
        raise DecodeError(f"{jpeg.name}: nvJPEG returned a frame of {tuple(frame.shape)}, and {expected} is expected")
    return frame
