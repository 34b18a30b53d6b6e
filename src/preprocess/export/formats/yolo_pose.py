"""Images and labels as Ultralytics' YOLO-pose trains on: `yolo pose train data=D/data.yaml`.

`dest` becomes a folder of

| file                       | content                                                                             |
|----------------------------|-------------------------------------------------------------------------------------|
| images/{split}/{image}     | the image as stored; `sub%2Fa.jpg` for `sub/a.jpg`. A name of more than 240 bytes   |
|                            | is cut, with 16 digits of its sha256 before its ending                              |
| labels/{split}/{image}.txt | one line per person: class 0, box (centre x, y, width, height), and x, y,           |
|                            | visibility of COCO's 17 joints, as shares of the image's width and height           |
| data.yaml                  | where the splits are, the shape of the labels, and which joint is which in a mirror |
| statistics.json            | {split: see `statistics.py`}                                                        |

A joint that is missing, or outside the image, is `0 0 0`; any other has the visibility 2. A person without a joint in
the image has no line, and an image without people has an empty file.

Ultralytics requires the splits `train` and `val`. `dev`, `valid` and `validation` become `val`. A single split becomes
`train`. Without a split for it, `val` names the images of `train`, and a comment in data.yaml says so.

The images come from the shards, so the run has to store them.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from datamodules.errors import ConfigError
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import COCO_17, JOINTS, MIRRORED, rescaled
from preprocess.export.destination import whole_folder
from preprocess.export.image_tree import beside, create, flat
from preprocess.export.json_text import as_json
from preprocess.export.source import Source

SAMPLES = PoseSamples

_NAMES = [JOINTS[joint] for joint in COCO_17]
_SPLITS = {"dev": "val", "valid": "val", "validation": "val"}
_VISIBLE = 2  # in COCO's annotations: 0 not labelled, 1 hidden, 2 visible
_DIGITS = 6


def export(source: Source[PoseSample], dest: Path, margin: float = 0.1) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of poses that stores its images.
        dest: a new or empty folder.
        margin: how far a box reaches beyond the joints on each side, as a share of its width and height, 0 or more.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty, `margin` is negative, the run does not store its images, or two splits
            become `val`.
        RunError: a shard is damaged, a path leads out of `dest`, or two images have the same path.
    """
    if not 0 <= margin < np.inf:
        raise ConfigError(f"--margin {margin} must be 0 or more")
    described = _data_yaml(source.splits)
    with whole_folder(dest) as folder:
        for split in source.splits:
            (folder / "images" / split).mkdir(parents=True)  # Ultralytics expects it, also of a split without samples
            for sample in source.samples(split):
                _write_image(folder, split, sample, margin)
        (folder / "data.yaml").write_text(described, encoding="utf-8")
        statistics = {split: source.statistics(split) for split in source.splits}
        create(folder, PurePosixPath("statistics.json"), as_json(statistics), "all")
    return [dest]


def _write_image(folder: Path, split: str, sample: PoseSample, margin: float) -> None:
    if sample.image is None:
        raise ConfigError(
            f"{sample.key} has no image, which this format needs: run the pipeline with --model.store_images jpg, or "
            "take --format coco-keypoints"
        )
    # `beside`, because labels of `a.jpg` and `a.png` would have one name
    image = flat(beside(sample.key, sample.meta, f".{sample.image_ending}"))
    create(folder, PurePosixPath("images", split, image), sample.image, sample.key)
    label = PurePosixPath("labels", split, image).with_suffix(".txt")
    create(folder, label, _labels(sample, margin), sample.key)


def _labels(sample: PoseSample, margin: float) -> bytes:
    """Return the label file of an image."""
    height, width = sample.size("original")
    lines = []
    for person in rescaled(sample.keypoints, sample.size(), (height, width))[:, COCO_17].astype(float):
        # Here, whole numbers are the centres of pixels. YOLO measures from the edge of the image.
        points = (person[:, :2] + 0.5) / (width, height)
        is_present = (person[:, 2] > 0) & ((points >= 0) & (points <= 1)).all(1)
        if not is_present.any():
            continue
        low, high = points[is_present].min(0), points[is_present].max(0)
        reach = np.maximum(margin * (high - low), 0.5 / np.array([width, height]))  # a single joint has a box, too
        low, high = np.clip([low - reach, high + reach], 0, 1)
        joints = np.concatenate([points, np.full((len(points), 1), _VISIBLE)], axis=1) * is_present[:, None]
        values = [*(low + high) / 2, *(high - low), *joints.ravel()]
        lines.append(" ".join(["0", *(f"{value:.{_DIGITS}g}" for value in values)]) + "\n")
    return "".join(lines).encode()


def _data_yaml(splits: list[str]) -> str:
    """Return the description of the dataset that Ultralytics reads.

    Raises:
        ConfigError: two splits become `val`.
    """
    folders: dict[str, str] = {}
    for split in splits:
        name = _SPLITS.get(split, split) if len(splits) > 1 else "train"
        if name in folders:
            raise ConfigError(f"the splits {', '.join(splits)} cannot be distinguished: two of them would be `{name}`")
        folders[name] = f"images/{split}"
    comment = ""
    if "train" in folders and "val" not in folders:
        folders["val"] = folders["train"]
        comment = "# The run has no split to validate on: val names the images of train.\n"
    document = {
        **folders,
        "kpt_shape": [len(_NAMES), 3],
        "flip_idx": [COCO_17.index(MIRRORED[joint]) for joint in COCO_17],
        "names": {0: "person"},
        "kpt_names": {0: _NAMES},
    }
    return comment + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
