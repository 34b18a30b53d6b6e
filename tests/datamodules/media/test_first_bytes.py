"""The first bytes of a file prove which container it is to every release of FFmpeg, or nothing."""

from pathlib import Path

import pytest

from datamodules.media.first_bytes import is_mp4_or_matroska, read_head
from support.video_files import KINDS, write

_EBML = b"\x1a\x45\xdf\xa3"
_MPD = b"<MPD profiles='urn:mpeg:dash:profile:isoff-live:2011'>"


@pytest.mark.parametrize("name", ["no b-frames", "fragments", "rotation", "variable rate in matroska"])
def test_files_of_ffmpeg_are_recognised(name: str, tmp_path: Path) -> None:
    assert is_mp4_or_matroska(read_head(write(tmp_path / "a", KINDS[name], 2)))


@pytest.mark.parametrize(
    "head",
    [
        _EBML + b"\xa3\x42\x86\x81\1\x42\xf7\x81\1\x42\xf2\x81\4\x42\xf3\x81\x08\x42\x82\x88matroska\x42\x87\x81\4",
        _EBML + b"\x8f\x42\x82\x84webm\x42\x87\x81\2\x42\x85\x81\2",
        b"\0\0\0\x08wide\0\x12\x34\x56mdat",
        b"\0\0\0\x01mdat\0\0\0\1\0\0\0\0",
    ],
)
def test_files_of_other_programs_are_recognised(head: bytes) -> None:
    assert is_mp4_or_matroska(head + bytes(64 - len(head)))


@pytest.mark.parametrize(
    "head",
    [
        b"#EXTM3U\n#EXTINF:9,\n/x.ts\n",
        b"ffconcat version 1.0\nfile /x.ts\n",
        b"ID3\x04\0\0\0\0\0\0#EXTM3U\n",  # FFmpeg skips such tags, and guesses by what follows
        b"    ftypisom" + _MPD,
        b"\0\0\0\x20styp",
        b"\0\0\1\xba",
        b"",
        _EBML,
        _EBML + b"\xa0" + _MPD[:32],  # no kind: FFmpeg takes it for Matroska only if it looks like nothing else
        _EBML + b"\x41\0matroska" + _MPD,  # a header that does not end here
        _EBML + b"\x01\xff\xff\xff\xff\xff\xff\xff" + b"matroska" + _MPD,  # nor anywhere
        _EBML + b"\x8b\x42\x82\x88matroskb",
        _EBML + b"\x81\x42matroska" + _MPD,  # a name behind the header, where FFmpeg does not look for it
    ],
)
def test_a_file_that_could_be_a_playlist_is_not_recognised(head: bytes) -> None:
    assert not is_mp4_or_matroska(head[:64])
