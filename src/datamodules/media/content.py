"""The bytes of small files, images above all, from folders and from tars."""

import os
import tarfile
from pathlib import Path

from datamodules.errors import ChangedError, DecodeError, MissingError
from datamodules.media.limits import MAX_FILE_BYTES
from datamodules.regular import NotRegularError, open_regular


def read_file(path: Path) -> bytes:
    """What the file `path` holds.

    Raises:
        MissingError: it is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: it is empty, larger than 2 GiB, or not a regular file.
    """
    try:
        with open_regular(path) as file:
            _require_small(os.fstat(file.fileno()).st_size, path.name)
            content = file.read()
    except FileNotFoundError as error:
        raise MissingError(f"{path.name} is missing") from error
    except (IsADirectoryError, NotRegularError) as error:  # any other OSError may be the mount's
        raise DecodeError(f"{path.name} cannot be read: {error.strerror}") from error
    if not content:
        raise DecodeError(f"{path.name} is empty (0 bytes)")
    return content


def read_member(tar: Path, name: str, start_byte: int, num_bytes: int) -> bytes:
    """What the member `name` of `tar` holds: `num_bytes` from `start_byte` on.

    The header right before them is read along, and has to be this member's: in a tar that was written anew, the same
    place is another file's, or the middle of one.

    Raises:
        MissingError: the tar is missing.
        OSError: the file system cannot give its bytes.
        ChangedError: the tar has something else there, or ends before.
        DecodeError: the member is empty or larger than 2 GiB, or the tar is not a regular file.
    """
    _require_small(num_bytes, name)
    try:
        with open_regular(tar) as file:
            file.seek(start_byte - tarfile.BLOCKSIZE)
            header, content = file.read(tarfile.BLOCKSIZE), file.read(num_bytes)
    except FileNotFoundError as error:
        raise MissingError(f"{tar.name} is missing") from error
    except (IsADirectoryError, NotRegularError) as error:
        raise DecodeError(f"{tar.name} cannot be read: {error.strerror}") from error
    if len(content) < num_bytes or not _is_header_of(header, name, num_bytes):
        raise ChangedError(f"{tar.name} has no {name} of {num_bytes:,} bytes at {start_byte:,} any more")
    if not content:
        raise DecodeError(f"{name} is empty (0 bytes)")
    return content


def _require_small(num_bytes: int, name: str) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise DecodeError(f"{name} has {num_bytes:,} bytes; the limit for one file is {MAX_FILE_BYTES:,}")


def _is_header_of(header: bytes, name: str, num_bytes: int) -> bool:
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    is_whole = name.isascii() and len(name) <= tarfile.LENGTH_NAME  # else it may stand in a header before this one
    return found.size == num_bytes and (found.name == name or not is_whole)
