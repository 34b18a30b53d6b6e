"""Files that are named as the images of the corpus: none leads out of a folder, and none is written twice."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.corpus import key_from_path
from datamodules.errors import ConfigError, RunError
from datamodules.run.folder import Run
from preprocess.export.destination import whole_folder
from preprocess.export.reading import planned_splits
from preprocess.export.statistics import counts

_SPLITS = {  # of datasets.data_files
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_MAX_NAME_BYTES = 240  # file systems take 255
_BETWEEN_WORDS = re.compile(r"[_0-9]")


def write_tree(
    run: Run, dest: Path, statistics: str, files: Callable[[str], Iterable[tuple[str, PurePosixPath, bytes]]]
) -> list[Path]:
    """Make `dest` of the `files` of each split, (key, path, content), and of the file `statistics` of all.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` holds something.
        RunError: a path leads out of `dest` or is two images'.
    """
    splits = planned_splits(run)
    with whole_folder(dest) as partial:
        for key, path, content in (file for split in splits for file in files(split)):
            create(partial, path, content, key)
        create(partial, PurePosixPath(statistics), as_json({split: counts(run, split) for split in splits}), "all")
    return [dest]


def write_imagefolder(run: Run, dest: Path, write_split: Callable[[Path, str], None]) -> list[Path]:
    """Make `dest` of a folder for each split, in which `write_split` puts its `metadata.jsonl`, and `statistics.json`.

    Returns:
        The list of each split.

    Raises:
        ConfigError: `dest` holds something, or `datasets` mixes its splits up.
    """
    splits = planned_splits(run)
    folders = split_folders(splits)
    with whole_folder(dest) as partial:
        for split in splits:
            write_split(partial / folders[split], split)
        described = as_json({split: counts(run, split) for split in splits})
        create(partial, PurePosixPath("statistics.json"), described, "all")
    return [dest / folder / "metadata.jsonl" for folder in folders.values()]


def image_path(key: str, meta: Mapping[str, Any]) -> PurePosixPath:
    """The path of an item's image, relative to the corpus, as its `image` tells it.

    Raises:
        RunError: it tells none, or one that leads out of the folder it is put below.
    """
    image = meta.get("image")
    path = PurePosixPath(image) if isinstance(image, str) and "\0" not in image else PurePosixPath()
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise RunError(f"{key} has the image {image!r}, which is no path below a folder: nothing is written there")
    return path


def beside(key: str, meta: Mapping[str, Any], ending: str) -> PurePosixPath:
    """`sub/a{ending}` of the image `sub/a.jpg`; `sub/a.jpg{ending}` where another image is `sub/a`.

    Raises:
        RunError: see `image_path`.
    """
    image = image_path(key, meta)
    keeps_ending = key.rpartition("/")[2] == key_from_path(image.name)
    return image.with_name(f"{image.name if keeps_ending else image.stem}{ending}")


def stored_path(key: str, meta: Mapping[str, Any], ending: str | None) -> PurePosixPath:
    """The path of an image that its sample stores with this extension: `sub/a.jpg` of `sub/a.png` stored as JPEG.

    Raises:
        RunError: see `image_path`.
    """
    path = image_path(key, meta)
    return path if path.suffix.lower() == f".{ending}" else beside(key, meta, f".{ending}")


def flat(path: PurePosixPath) -> PurePosixPath:
    """`path` as one name, `/` and `%` percent-encoded; if that is too long, its beginning, its hash and its ending.

    Hugging Face's imagefolder takes a folder `test` or `val`, however deep it lies, for a split.
    """
    name = os.fsencode(str(path).replace("%", "%25").replace("/", "%2F"))
    if len(name) <= _MAX_NAME_BYTES:
        return PurePosixPath(os.fsdecode(name))
    ending = f"-{sha256(name).hexdigest()[:16]}{path.suffix}"
    begin = name[: _MAX_NAME_BYTES - len(os.fsencode(ending))]
    return PurePosixPath(begin.decode(errors="ignore") + ending)  # no half of a character


def split_folders(splits: Sequence[str]) -> dict[str, str]:
    """The name of each split's folder, by which Hugging Face's imagefolder tells them apart.

    A single split of a name that it does not know lies in `train`: else it goes by the images' names, and loads of all
    that is there one `crash-test-3.jpg`.

    Raises:
        ConfigError: it would leave one of several out, or make one of two, without a word.
    """
    known = [_known_split(name) for name in splits]
    if len(splits) > 1 and (None in known or len(set(known)) < len(known)):
        raise ConfigError(
            f"Hugging Face's imagefolder does not tell the splits {', '.join(splits)} apart: it knows train, "
            "validation (or dev, val) and test; take another --format, or load the shards themselves as webdataset"
        )
    return {split: split if name else "train" for split, name in zip(splits, known, strict=True)}


def _known_split(name: str) -> str | None:
    """What `datasets` takes a folder for, by one of its words: `validation` of `val2017`; None: nothing, or several."""
    words = set(_BETWEEN_WORDS.split(name))
    found = [split for split, names in _SPLITS.items() if words.intersection(names)]
    return found[0] if len(found) == 1 else None


def create(root: Path, path: PurePosixPath, content: bytes, key: str) -> None:
    """Write the file `path` below `root`, which is the item `key`'s.

    Raises:
        RunError: there is a file or folder of this name already.
    """
    try:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with open(root / path, "xb") as file:
            file.write(content)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"{key} would be written to {path}, which is another's already: export them apart") from error


def as_json(values: Any) -> bytes:
    """A JSON document of several lines, as people read it."""
    return json.dumps(values, indent=1, ensure_ascii=False).encode(errors="replace") + b"\n"
