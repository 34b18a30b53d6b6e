"""Wheels that hold the models of MediaPipe, and an environment in which these are nowhere else."""

import sys
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import pytest

from preprocess.holistic.models import MODELS, find_models

WHEEL_MODELS = tuple(name for name, model in MODELS.items() if model.folder)
_INFO = "mediapipe-0.10.21.dist-info"


def make_wheel(folder: Path, changed: Mapping[str, bytes | None] | None = None) -> Path:
    """Make a wheel of mediapipe 0.10.21, as pip takes it, with the models and nothing else.

    Args:
        folder: where to make it.
        changed: other contents of some models, by name; None: the model is not in the wheel.
    """
    contents: dict[str, bytes | None] = {name: path.read_bytes() for name, path in find_models(WHEEL_MODELS).items()}
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "mediapipe-0.10.21-cp312-cp312-manylinux_2_28_x86_64.whl"
    with ZipFile(wheel, "w") as archive:
        for name, content in {**contents, **(changed or {})}.items():
            if content is not None:
                archive.writestr(f"mediapipe/modules/{MODELS[name].folder}/{name}.tflite", content)
        archive.writestr(f"{_INFO}/METADATA", "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n")
        archive.writestr(f"{_INFO}/WHEEL", "Wheel-Version: 1.0\nTag: cp312-cp312-manylinux_2_28_x86_64\n")
        archive.writestr(f"{_INFO}/RECORD", "")
    return wheel


def hide_models(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Hide the installed mediapipe, empty the cache, and make `folder / "index"` all that pip has. Returns the cache.

    The variables hold for processes that are started, too; there, mediapipe has to be hidden in `sys.modules`.
    """
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    (folder / "index").mkdir(exist_ok=True)
    variables = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "index")}
    for name, value in {**variables, "XDG_CACHE_HOME": str(folder / "cache")}.items():
        monkeypatch.setenv(name, value)
    return folder / "cache" / "framemill" / "mediapipe-0.10.21"
