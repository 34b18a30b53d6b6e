"""`imagefolder`: images and their captions as Hugging Face's `load_dataset("imagefolder", data_dir=dest)` reads them.

| file in `dest`         | what                                                                                       |
|------------------------|--------------------------------------------------------------------------------------------|
| {split}/{image}        | the image as stored, named as in the corpus: `sub%2Fa.jpg` of `sub/a.jpg`, or of           |
|                        | `sub/a.png` stored as JPEG; a name of more than 240 bytes is cut, and has 16 digits of its |
|                        | sha256 before its extension                                                                |
| {split}/metadata.jsonl | a JSON object a line: `file_name` relative to its folder, `text`, and `status` of the text |
| statistics.json        | {split: see `statistics.py`}                                                               |

A single split that `datasets` does not know by its name is in `train`. The images come from the shards: the run has to
store them; AVIF is refused, which `datasets` leaves out.
"""

import json
from pathlib import Path

from datamodules.errors import ConfigError
from datamodules.media.suffixes import UNKNOWN_TO_DATASETS
from datamodules.run.folder import Run
from preprocess.export.mirror import create, flat, stored_path, write_imagefolder
from preprocess.export.reading import caption_samples


def export(run: Run, dest: Path) -> list[Path]:
    """Write the files of the table above.

    Returns:
        The list of each split.

    Raises:
        ConfigError: `dest` holds something, the run has stored no images, or AVIF; `datasets` mixes its splits up.
        RunError: these are no caption samples, a shard is damaged, or a path leads out of `dest` or is two images'.
    """
    return write_imagefolder(run, dest, lambda folder, split: _write_split(folder, run, split))


def _write_split(folder: Path, run: Run, split: str) -> None:
    folder.mkdir()
    with open(folder / "metadata.jsonl", "x", encoding="utf-8", newline="\n", errors="replace") as lines:
        for sample in caption_samples(run, split):
            if sample.image is None:
                raise ConfigError(
                    f"{sample.key} has no image, of which this format is made: run the pipeline with "
                    "--model.store_images jpg, or take --format captions-json"
                )
            path = stored_path(sample.key, sample.meta, sample.image_ending)
            if path.suffix.lower() in UNKNOWN_TO_DATASETS:
                raise ConfigError(
                    f"{path} would be left out by Hugging Face's imagefolder without a word: take --format "
                    "captions-json, or load the shards themselves as webdataset"
                )
            name = flat(path)
            create(folder, name, sample.image, sample.key)
            line = {"file_name": str(name), "text": sample.caption, "status": sample.meta.get("status")}
            print(json.dumps(line, ensure_ascii=False), file=lines)
