"""What the first bytes of a video file prove, before any decoder library opens it."""

import os
from pathlib import Path

from datamodules.errors import DecodeError, MissingError
from datamodules.regular import NotRegularError, open_regular

_HEAD_BYTES = 64  # more than the first two headers of Matroska take
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # element ids of Matroska and WebM
_DOC_TYPES = (b"matroska", b"webm")
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # of MP4 and QuickTime


def read_head(path: Path) -> bytes:
    """Return the first 64 bytes of a file. FFmpeg does not distinguish a broken mount from a broken video; this does.

    Raises:
        MissingError: the file is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: the file is empty, or not a regular file.
    """
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{path.name} is missing") from error
    except IsADirectoryError as error:
        raise DecodeError(f"{path.name} is a folder") from error
    except NotRegularError as error:
        raise DecodeError(f"{path.name} cannot be read: {error.strerror}") from error
    if not head:
        raise DecodeError(f"{path.name} is empty (0 bytes)")
    return head


def is_mp4_or_matroska(head: bytes) -> bool:
    """Whether every release of FFmpeg takes a file for MP4, QuickTime, Matroska or WebM.

    FFmpeg guesses the format of a file, and its releases differ: what one takes for MP4 can be a playlist (HLS, DASH,
    IMF) to another, which then opens the files and addresses that the playlist names. All playlists are text, and
    FFmpeg searches text only up to the first zero byte. So an MP4 must begin with a zero byte and a box of the format;
    and a Matroska file with a whole header that names the format, which scores highest whatever else is found.

    Args:
        head: first bytes of the file, from `read_head`.
    """
    if head.startswith(_EBML):
        header_end = _element_end(head, 0)
        if header_end is None or header_end > len(head):
            return False
        return any(kind in head[:header_end] for kind in _DOC_TYPES)
    return head[:1] == b"\0" and head[4:8] in _FIRST_BOXES


def require_whole_matroska(path: Path, head: bytes) -> None:
    """Check that a Matroska file has its whole length, which FFmpeg does not check.

    Args:
        path: of the file, of any format.
        head: its first bytes, from `read_head`.

    Raises:
        DecodeError: it is a Matroska file that was cut off.
    """
    if not head.startswith(_EBML) or len(head) < _HEAD_BYTES:
        return
    start = _element_end(head, 0)
    if start is None or head[start : start + 4] != _SEGMENT:
        return
    # None: a live recording, whose length was not known when its header was written
    promised, present = _element_end(head, start), os.path.getsize(path)
    if promised is not None and promised > present:
        raise DecodeError(f"{path.name} holds {present:,} of the {promised:,} bytes that it promises: it was cut off")


def _element_end(content: bytes, start: int) -> int | None:
    """Return the offset behind an EBML element.

    Its id takes 4 bytes here. The length follows: the position of the first 1 bit is its width in bytes, and all other
    bits 1 mean that it is unknown.

    Args:
        content: with the element.
        start: offset of the element.

    Returns:
        None if the length is unknown, or behind the end of `content`.
    """
    position = start + 4
    width = 9 - (content[position].bit_length() if position < len(content) else 0)
    if width > 8 or position + width > len(content):
        return None
    num_bits = 7 * width
    size = int.from_bytes(content[position : position + width], "big") & ((1 << num_bits) - 1)
    return None if size == (1 << num_bits) - 1 else position + width + size
