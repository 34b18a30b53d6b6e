"""One JSON file per image, as OpenPose's `--write_json` writes it.

`dest` becomes a folder of

| file                     | content                                                                                |
|--------------------------|----------------------------------------------------------------------------------------|
| {image}_keypoints.json   | {"version": 1.3, "people": list, "canvas_width": px, "canvas_height": px}, in a tree   |
|                          | that mirrors the images; `a.jpg_keypoints.json` if two images have equal names but for |
|                          | the ending. The canvas is the image that the coordinates refer to                      |
| openpose-statistics.json | {split: see `statistics.py`}                                                           |

| field of a person | meaning                                                                                   |
|-------------------|-------------------------------------------------------------------------------------------|
| person_id         | [-1], as OpenPose writes for people who are not tracked                                   |
| pose_keypoints_2d | x, y in px and score of 18 joints, in the order of `skeleton.py`; 0, 0, 0 if missing      |
| all others        | [], as there are no faces and hands, and no third dimension                               |

An image without people has an empty list of people. Images that failed have no file.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.samples.pose import Coordinates, PoseSample, PoseSamples
from preprocess.export.image_tree import beside, write_tree
from preprocess.export.json_text import as_json
from preprocess.export.source import Source

SAMPLES = PoseSamples
_DECIMALS = 3
_EMPTY = (
    "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d", "face_keypoints_3d",
    "hand_left_keypoints_3d", "hand_right_keypoints_3d",
)  # fmt: skip


def export(source: Source[PoseSample], dest: Path, coordinates: Coordinates = "processed") -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of poses.
        dest: a new or empty folder.
        coordinates: in px of the processed or of the original image.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty.
        RunError: a shard is damaged, a path leads out of `dest`, or two images have the same path.
    """

    def files(split: str) -> Iterator[tuple[str, PurePosixPath, bytes]]:
        for sample in source.samples(split):
            path = beside(sample.key, sample.meta, "_keypoints.json")
            yield sample.key, path, as_json(_document(sample, coordinates))

    return write_tree(source, dest, "openpose-statistics.json", files)


def _document(sample: PoseSample, coordinates: Coordinates) -> dict[str, Any]:
    keypoints = sample.keypoints_in(coordinates).astype(float).round(_DECIMALS)
    people = [
        {"person_id": [-1], "pose_keypoints_2d": person.ravel().tolist(), **{name: [] for name in _EMPTY}}
        for person in keypoints
    ]
    height, width = sample.size(coordinates)
    return {"version": 1.3, "people": people, "canvas_width": width, "canvas_height": height}
