"""A folder, or a list, of images; with JSON files that tell more of each.

| meta of an item | meaning                                                                                        |
|-----------------|------------------------------------------------------------------------------------------------|
| image           | path of the image relative to the root, with its ending                                        |
| json_files      | where its JSON files are, if they are there when they are read; later ones win: [absolute      |
|                 | path, first byte, bytes], the latter two null here: the whole file; left out without json_dirs |
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from datamodules.corpora.listing import limit, list_sha256, read_list, stat_listed, walk_folders
from datamodules.errors import CorpusError
from datamodules.line.item import JSON_FILES, Corpus, Item, check_split, key_from_path
from datamodules.media.suffixes import IMAGE_SUFFIXES


class Images(Corpus):
    """The images below a folder, by path; or those of a list, in its order.

    Args:
        root: the folder; paths of a list are relative to it, unless they are absolute.
        image_list: a text file with a path a line; blank lines and lines that begin with `#` are skipped.
        json_dirs: folders of JSON files: that of the image `sub/a.jpg` is `sub/a.json` in each, if it is there
            when the image is worked on. A relative one is below `root` if there is such a folder, and else below the
            current folder.
        split: the split all of them belong to.
        split_glob: a pattern of folders below `root`, of whose images alone the corpus is made, in place of `split`: by
            `*/frames` those of `train/frames` are the split `train`, and those of `test/frames` the split `test`. What
            stands for the first part with a wildcard is the split's name.
        max_items: at most this many images; None: all.

    Raises:
        CorpusError: the list cannot be read, or comes with `split_glob`; or a folder of JSON files is missing.
    """

    def __init__(
        self,
        root: str,
        image_list: str | None = None,
        json_dirs: Sequence[str] = (),
        split: str = "train",
        split_glob: str | None = None,
        max_items: int | None = None,
    ) -> None:
        if split_glob is not None and image_list is not None:
            raise CorpusError(f"--data.split_glob {split_glob} and --data.image_list {image_list}: give one of them")
        self.root, self.image_list, self.split, self.split_glob = root, image_list, split, split_glob
        self.max_items = max_items
        self.json_dirs = [_json_dir(root, folder) for folder in json_dirs]
        self.image_list_sha256 = list_sha256(image_list, "--data.image_list") if image_list else None

    def items(self) -> Iterator[Item]:
        """The images; keys are their paths without ending.

        Where two images of one folder differ by their endings only, the keys of both keep them: `a%2Ejpg`, `a%2Epng`.

        Raises:
            CorpusError: the folder or the list is missing, or a listed image is missing, or by its ending none; or
                `split_glob` can be no pattern of splits, or names no folder.
        """
        check_split(self.split)
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        return limit(self._listed(self.image_list) if self.image_list else self._found(), self.max_items)

    def _found(self) -> Iterator[Item]:
        folders = [("", self.split)] if self.split_glob is None else _split_folders(self.root, self.split_glob)
        for folder, split in folders:
            found = walk_folders(self.root, IMAGE_SUFFIXES, lambda _, names: _ambiguous(names), folder)
            for image, stat, ambiguous in found:
                path, name = os.path.split(image)
                yield self._item(path, image, stat, os.path.splitext(name)[0] in ambiguous, split)

    def _listed(self, image_list: str) -> Iterator[Item]:
        paths = (path for _, path in read_list(image_list, "--data.image_list"))
        is_ambiguous = _ambiguous_in_list(self._placed(path)[1] for path in paths)
        for number, path in read_list(image_list, "--data.image_list"):
            where = f"{image_list}, line {number}"
            if os.path.splitext(path)[1].lower() not in IMAGE_SUFFIXES:
                raise CorpusError(f"{where}: {path} is no image by its ending: {', '.join(sorted(IMAGE_SUFFIXES))}")
            folder, image = self._placed(path)
            stat = stat_listed(self.root, path, where)
            try:
                yield self._item(folder, image, stat, is_ambiguous(os.path.splitext(image)[0]), self.split)
            except CorpusError as error:
                raise CorpusError(f"{where}: {error}") from error

    def _placed(self, path: str) -> tuple[str, str]:
        """(folder, path relative to the root) of an image that the list names."""
        if not os.path.isabs(path):
            return os.path.dirname(path), path
        relative = os.path.relpath(path, self.root)
        if relative.startswith(os.pardir + os.sep):  # elsewhere
            return os.path.dirname(path), path.lstrip("/")
        return os.path.dirname(relative), relative

    def _item(self, folder: str, image: str, stat: os.stat_result, keeps_ending: bool, split: str) -> Item:
        stem = os.path.splitext(image)[0]
        jsons = [[os.path.join(json_dir, f"{stem}.json"), None, None] for json_dir in self.json_dirs]
        return Item(
            key=key_from_path(image if keeps_ending else stem),
            split=split,
            path=folder,
            frames=(os.path.basename(image),),
            cost=stat.st_size,
            modified=stat.st_mtime,
            meta={"image": image, **({JSON_FILES: jsons} if jsons else {})},
        )


def _json_dir(root: str, folder: str) -> str:
    for path in (os.path.join(root, folder), folder):
        if os.path.isdir(path):
            return os.path.realpath(path)
    raise CorpusError(f"--data.json_dirs {folder}: there is no such folder, neither below {root} nor here")


def _split_folders(root: str, pattern: str) -> list[tuple[str, str]]:
    """(folder relative to `root`, split) of each folder that `pattern` names, by name; hidden ones left out."""
    parts = Path(pattern).parts
    wild = [place for place, part in enumerate(parts) if any(sign in part for sign in "*?[")]
    if not wild or "**" in parts or os.pardir in parts or Path(pattern).is_absolute():
        raise CorpusError(
            f"--data.split_glob {pattern!r}: give folders below --data.root with a * for the split, such as */frames"
        )
    found = (path.relative_to(root) for path in Path(root).glob(pattern) if path.is_dir())
    folders = sorted(path for path in found if not any(part.startswith(".") for part in path.parts))
    if not folders:
        raise CorpusError(f"--data.split_glob {pattern!r} names no folder below {root}")
    return [(str(folder), check_split(folder.parts[wild[0]])) for folder in folders]


def _ambiguous(names: Sequence[str]) -> Collection[str]:
    """The stems of `names` that several of them have, or that are another's whole name."""
    counts = Counter(chain(names, (os.path.splitext(name)[0] for name in names)))
    return {name for name, count in counts.items() if count > 1}


def _ambiguous_in_list(images: Iterator[str]) -> Callable[[str], bool]:
    """Likewise of all paths of a list; whether a stem is one. Holds 16 bytes an image."""
    hashes = array("Q")
    for image in images:
        hashes.extend((_hash64(image), _hash64(os.path.splitext(image)[0])))
    found = np.sort(np.frombuffer(hashes, dtype=np.uint64))
    ambiguous = set(found[1:][found[1:] == found[:-1]].tolist())
    return lambda stem: _hash64(stem) in ambiguous


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "little")
