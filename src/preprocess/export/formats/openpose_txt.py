"""`openpose-txt`: a text for each image, in a tree that mirrors the images'. `dest` becomes a folder of

| file                     | what                                                                                |
|--------------------------|-------------------------------------------------------------------------------------|
| {image}.txt              | 18 lines `x y`, in px with two decimals, in the order of `skeleton.py`; `sub/a.txt` |
|                          | of `sub/a.jpg`, or `sub/a.jpg.txt` where another image is `sub/a`                   |
| openpose-statistics.json | {split: see `statistics.py`}                                                        |

A missing joint is a line too: `-1 -1`. Of an image without anybody all lines are; with `people: all` its text is empty.
Images that failed, and those of shards that are not committed, have none.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from datamodules.run.folder import Run
from datamodules.samples.pose import Coordinates, PoseSample
from datamodules.samples.skeleton import JOINTS
from preprocess.export.mirror import beside, write_tree
from preprocess.export.reading import pose_samples


def export(
    run: Run,
    dest: Path,
    coordinates: Coordinates = "processed",
    people: Literal["best", "all"] = "best",
    missing: float = -1.0,
) -> list[Path]:
    """Write the folder of the table above.

    Args:
        run: of poses.
        dest: a new or empty folder.
        coordinates: in px of the processed, or of the original image.
        people: the surest person alone; or all, 18 lines after 18 lines, the surest first.
        missing: what stands for x and y of a missing joint.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` holds something.
        RunError: these are no pose samples, a shard is damaged, or a path leads out of `dest` or is two images'.
    """

    def files(split: str) -> Iterator[tuple[str, PurePosixPath, bytes]]:
        for sample in pose_samples(run, split):
            text = _text(sample, coordinates, people, f"{missing:g} {missing:g}\n")
            yield sample.key, beside(sample.key, sample.meta, ".txt"), text.encode()

    return write_tree(run, dest, "openpose-statistics.json", files)


def _text(sample: PoseSample, coordinates: Coordinates, people: str, missing: str) -> str:
    found = sample.keypoints_in(coordinates).tolist()
    if people == "best":
        found = found[:1] or [[(0, 0, 0)] * len(JOINTS)]
    return "".join(f"{x:.2f} {y:.2f}\n" if score > 0 else missing for person in found for x, y, score in person)
