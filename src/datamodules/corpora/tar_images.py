"""The images in WebDataset tars; samples keep their keys.

| meta of an item | meaning                                                                                         |
|-----------------|-------------------------------------------------------------------------------------------------|
| image           | `{tar without .tar}/{member}`, relative to the root                                             |
| json_files      | the sample's JSON, as [[absolute path of the tar, first byte, bytes]]; left out if it has none  |

Headers are read, and content is sought over: listing a tar costs a read for each of its files.
"""

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from datamodules.corpora.listing import limit
from datamodules.errors import CorpusError
from datamodules.line.item import JSON_FILES, Corpus, Item, check_key, check_split, key_from_path
from datamodules.line.reader import split_name
from datamodules.media.suffixes import IMAGE_SUFFIXES

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BLOCK_BYTES = 1 << 20


class _Member(NamedTuple):
    """A file in a tar: `num_bytes` from `start_byte` on."""

    name: str
    start_byte: int
    num_bytes: int


class TarImages(Corpus):
    """The images in tars, by the tar's path and then in its order.

    Args:
        root: the folder of the tars.
        tars: which of the files in it, as a pattern: `*.tar`, `shards/train-*.tar`, `**/*.tar` for all folders below.
        split: the split all of them belong to.
        max_items: at most this many images; None: all.
    """

    def __init__(self, root: str, tars: str = "*.tar", split: str = "train", max_items: int | None = None) -> None:
        self.root, self.tars, self.split, self.max_items = root, tars, split, max_items

    def items(self) -> Iterator[Item]:
        """The images; a key is what WebDataset takes for it, up to the first dot of the file's name.

        What is no legal key here is percent-encoded: `a b.jpg` has the key `a%20b`.

        Raises:
            CorpusError: the pattern can be none, or names no tar; one is compressed, damaged or cut off; or a sample of
                it has several images.
        """
        check_split(self.split)
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        tars = self._tars()
        if not tars:
            raise CorpusError(f"--data.root {self.root} has no tars {self.tars!r}: set --data.tars")
        return limit((item for tar in tars for item in self._images(tar)), self.max_items)

    def _tars(self) -> list[str]:
        """Those that the pattern names, relative to the root; hidden ones left out."""
        try:
            if os.pardir in Path(self.tars).parts:
                raise ValueError("it leaves the folder")
            found = [path.relative_to(self.root) for path in Path(self.root).glob(self.tars) if path.is_file()]
        except (ValueError, NotImplementedError) as error:  # empty; absolute
            raise CorpusError(
                f"--data.tars {self.tars!r}: {error}; give a pattern below --data.root, such as train-*.tar"
            ) from error
        return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))

    def _images(self, tar: str) -> Iterator[Item]:
        """The items of one tar, whose headers are all held, because a sample's JSON may come after its image."""
        path = os.path.join(self.root, tar)
        images: dict[str, _Member] = {}
        jsons: dict[str, _Member] = {}
        for member in _members(path):
            key, ending = split_name(member.name)
            if ending.lower() == "json":
                jsons[key] = member
            elif os.path.splitext(member.name)[1].lower() in IMAGE_SUFFIXES:
                if key in images:
                    raise CorpusError(
                        f"{path}: {images[key].name!r} and {member.name!r} are images of one key, {key!r}"
                    )
                images[key] = member
        modified = os.stat(path).st_mtime
        for key, member in images.items():
            yield Item(
                key=_legal(key, path),
                split=self.split,
                path=tar,
                frames=(member.name,),
                start_byte=member.start_byte,
                cost=member.num_bytes,
                modified=modified,
                meta=_meta(tar, member, path, jsons.get(key)),
            )


def _meta(tar: str, member: _Member, path: str, json: _Member | None) -> dict[str, object]:
    meta: dict[str, object] = {"image": f"{tar.removesuffix('.tar')}/{_plain(member.name)}"}
    if json is not None:
        meta[JSON_FILES] = [[os.path.abspath(path), json.start_byte, json.num_bytes]]
    return meta


def _legal(key: str, path: str) -> str:
    try:
        return check_key(key)
    except CorpusError:
        try:
            return key_from_path(_plain(key))
        except CorpusError as error:
            raise CorpusError(f"{path}: {error}") from error


def _plain(name: str) -> str:
    """`name` without what `tar cf x.tar ./a` and `/a` put in front of it."""
    return name.removeprefix("./").lstrip("/")


def _members(path: str) -> Iterator[_Member]:
    """The files in the tar `path`, in order; hidden ones left out, as macOS puts a `._a.jpg` beside `a.jpg`.

    Raises:
        CorpusError: it cannot be read, is compressed, or is not whole.
    """
    try:
        with open(path, "rb") as file:
            _refuse_compressed(path, file.read(6))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while member := _next(path, tar):
                    if member.isdir() or os.path.basename(member.name).startswith("."):
                        continue
                    if not member.isreg() or member.issparse():
                        raise CorpusError(f"{path}: {member.name!r} is a link, or has holes: put in the file itself")
                    yield _Member(member.name, member.offset_data, member.size)
                _refuse_cut_off(path, file, tar.offset)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}") from error
    except tarfile.TarError as error:  # of the first header
        raise CorpusError(f"{path} is no tar, or damaged at its first byte: {error}") from error


def _next(path: str, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        member = tar.next()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        place = min(tar.offset, os.path.getsize(path))
        raise CorpusError(f"{path} is damaged or cut off at byte {place:,}: {error}") from error
    tar.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
    if member is not None and member.size < 0:
        raise CorpusError(f"{path} is damaged at byte {member.offset:,}: {member.name!r} has {member.size} bytes")
    return member


def _refuse_compressed(path: str, begin: bytes) -> None:
    for mark, name in _COMPRESSED.items():
        if begin.startswith(mark):
            raise CorpusError(f"{path} is compressed by {name}, so no image can be read without all before: unpack it")


def _refuse_cut_off(path: str, file: IO[bytes], offset: int) -> None:
    """CorpusError unless from `offset` on, where no header follows, there are zeros, and nothing but zeros.

    Python's reader takes a header that is damaged or missing for the end: all that follows would be left out silently.
    """
    file.seek(offset)
    block = file.read(_BLOCK_BYTES)
    if not block:
        raise CorpusError(f"{path} is cut off at byte {offset:,}: the mark of its end is missing")
    while block:
        if block.count(0) < len(block):
            raise CorpusError(
                f"{path} is damaged or cut off at byte {offset:,}, where a header should be; or several tars were put "
                "together there"
            )
        block = file.read(_BLOCK_BYTES)
