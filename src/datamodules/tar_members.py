"""The files in a tar, read from its headers; contents are skipped by seeking.

`tarfile.TarInfo.frombuf` parses each header, but `tarfile.TarFile` does not iterate over them here. A tar may come from
someone else, and TarFile reads extended headers of any size into memory, recurses for each extended header before a
file, and parses some of them in quadratic time.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from datamodules.errors import CorpusError

_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_EXTENDED = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)  # headers that describe the file after them
_MAX_EXTENDED_HEADERS = 16  # before one file; writers need three
_MAX_EXTENDED_BYTES = 1 << 20  # of one header: names have up to 4 KiB, extended attributes on Linux 64 KiB
_MAX_NAME_CHARS = 4096  # Linux, PATH_MAX
_MAX_PADDING_BYTES = 1 << 30  # zeros after the last file; writers fill up a record, mostly of 10 KiB
_READ_BYTES = 1 << 20
_PAX_LENGTH = re.compile(rb"([0-9]{1,20}) ")  # starts each record
# All fields but the name have a fixed length, so it ends within its 100 bytes: name, mode, two owners, size, time,
# checksum, type, no target of a link, magic, no names of owners, two numbers of a device, no prefix, padding.
_PLAIN = re.compile(
    rb"(?P<name>[^\0]+)\0*(?:[0-7]{7}\0){3}(?P<size>[0-7]{11})\0[0-7]{11}\0(?P<checksum>[0-7]{6})\0 0\0{100}"
    rb"ustar\x0000\0{64}(?:[0-7]{7}\0|\0{8}){2}\0{167}"
)
# offsets of the flag "another header of the map follows" in GNU's old sparse headers, and in their continuations
_IS_CONTINUED, _IS_CONTINUED_AGAIN = 482, 504


class TarMember(NamedTuple):
    """A file in a tar.

    Attributes:
        name: its path in the tar.
        start_byte: offset of its content in the tar.
        num_bytes: length of its content.
        problem: why its content cannot be used; None: it can.
    """

    name: str
    start_byte: int
    num_bytes: int
    problem: str | None


def read_members(file: BinaryIO, path: str, is_whole: bool = True) -> Iterator[TarMember]:
    """Yield the files of a tar, in order, without its folders.

    Args:
        file: the tar, open.
        path: its path, for errors.
        is_whole: False: `file` is a part of a tar that ends with a member, without the mark of the tar's end.

    Raises:
        CorpusError: it is not a tar, or is damaged, cut off or above a limit after the files so far. The message names
            the byte.
    """
    size, start = file.seek(0, os.SEEK_END), 0
    while True:
        file.seek(start)
        try:
            header = _read_header(file)
        except tarfile.HeaderError as error:
            raise CorpusError(f"{path} is damaged or cut off at byte {start:,}: {error}") from error
        if header is None:
            break
        content_start = file.tell()
        # links and devices have no content, whatever their size; unknown types count as files, as in `tarfile`
        has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        num_bytes = header.size if has_content else 0
        if content_start + num_bytes > size:
            raise CorpusError(f"{path} is cut off at byte {size:,}, within {header.name}")
        if not header.isdir():
            is_plain = header.isreg() and not header.issparse()
            problem = f"{header.name} is a link, a device or a sparse file: put the file itself into the tar"
            yield TarMember(header.name, content_start, num_bytes, None if is_plain else problem)
        start = content_start + _padded(num_bytes)
    if is_whole or start != size:
        _require_end(file, path, start)


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a member into (key, extension), as WebDataset does: at the first dot of the base name."""
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ending


def _read_header(file: BinaryIO) -> tarfile.TarInfo | None:
    """Read the header of the next file, and the extended headers before it; leave `file` at the content.

    Returns:
        The header, with the name and the size that extended headers give; None if no header begins here.

    Raises:
        HeaderError: a header is malformed, or above a limit.
    """
    fields: dict[str, str] = {}
    for number in range(_MAX_EXTENDED_HEADERS + 1):
        block = file.read(tarfile.BLOCKSIZE)
        try:
            header = _plain_header(block) or tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            if number == 0:
                return None
            raise
        if header.size < 0:  # GNU's binary sizes can be negative, and would lead back to this header
            raise tarfile.HeaderError(f"{header.name!r:.80} has {header.size} bytes")
        if header.type not in _EXTENDED:
            break
        fields.update(_read_fields(file, header))
    else:
        raise tarfile.HeaderError(f"one file has more than {_MAX_EXTENDED_HEADERS} extended headers, the limit")
    header.name = fields.get("GNU.sparse.name") or fields.get("path") or header.name
    if len(header.name) > _MAX_NAME_CHARS:
        raise tarfile.HeaderError(f"a file has a name of more than {_MAX_NAME_CHARS:,} characters, the limit")
    header.size = int(fields.get("size", header.size))
    if header.type == tarfile.GNUTYPE_SPARSE or any(keyword.startswith("GNU.sparse.") for keyword in fields):
        header.sparse = b""  # so that `issparse` says so
    is_continued = header.type == tarfile.GNUTYPE_SPARSE and block[_IS_CONTINUED]
    while is_continued:
        block = file.read(tarfile.BLOCKSIZE)
        is_continued = len(block) == tarfile.BLOCKSIZE and block[_IS_CONTINUED_AGAIN]
    return header


