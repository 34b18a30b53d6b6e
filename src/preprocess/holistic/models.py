"""The model files of MediaPipe Holistic: which there are, and where they are found.

| name                         | input            | outputs                                                       |
|------------------------------|------------------|---------------------------------------------------------------|
| pose_detection               | 224 px, -1 to 1  | boxes and keypoints of 2254 anchors, their scores             |
| pose_landmark_lite           | as the full one  | as the full one                                               |
| pose_landmark_full           | 256 px, 0 to 1   | 39 points, score, segmentation, heatmaps of 64 px, 39 in 3D   |
| pose_landmark_heavy          | as the full one  | as the full one                                               |
| face_detection_short_range   | 128 px, -1 to 1  | boxes and keypoints of 896 anchors, their scores              |
| face_landmark                | 192 px, 0 to 1   | 468 points, score                                             |
| face_landmark_with_attention | 192 px, 0 to 1   | 468 points, lips, eyes and irises, score                      |
| hand_recrop                  | 256 px, 0 to 1   | two points                                                    |
| hand_landmark_full           | 224 px, 0 to 1   | 21 points, score, handedness, 21 in 3D                        |

`pose_landmark_lite` and `_heavy` are in npm's package `@mediapipe/pose` (0.5.1675469404), the others in mediapipe's
wheel. A model is the same file wherever it is found: its sha256 is checked.
"""

import hashlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import ConfigError


class Model(NamedTuple):
    """What is known of a model file.

    Attributes:
        num_bytes: its size.
        sha256: of its content.
        folder: its folder in `mediapipe/modules` of the wheel of mediapipe 0.10.21; None: it is not in the wheel.
    """

    num_bytes: int
    sha256: str
    folder: str | None


MODELS = {
    "pose_detection": Model(
        2959046, "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c", "pose_detection"
    ),
    "pose_landmark_lite": Model(2819824, "f17bfbecadb61c3be1baa8b8d851cc6619c870a87167b32848ad20db306b9d61", None),
    "pose_landmark_full": Model(
        6440512, "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f", "pose_landmark"
    ),
    "pose_landmark_heavy": Model(27709200, "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe", None),
    "face_detection_short_range": Model(
        229714, "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8", "face_detection"
    ),
    "face_landmark": Model(
        1242398, "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814", "face_landmark"
    ),
    "face_landmark_with_attention": Model(
        2495106, "e06a804e0144f9929eda782122916b35d60c697c3c9344013ca2bbe76a6ce2b4", "face_landmark"
    ),
    "hand_recrop": Model(
        123792, "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d", "holistic_landmark"
    ),
    "hand_landmark_full": Model(
        5478917, "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3", "hand_landmark"
    ),
}

HOLISTIC = (  # the six models of `mp.solutions.holistic` with model_complexity 1
    "pose_detection",
    "pose_landmark_full",
    "face_detection_short_range",
    "face_landmark",
    "hand_recrop",
    "hand_landmark_full",
)

_INSTALL = "Install mediapipe==0.10.21, or name a folder that has it"


def find_models(names: Iterable[str] = HOLISTIC, folder: str | Path | None = None) -> dict[str, Path]:
    """Return the path of each of the models `names`, by name.

    Args:
        names: keys of `MODELS`.
        folder: a folder of the user's with some or all of the files. Those that it lacks are taken from the installed
            mediapipe.

    Raises:
        ConfigError: a file is missing, `folder` is not a folder, or a file in it is not the model of its name.
    """
    if folder and not Path(folder).is_dir():
        raise ConfigError(f"--model.model_dir {folder} is not a folder. Name the folder of the .tflite files")
    paths = {}
    for name in names:
        path = next(_intact_copies(name, folder), None)
        if path is None:
            raise ConfigError(f"the model {name}.tflite is missing. {_INSTALL}")
        paths[name] = path
    return paths


def _intact_copies(name: str, folder: str | Path | None) -> Iterator[Path]:
    """Yield the paths of a model that have its content: in `folder`, then in the installed mediapipe."""
    model = MODELS[name]
    if folder and (path := Path(folder) / f"{name}.tflite").exists():
        if not _is_intact(path, model):
            raise ConfigError(f"{path} is not the model of mediapipe 0.10.21. Remove it, or replace it by that file")
        yield path
    spec = find_spec("mediapipe")  # does not import it
    if spec and spec.submodule_search_locations and model.folder:
        path = Path(spec.submodule_search_locations[0]) / "modules" / model.folder / f"{name}.tflite"
        if _is_intact(path, model):
            yield path


def _is_intact(path: Path, model: Model) -> bool:
    if not path.is_file() or path.stat().st_size != model.num_bytes:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256
