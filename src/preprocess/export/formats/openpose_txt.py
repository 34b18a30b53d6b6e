"""One text file per image, with a line `x y` for each of OpenPose's 18 joints.

`dest` becomes a folder of

| file                     | content                                                                             |
|--------------------------|-------------------------------------------------------------------------------------|
| {image}.txt              | 18 lines `x y` in px with two decimals, in the order of `skeleton.py`; `sub/a.txt`  |
|                          | for `sub/a.jpg`, or `sub/a.jpg.txt` if another image is named `sub/a`               |
| openpose-statistics.json | {split: see `statistics.py`}                                                        |

A missing joint is a line too: `-1 -1`. In an image without people all joints are missing; with `people: all` its file
is empty. Images that failed, and those of shards that are not committed, have no file.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from datamodules.samples.pose import Coordinates, PoseSample, PoseSamples
from datamodules.samples.skeleton import JOINTS
from preprocess.export.image_tree import beside, write_tree
from preprocess.export.source import Source

SAMPLES = PoseSamples


def export(
    source: Source[PoseSample],
    dest: Path,
    coordinates: Coordinates = "processed",
    people: Literal["best", "all"] = "best",
    missing: float = -1.0,
) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of poses.
        dest: a new or empty folder.
        coordinates: in px of the processed or of the original image.
        people: the person with the best score only; or all, 18 lines each, the best score first.
        missing: value of x and y of a missing joint.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty.
        RunError: a shard is damaged, a path leads out of `dest`, or two images have the same path.
    """

    def files(split: str) -> Iterator[tuple[str, PurePosixPath, bytes]]:
        for sample in source.samples(split):
            text = _text(sample, coordinates, people, f"{missing:g} {missing:g}\n")
            yield sample.key, beside(sample.key, sample.meta, ".txt"), text.encode()

    return write_tree(source, dest, "openpose-statistics.json", files)


def _text(sample: PoseSample, coordinates: Coordinates, people: str, missing: str) -> str:
    keypoints = sample.keypoints_in(coordinates).tolist()
    if people == "best":
        keypoints = keypoints[:1] or [[(0, 0, 0)] * len(JOINTS)]
    return "".join(f"{x:.2f} {y:.2f}\n" if score > 0 else missing for person in keypoints for x, y, score in person)
