"""Images and captions for Hugging Face's `load_dataset("imagefolder", data_dir=dest)`.

| file in `dest`         | content                                                                                    |
|------------------------|--------------------------------------------------------------------------------------------|
| {split}/{image}        | the image as stored; its name is the path in the corpus: `sub%2Fa.jpg` for `sub/a.jpg`, or |
|                        | for `sub/a.png` stored as JPEG. A name of more than 240 bytes is cut, with 16 digits of    |
|                        | its sha256 before its ending                                                               |
| {split}/metadata.jsonl | one JSON object per line: `file_name` relative to its folder, `text`, and its `status`     |
| statistics.json        | {split: see `statistics.py`}                                                               |

A single split whose name `datasets` does not know becomes `train`. The images come from the shards, so the run has to
store them. AVIF is refused, because `datasets` leaves it out.
"""

import json
from pathlib import Path

from datamodules.errors import ConfigError
from datamodules.media.suffixes import UNKNOWN_TO_DATASETS
from datamodules.samples.captions import CaptionSample, CaptionSamples
from preprocess.export.image_tree import create, flat, stored_path, write_imagefolder
from preprocess.export.source import Source

SAMPLES = CaptionSamples


def export(source: Source[CaptionSample], dest: Path) -> list[Path]:
    """Write the files of the table above.

    Args:
        source: a run of captions that stores its images.
        dest: a new or empty folder.

    Returns:
        The `metadata.jsonl` of each split.

    Raises:
        ConfigError: `dest` is not empty, the run stores no images or AVIF, or `datasets` would mix up its splits.
        RunError: a shard is damaged, a path leads out of `dest`, or two images have the same path.
    """
    return write_imagefolder(source, dest, lambda folder, split: _write_split(folder, source, split))


def _write_split(folder: Path, source: Source[CaptionSample], split: str) -> None:
    folder.mkdir()
    with open(folder / "metadata.jsonl", "x", encoding="utf-8", newline="\n", errors="replace") as lines:
        for sample in source.samples(split):
            if sample.image is None:
                raise ConfigError(
                    f"{sample.key} has no image, which this format needs: run the pipeline with "
                    "--model.store_images jpg, or take --format captions-json"
                )
            path = stored_path(sample.key, sample.meta, sample.image_ending)
            if path.suffix.lower() in UNKNOWN_TO_DATASETS:
                raise ConfigError(
                    f"Hugging Face's imagefolder would leave out {path} without an error: take --format captions-json, "
                    "or load the shards themselves as webdataset"
                )
            name = flat(path)
            create(folder, name, sample.image, sample.key)
            line = {"file_name": str(name), "text": sample.caption, "status": sample.meta.get("status")}
            print(json.dumps(line, ensure_ascii=False), file=lines)
