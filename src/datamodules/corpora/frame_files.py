"""The images of a frame sequence, in the order of the numbers in their names."""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from datamodules.corpora.paths import describe_error, has_extension, stat_entry
from datamodules.corpora.skipped import HIDDEN_FILE, OTHER_EXTENSION, Skipped
from datamodules.errors import CorpusError
from datamodules.media.suffixes import READABLE_IMAGE_SUFFIXES


def list_frames(folder: Path, skipped: Skipped | None = None) -> tuple[tuple[str, ...], int, float]:
    """List the images in `folder`, without hidden files.

    Args:
        folder: of the frames of one item.
        skipped: counts the files that are left out.

    Returns:
        Their names, in the order of the numbers in them (`frame2` before `frame10`); their total size in bytes; their
        newest modification time in seconds since the epoch, 0 if there are no images.

    Raises:
        CorpusError: the folder or a frame cannot be read, or two frames have the same number.
        EnvironmentFailure: the file system gives errors.
    """
    skipped = Skipped() if skipped is None else skipped
    try:
        with os.scandir(folder) as entries:
            stats = {entry.name: stat_entry(entry) for entry in entries if is_frame(entry.name, skipped)}
    except OSError as error:
        raise CorpusError(describe_error(error.filename or str(folder), error)) from error
    except ValueError as error:  # a zero byte
        raise CorpusError(f"{str(folder)!r} cannot be used as a path: {error}") from error
    modified = max((stat.st_mtime for stat in stats.values()), default=0.0)
    return in_order(stats, str(folder)), sum(stat.st_size for stat in stats.values()), modified


def in_order(names: Iterable[str], folder: str) -> tuple[str, ...]:
    """Return the names of frames in the order of the numbers in them.

    Args:
        names: of the images in a folder.
        folder: its path, for errors.

    Raises:
        CorpusError: two have the same number.
    """
    ordered = sorted(names, key=_parts)
    for name, following in pairwise(ordered):
        if _parts(name) == _parts(following):  # `1.png` and `01.png`: either may come first
            raise CorpusError(f"{folder} has two frames with the same number, {name!r} and {following!r}: remove one")
    return tuple(ordered)


def count_missing(names: Sequence[str]) -> int:
    """Return how many frames the numbering of `names` leaves out.

    A numbering starts at 1, or at 0 if it has a 0; how far it should go is unknown. Names that differ in more than one
    number are not a single numbering, and count as complete.

    Args:
        names: in the order of `list_frames`.
    """
    parts = [_parts(name) for name in names]
    texts = {name_parts[::2] for name_parts in parts}
    numbers = list(zip(*(name_parts[1::2] for name_parts in parts), strict=False))
    varying = [values for values in numbers if len(set(values)) > 1] or numbers[-1:]
    if len(texts) > 1 or len(varying) != 1:
        return 0
    return int(varying[0][-1] - min(varying[0][0], 1) + 1 - len(names))


def _parts(name: str) -> tuple[Any, ...]:
    """Return a frame's name, without its extension and in lower case, as text, number, text, number, …, text.

    Such tuples can be compared, because numbers always stand at odd positions.
    """
    parts = re.split("([0-9]+)", os.path.splitext(name)[0].casefold())
    return tuple(int(part) if position % 2 else part for position, part in enumerate(parts))


def is_frame(name: str, skipped: Skipped) -> bool:
    """Return whether a file in the folder of a frame sequence is one of its images; if not, count it in `skipped`."""
    if name.startswith("."):  # macOS leaves `._1.png` beside `1.png`
        skipped.add(HIDDEN_FILE)
    elif has_extension(name, READABLE_IMAGE_SUFFIXES):
        return True
    else:
        skipped.add(OTHER_EXTENSION, name)
    return False
