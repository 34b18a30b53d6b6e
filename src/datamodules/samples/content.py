"""The content of one file of a sample: bytes, or an open file where it is too large for memory."""

from os import SEEK_END
from typing import BinaryIO

Content = bytes | BinaryIO


def size_of(content: Content) -> int:
    """Return the number of bytes in `content`; an open file is left at its end."""
    return len(content) if isinstance(content, bytes) else content.seek(0, SEEK_END)
