import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import EpsImagePlugin, GifImagePlugin, Image, ImageOps, features
from torch import Tensor

from datamodules.errors import DecodeError
from datamodules.media.content import read_member
from datamodules.media.image import decode_image, read_image
from support.image_files import tiff_of
from support.spies import spied

WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1  # PhotometricInterpretation of TIFF


def gradient(mode: str = "RGB", size: tuple[int, int] = (17, 11)) -> Image.Image:
    """Return a smooth image of `mode`: lossy coders keep it within a few values."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    bands = {
        "L": [x],
        "LA": [x, y],
        "RGB": [x, y, 255 - x],
        "RGBA": [x, y, 255 - x, 128 + y / 2],
        "CMYK": [x, y, x, y / 2],
    }
    return Image.merge(mode, [Image.fromarray(band.round().astype(np.uint8)) for band in bands[mode]])


def expected(path: Path) -> Tensor:
    """Return what Pillow decodes."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1)


def difference(path: Path) -> float:
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.shape == expected(path).shape
    return (image.int() - expected(path).int()).abs().max().item()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"), ("a.png", "L"), ("a.png", "LA"), ("a.png", "RGBA"), ("a.webp", "RGB"), ("a.webp", "RGBA"),
        ("a.avif", "RGB"), ("a.avif", "RGBA"), ("a.gif", "L"),
    ],
)  # fmt: skip
def test_lossless_formats_decode_as_pillow_does(tmp_path: Path, name: str, mode: str) -> None:
    assert not name.endswith("avif") or features.check("avif")
    gradient(mode).save(tmp_path / name)
    assert difference(tmp_path / name) == 0


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_is_within_rounding_of_pillows(tmp_path: Path, mode: str, subsampling: int) -> None:
    gradient(mode, (64, 48)).save(tmp_path / "a.jpg", quality=95, subsampling=subsampling)
    assert difference(tmp_path / "a.jpg") <= 2


def test_a_cmyk_jpeg_has_pillows_colours(tmp_path: Path) -> None:
    gradient("CMYK", (64, 48)).save(tmp_path / "a.jpg", quality=95)
    assert difference(tmp_path / "a.jpg") <= 3


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    gradient().quantize(16).save(tmp_path / "a.png")
    assert difference(tmp_path / "a.png") == 0
    gradient().quantize(16).save(tmp_path / "a.gif")
    assert difference(tmp_path / "a.gif") == 0


def test_a_transparent_palette_drops_its_transparency(tmp_path: Path) -> None:
    gradient().quantize(16).save(tmp_path / "a.png", transparency=3)
    assert difference(tmp_path / "a.png") == 0


