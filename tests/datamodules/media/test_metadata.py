"""Damaged or large metadata fails no image, and the orientation is read from every format that has one."""

import io
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from datamodules.errors import DecodeError
from datamodules.media.image import decode_image
from datamodules.media.jpeg import read_jpeg
from datamodules.media.metadata import read_orientation, separate
from support.image_files import tiff_of

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, SIGNED_SHORT, SIGNED_RATIONAL, FLOAT, DOUBLE = (
    *range(1, 6),
    7,
    8,
    10,
    11,
    12,
)
ORIENTATION, X_RESOLUTION, RESOLUTION_UNIT, EXIF_IFD = 274, 282, 296, 34665

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
TURNED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.swapaxes(0, 1),
    6: np.rot90(PICTURE, -1),
    7: np.rot90(PICTURE, 2).swapaxes(0, 1),
    8: np.rot90(PICTURE),
}


def encoded(kind: str, picture: NDArray[Any] = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


A_JPEG, A_PNG, A_WEBP = encoded("JPEG", quality=95), encoded("PNG"), encoded("WEBP", lossless=True, exif=b"x", xmp=b"x")


def decoded(content: bytes) -> NDArray[np.uint8]:
    return decode_image(content, "a").permute(1, 2, 0).numpy()


def exif_of(*entries: Any, order: str = "<", first: int = 8, num_entries: int | None = None) -> bytes:
    """Return EXIF with (tag, type, count, 4 bytes of value) entries."""
    count = struct.pack(order + "H", len(entries) if num_entries is None else num_entries)
    packed = [struct.pack(order + "HHL", *entry[:3]) + entry[3] for entry in entries]
    return (
        struct.pack(order + "2sHL", b"II" if order == "<" else b"MM", 42, first) + count + b"".join(packed) + bytes(4)
    )


def short(value: int, order: str = "<") -> bytes:
    return struct.pack(order + "HH", value, 0)


def oriented(value: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return (ORIENTATION, SHORT, 1, short(value, order))


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    """Return a JPEG with (marker, payload) segments before all others."""
    packed = [struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in segments]
    return A_JPEG[:2] + b"".join(packed) + A_JPEG[2:]


def png_with(*chunks: tuple[bytes, bytes], at_end: bool = False) -> bytes:
    """Return a PNG with (type, data) chunks before or after its pixels."""
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    offset = len(A_PNG) - 12 if at_end else 33
    return A_PNG[:offset] + b"".join(packed) + A_PNG[offset:]


def webp_with(kind: bytes, data: bytes) -> bytes:
    """Return a WebP with `data` as its only chunk of EXIF or XMP."""
    chunks = A_WEBP[12 : A_WEBP.index(b"EXIF")] + kind + struct.pack("<L", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<L", 4 + len(chunks)) + b"WEBP" + chunks


def with_exif(kind: str, exif: bytes) -> bytes:
    return {
        "JPEG": lambda: jpeg_with((0xE1, b"Exif\0\0" + exif)),
        "PNG": lambda: png_with((b"eXIf", exif)),
        "PNG raw profile": lambda: png_with(
            (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n" % len(exif) + exif.hex().encode()))
        ),
        "WEBP": lambda: webp_with(b"EXIF", exif),
    }[kind]()


KINDS = ["JPEG", "PNG", "PNG raw profile", "WEBP"]


def assert_turned(content: bytes, orientation: int) -> None:
    """Check that `content` is PICTURE turned by `orientation`, as exactly as JPEG keeps noise."""
    result = decoded(content)
    expected = TURNED[orientation]
    if content.startswith(b"\xff\xd8"):
        assert result.shape == expected.shape
        unturned = decoded(A_JPEG)
        back = {6: 1, 8: -1}.get(orientation, 0)
        np.testing.assert_array_equal(np.rot90(result, back) if back else result, unturned)
    else:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("entries", "orientation"),
    [
        *(([oriented], value) for value in range(1, 9)),
        ([(ORIENTATION, BYTE, 1, b"\x06\0\0\0")], 6),  # TIFF 6.0: readers take BYTE, SHORT or LONG for any integer
        ([(ORIENTATION, LONG, 1, "L")], 6),
        ([(ORIENTATION, SIGNED_SHORT, 1, "H2x")], 6),
        ([(ORIENTATION, ASCII, 2, b"6\0\0\0")], 1),
        ([(ORIENTATION, UNDEFINED, 1, b"\x06\0\0\0")], 1),
        ([(ORIENTATION, RATIONAL, 1, b"\x06\0\0\0")], 1),
        ([(ORIENTATION, 99, 1, "H2x")], 1),
        ([(ORIENTATION, SHORT, 0, "H2x")], 1),
        ([(ORIENTATION, SHORT, 2, "H2x")], 1),
    ],
)
def test_the_orientation_is_one_integer_in_either_order_of_bytes(
    order: str, entries: list[Any], orientation: int
) -> None:
    value = orientation if entries == [oriented] else 6
    made = [
        oriented(value, order) if entry is oriented
        else (*entry[:3], struct.pack(order + entry[3], value) if isinstance(entry[3], str) else entry[3])
        for entry in entries
    ]  # fmt: skip
    assert read_orientation(exif_of(*made, order=order), b"") == orientation
    assert read_orientation(b"Exif\0\0Exif\0\0" + exif_of(*made, order=order), b"") == orientation


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_outside_1_to_8_means_upright(value: int) -> None:
    assert read_orientation(exif_of(oriented(value)), b"tiff:Orientation='6'") == 1


@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (b"", 1),
        (b"II", 1),
        (b"II*\0\x08\0\0\0", 1),
        (b"not TIFF" + exif_of(oriented(6)), 1),
        (exif_of(oriented(6), first=2**32 - 1), 1),
        (exif_of(oriented(6), first=0), 1),
        (exif_of(oriented(6), num_entries=65535), 6),
        (exif_of(oriented(6), num_entries=0), 1),
        (exif_of(oriented(6), (X_RESOLUTION, RATIONAL, 1, b"\xff" * 4))[:-10], 6),
        (exif_of(oriented(6))[:18], 1),
    ],
)
def test_whole_entries_of_a_directory_that_is_cut_off_are_read(exif: bytes, orientation: int) -> None:
    assert read_orientation(exif, b"") == orientation


DAMAGED = [
    exif_of(oriented(8), (X_RESOLUTION, RATIONAL, 1, b"\xff" * 4), (RESOLUTION_UNIT, ASCII, 1, b"2\0\0\0")),
    exif_of(oriented(8), (X_RESOLUTION, ASCII, 3, b"72\0\0")),
    exif_of(oriented(8), (271, RATIONAL, 1, struct.pack("<L", 8)), (270, FLOAT, 1, b"\0\0\xc0\x7f")),
    exif_of(oriented(8), (X_RESOLUTION, DOUBLE, 1, struct.pack("<L", 0)), (256, 9, 1, b"\xff" * 4)),
    exif_of(oriented(8), (EXIF_IFD, LONG, 1, b"\xff" * 4), (34853, SIGNED_RATIONAL, 1, struct.pack("<L", 2))),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exif", DAMAGED)
def test_damaged_exif_fails_no_image_and_its_orientation_is_applied(kind: str, exif: bytes) -> None:
    assert_turned(with_exif(kind, exif), 8)


@pytest.mark.parametrize("exif", [*DAMAGED, exif_of(oriented(6)), b"Exif without a directory"])
def test_nvjpeg_gets_the_same_orientation_without_the_exif(exif: bytes) -> None:
    content = with_exif("JPEG", exif)
    jpeg = read_jpeg(content, "a.jpg")
    assert jpeg.size == decode_image(content, "a.jpg").shape[1:]
    assert jpeg.orientation == separate(content).orientation
    assert b"Exif" not in jpeg.content


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fuzzed_exif_fails_no_image() -> None:
    """100,000 blocks of EXIF, in JPEG, PNG and WebP in turn: each gives the whole image, turned or not."""
    rng = random.Random(0)
    kinds = {kind: {decoded(with_exif(kind, exif_of(oriented(k)))).tobytes() for k in range(1, 9)} for kind in KINDS}
    turned = 0
    for number in range(100_000):
        kind = KINDS[number % len(KINDS)]
        content = with_exif(kind, fuzzed_exif(rng))
        result = decoded(content)
        assert result.tobytes() in kinds[kind]
        turned += result.shape[0] > result.shape[1]
    assert turned > 2_000


def fuzzed_exif(rng: random.Random) -> bytes:
    order = rng.choice("<>")
    tags = [ORIENTATION] * 8 + [
        256,
        270,
        271,
        X_RESOLUTION,
        283,
        RESOLUTION_UNIT,
        EXIF_IFD,
        34853,
        700,
        40965,
        rng.randrange(65536),
    ]
    types = [SHORT] * 8 + [*range(14), 16, rng.randrange(65536)]
    values = [short(rng.randrange(10), order), rng.randbytes(4), struct.pack(order + "L", rng.randrange(80))]
    entries = [
        (rng.choice(tags), rng.choice(types), rng.choice([1] * 6 + [0, 2, 2**31]), rng.choice(values[:1] * 3 + values))
        for _ in range(rng.randrange(6))
    ]
    first, num_entries = rng.choice([8] * 20 + [0, 7, 9, 2**31, 2**32 - 1]), rng.choice([None] * 10 + [0, 65535])
    exif = bytearray(exif_of(*entries, order=order, first=first, num_entries=num_entries) + rng.randbytes(20))
    for _ in range(rng.choice([0, 0, 1, 3])):
        exif[rng.randrange(len(exif))] = rng.randrange(256)
    return bytes(exif[: rng.choice([len(exif)] * 5 + [rng.randrange(len(exif) + 1)])])


@pytest.mark.parametrize(
    "segment",
    [
        (0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x02\0\x01\0\0\0xxxx"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0"),
        (0xE0, b"JFIF"),
        (0xEE, b"Adobe"),
        (0xFE, b"\xff\xd9\xff\xda"),
    ],
)
def test_damaged_segments_of_a_jpeg_are_ignored(segment: tuple[int, bytes]) -> None:
    assert_turned(jpeg_with(segment), 1)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        [(b"tEXt", b"Comment\0" + b"x" * 3_000_000)],
        [(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 3_000_000))],
        [(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000))],
        [(b"iCCP", b"sRGB\0\0" + zlib.compress(b"x" * 3_000_000))],
        [(b"iCCP", b"sRGB")],
        [(b"zTXt", b"Comment\0\1")],
        [(b"zTXt", b"XML:com.adobe.xmp\0\0xx"), (b"zTXt", b"Raw profile type exif\0\0xx")],
        [(b"iTXt", b"XML:com.adobe.xmp"), (b"tEXt", b"Raw profile type exif\0\n\n\nxy")],
        [(b"gAMA", b"x"), (b"pHYs", b"x"), (b"cHRM", b"x")],
        [(b"tEXt", bytes([index]) + b"\0" + b"x" * 1_000_000) for index in range(1, 70)],
    ],
)
def test_large_or_damaged_texts_and_profiles_of_a_png_are_ignored(
    chunks: list[tuple[bytes, bytes]], at_end: bool
) -> None:
    np.testing.assert_array_equal(decoded(png_with(*chunks, at_end=at_end)), PICTURE)


