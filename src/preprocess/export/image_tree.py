"""Folders whose files are named like the images of the corpus. No file leads out of it, and none is written twice."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.corpus import key_from_path
from datamodules.errors import ConfigError, RunError
from preprocess.export.destination import whole_folder
from preprocess.export.json_text import as_json
from preprocess.export.source import Source

_SPLITS = {  # as datasets.data_files names them
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_MAX_NAME_BYTES = 240  # file systems allow 255
_BETWEEN_WORDS = re.compile(r"[_0-9]")


def write_tree(
    source: Source[Any], dest: Path, statistics: str, files: Callable[[str], Iterable[tuple[str, PurePosixPath, bytes]]]
) -> list[Path]:
    """Make the folder `dest` with the files of all splits, and a file of statistics.

    Args:
        source: the run.
        dest: a new or empty folder.
        statistics: name of the JSON file {split: see `statistics.py`}.
        files: called with a split; yields (key of the item, path in `dest`, content) of each of its files.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty.
        RunError: a path leads out of `dest`, or two images have the same.
    """
    with whole_folder(dest) as partial:
        for key, path, content in (file for split in source.splits for file in files(split)):
            create(partial, path, content, key)
        described = as_json({split: source.statistics(split) for split in source.splits})
        create(partial, PurePosixPath(statistics), described, "all")
    return [dest]


def write_imagefolder(source: Source[Any], dest: Path, write_split: Callable[[Path, str], None]) -> list[Path]:
    """Make the folder `dest` for Hugging Face's imagefolder: a folder for each split, and `statistics.json`.

    Args:
        source: the run.
        dest: a new or empty folder.
        write_split: called with the folder of a split, which it makes with its `metadata.jsonl`, and the split.

    Returns:
        The `metadata.jsonl` of each split.

    Raises:
        ConfigError: `dest` is not empty, or `datasets` would mix up its splits.
    """
    folders = split_folders(source.splits)
    with whole_folder(dest) as partial:
        for split, folder in folders.items():
            write_split(partial / folder, split)
        described = as_json({split: source.statistics(split) for split in source.splits})
        create(partial, PurePosixPath("statistics.json"), described, "all")
    return [dest / folder / "metadata.jsonl" for folder in folders.values()]


def image_path(key: str, meta: Mapping[str, Any]) -> PurePosixPath:
    """Return the path of an item's image relative to the corpus, which is the field `image` of its json.

    Raises:
        RunError: there is no such field, or its path leads out of the folder that it is relative to.
    """
    image = meta.get("image")
    path = PurePosixPath(image) if isinstance(image, str) and "\0" not in image else PurePosixPath()
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise RunError(f"{key} has the image {image!r}, which is no path below a folder: nothing is written there")
    return path


def beside(key: str, meta: Mapping[str, Any], ending: str) -> PurePosixPath:
    """Return `sub/a{ending}` for the image `sub/a.jpg`, or `sub/a.jpg{ending}` if another image is named `sub/a`.

    Raises:
        RunError: see `image_path`.
    """
    image = image_path(key, meta)
    keeps_ending = key.rpartition("/")[2] == key_from_path(image.name)
    return image.with_name(f"{image.name if keeps_ending else image.stem}{ending}")


def stored_path(key: str, meta: Mapping[str, Any], ending: str | None) -> PurePosixPath:
    """Return the path of an image that its sample stores with this ending: `sub/a.jpg` for `sub/a.png` stored as JPEG.

    Raises:
        RunError: see `image_path`.
    """
    path = image_path(key, meta)
    return path if path.suffix.lower() == f".{ending}" else beside(key, meta, f".{ending}")


def flat(path: PurePosixPath) -> PurePosixPath:
    """Return `path` as one name: `/` and `%` are percent-encoded, and the middle of a long name becomes its hash.

    Hugging Face's imagefolder takes a folder `test` or `val` for a split, however deep it lies.
    """
    name = os.fsencode(str(path).replace("%", "%25").replace("/", "%2F"))
    if len(name) <= _MAX_NAME_BYTES:
        return PurePosixPath(os.fsdecode(name))
    ending = f"-{sha256(name).hexdigest()[:16]}{path.suffix}"
    begin = name[: _MAX_NAME_BYTES - len(os.fsencode(ending))]
    return PurePosixPath(begin.decode(errors="ignore") + ending)  # a character that was cut in two is dropped


def split_folders(splits: Sequence[str]) -> dict[str, str]:
    """Return the name of each split's folder, from which Hugging Face's imagefolder infers the split.

    A single split whose name `datasets` does not know lies in `train`. Otherwise `datasets` would infer splits from the
    names of the images, and load only `crash-test-3.jpg`, for example.

    Raises:
        ConfigError: `datasets` would leave out one of several splits, or merge two, without an error.
    """
    known = [_known_split(name) for name in splits]
    if len(splits) > 1 and (None in known or len(set(known)) < len(known)):
        raise ConfigError(
            f"Hugging Face's imagefolder cannot tell the splits {', '.join(splits)} apart: it knows train, validation "
            "(or dev, val) and test. Take another --format, or load the shards themselves as webdataset"
        )
    return {split: split if name else "train" for split, name in zip(splits, known, strict=True)}


def _known_split(name: str) -> str | None:
    """Return the split that `datasets` infers from a folder's name: `validation` for `val2017`; None: none, or two."""
    words = set(_BETWEEN_WORDS.split(name))
    splits = [split for split, names in _SPLITS.items() if words.intersection(names)]
    return splits[0] if len(splits) == 1 else None


def create(root: Path, path: PurePosixPath, content: bytes, key: str) -> None:
    """Write the file `path` below `root`, for the item `key`.

    Raises:
        RunError: a file or folder of this name exists.
    """
    try:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with open(root / path, "xb") as file:
            file.write(content)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"{key} would be written to {path}, which another item has: export them separately") from error