def test_16_bits_become_the_nearest_of_8(tmp_path: Path) -> None:
    values = np.array([[0, 127, 128, 129, 257, 385, 386, 30000, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image[:, 0].tolist() == [np.rint(values[0] / 257).astype(int).tolist()] * 3


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    gradient("L").convert("1").save(tmp_path / "a.png")
    assert difference(tmp_path / "a.png") == 0


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient("RGB", (32, 16)).save(tmp_path / name, exif=exif)
    assert difference(tmp_path / name) <= 2
    assert read_image(tmp_path / name).shape == ((3, 16, 32) if orientation < 5 else (3, 32, 16))


def test_the_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    for name, renamed in (("a.jpg", "b.png"), ("a.png", "b.jpg"), ("a.webp", "c.png"), ("a.avif", "d.png")):
        gradient().save(tmp_path / name)
        os.rename(tmp_path / name, tmp_path / renamed)
        assert difference(tmp_path / renamed) <= 2


def test_a_missing_image_fails(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"a\.png is missing"):
        read_image(tmp_path / "a.png")


def test_an_empty_image_fails(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DecodeError, match=r"a\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "a.png")


def test_a_folder_named_like_an_image_fails(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DecodeError, match=r"a\.png cannot be read: Is a directory"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_image_fails(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=rf"{name} cannot be decoded \(\d+ bytes\): ."):
        read_image(tmp_path / name)


@pytest.mark.parametrize("content", [b"text", b"x", bytes(1000), b"....ftypmp42" + bytes(100), b"RIFF....WEBPVP8 "])
def test_a_file_that_is_not_an_image_fails(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"a\.png cannot be decoded"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.avif", "a.png"])
def test_an_animation_fails(tmp_path: Path, name: str) -> None:
    gradient().save(tmp_path / name, save_all=True, append_images=[gradient().rotate(180)])
    with pytest.raises(DecodeError, match="animated"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.avif", "a.tif", "a.bmp"])
def test_flipped_bytes_give_an_image_or_a_decode_error(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {} if name in ("a.gif", "a.bmp") else {"exif": exif}
    gradient("RGB", (32, 16)).save(tmp_path / name, **options)
    content = bytearray((tmp_path / name).read_bytes())
    chance = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for offset in chance.integers(0, len(content), 4):
            damaged[offset] = chance.integers(0, 256)
        (tmp_path / name).write_bytes(damaged)
        try:
            assert read_image(tmp_path / name).dtype == torch.uint8
        except DecodeError as error:
            assert name in str(error)  # noqa: PT017 - both ends are right


def test_bytes_are_decoded_as_a_file_is(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a b.v1.ü.png")
    content = (tmp_path / "a b.v1.ü.png").read_bytes()
    assert decode_image(content, "x").equal(read_image(tmp_path / "a b.v1.ü.png"))
    with pytest.raises(
        DecodeError, match=r"^sub/x\.png cannot be decoded \(4 bytes\): it is not one of PNG, JPEG, WEBP, "
    ):
        decode_image(b"text", "sub/x.png")


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.swapaxes(0, 1)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: np.rot90(p, 2).swapaxes(0, 1)),
        (8, lambda p: np.rot90(p)),
    ],
)
def test_each_exif_orientation_turns_the_image_as_exif_defines(
    tmp_path: Path, orientation: int, upright: Callable[..., Any]
) -> None:
    """EXIF 2.3, 4.6.4: with orientation 6 the first row is at the right, so the image is turned clockwise."""
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), upright(picture))


def test_damaged_exif_causes_no_warning(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.jpg").shape == (3, 11, 17)


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
    ],
)
def test_an_inverted_cmyk_jpeg_of_adobe_has_the_colours_of_its_inks(
    tmp_path: Path, ink: tuple[int, ...], colour: tuple[int, int, int]
) -> None:
    Image.new("CMYK", (16, 16), ink).save(tmp_path / "a.jpg", quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    assert b"Adobe" in content
    assert (read_image(tmp_path / "a.jpg").int() - torch.tensor(colour)[:, None, None]).abs().max() <= 3


def test_transparency_of_palette_and_gray_is_dropped(tmp_path: Path) -> None:
    image = gradient().quantize(16)
    image.save(tmp_path / "p.png", transparency=bytes(range(0, 256, 16)))
    result = read_image(tmp_path / "p.png").permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(result, np.array(image.convert("RGB")))
    Image.new("LA", (4, 4), (70, 0)).save(tmp_path / "la.png")
    assert set(read_image(tmp_path / "la.png").flatten().tolist()) == {70}


def png_of_16_bits(values: NDArray[np.uint16], colour_type: int) -> bytes:
    """Return a PNG of uint16 [H, W, channels], which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels"), [(2, [0, 1, 2]), (6, [0, 1, 2]), (4, [0, 0, 0])])
def test_colours_of_16_bits_and_gray_with_alpha_become_their_higher_bytes(
    colour_type: int, channels: list[int]
) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (3, 5, {2: 3, 6: 4, 4: 2}[colour_type]), np.uint16)
    result = decode_image(png_of_16_bits(values, colour_type), "a.png").permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(result, values[..., channels] >> 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("num_bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_gray_tiffs_become_the_nearest_of_8_bits_with_0_black_or_white(
    order: str, num_bits: int, photometric: int
) -> None:
    largest = (1 << num_bits) - 1
    values = np.unique([0, 1, largest // 3, largest // 2, 200 % (largest + 1), largest - 1, largest])[None]
    content = tiff_of(values, order, num_bits, {262: (3, photometric)})
    if (order, num_bits) == (">", 12):  # Pillow reads no such file
        with pytest.raises(DecodeError, match="it is not one of PNG, JPEG, "):
            decode_image(content, "a.tif")
        return
    expected = np.rint(values * 255 / largest).astype(int)
    expected = 255 - expected if photometric == WHITE_IS_ZERO else expected
    assert decode_image(content, "a.tif")[:, 0].tolist() == [expected[0].tolist()] * 3


@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4"])
def test_a_compressed_tiff_is_not_inverted(tmp_path: Path, compression: str, photometric: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (16, 24), np.uint16)
    gray = Image.fromarray(values > 30_000 if compression == "group4" else values)
    gray.save(tmp_path / "a.tif", compression=compression, tiffinfo={262: photometric})
    expected = 255 * (values > 30_000) if compression == "group4" else np.rint(values / 257).astype(int)
    if photometric == WHITE_IS_ZERO and compression != "group4":  # where Pillow inverts what it writes
        expected = 255 - expected
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0].numpy(), expected)


def test_dark_gray_of_16_bits_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 4095]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [0, 16]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            tiff_of(np.array([[0, 1]]), num_bits=32),
            "it has gray values of 32 bits, and does not say which value is white",
        ),
        *(
            (
                tiff_of(np.array([[0, 1]]), order, num_bits, {339: (3, 2)}),
                "it has signed values, and does not say which",
            )
            for order in "<>"
            for num_bits in (8, 16, 32)
        ),
        (
            tiff_of(np.array([[0, 1]]), num_bits=32, tags={339: (3, 3)}),
            "it has floating-point values, and does not say",
        ),
        (tiff_of(np.array([[0, 1]]), tags={262: None}), "TIFF tag 262, PhotometricInterpretation, is missing"),
        (
            tiff_of(np.arange(24).reshape(2, 12), tags={256: (3, 4), 262: (3, 6), 277: (3, 3)}),
            "it has subsampled colours without compression",
        ),
    ],
)
def test_values_without_a_known_range_fail(content: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode_image(content, "a.tif")


def test_premultiplied_gray_drops_its_transparency() -> None:
    content = tiff_of(np.array([[100, 255, 40, 102]]), tags={256: (3, 2), 277: (3, 2), 338: (3, 1)})
    assert decode_image(content, "a.tif")[0, 0].tolist() == [100, 100]


def test_the_first_of_several_images_in_a_jpeg_is_taken(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[gradient().rotate(180)])
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)
    assert difference(tmp_path / "a.jpg") <= 2


def png_of(width: int, height: int) -> bytes:
    """Return a PNG whose header declares this size, without pixels."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "png")
    header = b"IHDR" + struct.pack(">II", width, height) + buffer.getvalue()[24:29]
    return buffer.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + buffer.getvalue()[33:]


def test_a_decompression_bomb_fails_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of(20_000, 10_000))
    with pytest.raises(DecodeError, match=r"a\.png cannot .*200000000 pixels. exceeds limit of 178956970 pixels"):
        read_image(tmp_path / "a.png")


def test_a_jpeg_of_more_scans_than_encoders_write_fails() -> None:
    buffer = io.BytesIO()
    gradient().save(buffer, "jpeg", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    empty = content[last : last + 10]  # of one component, without data
    num_scans = content.count(b"\xff\xda")
    film = b"\xff\xda" * 200  # bytes that a phone may append
    assert decode_image(content[:-2] + empty * (100 - num_scans) + b"\xff\xd9" + film, "a.jpg").shape == (3, 11, 17)
    with pytest.raises(DecodeError, match=r"a\.jpg cannot be decoded .*: it has 101 scans; the limit is 100"):
        decode_image(content[:-2] + empty * (101 - num_scans) + b"\xff\xd9", "a.jpg")


def test_an_image_below_the_pixel_limit_causes_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17 * 11 - 1)  # half as many as it takes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png").shape == (3, 11, 17)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17 * 11 // 2 - 1)
    with pytest.raises(DecodeError, match="187 pixels"):
        read_image(tmp_path / "a.png")


def test_heic_is_upright(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="needs pillow-heif, which decodes HEIC")
    image = Image.new("RGB", (64, 48), (200, 10, 10))
    exif = image.getexif()
    exif[274] = 6  # orientation: a quarter turn
    image.save(tmp_path / "a.heic", exif=exif)
    with Image.open(tmp_path / "a.heic") as expected:
        width, height = expected.size
    frame = read_image(tmp_path / "a.heic")
    assert frame.shape == (3, height, width)
    assert (frame.float().mean((1, 2)) - torch.tensor([200.0, 10.0, 10.0])).abs().max() < 3


def test_special_files_and_files_above_2_gib_fail_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", 20_000_000_000)
    for name, reason in {
        "fifo.png": "cannot be read: it is a FIFO, not a regular file",
        "zero.png": "cannot be read: it is a character device, not a regular file",
        "large.png": "has 20,000,000,000 bytes; the limit for one file is 2,147,483,648",
    }.items():
        with pytest.raises(DecodeError, match=rf"^{name} {reason}"):
            read_image(tmp_path / name)
    with pytest.raises(DecodeError, match=r"^a\.png has 20,000,000,000 bytes; the limit"):
        read_member(tmp_path / "large.png", "a.png", 512, 20_000_000_000)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tif", "a.webp", "a.avif", "a.bmp", "a.jp2", "a.heic"])
@pytest.mark.parametrize("has_preview", [False, True])
def test_postscript_is_not_decoded_and_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, has_preview: bool
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for the program again
    gradient().save(tmp_path / name, "EPS")
    if has_preview:  # the binary header of DOS: where PostScript begins, and how long it is
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(struct.pack("<4sLL20x", b"\xc5\xd0\xd3\xc6", 32, len(content)) + content)
    with pytest.raises(
        DecodeError, match=rf"^{name} cannot be decoded \(\d+ bytes\): it is not one of PNG, JPEG, WEBP, AVIF"
    ):
        read_image(tmp_path / name)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "format", ["BLP", "DDS", "DIB", "ICNS", "ICO", "MSP", "PCX", "PPM", "QOI", "SGI", "SPIDER", "TGA", "XBM"]
)
def test_other_formats_are_not_decoded(format: str) -> None:
    modes = {"BLP": "P", "MSP": "1", "XBM": "1", "SPIDER": "F"}
    buffer = io.BytesIO()
    gradient("RGB", (32, 32)).convert("L").convert(modes.get(format, "RGB")).save(buffer, format)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        assert image.format == format
    with pytest.raises(DecodeError, match="it is not one of PNG, JPEG, "):
        decode_image(buffer.getvalue(), "a.png")


def test_at_most_two_frames_of_an_animation_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    gradient().save(
        buffer, "GIF", save_all=True, append_images=[gradient().rotate(angle) for angle in range(10, 90, 10)]
    )
    frames: list[int] = []
    spy = spied(GifImagePlugin.GifImageFile._seek, lambda _, frame, *__: frames.append(frame))
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", spy)
    with pytest.raises(
        DecodeError, match=r"a\.gif cannot be decoded .*: it is animated: list it with a corpus of videos"
    ):
        decode_image(buffer.getvalue(), "a.gif")
    assert max(frames) == 1