def test_a_compressed_text_is_not_decompressed_whole() -> None:
    packed = zlib.compress(bytes(100_000_000))
    keywords = b"Comment\0\0", b"XML:com.adobe.xmp\0\0", b"Raw profile type exif\0\0"
    content = png_with(*((b"zTXt", keyword + packed) for keyword in keywords))
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(decoded(content), PICTURE)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def xmp_of(orientation: int) -> bytes:
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


@pytest.mark.parametrize("exif_orientation", [None, 1, 8])
def test_xmp_is_used_where_exif_has_no_orientation(exif_orientation: int | None) -> None:
    exif = exif_of(oriented(exif_orientation) if exif_orientation else (271, ASCII, 2, b"a\0\0\0"))
    expected = exif_orientation or 6
    assert_turned(
        jpeg_with((0xE1, b"Exif\0\0" + exif), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_of(6))), expected
    )
    text = b"XML:com.adobe.xmp\0"
    for chunk in (b"\0\0\0\0" + xmp_of(6), b"\1\0en\0XMP\0" + zlib.compress(xmp_of(6))):
        assert_turned(png_with((b"eXIf", exif), (b"iTXt", text + chunk)), expected)
        assert_turned(png_with((b"eXIf", exif), (b"iTXt", text + chunk), at_end=True), expected)


