"""Keypoints as `.pose` files, which sign-language tools exchange and the library pose-format reads.

`dest` becomes a folder of

| file               | content                                                                           |
|--------------------|-----------------------------------------------------------------------------------|
| {split}/{key}.pose | the keypoints of a sample, for `pose_format.Pose.read`; `{split}/` occurs once     |
| statistics.json    | {split: `statistics.py` and `keypoint_statistics.py`}                             |

The components and points are named as pose-format names those of MediaPipe Holistic, so its functions know them:
POSE_LANDMARKS, FACE_LANDMARKS (unless the layout has no face), LEFT_HAND_LANDMARKS and RIGHT_HAND_LANDMARKS. Points of
the face are named by their number in MediaPipe's mesh. Numbers are those of pose-format's own `load_holistic`:

| axis | meaning                                                                                              |
|------|------------------------------------------------------------------------------------------------------|
| X, Y | px of the frame                                                                                      |
| Z    | MediaPipe's own unit: the frame is 1 wide; negative towards the camera                               |
| C    | confidence: the visibility of pose points, 1 of others; 0, which masks the point, of a part that was |
|      | not found                                                                                            |

There is no POSE_WORLD_LANDMARKS.
"""

import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from datamodules.errors import ConfigError, RunError
from datamodules.samples.keypoint_layouts import HAND_NAMES, PARTS, POSE_NAMES, Part
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from preprocess.export.destination import whole_folder
from preprocess.export.image_tree import create
from preprocess.export.json_text import as_json
from preprocess.export.keypoint_statistics import KeypointStatistics, parts_of
from preprocess.export.source import Source

if TYPE_CHECKING:
    from pose_format.pose_header import PoseHeaderComponent

SAMPLES = KeypointSamples

_COLORS = {"pose": (255, 0, 0), "face": (128, 0, 0), "left_hand": (0, 128, 0), "right_hand": (0, 0, 255)}  # RGB
_VERSION = 0.2  # of the format: pose-format 0.15


def export(source: Source[KeypointSample], dest: Path, fps: float | None = None) -> list[Path]:
    """Write the folder of the table above.

    Args:
        source: a run of keypoints.
        dest: a new or empty folder.
        fps: frames per second of samples whose frames are images, which do not say it; PHOENIX-2014-T has 25.

    Returns:
        The folder.

    Raises:
        ConfigError: `dest` is not empty, pose-format is not installed, `fps` is not above 0, or a sample has no frame
            rate and `fps` is not given.
        RunError: a shard is damaged, or a sample has an unknown layout or a size that the format cannot hold.
    """
    if fps is not None and not 0 < fps < np.inf:
        raise ConfigError(f"--fps {fps} must be above 0")
    _require_library()
    described = {}
    with whole_folder(dest) as folder:
        for split in source.splits:
            statistics = KeypointStatistics(source.statistics(split))
            for sample in source.samples(split):
                statistics.add(parts_of(sample), sample.presence)
                name = sample.key.removeprefix(f"{split}/")  # the corpus of PHOENIX-2014-T begins keys with the split
                create(folder, PurePosixPath(split, f"{name}.pose"), _encoded(sample, fps), sample.key)
            described[split] = statistics.to_json()
        create(folder, PurePosixPath("statistics.json"), as_json(described), "all")
    return [dest]


def _require_library() -> None:
    try:
        import pose_format  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--format pose-format needs the library of this name ({error}). pip install 'framemill[pose-format]'"
        ) from error


def _encoded(sample: KeypointSample, fps: float | None) -> bytes:
    """Return the file of a sample."""
    from pose_format import Pose
    from pose_format.numpy import NumPyPoseBody
    from pose_format.pose_header import PoseHeader, PoseHeaderDimensions

    rate = sample.meta["fps"] or fps
    if rate is None:
        raise ConfigError(f"{sample.key} has no frame rate, as its frames are images. Give it with --fps")
    parts = sorted(sample.layout.parts, key=lambda part: PARTS.index(part.name))  # in pose-format's order
    points, confidences = [], []
    for part in parts:
        points.append(parts_of(sample)[part.name] / np.array([1, 1, sample.meta["width"]], np.float32))
        found = sample.presence[:, PARTS.index(part.name), None] > 0
        confidences.append(found * (sample.visibility if part.name == "pose" else np.ones(len(part.points))))
    # [frames, people, points, axes]
    body = NumPyPoseBody(rate, np.concatenate(points, axis=1)[:, None], np.concatenate(confidences, axis=1)[:, None])
    size = PoseHeaderDimensions(sample.meta["width"], sample.meta["height"])
    file = io.BytesIO()
    try:
        Pose(PoseHeader(_VERSION, size, [_component(part) for part in parts]), body).write(file)
    except ValueError as error:  # more than 65,535 px
        raise RunError(f"{sample.key} does not fit into a .pose file: {error}") from error
    return file.getvalue()


def _component(part: Part) -> "PoseHeaderComponent":
    from pose_format.pose_header import PoseHeaderComponent

    names = {"pose": POSE_NAMES, "face": None}.get(part.name, HAND_NAMES)
    return PoseHeaderComponent(
        f"{part.name.upper()}_LANDMARKS",
        [str(point) if names is None else names[point] for point in part.points],
        list(part.edges),
        [_COLORS[part.name]],
        "XYZC",
    )
