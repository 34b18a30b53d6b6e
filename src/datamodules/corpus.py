"""An item: one video, frame sequence or image that becomes one sample, or one failure.

| field  | type             | meaning                                                                        |
|--------|------------------|--------------------------------------------------------------------------------|
| key    | str              | unique in the run, legal as WebDataset key and as file name: `key_from_path`   |
| split  | str              | letters, digits, underscores                                                   |
| path   | str              | folder of the frames, or the video; relative to the corpus root, or absolute   |
| frames | tuple[str, ...]  | file names in that folder, in order; empty: `path` is a video                  |
| start_byte | int or None  | first byte of an image in a tar: `path` is the tar, `frames` the name of its member, |
|        |                  | and its `cost` bytes are the image                                             |
| fps    | float or None    | frames per second to take from a video; None: every frame                      |
| start_seconds, stop_seconds | float or None | part of a video, half-open, since its first frame; None: to its end |
| cost   | int, bytes       | size on disk, by which shards are balanced                                     |
| modified | float or None, s | newest modification time of its files, since the epoch; None: not looked at |
| meta   | JSON-able dict   | what the corpus knows of it: glosses, transcript, prompt                       |
| problem | str or None     | why the item cannot be used, found while it was listed; it becomes a failure row of |
|        |                  | the class `listing`, and none of its files is opened                           |
"""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

from datamodules.corpora.skipped import Skipped
from datamodules.errors import CorpusError

# The field of `meta` that locates an item's JSON files, from which prompts are filled; samples do not have it. Of each
# file [path relative to the root, first byte, bytes]; the latter two null: the whole file, if it exists.
JSON_FILES = "json_files"
_MAX_NAME_BYTES = 200  # ext4, XFS, NTFS and APFS allow 255 per name; the rest is for endings that exports add


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work; the fields are those of the table above."""

    key: str
    split: str
    path: str
    frames: tuple[str, ...] = ()
    fps: float | None = None
    start_seconds: float | None = None
    stop_seconds: float | None = None
    start_byte: int | None = None
    cost: int = 0
    modified: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def source(self) -> str:
        """What to call its file, or files, by: the path, and of a single image the name as well."""
        return os.path.join(self.path, self.frames[0]) if len(self.frames) == 1 else self.path

    @property
    def image(self) -> str:
        """Of a single image, its path below the root, which may lead into a tar, as its sample tells it."""
        return "/".join(part for part in (self.path, *self.frames) if part not in (".", ""))


def located(item: Item, root: str) -> Item:
    """Return `item` with absolute paths of its JSON files (`meta["json_files"]`), which are relative to `root`."""
    if JSON_FILES not in item.meta:
        return item
    folder = os.path.realpath(root)
    files = [[os.path.normpath(os.path.join(folder, path)), *part] for path, *part in item.meta[JSON_FILES]]
    return replace(item, meta={**item.meta, JSON_FILES: files})


class Corpus(ABC):
    """Lists items; opens no file.

    Attributes:
        root: the folder that items' paths are relative to. It may be another when a run is resumed. Every other public
            attribute, which are the constructor's arguments, belongs to the run's fingerprint.
        root_option: the constructor's argument that gives `root`.
    """

    root: str
    root_option: ClassVar[str] = "root"

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All items, in an order and with keys that do not change from one listing to the next.

        Raises:
            CorpusError: the corpus is not as described.
        """

    @property
    def skipped(self) -> Skipped:
        """What the last listing has left out so far."""
        skipped: Skipped = vars(self).setdefault("_skipped", Skipped())
        return skipped

    def notes(self) -> list[str]:
        """Lines about the last listing, for people to read when a run is planned."""
        return [f"skipped: {self.skipped}"] if self.skipped else []


def key_from_path(path: str | PurePosixPath) -> str:
    """The key of a file or folder, from its path relative to the corpus root, given without its ending.

    WebDataset ends a key at the first dot of the base name and lower-cases what follows, so dots, and with them
    everything that is no letter, digit, dash or underscore, are percent-encoded: `a.v1/ü x` becomes `a%2Ev1/ü%20x`.
    So are bytes that are not UTF-8, as Python represents them in file names (`surrogateescape`).

    A part that has more than 200 bytes once encoded is cut, and `%-` and 16 hexadecimal digits of its BLAKE2b hash
    follow. No other part is encoded to `%-`, so a cut one never equals a part that was short enough.

    Raises:
        CorpusError: a part of the path is empty, `.` or `..`, or has a lone surrogate that stands for no byte.
    """
    parts = str(path).split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise CorpusError(f"no key can be made of the path {str(path)!r}: it has an empty, '.' or '..' part")
    try:
        return "/".join(_cut(re.sub(r"[^\w-]", _percent_encoded, part)) for part in parts)
    except UnicodeEncodeError as error:
        raise CorpusError(f"no key can be made of the path {str(path)!r}: it has a lone surrogate") from error


def check_split(split: str) -> str:
    """`split`, if it can be part of a shard's name.

    Raises:
        CorpusError: it has anything but letters, digits and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise CorpusError(f"{split!r} cannot name a split: use letters, digits and underscores")
    return split


def check_key(key: str) -> str:
    """`key`, if WebDataset gives it back as it is: what `key_from_path` makes, or would leave alone but for `%`.

    Raises:
        CorpusError: it is not.
    """
    if not re.fullmatch(r"[\w%-]+(/[\w%-]+)*", key):
        raise CorpusError(
            f"{key!r} cannot be a key: use letters, digits, '_', '-', '%' and '/' (datamodules.corpus.key_from_path)"
        )
    return key


def hash64(text: str) -> int:
    """64 bits of the BLAKE2b hash of `text`, which may have surrogates."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _cut(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return part
    end = f"%-{hashlib.blake2b(encoded, digest_size=8).hexdigest()}"
    begin = encoded[: _MAX_NAME_BYTES - len(end)].decode(errors="ignore")  # without a piece of a character
    return re.sub(r"%.?$", "", begin) + end  # nor of an escape


def _percent_encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogateescape"))
