"""Images, pose maps and captions to train a ControlNet with, for `load_dataset("imagefolder", data_dir=dest)`.

| file in `dest`                    | content                                                                       |
|-----------------------------------|-------------------------------------------------------------------------------|
| {split}/images/{image}            | the processed image as PNG, or with `coordinates: original` the image as      |
|                                   | stored; `sub%2Fa.png` for `sub/a.jpg`. A name of more than 240 bytes is cut,  |
|                                   | with 16 digits of its sha256 before its ending                                |
| {split}/conditioning_images/{map} | the pose map as PNG, of the same size                                         |
| {split}/metadata.jsonl            | one JSON object per line, see below                                           |
| statistics.json                   | {split: see `statistics.py`}                                                  |

| field                        | becomes the column | meaning                                        |
|------------------------------|--------------------|------------------------------------------------|
| file_name                    | image              |                                                |
| conditioning_image_file_name | conditioning_image | the pose map; black if there is nobody         |
| text                         | text               | the caption; "" without one                    |

These are the columns that diffusers' train_controlnet.py reads. A single split whose name `datasets` does not know
becomes `train`. The images come from the shards, so the run has to store them. AVIF as stored is refused, because
`datasets` leaves it out.
"""

import json
from pathlib import Path, PurePosixPath

from datamodules.errors import ConfigError, DecodeError, RunError
from datamodules.media.suffixes import UNKNOWN_TO_DATASETS
from datamodules.samples.pose import Coordinates, PoseSample, PoseSamples
from datamodules.samples.skeleton import as_png, pose_map
from preprocess.export.image_tree import beside, create, flat, stored_path, write_imagefolder
from preprocess.export.source import Source

SAMPLES = PoseSamples


def export(source: Source[PoseSample], dest: Path, coordinates: Coordinates = "processed") -> list[Path]:
    """Write the files of the table above.

    Args:
        source: a run of poses that stores its images.
        dest: a new or empty folder.
        coordinates: write images and pose maps as processed, or in the size of the original images.

    Returns:
        The `metadata.jsonl` of each split.

    Raises:
        ConfigError: `dest` is not empty, the run stores no images or AVIF, or `datasets` would mix up its splits.
        RunError: a shard is damaged, a path leads out of `dest`, or two images have the same path.
    """
    return write_imagefolder(source, dest, lambda folder, split: _write_split(folder, source, split, coordinates))


def _write_split(folder: Path, source: Source[PoseSample], split: str, coordinates: Coordinates) -> None:
    folder.mkdir()
    with open(folder / "metadata.jsonl", "x", encoding="utf-8", newline="\n", errors="replace") as lines:
        for sample in source.samples(split):
            name, content = _image(sample, coordinates)
            people = sample.keypoints_in(coordinates), sample.size(coordinates), sample.wholebody_in(coordinates)
            condition = as_png(pose_map(*people))
            condition_path = "conditioning_images" / flat(beside(sample.key, sample.meta, ".png"))
            create(folder, "images" / flat(name), content, sample.key)
            create(folder, condition_path, condition, sample.key)
            line = {
                "file_name": str("images" / flat(name)),
                "conditioning_image_file_name": str(condition_path),
                "text": sample.meta.get("caption") or "",
            }
            print(json.dumps(line, ensure_ascii=False), file=lines)


def _image(sample: PoseSample, coordinates: Coordinates) -> tuple[PurePosixPath, bytes]:
    """Return (path, content) of the image."""
    if sample.image is None:
        raise ConfigError(
            f"{sample.key} has no image, which this format needs: run the pipeline with --model.store_images jpg"
        )
    if coordinates == "processed":
        return beside(sample.key, sample.meta, ".png"), _processed(sample)
    path = stored_path(sample.key, sample.meta, sample.image_ending)
    if path.suffix.lower() in UNKNOWN_TO_DATASETS:
        raise ConfigError(
            f"Hugging Face's imagefolder would leave out {path} without an error: take --coordinates processed"
        )
    return path, sample.image


def _processed(sample: PoseSample) -> bytes:
    from datamodules.media.image import decode_image
    from datamodules.media.resize import resize

    assert sample.image is not None
    try:
        image = resize(decode_image(sample.image, f"{sample.key}.{sample.image_ending}"), sample.size())
    except DecodeError as error:
        raise RunError(f"{error}; run `preprocess verify`") from error
    return as_png(image.permute(1, 2, 0).numpy())
