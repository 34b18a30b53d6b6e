"""The bytes of small files, mostly images, from folders and tars."""

import os
import tarfile
from pathlib import Path

from datamodules.errors import ChangedError, DecodeError, MissingError
from datamodules.media.limits import MAX_FILE_BYTES
from datamodules.regular import NotRegularError, open_regular


def read_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        MissingError: the file is missing.
        OSError: the file system cannot give its bytes.
        DecodeError: the file is empty, larger than 2 GiB, or not a regular file.
    """
    try:
        with open_regular(path) as file:
            require_small(os.fstat(file.fileno()).st_size, path.name)
            content = file.read()
    except FileNotFoundError as error:
        raise MissingError(f"{path.name} is missing") from error
    except (IsADirectoryError, NotRegularError) as error:  # the file's fault; any other OSError may be the mount's
        raise DecodeError(f"{path.name} cannot be read: {error.strerror}") from error
    return require_content(content, path.name)


def read_member(tar: Path, name: str, start_byte: int, num_bytes: int) -> bytes:
    """Return the content of a file in a tar.

    The header before the content is read too, and must belong to this member: if the tar has been written anew since
    the listing, another file, or the middle of one, may be at the same offset.

    Args:
        tar: path of the tar.
        name: of the member.
        start_byte: offset of its content in the tar.
        num_bytes: length of its content.

    Raises:
        MissingError: the tar is missing.
        OSError: the file system cannot give its bytes.
        ChangedError: the tar ends earlier, or has something else at that offset.
        DecodeError: the member is empty or larger than 2 GiB, or the tar is not a regular file.
    """
    require_small(num_bytes, name)
    try:
        with open_regular(tar) as file:
            file.seek(start_byte - tarfile.BLOCKSIZE)
            block = file.read(tarfile.BLOCKSIZE + num_bytes)
    except FileNotFoundError as error:
        raise MissingError(f"{tar.name} is missing") from error
    except (IsADirectoryError, NotRegularError) as error:
        raise DecodeError(f"{tar.name} cannot be read: {error.strerror}") from error
    return member_content(block, tar.name, name, start_byte, num_bytes)


def member_content(block: bytes, tar: str, name: str, start_byte: int, num_bytes: int) -> bytes:
    """Return the content of a member from `block`, which begins with the header before it; see `read_member`.

    Raises:
        ChangedError: the block is shorter, or has something else.
        DecodeError: the member is empty.
    """
    header, content = block[: tarfile.BLOCKSIZE], block[tarfile.BLOCKSIZE :]
    if len(content) < num_bytes or not _is_header_of(header, name, num_bytes):
        raise ChangedError(f"{tar} has no {name} of {num_bytes:,} bytes at {start_byte:,} any more")
    return require_content(content, name)


def require_content(content: bytes, name: str) -> bytes:
    """Return the content of the file `name`; raise DecodeError if it is empty."""
    if not content:
        raise DecodeError(f"{name} is empty (0 bytes)")
    return content


def require_small(num_bytes: int, name: str) -> None:
    """Raise DecodeError if the file `name` has more than 2 GiB."""
    if num_bytes > MAX_FILE_BYTES:
        raise DecodeError(f"{name} has {num_bytes:,} bytes; the limit for one file is {MAX_FILE_BYTES:,}")


def _is_header_of(block: bytes, name: str, num_bytes: int) -> bool:
    """Whether `block` is the header of a member with this name and size."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    # a long or non-ASCII name may be in an extended header before this one
    has_name = name.isascii() and len(name) <= tarfile.LENGTH_NAME
    return header.size == num_bytes and (header.name == name or not has_name)
