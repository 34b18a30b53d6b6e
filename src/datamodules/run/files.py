"""Safe access to the folders and files of a run folder, which someone else may have prepared.

A run writes, renames and deletes in its own folders. If one of them were a link, it would do so in the folder that the
link leads to. So `require_own_folders` refuses links before a run is opened or planned. Files are read by `open_file`
and `read_file`, which refuse everything but regular files, and removed by `remove`, which removes a link and not its
target.
"""

import errno
import hashlib
import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.regular import NotRegularError, open_regular

_BLOCK_BYTES = 1 << 20
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)

CONFIG = "config.yaml"  # the configuration that started the run
SUPERSEDED = "superseded"  # folder of the tars that shards of retries have replaced
STRAY = "stray"  # folder of the files that `verify --repair` moved away
VIDEOS = "videos"  # folder of the videos that are drawn during a run
_OWN = (
    "records",
    "tables",
    SUPERSEDED,
    VIDEOS,
    *(f"{STRAY}{below}" for below in ("", "/records", "/tables", f"/{SUPERSEDED}")),
    *(f"work{below}" for below in ("", "/leases", "/planning", "/ranks", "/scratch", "/spool", "/staging")),
)
MAX_BYTES = 16 << 20  # limit for files that are read whole: records, rank files and cards have some KB


def require_own_folders(folder: Path) -> None:
    """Raise unless every one of a run's own folders is missing or a real folder.

    Args:
        folder: of the run. It may be a link itself, because the user named it.

    Raises:
        RunError: one of them is a link or a file; the message names it.
    """
    for name in _OWN:
        _require_folder(folder / name)


def make_folder(root: Path, path: Path) -> None:
    """Create the folders from `root`, which exists and may be a link, down to `path`, where missing.

    Raises:
        RunError: one of them is a link or a file.
    """
    folder = root
    for name in path.relative_to(root).parts:
        folder = folder / name
        _require_folder(folder)
        folder.mkdir(exist_ok=True)


def open_file(path: Path) -> BinaryIO:
    """Open the file `path` of a run folder for reading. It may be a link to a file.

    Raises:
        RunError: `path` is a folder, a FIFO, a device, a socket or a circular link.
        OSError: see `open`.
    """
    try:
        return open_regular(path)
    except OSError as error:
        if not isinstance(error, (IsADirectoryError, NotRegularError)) and error.errno != errno.ELOOP:
            raise
        raise RunError(f"{path} cannot be read: {error.strerror}; no run makes such a thing: remove it") from error


def read_file(path: Path) -> bytes:
    """Return the content of the small file `path` of a run folder.

    Raises:
        RunError: the file has more than 16 MiB; or see `open_file`.
        OSError: see `open`.
    """
    with open_file(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > MAX_BYTES:
            raise RunError(f"{path} has {num_bytes:,} bytes; the limit for such a file is {MAX_BYTES:,}: remove it")
        return file.read()


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to the file `path`, replacing what is there. Readers see the old or the new file, never a part.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    partial = path.with_name(f"{path.name}.{os.urandom(8).hex()}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Return `size` bytes of an open file from `offset` on; fewer only at its end."""
    content = os.pread(descriptor, size, offset)
    while len(content) < size and (more := os.pread(descriptor, size - len(content), offset + len(content))):
        content += more  # Linux reads at most 2 GiB at once
    return content


def write_new(path: Path, content: bytes, is_durable: bool) -> None:
    """Write `content` to the new file `path`, and fsync it if it is to be durable.

    Raises:
        OSError: see `open`; FileExistsError if the file exists.
    """
    with open(path, "xb") as file:
        file.write(content)
        if is_durable:
            file.flush()
            os.fsync(file.fileno())


def link_new(temporary: Path, path: Path) -> bool:
    """Give the file `temporary` the name `path` too; return whether it has that name afterwards.

    Raises:
        EnvironmentFailure: the file system has no hard links.
        OSError: see `os.link`.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        try:
            # NFS may repeat a request whose reply was lost, and then report this call's own link as "exists"
            return temporary.samefile(path)
        except FileNotFoundError:  # removed in the meantime
            return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise EnvironmentFailure(
            f"cannot create a hard link in {path.parent}: {error.strerror}. Use an --output.dir whose file system has "
            "hard links"
        ) from error
    return True


def remove(path: Path) -> None:
    """Remove the file or link `path`, if it exists. A folder is kept: a run creates none under such a name."""
    with suppress(FileNotFoundError, IsADirectoryError):
        path.unlink()


def is_folder(path: Path) -> bool:
    """Return whether `path` is a folder and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def _require_folder(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        what = f"a link to {os.readlink(path)}"
    elif not stat.S_ISDIR(mode):
        what = "not a folder"
    else:
        return
    raise RunError(f"{path} is {what}. A run writes and deletes files in it, so it must be a real folder: remove it")


def sync(path: Path) -> None:
    """fsync a file or a folder, so that it survives a crash of the machine; of a folder, the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: BinaryIO | io.RawIOBase) -> str:
    """Return the sha256 of an open file from its current position on, as hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
