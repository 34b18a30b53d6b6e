"""Files that are open for reading at any offset, wherever they are stored."""

import io
import os
from typing import Any


class StoredFile(io.RawIOBase):
    """A file in a folder or an object store, open for reading at any offset.

    Several threads can read it through `read_at`.

    Args:
        size: of the file in bytes.

    Attributes:
        block_bytes: least size of a read that is worth its cost, for buffers.
    """

    block_bytes = io.DEFAULT_BUFFER_SIZE

    def __init__(self, size: int) -> None:
        self.size = size
        self._position = 0

    def read_at(self, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset` on; fewer only at the end of the file.

        Raises:
            OSError: the file cannot be read any more.
        """
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        content = self.read_at(len(buffer), self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readall(self) -> bytes:
        content = self.read_at(max(0, self.size - self._position), self._position)
        self._position += len(content)
        return content
