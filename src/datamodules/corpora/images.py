"""A folder, or a list, of images; with JSON files that tell more of each.

| meta of an item | meaning                                                                                        |
|-----------------|------------------------------------------------------------------------------------------------|
| image           | path of the image relative to the root, with its ending                                        |
| json_files      | where its JSON files are, if they exist when they are read; later ones win: [path relative to  |
|                 | the root, first byte, bytes], the latter two null here: the whole file; left out without       |
|                 | json_dirs                                                                                      |
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from datamodules.corpora.listing import (
    ambiguous_stems,
    faulty_row,
    key_of_file,
    key_of_place,
    limit,
    require_existing,
    require_found,
)
from datamodules.corpora.paths import look_at, relative_to
from datamodules.corpora.text_lists import list_sha256, read_list
from datamodules.corpora.walk import File, walk
from datamodules.corpus import JSON_FILES, Corpus, Item, check_split
from datamodules.errors import CorpusError
from datamodules.media.suffixes import READABLE_IMAGE_SUFFIXES


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
        self.root, self._image_list, self.split, self.split_glob = root, image_list, split, split_glob
        self.max_items = max_items
        self.json_dirs = [_json_dir(root, folder) for folder in json_dirs]
        self.image_list_sha256 = list_sha256(image_list, "--data.image_list") if image_list else None

    def items(self) -> Iterator[Item]:
        """The images; keys are their paths without extension.

        Where two images of one folder differ by it only, the keys of both keep it: `a%2Ejpg`, `a%2Epng`. A listed image
        that does not exist, or that is not one by its extension, costs its item alone.

        Raises:
            CorpusError: the folder or the list is missing, there are no images, or no listed one exists; or
                `split_glob` can be no pattern of splits, or names no folder.
        """
        check_split(self.split)
        if not Path(self.root).is_dir():
            raise CorpusError(f"--data.root {self.root} is no folder")
        self.skipped.clear()
        return self._listed(self._image_list) if self._image_list else self._found()

    def _found(self) -> Iterator[Item]:
        folders = [("", self.split)] if self.split_glob is None else _split_folders(self.root, self.split_glob)
        items = (
            self._item(os.path.dirname(file.path), file, split)
            for folder, split in folders
            for file in walk(self.root, READABLE_IMAGE_SUFFIXES, self.skipped, folder)
        )
        return require_found(limit(items, self.max_items), "images", self.root, READABLE_IMAGE_SUFFIXES, self.skipped)

    def _listed(self, image_list: str) -> Iterator[Item]:
        paths = (path for _, path in read_list(image_list, "--data.image_list"))
        is_ambiguous = ambiguous_stems(self._placed(path)[1] for path in paths)
        rows = limit(read_list(image_list, "--data.image_list"), self.max_items)
        items = (self._row(f"{image_list}, line {number}", path, is_ambiguous) for number, path in rows)
        return require_existing(items, image_list, f"--data.root {self.root}")

    def _row(self, where: str, path: str, is_ambiguous: Callable[[str], bool]) -> Item:
        key = key_of_place(where)
        try:
            folder, image = self._placed(path)
            key = key_of_file(image, is_ambiguous(image))
            if os.path.splitext(path)[1].lower() not in READABLE_IMAGE_SUFFIXES:
                extensions = ", ".join(sorted(READABLE_IMAGE_SUFFIXES))
                raise CorpusError(f"{path} does not have the extension of an image: {extensions}")
            return self._item(folder, File(image, key, *look_at(self.root, path)), self.split)
        except CorpusError as error:
            return faulty_row(where, error, key, self.split, path)

    def _placed(self, path: str) -> tuple[str, str]:
        """(folder, path relative to the root) of an image that the list names."""
        if not os.path.isabs(path):
            return os.path.dirname(path), path
        relative = relative_to(self.root, path)
        if relative is None:
            return os.path.dirname(path), path.lstrip("/")
        return os.path.dirname(relative), relative

    def _item(self, folder: str, file: File, split: str) -> Item:
        stem = os.path.splitext(file.path)[0]
        jsons = [[os.path.join(json_dir, f"{stem}.json"), None, None] for json_dir in self.json_dirs]
        return Item(
            key=file.key,
            split=split,
            path=folder,
            frames=(os.path.basename(file.path),),
            cost=file.cost,
            modified=file.modified,
            meta={"image": file.path, **({JSON_FILES: jsons} if jsons else {})},
            problem=file.problem,
        )


def _json_dir(root: str, folder: str) -> str:
    """`folder` relative to `root`, so that both may move together."""
    for path in (os.path.join(root, folder), folder):
        if os.path.isdir(path):
            return os.path.relpath(os.path.realpath(path), os.path.realpath(root))
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
