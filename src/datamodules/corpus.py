"""An item: one video, frame sequence or image that becomes one sample, or one failure.

| field    | type                  | meaning                                                                           |
|----------|-----------------------|-----------------------------------------------------------------------------------|
| key      | str                   | unique in the run, legal as WebDataset key and as file name: `key_from_path`      |
| split    | str                   | letters, digits, underscores                                                      |
| path     | str                   | a video, or a folder of frames; relative to the corpus root, absolute, or a URL   |
| frames   | tuple[str, ...]       | file names in that folder, in order; empty: `path` is a video                     |
| start_byte | int or None         | byte offset of an image in a tar: `path` is the tar, `frames` the member's name,  |
|          |                       | and `cost` the image's size                                                       |
| fps      | float or None         | frames per second to take from a video; None: every frame                         |
| start_seconds, stop_seconds | float or None | half-open part of a video, since its first frame; None: no bound       |
| cost     | int, bytes            | size on disk, by which shards are balanced                                        |
| modified | float or None, s      | newest modification time of its files, since the epoch; None: not known           |
| version  | str or None           | ETag of its object in an object store; of several, a hash of theirs; None: of     |
|          |                       | files, or not known                                                               |
| meta     | JSON-able dict        | what the corpus knows about it: text, glosses, prompt                       |
| problem  | str or None           | why the item cannot be used, found by the listing; it becomes a failure row of    |
|          |                       | the class `listing`, and none of its files is opened                              |
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
from datamodules.object_store import is_url
from datamodules.objects import join

# Key in `meta` of the location of an item's JSON files, which fill prompts; samples do not have it. A list with, for
# each file, [path relative to the root, first byte, number of bytes]; both null: the whole file, if it exists.
JSON_FILES = "json_files"
_MAX_NAME_BYTES = 200  # ext4, XFS, NTFS and APFS allow 255 per name; the rest is for suffixes that exports add


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work. The module's table describes the fields."""

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
    version: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def source(self) -> str:
        """Path that messages name: the video, the image, or the folder of the frames."""
        return os.path.join(self.path, self.frames[0]) if len(self.frames) == 1 else self.path

    @property
    def image(self) -> str:
        """Path of a single image below the root, which may lead into a tar; samples store it."""
        return "/".join(part for part in (self.path, *self.frames) if part not in (".", ""))


def located(item: Item, root: str) -> Item:
    """Return `item` with the paths of its JSON files (`meta["json_files"]`) made absolute; they are below `root`."""
    if JSON_FILES not in item.meta:
        return item
    folder = root if is_url(root) else os.path.realpath(root)
    paths = [join(folder, path) for path, *_ in item.meta[JSON_FILES]]
    parts = [part for _, *part in item.meta[JSON_FILES]]
    files = [[path if is_url(path) else os.path.normpath(path), *part] for path, part in zip(paths, parts, strict=True)]
    return replace(item, meta={**item.meta, JSON_FILES: files})


class Corpus(ABC):
    """Lists items in a stable order, with stable keys. Opens no media file.

    To add a corpus, subclass this and write `items`; name the class in the configuration by its `class_path`:

    - Every public attribute is a constructor argument and belongs to the run's fingerprint, except `root`: a run may
      be resumed with the corpus elsewhere. Give other attributes a leading underscore. Of a list, keep the hash
      (`text_lists.list_sha256`): another list is another run, the same list elsewhere is not.
    - The listing is repeated to resume a run, so order and keys must not depend on anything but the corpus.
    - A CorpusError about one row or file costs that item only: yield it with its `problem` (`listing.faulty_row`).
      Raise only what puts other items in doubt, such as a missing folder.

    Most corpora are lists of videos with texts and times, which `datamodules.corpora.pairs.Pairs` reads: a subclass
    names the columns. Other building blocks of `datamodules.corpora`: `rows` and `values` read lists, `roots`
    opens folders and URLs, `listing` makes keys and checks the result.

    Attributes:
        root: the folder or URL that the paths of items are relative to.
        root_option: name of the constructor argument that gives `root`.
    """

    root: str
    root_option: ClassVar[str] = "root"

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield all items, in the same order and with the same keys each time.

        Raises:
            CorpusError: the corpus is not as described.
        """

    @property
    def skipped(self) -> Skipped:
        """Counts of what the last listing has left out so far."""
        skipped: Skipped = vars(self).setdefault("_skipped", Skipped())
        return skipped

    def notes(self) -> list[str]:
        """Return lines about the last listing, printed when a run is planned."""
        return [f"skipped: {self.skipped}"] if self.skipped else []


def key_from_path(path: str | PurePosixPath) -> str:
    """Return the key of a file or folder.

    WebDataset ends a key at the first dot of the base name and lower-cases what follows. So dots, and everything else
    that is not a letter, digit, dash or underscore, are percent-encoded: `a.v1/ü x` becomes `a%2Ev1/ü%20x`. Bytes that
    are not UTF-8, which Python represents by `surrogateescape`, are encoded likewise.

    A part of more than 200 bytes once encoded is cut; `%-` and 16 hexadecimal digits of its BLAKE2b hash follow. No
    other part is encoded to `%-`, so a cut part never equals a part that was short enough.

    Args:
        path: relative to the corpus root, without the extension.

    Raises:
        CorpusError: a part of the path is empty, `.` or `..`, or has a lone surrogate that stands for no byte.
    """
    parts = str(path).split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise CorpusError(f"no key can be made from the path {str(path)!r}: it has an empty, '.' or '..' part")
    try:
        return "/".join(_cut(re.sub(r"[^\w-]", _percent_encoded, part)) for part in parts)
    except UnicodeEncodeError as error:
        raise CorpusError(f"no key can be made from the path {str(path)!r}: it has a lone surrogate") from error


def check_split(split: str) -> str:
    """Return `split` if it can be part of a shard's name.

    Raises:
        CorpusError: it has anything but letters, digits and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise CorpusError(f"{split!r} cannot name a split: use letters, digits and underscores")
    return split


def check_key(key: str) -> str:
    """Return `key` if WebDataset reads it back unchanged: a result of `key_from_path`, which may contain `%`.

    Raises:
        CorpusError: WebDataset would change it.
    """
    if not re.fullmatch(r"[\w%-]+(/[\w%-]+)*", key):
        raise CorpusError(
            f"{key!r} cannot be a key: use letters, digits, '_', '-', '%' and '/' (datamodules.corpus.key_from_path)"
        )
    return key


def hash64(text: str) -> int:
    """Return 64 bits of the BLAKE2b hash of `text`, which may have surrogates."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _cut(part: str) -> str:
    encoded = part.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return part
    end = f"%-{hashlib.blake2b(encoded, digest_size=8).hexdigest()}"
    begin = encoded[: _MAX_NAME_BYTES - len(end)].decode(errors="ignore")  # drops a character that was cut in two
    return re.sub(r"%.?$", "", begin) + end  # and an escape that was cut in two


def _percent_encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogateescape"))
