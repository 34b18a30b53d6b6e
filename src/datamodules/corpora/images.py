"""A folder, or a list, of images; optionally with JSON files about each.

| meta of an item | meaning                                                                                        |
|-----------------|------------------------------------------------------------------------------------------------|
| image           | path of the image relative to the root, with its extension                                     |
| json_files      | locations of its JSON files, as [path relative to the root, first byte, number of bytes]; the  |
|                 | latter two null here: the whole file. Files that are missing when the image is read are        |
|                 | ignored; values of later files win. Left out without `json_dirs`                               |
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from datamodules.corpora.listing import (
    ambiguous_stems,
    bare_path,
    faulty_row,
    key_of_file,
    key_of_row,
    require_any,
    require_existing,
)
from datamodules.corpora.roots import open_root
from datamodules.corpora.text_lists import list_sha256, read_list
from datamodules.corpora.walk import File
from datamodules.corpus import JSON_FILES, Corpus, Item, check_split
from datamodules.errors import CorpusError
from datamodules.media.suffixes import READABLE_IMAGE_SUFFIXES
from datamodules.object_store import is_url
from datamodules.objects import has_objects, join


class Images(Corpus):
    """The images below a folder, by path; or those of a list, in its order.

    Args:
        root: folder or URL of the images; relative paths of a list are below it.
        image_list: a text file with a path or URL a line; blank lines and lines that begin with `#` are skipped.
        json_dirs: folders of JSON files: that of the image `sub/a.jpg` is `sub/a.json` in each, if it exists when the
            image is read. A relative folder is below `root` if it exists there, and else below the current folder.
        split: the split of all images.
        split_glob: a pattern of folders below `root`, in place of `split`: only their images are listed, and the part
            that matches the first wildcard names the split. `*/frames` makes the images of `train/frames` the split
            `train`, and those of `test/frames` the split `test`.
        max_items: list at most this many images; None: all.

    Raises:
        CorpusError: the list cannot be read, or is given with `split_glob`; or a folder of JSON files is missing.
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
        """Yield the images. Keys are their paths without extension.

        Images whose paths differ only by the extension keep it in their keys: `a%2Ejpg`, `a%2Epng`. A listed image
        that is missing, or that has the extension of something else, fails alone.

        Raises:
            CorpusError: the folder or the list is missing, there are no images, all listed images are missing, or
                `split_glob` is not a pattern of splits or matches no folder.
        """
        check_split(self.split)
        self._files = open_root(self)
        self.skipped.clear()
        return self._listed_items(self._image_list) if self._image_list else self._folder_items()

    def _folder_items(self) -> Iterator[Item]:
        folders = [("", self.split)] if self.split_glob is None else self._split_folders(self.split_glob)
        items = (
            self._item(os.path.dirname(file.path), file, split)
            for folder, split in folders
            for file in self._files.walk(READABLE_IMAGE_SUFFIXES, self.skipped, folder)
        )
        return require_any(islice(items, self.max_items), "images", self.root, READABLE_IMAGE_SUFFIXES, self.skipped)

    def _split_folders(self, pattern: str) -> list[tuple[str, str]]:
        """Return (folder, split) of each folder that `pattern` matches, by name, without hidden ones."""
        parts = Path(pattern).parts
        wildcards = [index for index, part in enumerate(parts) if any(sign in part for sign in "*?[")]
        if not wildcards or "**" in pattern or os.pardir in parts or Path(pattern).is_absolute():
            raise CorpusError(
                f"--data.split_glob {pattern!r}: give folders below --data.root with a * for the split, such as "
                "*/frames"
            )
        folders = self._files.folders(pattern)
        if not folders:
            raise CorpusError(f"--data.split_glob {pattern!r} matches no folder below {self.root}")
        return [(folder, check_split(folder.split("/")[wildcards[0]])) for folder in folders]

    def _listed_items(self, image_list: str) -> Iterator[Item]:
        # keys must not depend on `max_items`, so all lines are read to know which stems are ambiguous
        paths = (path for _, path in read_list(image_list, "--data.image_list"))
        is_ambiguous = ambiguous_stems(self._resolve(path)[1] for path in paths)
        lines = islice(read_list(image_list, "--data.image_list"), self.max_items)
        items = (self._listed_item(f"{image_list}, line {number}", path, is_ambiguous) for number, path in lines)
        return require_existing(items, image_list, f"--data.root {self.root}")

    def _listed_item(self, where: str, path: str, is_ambiguous: Callable[[str], bool]) -> Item:
        key = key_of_row(where)
        try:
            folder, image = self._resolve(path)
            key = key_of_file(image, is_ambiguous(image))
            if os.path.splitext(path)[1].lower() not in READABLE_IMAGE_SUFFIXES:
                extensions = ", ".join(sorted(READABLE_IMAGE_SUFFIXES))
                raise CorpusError(f"{path} does not have the extension of an image: {extensions}")
            return self._item(folder, File(image, key, *self._files.stat(path)), self.split)
        except CorpusError as error:
            return faulty_row(where, error, key, self.split, path)

    def _resolve(self, path: str) -> tuple[str, str]:
        """Return (folder, path relative to the root) of an image that the list names."""
        path = self._files.relative(path)
        return os.path.dirname(path), bare_path(path)  # of an image elsewhere, the key is made from the whole path

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
            version=file.version,
            meta={"image": file.path, **({JSON_FILES: jsons} if jsons else {})},
            problem=file.problem,
        )


def _json_dir(root: str, folder: str) -> str:
    """Return `folder` relative to `root`, so that the run can be resumed after both have moved; or a URL elsewhere."""
    if is_url(root) or is_url(folder):
        if not has_objects(join(root, folder)):
            raise CorpusError(f"--data.json_dirs {folder} is missing below {root}: there is no object in it")
        return folder.removeprefix(f"{root.rstrip('/')}/").rstrip("/")
    for path in (os.path.join(root, folder), folder):
        if os.path.isdir(path):
            return os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    raise CorpusError(f"--data.json_dirs {folder} is missing, both below {root} and here")
