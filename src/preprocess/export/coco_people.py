"""People of a run of poses as COCO's images, annotations and results; see `formats.coco_keypoints`."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError
from datamodules.samples.pose import Coordinates, PoseSample
from datamodules.samples.skeleton import COCO_17, JOINTS
from preprocess.export.image_tree import image_path
from preprocess.export.json_text import write_list
from preprocess.export.source import Source
from preprocess.export.split_files import write_splits

ImageIds = Literal["order", "name"]

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


class CocoPeople:
    """Writes the people of a run. A format with more points of a person is a subclass.

    Attributes:
        dataset: the format's name, in the files.

    Args:
        source: a run of poses.
        coordinates: in px of the processed or of the original image.
        image_ids: count images from 1, over all splits; or take the number at the end of each image's name.
    """

    dataset: ClassVar[str] = "COCO's person_keypoints"

    def __init__(self, source: Source[PoseSample], coordinates: Coordinates, image_ids: ImageIds) -> None:
        self._source, self.coordinates = source, coordinates
        self._ids = _Ids(image_ids)

    def points(self, sample: PoseSample, person: int) -> dict[str, NDArray[np.float32]]:
        """Return x, y and score of a person's points, [K, 3], by the field that has them.

        Raises:
            ConfigError: the sample does not have these points.
        """
        return {"keypoints": sample.keypoints_in(self.coordinates)[person, COCO_17, :]}

    def parts(self, points: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
        """Return what an annotation says of the parts of a person, beside `points` as x, y and v."""
        return {}

    def write(self, dest: Path) -> list[Path]:
        """Write the files of each split to `dest`.

        Raises:
            ConfigError: a file exists; images have no numbers in their names, or equal ones; or see `points`.
            RunError: a shard is damaged.
        """

        def write(split: str, dataset: Path, results: Path) -> None:
            self._write_dataset(dataset, split)
            self._write_results(results, split)

        return write_splits(self._source, dest, [".json", "_results.json"], write)

    def _write_dataset(self, path: Path, split: str) -> None:
        info = {"description": f"poses by Framemill, in the format of {self.dataset}"}
        with open(path, "w", encoding="utf-8", newline="\n", errors="replace") as file:
            file.write(f'{{"info": {json.dumps(info)}, "licenses": [],\n"images": ')
            write_list(file, (self._image(sample) for sample in self._source.samples(split)))
            file.write(',\n"annotations": ')
            write_list(file, self._annotations(split))
            file.write(f',\n"categories": {json.dumps([_CATEGORY])}}}\n')

    def _write_results(self, path: Path, split: str) -> None:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            write_list(file, (self._result(*each) for each in self._people(split)))
            file.write("\n")

    def _image(self, sample: PoseSample) -> dict[str, Any]:
        height, width = sample.size(self.coordinates)
        name = str(image_path(sample.key, sample.meta))
        return {"id": self._ids.image(sample), "file_name": name, "width": width, "height": height, "key": sample.key}

    def _people(self, split: str) -> Iterator[tuple[PoseSample, int, dict[str, NDArray[np.float64]]]]:
        """Yield (sample, index of the person in it, x, y and v of its points by field) of all people."""
        for sample in self._source.samples(split):
            for person in range(len(sample.scores)):
                points = self.points(sample, person)
                yield sample, person, {name: _with_visibility(values) for name, values in points.items()}

    def _annotations(self, split: str) -> Iterator[dict[str, Any]]:
        for sample, person, points in self._people(split):
            self._ids.annotations += 1
            bbox = box_around(np.concatenate(list(points.values())))
            extent = {
                "num_keypoints": int((points["keypoints"][:, 2] > 0).sum()),
                "bbox": bbox,
                "area": round(bbox[2] * bbox[3], _DECIMALS),
                "iscrowd": 0,
            }
            yield {
                "id": self._ids.annotations,
                **self._result(sample, person, points),
                **self.parts(points),
                **extent,
            }

    def _result(self, sample: PoseSample, person: int, points: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
        fields = {
            name: [int(value) if index % 3 == 2 else value for index, value in enumerate(values.ravel().tolist())]
            for name, values in points.items()
        }
        score = round(float(sample.scores[person]), 6)
        return {"image_id": self._ids.of_key[sample.key], "category_id": 1, **fields, "score": score}


def box_around(points: NDArray[np.float64]) -> list[float]:
    """Return x, y, width and height in px, at least 1, around those of `points` [K, 3] that are not missing."""
    visible = points[points[:, 2] > 0, :2]
    low, high = (visible.min(0), visible.max(0)) if len(visible) else (np.zeros(2), np.zeros(2))
    sides = np.maximum(high - low, 1)
    return [*low.round(_DECIMALS).tolist(), *sides.round(_DECIMALS).tolist()]


def _with_visibility(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return float64 [K, 3]: x, y in px and COCO's v, which is 2, or 0 for a missing point."""
    visible: NDArray[np.float64] = points.astype(float).round(_DECIMALS)
    visible[:, 2] = np.where(visible[:, 2] > 0, 2, 0)
    return visible


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
