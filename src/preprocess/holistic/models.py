"""The six model files of MediaPipe Holistic in mediapipe's wheel, found without importing it.

| name                       | input            | outputs                                                       |
|----------------------------|------------------|---------------------------------------------------------------|
| pose_detection             | 224 px, -1 to 1  | boxes and keypoints of 2254 anchors, their scores             |
| pose_landmark_full         | 256 px, 0 to 1   | 39 points, score, segmentation, heatmaps of 64 px, 39 in 3D   |
| face_detection_short_range | 128 px, -1 to 1  | boxes and keypoints of 896 anchors, their scores              |
| face_landmark              | 192 px, 0 to 1   | 468 points, score                                             |
| hand_recrop                | 256 px, 0 to 1   | two points                                                    |
| hand_landmark_full         | 224 px, 0 to 1   | 21 points, score, handedness, 21 in 3D                        |
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from datamodules.errors import ConfigError

_INSTALL = "Install them with: pip install mediapipe==0.10.21"

# by name: its folder in mediapipe/modules, and its sha256 in release 0.10.21
MODELS = {
    "pose_detection": ("pose_detection", "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c"),
    "pose_landmark_full": ("pose_landmark", "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f"),
    "face_detection_short_range": (
        "face_detection",
        "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
    ),
    "face_landmark": ("face_landmark", "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"),
    "hand_recrop": ("holistic_landmark", "67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d"),
    "hand_landmark_full": ("hand_landmark", "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3"),
}


def find_models(folder: str | Path | None = None) -> dict[str, Path]:
    """Return the path of each model, by name.

    Args:
        folder: a folder with the six files, side by side or as in mediapipe/modules; None: the installed wheel.

    Raises:
        ConfigError: a file is missing, or is not that of mediapipe 0.10.21.
    """
    root = Path(folder) if folder else _modules()
    paths = {}
    for name, (subfolder, sha256) in MODELS.items():
        beside, within = root / f"{name}.tflite", root / subfolder / f"{name}.tflite"
        path = beside if beside.is_file() else within
        if not path.is_file():
            raise ConfigError(f"{root} has no {beside.name}, and neither has its {subfolder}. {_INSTALL}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise ConfigError(f"{path} is not the model of mediapipe 0.10.21. {_INSTALL}")
        paths[name] = path
    return paths


def _modules() -> Path:
    spec = find_spec("mediapipe")  # does not import it
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"mediapipe's models are missing. {_INSTALL}, or give a folder with its .tflite files")
    return Path(spec.submodule_search_locations[0]) / "modules"
