"""Opening of files that may come from someone else: only regular files are opened.

Opening a FIFO waits for a writer that never comes, `/dev/zero` has no end, and opening some devices has effects. A link
to any of these may have the name of an image, a list or a JSON file.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


class NotRegularError(OSError):
    """A path that is neither a regular file nor a folder; `strerror` says what it is."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open the regular file `path` for reading. Links are followed; anything else is not opened.

    Raises:
        NotRegularError: `path` is a FIFO, a device or a socket.
        OSError: see `open`; IsADirectoryError for a folder. FileNotFoundError also for a path with a null character,
            which no file has (Python raises ValueError).
    """
    if "\0" in str(path):
        raise FileNotFoundError(errno.ENOENT, "no file name has a null character", str(path))
    require_regular(os.stat(path), path)
    descriptor = os.open(
        path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # O_NONBLOCK: a FIFO that has replaced the file meanwhile does not block
    try:
        require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def require_regular(status: os.stat_result, path: str | Path) -> None:
    """Check that `status`, of `path`, is that of a regular file.

    Raises:
        NotRegularError, IsADirectoryError: it is something else.
    """
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
        raise NotRegularError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
