"""Lists in text files: their lines, paths and hashes."""

import codecs
import csv
import hashlib
import io
import os
from collections.abc import Iterator
from functools import partial
from typing import TextIO

from datamodules.corpora.paths import require_available
from datamodules.errors import CorpusError
from datamodules.objects import open_input

_BLOCK_BYTES = 1 << 20
_MAX_LIST_BYTES = 128 << 30  # read in minutes; a sparse file, which takes no disk space, can have 2^63
MAX_ROW_CHARS = 1 << 24  # of a line, or of all lines of a row
csv.field_size_limit(MAX_ROW_CHARS)  # the default of 131,072 characters is too short for some texts


def open_list(path: str, newline: str | None = None, errors: str = "strict") -> TextIO:
    """Open a list as text: UTF-16 if it starts with that byte order mark, else UTF-8 with or without one.

    Args:
        path: of the list, or its URL.
        newline: as of `open`.
        errors: as of `open`.

    Raises:
        OSError: it is missing, or not a regular file (`open_regular`).
    """
    file = open_input(path)
    is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    file.seek(0)
    return io.TextIOWrapper(file, encoding="utf-16" if is_utf16 else "utf-8-sig", errors=errors, newline=newline)


def read_lines(file: TextIO, path: str) -> Iterator[str]:
    """Yield the lines of a list, one in memory at a time.

    Args:
        file: from `open_list`.
        path: of the list, for errors.

    Raises:
        CorpusError: a line has more than `MAX_ROW_CHARS` characters.
    """
    for number, line in enumerate(iter(partial(file.readline, MAX_ROW_CHARS + 1), ""), 1):
        if len(line) > MAX_ROW_CHARS:
            raise CorpusError(f"{path}, line {number}: it has more than {MAX_ROW_CHARS:,} characters, the limit")
        yield line


def read_list(path: str, option: str) -> Iterator[tuple[int, str]]:
    """Read a list with a path a line.

    Blank lines and lines that begin with `#` are skipped, and a leading `./`, as `find .` writes it, is removed. Bytes
    that are not UTF-8 belong to a file name, and are represented as in one (`surrogateescape`).

    Args:
        path: of the list.
        option: that names it, for errors.

    Yields:
        (line number, from 1; path).

    Raises:
        CorpusError: the list cannot be read.
    """
    try:
        with open_list(path, errors="surrogateescape") as file:
            for number, line in enumerate(read_lines(file, path), 1):
                name = line.strip().removeprefix("./")
                if name and not name.startswith("#"):
                    yield number, name
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError):
            require_available(path, error)
        raise CorpusError(f"{option} {path} cannot be read: {error}") from error


def list_sha256(path: str, option: str) -> str:
    """Return the sha256 of a list. It belongs to the fingerprint: another list is another run.

    Args:
        path: of the list.
        option: that names it, for errors.

    Raises:
        CorpusError: the list cannot be read, or has more than 128 GiB.
    """
    digest = hashlib.sha256()
    try:
        with open_input(path) as file:
            if (num_bytes := file.seek(0, os.SEEK_END)) > _MAX_LIST_BYTES:
                raise CorpusError(
                    f"{option} {path} has {num_bytes:,} bytes; the limit is {_MAX_LIST_BYTES:,}: split it"
                )
            file.seek(0)
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        require_available(path, error)
        raise CorpusError(f"{option} {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
