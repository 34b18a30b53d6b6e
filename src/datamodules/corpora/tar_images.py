"""The images in WebDataset tars; samples keep their keys.

| meta of an item | meaning                                                                                         |
|-----------------|-------------------------------------------------------------------------------------------------|
| image           | `{tar without .tar}/{member}`, relative to the root                                             |
| json_files      | the sample's JSON, as [[path of the tar, first byte, bytes]]; left out if it has none           |

Headers are read, and content is sought over: listing a tar costs a read for each of its files, and two where there are
several tars, because a key that two of them have becomes `{tar without .tar}/{key}`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.corpora.listing import limit, repeated, require_found
from datamodules.corpora.paths import fault_of_file
from datamodules.corpora.skipped import HIDDEN_FILE, OTHER_EXTENSION, Skipped
from datamodules.corpus import JSON_FILES, Corpus, Item, check_key, check_split, key_from_path
from datamodules.errors import CorpusError
from datamodules.media.suffixes import READABLE_IMAGE_SUFFIXES
from datamodules.regular import open_regular
from datamodules.tar_members import TarMember, read_members, split_name

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass
class _Sample:
    """The files of one key in a tar, of which the last one of a name counts, as when a tar is unpacked."""

    image: TarMember | None = None
    json: TarMember | None = None
    problem: str | None = None

    def add_image(self, member: TarMember) -> None:
        if self.image and _plain(self.image.name) != _plain(member.name):
            self.problem = f"{self.image.name} and {member.name} are images of one key"
        self.image = member


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

        What is no legal key here is percent-encoded: `a b.jpg` has the key `a%20b`. A key that several tars have comes
        after their names: `shard-0/0001`. A tar that is compressed, damaged or cut off is one item with that problem;
        the samples before the damage are items.

        Raises:
            CorpusError: the pattern can be none, or names no tar, or there are no images.
            EnvironmentFailure: the file system gives errors.
        """
        check_split(self.split)
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        tars = self._tars()
        if not tars:
            raise CorpusError(f"--data.root {self.root} has no tars {self.tars!r}: set --data.tars")
        self.skipped.clear()
        is_ambiguous = repeated(key for tar in tars for key in self._keys(tar)) if len(tars) > 1 else repeated(())
        items = (item for tar in tars for item in self._items(tar, is_ambiguous))
        return require_found(limit(items, self.max_items), "images", self.root, READABLE_IMAGE_SUFFIXES, self.skipped)

    def _tars(self) -> list[str]:
        """Those that the pattern names, relative to the root; hidden ones left out."""
        try:
            if os.pardir in Path(self.tars).parts:
                raise ValueError("it leaves the folder")
            found = [path.relative_to(self.root) for path in Path(self.root).glob(self.tars) if _is_tar(path)]
        except (ValueError, NotImplementedError, RecursionError) as error:  # empty; absolute; `**` of 1,000 folders
            raise CorpusError(
                f"--data.tars {self.tars!r}: {error}; give a pattern below --data.root, such as train-*.tar"
            ) from error
        return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))

    def _keys(self, tar: str) -> Iterator[str]:
        samples, _ = _samples(os.path.join(self.root, tar), Skipped())
        return (key for key, sample in samples.items() if sample.image)

    def _items(self, tar: str, is_ambiguous: Callable[[str], bool]) -> Iterator[Item]:
        """The items of one tar, whose headers are all held, because a sample's JSON may come after its image."""
        path, prefix = os.path.join(self.root, tar), key_from_path(tar.removesuffix(".tar"))
        samples, damage = _samples(path, self.skipped)
        modified = os.stat(path).st_mtime if samples else None
        for key, sample in samples.items():
            if image := sample.image:
                yield Item(
                    key=f"{prefix}/{key}" if key.startswith("%byte") or is_ambiguous(key) else key,
                    split=self.split,
                    path=tar,
                    frames=(image.name,),
                    start_byte=image.start_byte,
                    cost=image.num_bytes,
                    modified=modified,
                    meta=_meta(tar, image, sample.json),
                    problem=sample.problem or image.problem or (sample.json and sample.json.problem),
                )
        if damage:
            num_images = sum(sample.image is not None for sample in samples.values())
            problem = f"{damage}. Used are the {num_images:,} samples before that"
            yield Item(f"{prefix}/%tar", self.split, tar, problem=problem)  # no name is encoded to `%ta`


def _samples(path: str, skipped: Skipped) -> tuple[dict[str, _Sample], str | None]:
    """The samples of the tar `path` by key, in order, and what is wrong with the tar after them; None: nothing."""
    samples: dict[str, _Sample] = {}
    try:
        for member in _members(path, skipped):
            is_json = split_name(member.name)[1].lower() == "json"
            if not is_json and os.path.splitext(member.name)[1].lower() not in READABLE_IMAGE_SUFFIXES:
                skipped.add(OTHER_EXTENSION, member.name)
                continue
            key, member = _keyed(member)
            sample = samples.setdefault(key, _Sample())
            if is_json:
                sample.json = member
                continue
            if not sample.image:
                samples[key] = samples.pop(key)  # samples come in the order of their images
            sample.add_image(member)
    except CorpusError as error:
        return samples, str(error)
    return samples, None


def _keyed(member: TarMember) -> tuple[str, TarMember]:
    """The key of the sample of `member`, by its place in the tar if its name makes none."""
    key = split_name(member.name)[0]
    try:
        return check_key(key), member
    except CorpusError:
        try:
            return key_from_path(_plain(key)), member
        except CorpusError as error:
            return f"%byte-{member.start_byte}", member._replace(problem=str(error))  # no name is encoded to `%by`


def _is_tar(path: Path) -> bool:
    """Whether it is a file, or a link without a target, which becomes a failure."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _meta(tar: str, member: TarMember, json: TarMember | None) -> dict[str, object]:
    meta: dict[str, object] = {"image": f"{tar.removesuffix('.tar')}/{_plain(member.name)}"}
    if json is not None:
        meta[JSON_FILES] = [[tar, json.start_byte, json.num_bytes]]
    return meta


def _plain(name: str) -> str:
    """`name` without what `tar cf x.tar ./a` and `/a` put in front of it."""
    return name.removeprefix("./").lstrip("/")


def _members(path: str, skipped: Skipped) -> Iterator[TarMember]:
    """The files in the tar `path`, in order, that are whole; hidden ones left out: macOS puts a `._a.jpg` by `a.jpg`.

    Raises:
        CorpusError: it cannot be read, is compressed, or is not whole.
        EnvironmentFailure: the file system gives errors.
    """
    try:
        with open_regular(path) as file:
            _refuse_compressed(path, file.read(6))
            for member in read_members(file, path):
                if os.path.basename(member.name).startswith("."):
                    skipped.add(HIDDEN_FILE)
                else:
                    yield member
    except OSError as error:
        raise CorpusError(fault_of_file(path, error)) from error


def _refuse_compressed(path: str, begin: bytes) -> None:
    for mark, name in _COMPRESSED.items():
        if begin.startswith(mark):
            raise CorpusError(f"{path} is compressed by {name}, so no image can be read without all before: unpack it")
