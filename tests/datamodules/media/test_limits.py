"""A file above a limit of memory or time fails alone, and the reason names the limit."""

import resource
import struct
import threading
import zlib
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from datamodules.errors import DecodeError
from datamodules.media import container, image, limits, packets
from datamodules.media.container import open_container
from datamodules.media.image import decode_image
from datamodules.media.picture_order import _H264
from datamodules.media.video import Video
from support.fault_injection import in_forker
from support.mp4_files import file_with, fragment, movie, numbers
from support.video_files import Kind, joined, picture, write

_HUGE = 16_000  # px; squared it is above the limit


def test_the_limit_of_pixels_is_that_of_pillow() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == limits.MAX_PIXELS


@pytest.mark.parametrize(
    "content",
    [movie(6_000_000), movie(2_000_000_000), movie(0) + fragment(6_000_000)],
    ids=["samples", "more samples than FFmpeg can list", "samples of a fragment"],
)
def test_a_small_mp4_of_too_many_packets_fails(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(file_with(content))
    with pytest.raises(DecodeError, match=r"a\.mp4 has [\d,]+ packets \(frames\) or more; the limit for .* 5,184,000"):
        Video(tmp_path / "a.mp4")


def test_a_small_mp4_that_repeats_its_bytes_as_packets_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(file_with(movie(40_000, num_chunks=80)))
    assert Video(tmp_path / "a.mp4").facts["num_frames"] == 40_000
    monkeypatch.setattr(limits, "MAX_REPEATING_PACKETS", 30_000)
    (tmp_path / "a.mp4").rename(tmp_path / "b.mp4")
    with pytest.raises(DecodeError, match=r"b\.mp4 has 30,001 packets .* of 30,001 bytes in a file of [\d,]+: "):
        Video(tmp_path / "b.mp4")


def test_packets_are_counted_where_the_file_has_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", Kind("mkv"), 12)
    Video(path)
    monkeypatch.setattr(limits, "MAX_PACKETS", 11)
    path.rename(tmp_path / "b.mkv")
    with pytest.raises(DecodeError, match=r"b\.mkv has 12 packets \(frames\) or more; the limit for one video is 11"):
        Video(tmp_path / "b.mkv")


@pytest.mark.parametrize(
    "content",
    [movie(2_000_000, num_tracks=4), movie(0) + 4 * fragment(2_000_000)],
    ids=["of tracks", "of fragments"],
)
def test_tables_that_need_too_much_memory_together_fail(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(file_with(content))
    in_forker(fails_for_memory_of_its_tables, tmp_path / "a.mp4")


def fails_for_memory_of_its_tables(path: Path) -> None:
    """Run in a process of its own, because free memory that a process already holds is not limited."""
    container.MAX_INDEX_BYTES = packets.MAX_INDEX_BYTES = 64 << 20  # type: ignore[attr-defined]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(DecodeError, match=r"a\.mp4 .* of memory.*, the limit for"):
        Video(path)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_memory_of_a_process_is_limited_only_while_it_opens_a_file() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limits.limited_memory("a.mp4", 64 << 20):
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_two_threads_leave_the_memory_of_the_process_as_it_was() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def second() -> None:
        with limits.limited_memory("b.mp4", 1 << 30):
            second_is_in.set()
            first_is_out.wait(10)

    thread = threading.Thread(target=second)
    with limits.limited_memory("a.mp4", 1 << 30):
        thread.start()
        second_is_in.wait(0.1)  # in vain
    first_is_out.set()
    thread.join()
    assert second_is_in.is_set()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize("sizes", [((128, 96), (256, 192)), ((256, 192), (128, 96))], ids=["later", "at first"])
def test_frames_of_too_many_pixels_fail_anywhere_in_the_file(
    sizes: tuple[tuple[int, int], tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [write(tmp_path / f"{size[0]}", Kind("ts", size=size), 6) for size in sizes]
    monkeypatch.setitem(container._DECODER_OPTIONS, "max_pixels", "20000")
    with pytest.raises(DecodeError, match=r"a frame is larger than the limit of"):
        list(Video(joined(tmp_path / "a.ts", *parts)).frames(range(12)))


def test_a_video_that_declares_too_many_pixels_fails_before_decoding(tmp_path: Path) -> None:
    content = write(tmp_path / "b", Kind("avi", "rawvideo", {}), 1).read_bytes()
    size = content.index(b"strf") + 8 + 4  # in the BITMAPINFOHEADER
    path = tmp_path / "a.avi"
    path.write_bytes(content[:size] + struct.pack("<II", _HUGE, _HUGE) + content[size + 8 :])
    with pytest.raises(DecodeError, match=r"a\.avi has frames of 16000x16000 px; the limit is 178,956,970 px"):
        Video(path)


def test_frames_that_become_too_large_with_square_pixels_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", Kind(size=(80, 60), pixel_aspect_ratio=Fraction(4)), 2)
    monkeypatch.setattr(limits, "MAX_PIXELS", 10_000)
    assert [frame.shape for frame in Video(path).frames([0], size=(6, 32))] == [(3, 6, 32)]
    with pytest.raises(DecodeError, match=r"frames of 320x60 px; the limit is 10,000 px"):
        list(Video(path).frames([0]))


def jpeg_2000_of_precincts(side: int) -> bytes:
    """Return a JPEG 2000 of `side` x `side` px with precincts of 2 px, some 1700 bytes of memory a pixel."""
    parts = {
        0x51: bytes(2) + numbers(side, side, 0, 0, side, side, 0, 0) + b"\0\3" + b"\7\1\1" * 3,  # SIZ
        0x52: b"\1\0\0\1\0\5\4\4\0\1" + b"\x11" * 6,  # COD: the sides' exponents, of 6 resolutions
        0x5C: b"\x40" * 17,  # QCD
    }
    headers = b"".join(struct.pack(">BBH", 0xFF, kind, 2 + len(part)) + part for kind, part in parts.items())
    data = b"\x80" * 100
    start_of_tile = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14 + len(data), 0, 1) + b"\xff\x93"
    return b"\xff\x4f" + headers + start_of_tile + data + b"\xff\xd9"


def tiff_of_tiles(side: int) -> bytes:
    """Return a gray TIFF of 16x16 px in one compressed tile of `side` px."""
    tile = zlib.compress(bytes(side * side))
    tile += bytes(len(tile) % 2)
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(tile)}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHL", b"II", 42, 8 + len(tile)) + tile + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    "content", [jpeg_2000_of_precincts(160), tiff_of_tiles(8192)], ids=["precincts of a JPEG 2000", "a tile of a TIFF"]
)
def test_a_small_image_whose_decoder_takes_much_memory_fails(content: bytes, tmp_path: Path) -> None:
    in_forker(fails_for_memory_of_its_decoder, tmp_path / "a.jp2", content)


def fails_for_memory_of_its_decoder(path: Path, content: bytes) -> None:
    """Run in a process of its own, as `fails_for_memory_of_its_tables` is."""
    image.MAX_DECODING_BYTES = 16 << 20  # type: ignore[attr-defined]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(DecodeError, match=r"^a\.jp2 .* more than 16 MiB of memory, the limit for"):
        decode_image(content, path.name)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    image.MAX_DECODING_BYTES = limits.MAX_DECODING_BYTES  # type: ignore[attr-defined]
    assert decode_image(content, path.name).shape[1] < 200  # else it could fail for another reason


def animated(path: Path, num_frames: int = 4) -> Path:
    frames = [Image.fromarray(picture(number)) for number in range(num_frames)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    return path


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        ("MAX_PACKETS", 3, r"has 4 packets \(frames\) or more"),
        ("MAX_ANIMATION_PIXELS", 40_000, r"has 49,152 px or more"),
    ],
)
def test_an_animation_above_a_limit_fails(
    name: str, limit: int, message: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = animated(tmp_path / f"a.{ending}")
    Video(path)
    monkeypatch.setattr(limits, name, limit)
    with pytest.raises(DecodeError, match=rf"a\.{ending} {message}.*; the limit for one .* is {limit:,}"):
        Video(path)


def test_an_animated_gif_of_too_many_pixels_fails(tmp_path: Path) -> None:
    content = animated(tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[:6] + struct.pack("<HH", _HUGE, _HUGE) + content[10:])
    with pytest.raises(DecodeError, match=r"Image size \(256000000 pixels\) exceeds limit of 178956970 pixels"):
        Video(tmp_path / "a.gif")


def test_an_animated_png_of_too_many_pixels_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = animated(tmp_path / "a.png")
    monkeypatch.setattr(limits, "MAX_PIXELS", 10_000)
    with pytest.raises(DecodeError, match=r"a\.png has frames of 128x96 px; the limit is 10,000 px"):
        Video(path)


def test_decoders_use_one_thread_each(tmp_path: Path) -> None:
    with open_container(write(tmp_path / "a", Kind(), 1)) as container:
        assert container.streams.video[0].codec_context.thread_count == 1


def test_a_parameter_set_of_a_megabyte_of_zeros_is_skipped_fast() -> None:
    order = _H264(b"")
    order.read(b"\0\0\1\x67" + bytes([100, 0, 30]) + (1 << 20) * b"\0")
    assert order.num_packets == 1