def test_xmp_is_used_in_webp_and_tiff() -> None:
    assert_turned(webp_with(b"XMP ", xmp_of(6)), 6)
    assert_turned(encoded("TIFF", tiffinfo={700: xmp_of(6)}), 6)
    assert_turned(encoded("WEBP", lossless=True, xmp=b"<tiff:Orientation>6</tiff:Orientation>"), 6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}])
def test_a_tiff_is_turned_once(orientation: int, options: dict[str, Any]) -> None:
    assert_turned(encoded("TIFF", tiffinfo={ORIENTATION: orientation}, **options), orientation)


def test_damaged_metadata_of_a_tiff_is_ignored() -> None:
    tags = {
        ORIENTATION: (SHORT, 8),
        271: (RATIONAL, 2**32 - 1),
        EXIF_IFD: (LONG, 2**32 - 1),
        34853: (LONG, 3),
        700: (99, 1),
    }
    content = tiff_of(np.arange(6, dtype=np.uint8)[None], tags=tags)
    assert decoded(content)[::-1, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_an_avif_is_that_of_its_container_and_not_of_exif(orientation: int) -> None:
    picture = np.kron(np.array([[0, 80, 160], [40, 120, 200]], np.uint8), np.ones((20, 20), np.uint8))
    tags = Image.Exif()
    tags[ORIENTATION], tags[271] = orientation, "maker"
    content = encoded("AVIF", picture, exif=tags, quality=95)  # Pillow writes irot and imir
    sound = decoded(content)
    rows = {1: [0, 80], 2: [160, 80], 3: [200, 120], 4: [40, 120], 5: [0, 40], 6: [40, 0], 7: [200, 160], 8: [160, 200]}
    assert [round(int(sound[10, x, 0]) / 40) * 40 for x in (10, 30)] == rows[orientation]
    offset = content.index(b"MM\0*")
    for damaged in (b"xxxx", b"MM\0*\xff\xff\xff\xff", b"MM\0*" + bytes(3) + b"\x08\xff\xff" + b"\xff" * 8):
        np.testing.assert_array_equal(decoded(content[:offset] + damaged + content[offset + len(damaged) :]), sound)


def test_a_tiff_of_several_pages_fails_with_their_number() -> None:
    pages = [Image.fromarray(PICTURE)] * 2
    with pytest.raises(DecodeError, match=r"a cannot be decoded .*: it has 3 pages, and one image is expected"):
        decode_image(encoded("TIFF", save_all=True, append_images=pages), "a")


@pytest.mark.parametrize(("subfile_type", "shape"), [(1, (4, 4)), (4, (6, 9))])
def test_a_thumbnail_or_mask_is_not_a_page_of_a_tiff(subfile_type: int, shape: tuple[int, int]) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = subfile_type
    other = Image.new("L", shape[::-1])
    other.encoderinfo = {"tiffinfo": tags}
    np.testing.assert_array_equal(decoded(encoded("TIFF", save_all=True, append_images=[other])), PICTURE)


def test_a_loop_of_tiff_directories_is_one_page() -> None:
    content = bytearray(tiff_of(np.arange(6, dtype=np.uint8)[None]))
    content[-4:] = content[4:8]
    assert decoded(bytes(content))[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_overlapping_directories_of_a_tiff_are_read_fast() -> None:
    """8,000 directories of 60,000 entries, each 4 bytes after the one before. Reading all would take minutes."""
    starts = np.arange(8, 8 + 4 * 8_000, 4)
    content = bytearray(np.full(400_000, 60_000, "<u2").tobytes())
    content[:8] = b"II*\0\x08\0\0\0"
    offset = 10 + 12 * 60_000
    content[offset : offset + 4 * len(starts)] = (starts + 4).astype("<u4").tobytes()
    with pytest.raises(DecodeError, match="cannot be decoded"):
        decode_image(bytes(content), "a")


@pytest.mark.parametrize("subfile_type", [0, 1])
def test_a_tiff_with_too_many_directories_fails(subfile_type: int) -> None:
    directory = struct.Struct("<HHHLLHHLLL")  # the number of tags, two tags, the offset of the next directory
    starts = range(8, 8 + 300_000 * directory.size, directory.size)
    tags = (2, 254, LONG, 1, subfile_type, 256, LONG, 1, 1)
    content = b"II*\0\x08\0\0\0" + b"".join(directory.pack(*tags, start + directory.size) for start in starts)
    with pytest.raises(ValueError, match=r"it has more than 1,000 pages, thumbnails and masks, the limit"):
        separate(content)


def test_exif_in_many_segments_is_joined_in_linear_time() -> None:
    """200,000 segments of one byte each. Copying the earlier ones for each would copy 20 GB."""
    exif = struct.pack("<2sHLHHHLHxxL", b"II", 42, 8, 1, ORIENTATION, SHORT, 1, 6, 0).ljust(200_000, b"\0")
    segments = b"".join(b"\xff\xe1\x00\x09Exif\0\0" + exif[offset : offset + 1] for offset in range(len(exif)))
    assert separate(b"\xff\xd8" + segments).orientation == 6
