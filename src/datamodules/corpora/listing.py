"""Folders listed in an order that does not change."""

import hashlib
import os
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from datamodules.errors import CorpusError
from datamodules.media.suffixes import IMAGE_SUFFIXES

T = TypeVar("T")
_BLOCK_BYTES = 1 << 20


def limit(values: Iterator[T], count: int | None) -> Iterator[T]:
    """The first `count` of `values`; all if that is None."""
    return islice(values, count)


def list_sha256(path: str, option: str) -> str:
    """sha256 of the list `path`, which the option `option` names: another list is another run.

    Raises:
        CorpusError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        raise CorpusError(f"{option} {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def list_frames(folder: Path) -> tuple[tuple[str, ...], int, float]:
    """The images in `folder`, hidden ones left out.

    Returns:
        Their names, sorted; their size together in bytes; their newest modification time in seconds since the epoch.

    Raises:
        CorpusError: the folder is missing or cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry.name, entry.stat())
                for entry in entries
                if not entry.name.startswith(".")  # macOS leaves `._images0001.png` beside `images0001.png`
                and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
            )
    except OSError as error:
        raise CorpusError(f"{folder} cannot be listed: {error.strerror}") from error
    stats = [stat for _, stat in found]
    modified = max((stat.st_mtime for stat in stats), default=0.0)
    return tuple(name for name, _ in found), sum(stat.st_size for stat in stats), modified


def walk(root: str, suffixes: Collection[str], below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """(path relative to `root`, size and time) of the files with one of `suffixes`, in any case; depth first, by name.

    Hidden files and folders are left out; links are followed to files, not to folders.

    Raises:
        CorpusError: a folder cannot be listed.
    """
    try:
        with os.scandir(os.path.join(root, below)) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise CorpusError(f"{os.path.join(root, below)} cannot be listed: {error.strerror}") from error
    for entry in entries:
        path = os.path.join(below, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from walk(root, suffixes, path)
        elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
            yield path, entry.stat()
