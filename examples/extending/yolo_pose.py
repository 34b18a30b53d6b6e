"""Images and labels as Ultralytics' YOLO-pose trains on: `yolo pose train data=D/data.yaml`.

    python -m preprocess export O --format examples.extending.yolo_pose --dest D

`dest` becomes a folder of

| file                       | content                                                                        |
|----------------------------|--------------------------------------------------------------------------------|
| images/{split}/{image}     | the image as stored                                                            |
| labels/{split}/{image}.txt | one line per person: class 0, box (centre x, y, width, height), and x, y,      |
|                            | visibility of COCO's 17 joints, as shares of the image's width and height      |
| data.yaml                  | where the splits are, and the shape of the labels                              |

The run must store its images (`--model.store_images jpg`). A missing joint is `0 0 0`.
"""

from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from datamodules.errors import ConfigError
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import COCO_17
from preprocess.export.destination import whole_folder
from preprocess.export.image_tree import create, flat, stored_path
from preprocess.export.source import Source

SAMPLES = PoseSamples
MIRRORED = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]  # index of each joint in a mirrored image
_SPLITS = {"dev": "val"}  # names that Ultralytics expects


def export(source: Source[PoseSample], dest: Path, margin: float = 0.1) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of the pose pipeline.
        dest: a new or empty folder.
        margin: how far a box reaches beyond the joints on each side, as a share of its width and height.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty, or the run does not store its images.
        RunError: a shard is damaged, or two images have the same path.
    """
    with whole_folder(dest) as folder:
        for split in source.splits:
            for sample in source.samples(split):
                if sample.image is None:
                    raise ConfigError(f"{sample.key} has no image. Run the pipeline with --model.store_images jpg")
                image = flat(stored_path(sample.key, sample.meta, sample.image_ending))
                create(folder, PurePosixPath("images", split, image), sample.image, sample.key)
                label = PurePosixPath("labels", split, image).with_suffix(".txt")
                create(folder, label, labels(sample, margin), sample.key)
        (folder / "data.yaml").write_text(data_yaml(source.splits))
    return [dest]


def labels(sample: PoseSample, margin: float) -> bytes:
    """Return the label file of an image: one line for each person with a joint."""
    height, width = sample.size("original")
    lines = []
    for person in sample.keypoints_in("original")[:, COCO_17]:
        is_present = person[:, 2] > 0
        if not is_present.any():
            continue
        # Here, whole numbers are the centres of pixels. YOLO measures from the edge of the image.
        points = (person[:, :2] + 0.5) / (width, height)
        low, high = points[is_present].min(0), points[is_present].max(0)
        low, high = np.clip([low - margin * (high - low), high + margin * (high - low)], 0, 1)
        joints = np.concatenate([points, np.full((len(points), 1), 2)], axis=1) * is_present[:, None]
        values = [*(low + high) / 2, *(high - low), *joints.ravel()]
        lines.append(" ".join(["0", *(f"{value:.6g}" for value in values)]) + "\n")
    return "".join(lines).encode()


def data_yaml(splits: list[str]) -> str:
    """Return the description of the dataset that Ultralytics reads."""
    folders = {_SPLITS.get(split, split): f"images/{split}" for split in splits}
    document = {**folders, "kpt_shape": [17, 3], "flip_idx": MIRRORED, "names": {0: "person"}}
    return yaml.safe_dump(document, sort_keys=False)
