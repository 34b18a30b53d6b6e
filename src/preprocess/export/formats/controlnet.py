"""`controlnet`: rows to train a ControlNet with, for Hugging Face's `load_dataset("imagefolder", data_dir=dest)`.

| file in `dest`                    | what                                                                          |
|-----------------------------------|-------------------------------------------------------------------------------|
| {split}/images/{image}            | the processed image as PNG; with `coordinates: original` the image as stored;  |
|                                   | `sub%2Fa.png` of `sub/a.jpg`; what is longer than 240 bytes is cut, and has 16 |
|                                   | digits of its sha256 before its ending                                         |
| {split}/conditioning_images/{map} | the pose map, PNG, of the same size                                           |
| {split}/metadata.jsonl            | a JSON object a line, see below                                               |
| statistics.json                   | {split: see `statistics.py`}                                                  |

| field                        | becomes the column | meaning                                        |
|------------------------------|--------------------|------------------------------------------------|
| file_name                    | image              |                                                |
| conditioning_image_file_name | conditioning_image | the pose map; black where there is nobody      |
| text                         | text               | the caption; "" without one                    |

These columns are those that diffusers' train_controlnet.py takes. A single split that `datasets` does not know by its
name is in `train`. The images come from the shards: the run has to store them. AVIF as it was is refused, which
`datasets` leaves out.
"""

import json
from pathlib import Path, PurePosixPath

from datamodules.errors import ConfigError, DecodeError, RunError
from datamodules.media.suffixes import UNKNOWN_TO_DATASETS
from datamodules.run.folder import Run
from datamodules.samples.pose import Coordinates, PoseSample
from datamodules.samples.skeleton import as_png, pose_map
from preprocess.export.mirror import beside, create, flat, stored_path, write_imagefolder
from preprocess.export.reading import pose_samples


def export(run: Run, dest: Path, coordinates: Coordinates = "processed") -> list[Path]:
    """Write the files of the table above.

    Args:
        run: of poses.
        dest: a new or empty folder.
        coordinates: images and pose maps as processed, or as the images were.

    Returns:
        The list of each split.

    Raises:
        ConfigError: `dest` holds something, the run has stored no images, or AVIF; `datasets` mixes its splits up.
        RunError: these are no pose samples, a shard is damaged, or a path leads out of `dest` or is two images'.
    """
    return write_imagefolder(run, dest, lambda folder, split: _write_split(folder, run, split, coordinates))


def _write_split(folder: Path, run: Run, split: str, coordinates: Coordinates) -> None:
    folder.mkdir()
    with open(folder / "metadata.jsonl", "x", encoding="utf-8", newline="\n", errors="replace") as lines:
        for sample in pose_samples(run, split):
            name, content = _image(sample, coordinates)
            drawn = as_png(pose_map(sample.keypoints_in(coordinates), sample.size(coordinates)))
            condition = "conditioning_images" / flat(beside(sample.key, sample.meta, ".png"))
            create(folder, "images" / flat(name), content, sample.key)
            create(folder, condition, drawn, sample.key)
            line = {
                "file_name": str("images" / flat(name)),
                "conditioning_image_file_name": str(condition),
                "text": sample.meta.get("caption") or "",
            }
            print(json.dumps(line, ensure_ascii=False), file=lines)


def _image(sample: PoseSample, coordinates: Coordinates) -> tuple[PurePosixPath, bytes]:
    """(path, content) of the image."""
    if sample.image is None:
        raise ConfigError(
            f"{sample.key} has no image, of which this format is made: run the pipeline with --model.store_images jpg"
        )
    if coordinates == "processed":
        return beside(sample.key, sample.meta, ".png"), _processed(sample)
    path = stored_path(sample.key, sample.meta, sample.image_ending)
    if path.suffix.lower() in UNKNOWN_TO_DATASETS:
        raise ConfigError(
            f"{path} would be left out by Hugging Face's imagefolder without a word: take --coordinates processed"
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
