"""Whole bodies in the JSON of COCO-WholeBody, which its own evaluation loads.

The files are those of `coco_keypoints`. An annotation has these fields besides, as jin-s13/COCO-WholeBody's
data_format.md says:

| field                             | meaning                                                                     |
|-----------------------------------|-----------------------------------------------------------------------------|
| foot_kpts                         | x, y in px and v of 6 points; v is 2, or 0 (x and y too) if it is missing   |
| face_kpts                         | likewise, 68 points                                                         |
| lefthand_kpts, righthand_kpts     | likewise, 21 points each                                                    |
| face_box, lefthand_box,           | x, y, width, height in px around these points, at least 1 px; zeros if the  |
| righthand_box                     | part is not valid                                                           |
| foot_valid, face_valid,           | whether the part has a point                                                |
| lefthand_valid, righthand_valid   |                                                                             |

`keypoints` and `num_keypoints` are COCO's 17 joints, as there; `bbox` and `area` are around all points. Results have
the points and the score of each person.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.errors import ConfigError
from datamodules.samples.pose import Coordinates, PoseSample, PoseSamples
from datamodules.samples.wholebody import PARTS
from preprocess.export.coco_people import CocoPeople, ImageIds, box_around
from preprocess.export.source import Source

SAMPLES = PoseSamples

_FIELDS = {part: "keypoints" if part == "body" else f"{part}_kpts" for part in PARTS}
_WITH_BOX = ("face", "lefthand", "righthand")
_WITH_VALIDITY = ("foot", *_WITH_BOX)


def export(
    source: Source[PoseSample], dest: Path, coordinates: Coordinates = "original", image_ids: ImageIds = "order"
) -> list[Path]:
    """Write the files of `coco_keypoints`, with the fields of the table above, to `dest`.

    Args:
        source: a run of poses with whole bodies.
        dest: folder to write to.
        coordinates: in px of the processed or of the original image.
        image_ids: count images from 1, over all splits; or take the number at the end of each image's name, as COCO's
            images have it.

    Raises:
        ConfigError: a file exists; people have 18 joints only; or images have no numbers in their names, or equal ones.
        RunError: a shard is damaged.
    """
    return _WholeBodies(source, coordinates, image_ids).write(dest)


class _WholeBodies(CocoPeople):
    dataset = "COCO-WholeBody"

    def points(self, sample: PoseSample, person: int) -> dict[str, NDArray[np.float32]]:
        wholebody = sample.wholebody_in(self.coordinates)
        if wholebody is None:
            raise ConfigError(
                f"{sample.key} has 18 joints of each person, but this format needs whole bodies: run pose_dwpose, or "
                "take --format coco-keypoints"
            )
        return {field: wholebody[person, PARTS[part]] for part, field in _FIELDS.items()}

    def parts(self, points: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
        valid = {part: bool((points[_FIELDS[part]][:, 2] > 0).any()) for part in _WITH_VALIDITY}
        boxes = {part: box_around(points[_FIELDS[part]]) if valid[part] else [0.0] * 4 for part in _WITH_BOX}
        return {
            **{f"{part}_box": box for part, box in boxes.items()},
            **{f"{part}_valid": is_valid for part, is_valid in valid.items()},
        }
