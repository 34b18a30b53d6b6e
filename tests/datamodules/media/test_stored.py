"""Images are stored in one format per run."""

import io
import math
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.errors import ConfigError, DecodeError
from datamodules.media.image import decode_image
from datamodules.media.stored import Stored, as_stored, stored_as, stored_ending
from support.image_files import image_bytes

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def encoded(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("store", "format"), [("jpg", "JPEG"), ("png", "PNG")])
def test_files_of_the_format_without_metadata_are_kept_byte_for_byte(store: Stored, format: str) -> None:
    content = encoded(format)
    assert as_stored(content, "a.webp", store) == content
    assert stored_ending("a.webp", store) == store


def test_other_files_are_converted_to_lossless_png_or_high_quality_jpeg() -> None:
    content = encoded("WEBP", lossless=True)
    with Image.open(io.BytesIO(as_stored(content, "a.webp", "png"))) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    with Image.open(io.BytesIO(as_stored(image_bytes(77), "a.png", "jpg"))) as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image).astype(int) - 77).max() <= 1


@pytest.mark.parametrize(("store", "format"), [("jpg", "JPEG"), ("png", "PNG")])
@pytest.mark.parametrize("orientation", [1, 6])
def test_stock_readers_get_the_upright_pixels_of_a_file_with_damaged_metadata(
    store: Stored, format: str, orientation: int
) -> None:
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack(">HHII", 0x011A, 12, 1, 38)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + entries + bytes(4) + struct.pack(">d", math.nan)  # XResolution
    content = encoded(format, exif=exif)
    if orientation == 6:
        with pytest.raises(ValueError, match="NaN"), Image.open(io.BytesIO(content)) as image:
            ImageOps.exif_transpose(image)
    with Image.open(io.BytesIO(as_stored(content, "a", store))) as image:
        assert (image.format, len(image.getexif())) == (format, int(orientation == 6))
        pixels = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(pixels, decode_image(content, "a").permute(1, 2, 0))


def test_a_converted_image_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content = encoded("JPEG", exif=exif)
    stored = as_stored(content, "a.jpg", "png")
    with Image.open(io.BytesIO(stored)) as image:
        assert (image.size, dict(image.getexif())) == ((12, 16), {})
    np.testing.assert_array_equal(decode_image(stored, "a"), decode_image(content, "a"))


def test_the_original_is_kept_with_its_extension() -> None:
    assert as_stored(b"anything", "a.TIFF", "original") == b"anything"
    assert stored_ending("a.TIFF", "original") == "tiff"


def test_an_image_that_the_format_cannot_hold_fails() -> None:
    buffer = io.BytesIO()
    Image.new("L", (66_000, 1)).save(buffer, "PNG")
    with pytest.raises(DecodeError, match=r"wide\.png of 66000x1 px cannot be stored as jpg \(.*\): use another"):
        as_stored(buffer.getvalue(), "wide.png", "jpg")


def test_the_option_takes_a_format_true_for_jpeg_and_false() -> None:
    assert [stored_as(option) for option in (True, False, None, "jpg", "png", "original")] == [
        "jpg", None, None, "jpg", "png", "original"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"--model\.store_images webp: choose from jpg, png, original, false"):
        stored_as("webp")  # type: ignore[arg-type]
