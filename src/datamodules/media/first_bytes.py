"""What the first bytes of a video file prove, before any decoder library opens it."""

import os
from pathlib import Path

from datamodules.errors import DecodeError, MissingError
from datamodules.regular import NotRegularError, open_regular

_HEAD_BYTES = 64  # more than the first two headers of Matroska take
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
_DOC_TYPES = (b"matroska", b"webm")
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # of MP4 and QuickTime


def read_head(path: Path) -> bytes:
    """Read the first bytes of a file, because FFmpeg does not tell a broken mount from a broken video.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, or not a regular file.
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
    """Whether every release of FFmpeg takes a file that begins with `head` for MP4, QuickTime, Matroska or WebM.

    FFmpeg guesses the format of a file, and its releases differ: what is MP4 to one can be a playlist (HLS, DASH, IMF)
    to another, which then opens the files and addresses that the playlist names. All playlists are text, and FFmpeg
    searches text up to the first zero byte only. So an MP4 has to begin with one, and with a box of the format; and a
    Matroska file with a whole header that names the format, which gets the highest score whatever else is found.
    """
    if head.startswith(_EBML):
        header_end = _element_end(head, 0)
        if header_end is None or header_end > len(head):
            return False
        return any(kind in head[:header_end] for kind in _DOC_TYPES)
    return head[:1] == b"\0" and head[4:8] in _FIRST_BOXES


def require_whole_matroska(path: Path, head: bytes) -> None:
    """Raise DecodeError if a Matroska file was cut off: FFmpeg reads one silently, but a file that is not live begins
    with its length.
    """
    if not head.startswith(_EBML) or len(head) < _HEAD_BYTES:
        return
    start = _element_end(head, 0)
    if start is None or head[start : start + 4] != _SEGMENT:
        return
    promised, present = _element_end(head, start), os.path.getsize(path)
    if promised is not None and promised > present:
        raise DecodeError(f"{path.name} holds {present:,} of the {promised:,} bytes that it promises: it was cut off")


def _element_end(content: bytes, start: int) -> int | None:
    """Return the offset behind the EBML element at `start`, whose id takes 4 bytes; None if `content` does not say."""
    place = start + 4
    width = 9 - (content[place].bit_length() if place < len(content) else 0)
    if width > 8 or place + width > len(content):
        return None
    num_bits = 7 * width
    size = int.from_bytes(content[place : place + width], "big") & ((1 << num_bits) - 1)
    return None if size == (1 << num_bits) - 1 else place + width + size
