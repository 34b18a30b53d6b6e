"""JPEGs decoded by libjpeg-turbo: the same pixels as Pillow's, and nothing that Pillow would refuse."""

import io
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules.errors import DecodeError
from datamodules.media import turbo_jpeg
from datamodules.media.image import decode_image
from datamodules.media.turbo_jpeg import decode_jpeg


def jpeg_of(size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    """Return a JPEG of smooth random colours, `size` being width and height in px."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def pillow_pixels(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image)


@pytest.mark.parametrize("size", [(1, 1), (9, 7), (16, 16), (65, 33), (321, 240)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}], ids=str)
def test_the_pixels_are_those_of_pillow(size: tuple[int, int], subsampling: str, options: dict[str, Any]) -> None:
    for quality in (5, 50, 95):
        content = jpeg_of(size, quality=quality, subsampling=subsampling, **options)
        pixels = decode_jpeg(content)
        assert pixels is not None
        assert np.array_equal(pixels, pillow_pixels(content))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode: str) -> None:
    content = jpeg_of((20, 10), mode)
    assert decode_jpeg(content) is None
    assert decode_image(content, "other.jpg").shape == (3, 10, 20)


def test_colours_that_are_stored_as_rgb_are_left_to_pillow() -> None:
    content = jpeg_of((20, 10), keep_rgb=True)
    assert decode_jpeg(content) is None
    assert np.array_equal(decode_image(content, "rgb.jpg").permute(1, 2, 0).numpy(), pillow_pixels(content))


def test_damaged_files_are_left_to_pillow_or_give_its_pixels() -> None:
    whole, rng = jpeg_of((65, 33), quality=90), random.Random(0)
    num_left = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 8))):
            damaged[rng.randrange(2, len(damaged))] = rng.randrange(256)
        content = bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
        pixels = decode_jpeg(content)
        if pixels is None:
            num_left += 1
        else:
            assert np.array_equal(pixels, pillow_pixels(content))
    assert 0 < num_left < 2000


def test_a_file_that_is_cut_off_fails_as_before() -> None:
    content = jpeg_of((65, 33))
    assert decode_jpeg(content[:-200]) is None
    with pytest.raises(DecodeError, match=r"cut\.jpg cannot be decoded \(\d+ bytes\)"):
        decode_image(content[:-200], "cut.jpg")


def test_a_file_of_many_scans_is_refused() -> None:
    content = jpeg_of((65, 33), progressive=True)
    scans = content.index(b"\xff\xda")
    with pytest.raises(DecodeError, match="scans; the limit is 100"):
        decode_image(content[:-2] + content[scans:-2] * 30 + b"\xff\xd9", "scans.jpg")


def test_exif_turns_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the first row is the right side
    plain, turned = (
        decode_image(jpeg_of((20, 10)), "photo.jpg"),
        decode_image(jpeg_of((20, 10), exif=exif), "photo.jpg"),
    )
    assert torch.equal(turned, plain.transpose(1, 2).flip(2))


def test_fuzzing_finds_no_crash_in_headers() -> None:
    whole, rng = jpeg_of((16, 16)), random.Random(1)
    for _ in range(1000):
        damaged = bytearray(whole)
        damaged[rng.randrange(2, 620)] = rng.randrange(256)
        with suppress(DecodeError):
            assert decode_image(bytes(damaged), "damaged.jpg").dtype == torch.uint8


@pytest.fixture
def differing_builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the fast decoder differ by one in one pixel, as another build of libjpeg-turbo might."""
    decode = simplejpeg.decode_jpeg

    def decode_differently(content: bytes, colours: str) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = decode(content, colours)
        pixels[-1, -1, -1] ^= 1
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_differently)
    turbo_jpeg._is_like_pillow.cache_clear()
    yield
    turbo_jpeg._is_like_pillow.cache_clear()


@pytest.mark.usefixtures("differing_builds")
def test_pillow_decodes_all_where_the_builds_of_the_library_differ() -> None:
    content = jpeg_of((65, 33))
    assert decode_jpeg(content) is None
    assert np.array_equal(decode_image(content, "photo.jpg").permute(1, 2, 0).numpy(), pillow_pixels(content))
