"""People in COCO's JSON, which pycocotools loads and evaluates.

For each split three files:

| file                    | content                                                                                  |
|-------------------------|------------------------------------------------------------------------------------------|
| {split}.json            | {"info", "licenses", "images", "annotations", "categories"}, as `COCO(file)` takes it    |
| {split}_results.json    | the people as a list, as `COCO.loadRes(file)` takes it: image_id, category_id,           |
|                         | keypoints, score                                                                         |
| {split}_statistics.json | `statistics.py`                                                                          |

| field of an annotation | meaning                                                                                |
|------------------------|----------------------------------------------------------------------------------------|
| id                     | from 1, over all splits                                                                |
| image_id               | see the option `image_ids`                                                             |
| keypoints              | x, y in px and v of COCO's 17 joints, all but the neck; v is 2, or 0 (x and y too) if  |
|                        | the joint is missing                                                                   |
| num_keypoints          | number of joints that are not missing                                                  |
| bbox, area             | x, y, width, height in px around these joints, at least 1 px; width times height       |
| score                  | of the person                                                                          |
| iscrowd                | 0                                                                                      |

An image without people is among the images, without an annotation. A split without people has an empty list of results,
`[]`, which `loadRes` refuses. Coordinates are in px of the original image by default, because COCO's annotations, with
which results are compared, are.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from datamodules.errors import ConfigError
from datamodules.samples.pose import Coordinates, PoseSample, PoseSamples
from datamodules.samples.skeleton import COCO_17, JOINTS
from preprocess.export.image_tree import image_path
from preprocess.export.json_text import write_list
from preprocess.export.source import Source
from preprocess.export.split_files import write_splits

SAMPLES = PoseSamples

ImageIds = Literal["order", "name"]

_INFO = {"description": "poses by Framemill, in the format of COCO's person_keypoints"}
_DECIMALS = 3
# from COCO's own annotations, joints from 1
_SKELETON = [
    [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9], [8, 10], [9, 11],
    [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
]  # fmt: skip
_CATEGORY = {
    "id": 1,
    "name": "person",
    "supercategory": "person",
    "keypoints": [JOINTS[joint] for joint in COCO_17],
    "skeleton": _SKELETON,
}


def export(
    source: Source[PoseSample], dest: Path, coordinates: Coordinates = "original", image_ids: ImageIds = "order"
) -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        source: a run of poses.
        dest: folder to write to.
        coordinates: in px of the processed or of the original image.
        image_ids: count images from 1, over all splits; or take the number at the end of each image's name, as COCO's
            images have it.

    Raises:
        ConfigError: a file exists; or images have no numbers in their names, or equal ones.
        RunError: a shard is damaged.
    """
    ids = _Ids(image_ids)

    def write(split: str, dataset: Path, results: Path) -> None:
        _write_dataset(dataset, source, split, coordinates, ids)
        _write_results(results, source, split, coordinates, ids)

    return write_splits(source, dest, [".json", "_results.json"], write)


class _Ids:
    """The ids of images and annotations, over all splits."""

    def __init__(self, image_ids: ImageIds) -> None:
        self._image_ids = image_ids
        self.of_key: dict[str, int] = {}  # of the image with this key
        self._taken: set[int] = set()
        self.annotations = 0

    def image(self, sample: PoseSample) -> int:
        """Return a new id for the image of `sample`.

        Raises:
            ConfigError: its name has no number, or that of another image.
        """
        number = len(self.of_key) + 1 if self._image_ids == "order" else _number_in(sample)
        if number in self._taken:
            raise ConfigError(f"--image_ids name: {sample.key} has the number {number}, and another image too")
        self.of_key[sample.key] = number
        self._taken.add(number)
        return number


def _number_in(sample: PoseSample) -> int:
    name = PurePosixPath(str(sample.meta.get("image"))).stem
    number = re.search(r"\d+$", name, re.ASCII)
    if number is None:
        raise ConfigError(f"--image_ids name: {sample.key} has no number at its name's end: take --image_ids order")
    return int(number[0])


def _write_dataset(path: Path, source: Source[PoseSample], split: str, coordinates: Coordinates, ids: _Ids) -> None:
    with open(path, "w", encoding="utf-8", newline="\n", errors="replace") as file:
        file.write(f'{{"info": {json.dumps(_INFO)}, "licenses": [],\n"images": ')
        write_list(file, (_image(sample, coordinates, ids) for sample in source.samples(split)))
        file.write(',\n"annotations": ')
        write_list(file, _annotations(source, split, coordinates, ids))
        file.write(f',\n"categories": {json.dumps([_CATEGORY])}}}\n')


def _write_results(path: Path, source: Source[PoseSample], split: str, coordinates: Coordinates, ids: _Ids) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        write_list(file, (_result(sample, coordinates, person, ids) for sample, person in _people(source, split)))
        file.write("\n")


def _people(source: Source[PoseSample], split: str) -> Iterator[tuple[PoseSample, int]]:
    """Yield (sample, index of the person in it) of all people."""
    return ((sample, person) for sample in source.samples(split) for person in range(len(sample.scores)))


def _image(sample: PoseSample, coordinates: Coordinates, ids: _Ids) -> dict[str, Any]:
    height, width = sample.size(coordinates)
    name = str(image_path(sample.key, sample.meta))
    return {"id": ids.image(sample), "file_name": name, "width": width, "height": height, "key": sample.key}


def _annotations(
    source: Source[PoseSample], split: str, coordinates: Coordinates, ids: _Ids
) -> Iterator[dict[str, Any]]:
    for sample, person in _people(source, split):
        ids.annotations += 1
        result = _result(sample, coordinates, person, ids)
        joints = np.array(result["keypoints"]).reshape(-1, 3)
        visible = joints[joints[:, 2] > 0, :2]
        low, high = (visible.min(0), visible.max(0)) if len(visible) else (np.zeros(2), np.zeros(2))
        sides = np.maximum(high - low, 1)
        bbox = [*low.round(_DECIMALS).tolist(), *sides.round(_DECIMALS).tolist()]
        area = round(float(sides.prod()), _DECIMALS)
        extent = {"num_keypoints": len(visible), "bbox": bbox, "area": area, "iscrowd": 0}
        yield {"id": ids.annotations, **result, **extent}


def _result(sample: PoseSample, coordinates: Coordinates, person: int, ids: _Ids) -> dict[str, Any]:
    joints = sample.keypoints_in(coordinates)[person, COCO_17, :].astype(float).round(_DECIMALS)
    joints[:, 2] = np.where(joints[:, 2] > 0, 2, 0)
    score = round(float(sample.scores[person]), 6)
    values = [int(value) if index % 3 == 2 else value for index, value in enumerate(joints.ravel().tolist())]
    return {"image_id": ids.of_key[sample.key], "category_id": 1, "keypoints": values, "score": score}
