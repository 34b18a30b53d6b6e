"""`openpose-json`: a JSON for each image as OpenPose's `--write_json` has it. `dest` becomes a folder of

| file                     | what                                                                                   |
|--------------------------|----------------------------------------------------------------------------------------|
| {image}_keypoints.json   | {"version": 1.3, "people": list, "canvas_width": px, "canvas_height": px}, in a tree   |
|                          | that mirrors the images'; of an image with an equal name but for its ending,           |
|                          | `a.jpg_keypoints.json`. The canvas is the image that the coordinates are of            |
| openpose-statistics.json | {split: see `statistics.py`}                                                           |

| field of a person | meaning                                                                                   |
|-------------------|-------------------------------------------------------------------------------------------|
| person_id         | [-1]: OpenPose's for people who are not tracked                                           |
| pose_keypoints_2d | x, y in px, score, of 18 joints in the order of `skeleton.py`; 0, 0, 0 of a missing one   |
| all others        | [], as there are no faces and hands, and no third dimension                               |

An image without anybody has an empty list of people. Images that failed have no file.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.run.folder import Run
from datamodules.samples.pose import Coordinates, PoseSample
from preprocess.export.mirror import as_json, beside, write_tree
from preprocess.export.reading import pose_samples

_DECIMALS = 3
_EMPTY = (
    "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d", "face_keypoints_3d",
    "hand_left_keypoints_3d", "hand_right_keypoints_3d",
)  # fmt: skip


def export(run: Run, dest: Path, coordinates: Coordinates = "processed") -> list[Path]:
    """Write the folder of the table above.

    Args:
        run: of poses.
        dest: a new or empty folder.
        coordinates: in px of the processed, or of the original image.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` holds something.
        RunError: these are no pose samples, a shard is damaged, or a path leads out of `dest` or is two images'.
    """

    def files(split: str) -> Iterator[tuple[str, PurePosixPath, bytes]]:
        for sample in pose_samples(run, split):
            path = beside(sample.key, sample.meta, "_keypoints.json")
            yield sample.key, path, as_json(_document(sample, coordinates))

    return write_tree(run, dest, "openpose-statistics.json", files)


def _document(sample: PoseSample, coordinates: Coordinates) -> dict[str, Any]:
    found = sample.keypoints_in(coordinates).astype(float).round(_DECIMALS)
    people = [
        {"person_id": [-1], "pose_keypoints_2d": person.ravel().tolist(), **{name: [] for name in _EMPTY}}
        for person in found
    ]
    height, width = sample.size(coordinates)
    return {"version": 1.3, "people": people, "canvas_width": width, "canvas_height": height}
