"""`coco-keypoints`: people as COCO's JSON has them, which pycocotools loads and evaluates. For each split three files:

| file                    | what                                                                                     |
|-------------------------|------------------------------------------------------------------------------------------|
| {split}.json            | {"info", "licenses", "images", "annotations", "categories"}, as `COCO(file)` takes it    |
| {split}_results.json    | the people as a list, as `COCO.loadRes(file)` takes it: image_id, category_id, keypoints, |
|                         | score                                                                                    |
| {split}_statistics.json | `statistics.py`                                                                          |

| field of an annotation | meaning                                                                                |
|------------------------|----------------------------------------------------------------------------------------|
| id                     | from 1, over all splits                                                                |
| image_id               | see the option `image_ids`                                                             |
| keypoints              | x, y in px, v of COCO's 17 joints, all but the neck; v: 2, or 0 with 0, 0 of a missing |
| num_keypoints          | how many are there                                                                     |
| bbox, area             | x, y, width, height in px around these, 1 px at least; and their product               |
| score, iscrowd         | of the person; 0                                                                       |

An image without anybody is among the images, and has no annotation. Of a split without anybody the list of results is
empty: `[]`, which `loadRes` does not take. A result for evaluation has coordinates in the
original image, as COCO's annotations do: the default here.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TextIO

import numpy as np

from datamodules.errors import ConfigError
from datamodules.run.folder import Run
from datamodules.samples.pose import Coordinates, PoseSample
from datamodules.samples.skeleton import COCO_17, JOINTS
from preprocess.export.destination import all_or_none
from preprocess.export.mirror import image_path
from preprocess.export.reading import planned_splits, pose_samples
from preprocess.export.statistics import counts

ImageIds = Literal["order", "name"]

_ENDINGS = (".json", "_results.json", "_statistics.json")
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


def export(run: Run, dest: Path, coordinates: Coordinates = "original", image_ids: ImageIds = "order") -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        run: of poses.
        dest: folder to write to.
        coordinates: in px of the processed, or of the original image.
        image_ids: from 1, over all splits; or the number with which the name of each image ends, as COCO's do.

    Raises:
        ConfigError: a file exists; or images have no numbers in their names, or the same.
        RunError: these are no pose samples, or a shard is damaged.
    """
    splits = planned_splits(run)
    paths = [dest / f"{split}{ending}" for split in splits for ending in _ENDINGS]
    numbers = _Numbers(image_ids)
    with all_or_none(paths) as partials:
        for place, split in enumerate(splits):
            dataset, results, described = partials[3 * place : 3 * place + 3]
            _write_split(dataset, results, run, split, coordinates, numbers)
            described.write_text(json.dumps(counts(run, split), indent=1) + "\n")
    return paths


class _Numbers:
    """The ids that have been given."""

    def __init__(self, image_ids: ImageIds) -> None:
        self._image_ids = image_ids
        self.of_key: dict[str, int] = {}
        self._given: set[int] = set()
        self.annotations = 0

    def image(self, sample: PoseSample) -> int:
        number = len(self.of_key) + 1 if self._image_ids == "order" else _number_in(sample)
        if number in self._given:
            raise ConfigError(f"--image_ids name: {sample.key} has the number {number}, and another image too")
        self.of_key[sample.key] = number
        self._given.add(number)
        return number


def _number_in(sample: PoseSample) -> int:
    name = PurePosixPath(str(sample.meta.get("image"))).stem
    found = re.search(r"\d+$", name, re.ASCII)
    if found is None:
        raise ConfigError(f"--image_ids name: {sample.key} has no number at its name's end: take --image_ids order")
    return int(found[0])


def _write_split(
    dataset: Path, results: Path, run: Run, split: str, coordinates: Coordinates, numbers: _Numbers
) -> None:
    with open(dataset, "w", encoding="utf-8", newline="\n", errors="replace") as file:
        file.write(f'{{"info": {json.dumps(_INFO)}, "licenses": [],\n"images": ')
        _write_list(file, (_image(sample, coordinates, numbers) for sample in pose_samples(run, split)))
        file.write(',\n"annotations": ')
        _write_list(file, _annotations(run, split, coordinates, numbers))
        file.write(f',\n"categories": {json.dumps([_CATEGORY])}}}\n')
    with open(results, "w", encoding="utf-8", newline="\n") as file:
        _write_list(file, (_result(sample, coordinates, at, numbers) for sample, at in _people(run, split)))
        file.write("\n")


def _write_list(file: TextIO, values: Iterable[dict[str, Any]]) -> None:
    """A JSON list, a value a line."""
    file.write("[")
    for place, value in enumerate(values):
        file.write((",\n" if place else "\n") + json.dumps(value, ensure_ascii=False))
    file.write("]")


def _people(run: Run, split: str) -> Iterator[tuple[PoseSample, int]]:
    """(sample, place of the person in it) of everybody."""
    return ((sample, at) for sample in pose_samples(run, split) for at in range(len(sample.scores)))


def _image(sample: PoseSample, coordinates: Coordinates, numbers: _Numbers) -> dict[str, Any]:
    height, width = sample.size(coordinates)
    name = str(image_path(sample.key, sample.meta))
    return {"id": numbers.image(sample), "file_name": name, "width": width, "height": height, "key": sample.key}


def _annotations(run: Run, split: str, coordinates: Coordinates, numbers: _Numbers) -> Iterator[dict[str, Any]]:
    for sample, at in _people(run, split):
        numbers.annotations += 1
        found = _result(sample, coordinates, at, numbers)
        joints = np.array(found["keypoints"]).reshape(-1, 3)
        there = joints[joints[:, 2] > 0, :2]
        low, high = (there.min(0), there.max(0)) if len(there) else (np.zeros(2), np.zeros(2))
        sides = np.maximum(high - low, 1)
        box = [*low.round(_DECIMALS).tolist(), *sides.round(_DECIMALS).tolist()]
        area = round(float(sides.prod()), _DECIMALS)
        about = {"num_keypoints": len(there), "bbox": box, "area": area, "iscrowd": 0}
        yield {"id": numbers.annotations, **found, **about}


def _result(sample: PoseSample, coordinates: Coordinates, at: int, numbers: _Numbers) -> dict[str, Any]:
    joints = sample.keypoints_in(coordinates)[at, COCO_17, :].astype(float).round(_DECIMALS)
    joints[:, 2] = np.where(joints[:, 2] > 0, 2, 0)
    score = round(float(sample.scores[at]), 6)
    values = [int(value) if place % 3 == 2 else value for place, value in enumerate(joints.ravel().tolist())]
    return {"image_id": numbers.of_key[sample.key], "category_id": 1, "keypoints": values, "score": score}
