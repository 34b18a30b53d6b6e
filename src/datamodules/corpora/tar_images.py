"""The images in WebDataset tars; samples keep their keys.

| meta of an item | meaning                                                                                         |
|-----------------|-------------------------------------------------------------------------------------------------|
| image           | `{tar without .tar}/{member}`, relative to the root                                             |
| json_files      | location of the sample's JSON, as [[path of the tar, first byte, number of bytes]]; left out if |
|                 | it has none                                                                                     |

Only headers are read; the contents are skipped by seeking. Several tars are read twice, because a key that two of them
have becomes `{tar without .tar}/{key}`.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from datamodules.corpora.listing import repeated, require_any
from datamodules.corpora.paths import describe_error
from datamodules.corpora.roots import open_root
from datamodules.corpora.skipped import HIDDEN_FILE, OTHER_EXTENSION, Skipped
from datamodules.corpus import JSON_FILES, Corpus, Item, check_key, check_split, key_from_path
from datamodules.daemon_threads import DaemonThreads
from datamodules.errors import CorpusError
from datamodules.media.suffixes import READABLE_IMAGE_SUFFIXES
from datamodules.object_store import is_url
from datamodules.objects import FileFacts, open_input
from datamodules.tar_members import TarMember, read_members, split_name

_THREADS = 16  # that read tars of an object store: most of the time, each waits for an answer
_COMPRESSED = {  # by the first bytes
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass
class _Sample:
    """The members of a tar with one key. The last member of a name counts, as when a tar is unpacked."""

    image: TarMember | None = None
    json: TarMember | None = None
    problem: str | None = None

    def add_image(self, member: TarMember) -> None:
        if self.image and _plain(self.image.name) != _plain(member.name):
            self.problem = f"{self.image.name} and {member.name} are images with the same key"
        self.image = member


class TarImages(Corpus):
    """The images in tars, by the tar's path and then in its order.

    Args:
        root: folder or URL of the tars.
        tars: pattern of the tars in it: `*.tar`, `shards/train-*.tar`, `**/*.tar` for all folders below.
        split: the split of all images.
        max_items: list at most this many images; None: all.
    """

    def __init__(self, root: str, tars: str = "*.tar", split: str = "train", max_items: int | None = None) -> None:
        self.root, self.tars, self.split, self.max_items = root, tars, split, max_items

    def items(self) -> Iterator[Item]:
        """Yield the images. Keys are those of WebDataset: the member's name up to the first dot of the base name.

        A key that is not legal here is percent-encoded: `a b.jpg` has the key `a%20b`. A key that several tars have is
        preceded by their names: `shard-0/0001`. A tar that is compressed, damaged or cut off is one item with that
        problem; the samples before the damage are items.

        Raises:
            CorpusError: the pattern is invalid or matches no tar, or there are no images.
            EnvironmentFailure: the file system gives errors.
        """
        check_split(self.split)
        self._files = open_root(self)
        tars = self._tars()
        if not tars:
            raise CorpusError(f"--data.root {self.root} has no tars {self.tars!r}: set --data.tars")
        self.skipped.clear()
        is_ambiguous = repeated(self._keys(tars)) if len(tars) > 1 else repeated(())
        items = (item for tar, content in self._contents(tars) for item in self._items(tar, content, is_ambiguous))
        return require_any(islice(items, self.max_items), "images", self.root, READABLE_IMAGE_SUFFIXES, self.skipped)

    def _tars(self) -> list[str]:
        """Return the tars that the pattern matches, relative to the root, sorted, without hidden ones."""
        try:
            parts = Path(self.tars).parts
            if os.pardir in parts:
                raise ValueError("it leaves the folder")
            if any("**" in part and part != "**" for part in parts):  # Python 3.13 and later read it as *
                raise ValueError("** must be a whole part of a path")
            return self._files.files(self.tars)
        # an empty pattern; an absolute one; `**` in a tree of 1,000 folders
        except (ValueError, NotImplementedError, RecursionError) as error:
            raise CorpusError(
                f"--data.tars {self.tars!r}: {error}; give a pattern below --data.root, such as train-*.tar"
            ) from error

    def _keys(self, tars: Sequence[str]) -> Iterator[str]:
        return (key for _, content in self._contents(tars) for key, sample in content.samples.items() if sample.image)

    def _contents(self, tars: Sequence[str]) -> "Iterator[tuple[str, _Content]]":
        """Read the headers of the tars, in order; of those in an object store, of several at once."""
        paths = map(self._files.join, tars)
        contents = _contents_in_threads(paths) if is_url(self.root) else map(_content, paths)
        return zip(tars, contents, strict=True)

    def _items(self, tar: str, content: "_Content", is_ambiguous: Callable[[str], bool]) -> Iterator[Item]:
        """Yield the items of one tar. All its headers are in memory, because a JSON may come after its image."""
        prefix = key_from_path(tar.removesuffix(".tar"))
        samples, damage = content.samples, content.damage
        self.skipped.update(content.skipped)
        facts = self._files.stat(tar) if samples else FileFacts()
        for key, sample in samples.items():
            if image := sample.image:
                yield Item(
                    key=f"{prefix}/{key}" if key.startswith("%byte") or is_ambiguous(key) else key,
                    split=self.split,
                    path=tar,
                    frames=(image.name,),
                    start_byte=image.start_byte,
                    cost=image.num_bytes,
                    modified=facts.modified,
                    version=facts.version,
                    meta=_meta(tar, image, sample.json),
                    problem=sample.problem or image.problem or (sample.json and sample.json.problem),
                )
        if damage:
            num_images = sum(sample.image is not None for sample in samples.values())
            problem = f"{damage}. The {num_images:,} samples before that are used"
            yield Item(f"{prefix}/%tar", self.split, tar, problem=problem)  # no file's key: `%ta` is not an escape


class _Content(NamedTuple):
    """What the headers of a tar say.

    Attributes:
        samples: by key, in order.
        damage: what is wrong with the tar after them; None: nothing.
        skipped: counts of the members that were left out.
    """

    samples: dict[str, _Sample]
    damage: str | None
    skipped: Skipped


def _content(path: str) -> _Content:
    """Read the headers of a tar, by its path or URL."""
    samples: dict[str, _Sample] = {}
    skipped = Skipped()
    try:
        for member in _members(path, skipped):
            is_json = split_name(member.name)[1].lower() == "json"
            if not is_json and os.path.splitext(member.name)[1].lower() not in READABLE_IMAGE_SUFFIXES:
                skipped.add(OTHER_EXTENSION, member.name)
                continue
            key, member = _with_key(member)
            sample = samples.setdefault(key, _Sample())
            if is_json:
                sample.json = member
                continue
            if not sample.image:
                samples[key] = samples.pop(key)  # samples come in the order of their images, not of their JSONs
            sample.add_image(member)
    except CorpusError as error:
        return _Content(samples, str(error), skipped)
    return _Content(samples, None, skipped)


def _contents_in_threads(paths: Iterable[str]) -> Iterator[_Content]:
    """Yield the contents of tars in order, and read some of those that follow meanwhile."""
    futures: deque[Future[_Content]] = deque()
    threads = DaemonThreads(_THREADS)
    try:
        for path in paths:
            futures.append(threads.submit(partial(_content, path)))
            if len(futures) == _THREADS:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        for future in futures:
            future.cancel()


def _with_key(member: TarMember) -> tuple[str, TarMember]:
    """Return the key of a member's sample, and the member, with a problem if no key can be made from its name."""
    key = split_name(member.name)[0]
    try:
        return check_key(key), member
    except CorpusError:
        try:
            return key_from_path(_plain(key)), member
        except CorpusError as error:
            # no file's key: `%by` is not an escape
            return f"%byte-{member.start_byte}", member._replace(problem=str(error))