def _plain_header(block: bytes) -> tarfile.TarInfo | None:
    """Return the name and size of a regular file whose header is as Python writes it; None: it may be another header.

    `frombuf` checks a header number by number, which takes longer than to read a small file.
    """
    fields = _PLAIN.fullmatch(block)
    if fields is None or sum(block[:148]) + 8 * ord(" ") + sum(block[156:]) != int(fields["checksum"], 8):
        return None
    header = tarfile.TarInfo(fields["name"].decode("utf-8", "surrogateescape"))
    header.size = int(fields["size"], 8)
    return header


def _read_fields(file: BinaryIO, header: tarfile.TarInfo) -> dict[str, str]:
    """Read the content of an extended header.

    Returns:
        What it says about the file after it, as the fields of pax.

    Raises:
        HeaderError: it is malformed, or above a limit.
    """
    if header.size > _MAX_EXTENDED_BYTES:
        raise tarfile.HeaderError(f"an extended header has {header.size:,} bytes; the limit is {_MAX_EXTENDED_BYTES:,}")
    content = file.read(_padded(header.size))[: header.size]
    if len(content) < header.size:
        raise tarfile.HeaderError("an extended header is cut off")
    if header.type == tarfile.GNUTYPE_LONGLINK:
        return {}
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": _text(content.partition(b"\0")[0])}
    fields = dict(_pax_fields(content))
    if fields and header.type == tarfile.XGLTYPE:
        raise tarfile.HeaderError(f"a global header gives all files the same {next(iter(fields))}")
    if not re.fullmatch("[0-9]{1,20}", fields.get("size", "0")):
        raise tarfile.HeaderError(f"an extended header gives the size {fields['size']!r:.80}")
    return fields


def _pax_fields(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield (keyword, value) of the records of a pax header that matter here.

    A record is `LENGTH KEYWORD=VALUE` and a line feed; LENGTH counts the bytes of all of it.
    """
    start = 0
    while start < len(content) and content[start]:  # some writers pad it with zeros
        length = _PAX_LENGTH.match(content, start)
        end = start + int(length[1]) if length else 0
        if length is None or not length.end() < end <= len(content):
            raise tarfile.HeaderError("an extended header is malformed")
        keyword, _, value = content[length.end() : end - 1].partition(b"=")
        if keyword in (b"path", b"size") or keyword.startswith(b"GNU.sparse."):
            yield keyword.decode("ascii", "replace"), _text(value)
        start = end


def _text(content: bytes) -> str:
    """Return a value as text, without the slashes that end the name of a folder."""
    return content.decode("utf-8", "surrogateescape").rstrip("/")


def _padded(num_bytes: int) -> int:
    """Return the size of a content with the zeros that fill up its last block."""
    return -(-num_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _require_end(file: BinaryIO, path: str, start: int) -> None:
    """Raise CorpusError unless the tar ends at `start`: only zeros follow, at least one."""
    file.seek(start)
    num_read = 0
    while block := file.read(_READ_BYTES):
        num_read += len(block)
        if block.count(0) < len(block):
            if not start:
                raise CorpusError(f"{path} is not a tar, or damaged at its first byte")
            raise CorpusError(
                f"{path} is damaged or cut off at byte {start:,}, where a header should be; or several tars were "
                "concatenated there"
            )
        if num_read > _MAX_PADDING_BYTES:
            raise CorpusError(f"{path} has more than {_MAX_PADDING_BYTES:,} zeros from byte {start:,} on, the limit")
    if not num_read:
        raise CorpusError(f"{path} is cut off at byte {start:,}: the mark of its end is missing")
