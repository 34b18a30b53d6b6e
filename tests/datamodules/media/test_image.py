import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from datamodules.errors import DecodeError
from datamodules.media.image import read_image


def gradient(mode="RGB", size=(17, 11)):
    """A smooth image of `mode`: lossy coders keep it within a few values."""
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


def expected(path):
    """Pillow's answer."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1)


def difference(path):
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
def test_what_is_decoded_is_what_pillow_decodes(tmp_path, name, mode):
    assert not name.endswith("avif") or features.check("avif")
    gradient(mode).save(tmp_path / name)
    assert difference(tmp_path / name) == 0


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_is_within_rounding_of_pillows(tmp_path, mode, subsampling):
    gradient(mode, (64, 48)).save(tmp_path / "a.jpg", quality=95, subsampling=subsampling)
    assert difference(tmp_path / "a.jpg") <= 2


def test_a_cmyk_jpeg_has_pillows_colours(tmp_path):
    gradient("CMYK", (64, 48)).save(tmp_path / "a.jpg", quality=95)
    assert difference(tmp_path / "a.jpg") <= 3


def test_a_palette_becomes_its_colours(tmp_path):
    gradient().quantize(16).save(tmp_path / "a.png")
    assert difference(tmp_path / "a.png") == 0
    gradient().quantize(16).save(tmp_path / "a.gif")
    assert difference(tmp_path / "a.gif") == 0


def test_a_transparent_palette_drops_its_transparency(tmp_path):
    gradient().quantize(16).save(tmp_path / "a.png", transparency=3)
    assert difference(tmp_path / "a.png") == 0


def test_16_bits_become_the_nearest_of_8(tmp_path):
    values = np.array([[0, 127, 128, 129, 257, 385, 386, 30000, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image[:, 0].tolist() == [np.rint(values[0] / 257).astype(int).tolist()] * 3


def test_one_bit_is_black_and_white(tmp_path):
    gradient("L").convert("1").save(tmp_path / "a.png")
    assert difference(tmp_path / "a.png") == 0


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient("RGB", (32, 16)).save(tmp_path / name, exif=exif)
    assert difference(tmp_path / name) <= 2
    assert read_image(tmp_path / name).shape == ((3, 16, 32) if orientation < 5 else (3, 32, 16))


def test_what_the_file_is_counts_and_not_its_name(tmp_path):
    for there, called in (("a.jpg", "b.png"), ("a.png", "b.jpg"), ("a.webp", "c.png"), ("a.avif", "d.png")):
        gradient().save(tmp_path / there)
        os.rename(tmp_path / there, tmp_path / called)
        assert difference(tmp_path / called) <= 2


def test_a_missing_image_fails(tmp_path):
    with pytest.raises(DecodeError, match=r"a\.png is missing"):
        read_image(tmp_path / "a.png")


def test_an_empty_image_fails(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DecodeError, match=r"a\.png is empty \(0 bytes\)"):
        read_image(tmp_path / "a.png")


def test_a_folder_named_like_an_image_fails(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DecodeError, match=r"a\.png cannot be read: Is a directory"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_image_fails(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=rf"{name} cannot be decoded \(\d+ bytes\): ."):
        read_image(tmp_path / name)


@pytest.mark.parametrize("content", [b"text", b"x", bytes(1000), b"....ftypmp42" + bytes(100), b"RIFF....WEBPVP8 "])
def test_what_is_no_image_fails(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"a\.png cannot be decoded"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.avif"])
def test_an_animation_fails(tmp_path, name):
    gradient().save(tmp_path / name, save_all=True, append_images=[gradient().rotate(180)])
    with pytest.raises(DecodeError, match="animated"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # of damaged EXIF
def test_flipped_bytes_give_an_image_or_a_reason(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient("RGB", (32, 16)).save(tmp_path / name, **({} if name == "a.gif" else {"exif": exif}))
    content = bytearray((tmp_path / name).read_bytes())
    chance = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in chance.integers(0, len(content), 4):
            damaged[place] = chance.integers(0, 256)
        (tmp_path / name).write_bytes(damaged)
        try:
            assert read_image(tmp_path / name).dtype == torch.uint8
        except DecodeError as error:
            assert name in str(error)  # noqa: PT017 - both ends are right