def _meta(tar: str, member: TarMember, json: TarMember | None) -> dict[str, object]:
    meta: dict[str, object] = {"image": f"{tar.removesuffix('.tar')}/{_plain(member.name)}"}
    if json is not None:
        meta[JSON_FILES] = [[tar, json.start_byte, json.num_bytes]]
    return meta


def _plain(name: str) -> str:
    """Return `name` without the prefix that `tar cf x.tar ./a` or `/a` gives it."""
    return name.removeprefix("./").lstrip("/")


def _members(path: str, skipped: Skipped) -> Iterator[TarMember]:
    """Yield the whole members of a tar, in order, without hidden ones (macOS puts a `._a.jpg` beside `a.jpg`).

    Raises:
        CorpusError: the tar cannot be read, is compressed, or is damaged or cut off after these members.
        EnvironmentFailure: the file system gives errors.
    """
    try:
        with open_input(path) as file:
            _refuse_compressed(path, file.read(6))
            for member in read_members(file, path):
                if os.path.basename(member.name).startswith("."):
                    skipped.add(HIDDEN_FILE)
                else:
                    yield member
    except OSError as error:
        raise CorpusError(describe_error(path, error)) from error


def _refuse_compressed(path: str, head: bytes) -> None:
    for mark, name in _COMPRESSED.items():
        if head.startswith(mark):
            raise CorpusError(f"{path} is compressed by {name}, and images are read from the middle of tars: unpack it")
