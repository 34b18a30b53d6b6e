"""Which JPEGs nvJPEG decodes, and that its pixels are those of Pillow.

torchvision decodes them here as it does for a GPU, on the CPU; tests marked `gpu` fail where there is none.
"""

import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.image import decode_image
from datamodules.media.jpeg import decode_jpegs, read_jpeg, require_nvjpeg

CPU = torch.device("cpu")


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """Return an image of smooth colours whose sides all differ: coders keep them within a few values."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 250, height))
    return Image.fromarray(np.stack([x, y, 200 - (x + y) / 3], -1).astype(np.uint8))


def jpeg(mode: str = "RGB", orientation: int | None = 1, size: tuple[int, int] = (40, 24), **options: Any) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture(*size).convert(mode).save(file, "JPEG", quality=90, exif=exif, **options)
    return file.getvalue()


def kinds() -> Iterator[tuple[str, bytes]]:
    for orientation in range(1, 9):
        yield f"orientation {orientation}", jpeg(orientation=orientation)
    yield "gray", jpeg("L")
    yield "progressive", jpeg(progressive=True)
    yield "4:4:4", jpeg(subsampling=0)
    file = io.BytesIO()
    picture().save(file, "MPO", save_all=True, append_images=[picture(20, 12)])
    yield "MPO", file.getvalue()


KINDS = dict(kinds())


def apart(content: bytes, device: torch.device) -> Tensor:
    [result], expected = decode_jpegs([read_jpeg(content, "a.jpg")], device), decode_image(content, "a.jpg")
    assert (result.dtype, result.shape, result.device.type) == (torch.uint8, expected.shape, device.type)
    return (result.cpu().int() - expected.int()).abs()


@pytest.mark.parametrize("kind", KINDS)
def test_jpegs_decode_as_with_pillow(kind: str) -> None:
    assert apart(KINDS[kind], CPU).max() <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_nvjpeg_decodes_as_pillow_but_for_its_upsampling(kind: str) -> None:
    assert torch.cuda.is_available(), "this machine has no GPU: leave out `-m gpu`"
    levels = apart(KINDS[kind], torch.device("cuda"))
    assert levels.float().mean() < 2
    assert levels.max() <= 24


def test_sizes_are_those_of_the_upright_image_and_may_differ() -> None:
    read = [read_jpeg(KINDS[f"orientation {orientation}"], "a.jpg") for orientation in (1, 6)]
    assert [jpeg.size for jpeg in read] == [(24, 40), (40, 24)]
    frames = decode_jpegs(read, CPU)
    assert isinstance(frames, list)
    assert [tuple(frame.shape) for frame in frames] == [(3, 24, 40), (3, 40, 24)]
    alike = decode_jpegs([read[0], read[0]], CPU)
    assert isinstance(alike, Tensor)
    assert alike.shape == (2, 3, 24, 40)


def test_the_deprecation_warning_of_torchvision_is_suppressed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_jpegs([read_jpeg(jpeg(), "a.jpg")], CPU)


def other(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    picture().convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (other("PNG"), r"a\.x is not a JPEG, but PNG, and nvJPEG takes JPEGs of YCbCr or gray: --.* pillow takes it"),
        (jpeg("CMYK"), r"a\.x is a JPEG of CMYK, and nvJPEG"),
        (jpeg(keep_rgb=True), r"a\.x is a JPEG of RGB, and nvJPEG"),
        (jpeg()[:-40], r"a\.x cannot be decoded \(\d+ bytes\): it is cut off"),
        (jpeg(comment=b"\xff\xd9")[:-40], r"it is cut off"),  # where a preview may end
        (b"GIF, so to say", r"a\.x cannot be decoded \(14 bytes\): it is not one of PNG, JPEG, "),
    ],
)  # fmt: skip
def test_files_that_nvjpeg_would_misread_are_refused_with_an_alternative(content: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        read_jpeg(content, "a.x")


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Error while decoding JPEG images: Failed to decode jpeg stream: 4", DecodeError),
        ("Error while decoding JPEG images: Unknown chroma subsampling", DecodeError),
        ("Error while decoding JPEG images: Failed to attach device buffer: 5", MemoryError),
        ("Error while decoding JPEG images: Failed to synchronize CUDA stream: 4", RuntimeError),
        ("Error while decoding JPEG images: Failed to decode batch: 6", RuntimeError),
    ],
)
def test_only_nvjpeg_errors_about_the_file_fail_the_item(
    monkeypatch: pytest.MonkeyPatch, message: str, error: type[DecodeError] | type[MemoryError] | type[RuntimeError]
) -> None:
    def decode_jpeg(*_: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("torchvision.io.decode_jpeg", decode_jpeg)
    with pytest.raises(error) as raised:
        decode_jpegs([read_jpeg(jpeg(), "a.jpg")], CPU)
    if error is DecodeError:
        assert str(raised.value).startswith("a.jpg is refused by nvJPEG (Error while decoding JPEG images: ")
        assert str(raised.value).endswith("): --data.decoding.images pillow takes it, unless it is damaged")


def test_nvjpeg_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"images nvjpeg needs a GPU: --trainer\.accelerator gpu, or set pillow"):
        require_nvjpeg(CPU)


@pytest.mark.gpu
def test_nvjpeg_works() -> None:
    require_nvjpeg(torch.device("cuda"))
