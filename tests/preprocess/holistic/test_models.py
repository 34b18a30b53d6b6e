"""Where the model files are found, and that only the right ones are used."""

import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.errors import ConfigError
from preprocess.holistic.models import HOLISTIC, find_models


def test_models_are_found_without_importing_mediapipe() -> None:
    program = (
        "import sys; from preprocess.holistic.models import find_models; "
        "print(len(find_models()), {'mediapipe', 'torch'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["6", "set()"]


def test_a_folder_comes_first_and_what_it_lacks_comes_from_elsewhere(tmp_path: Path) -> None:
    elsewhere = find_models()
    (tmp_path / "hand_recrop.tflite").symlink_to(elsewhere["hand_recrop"])
    found = find_models(HOLISTIC, tmp_path)
    assert found == {**elsewhere, "hand_recrop": tmp_path / "hand_recrop.tflite"}


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    for content in (b"", find_models()["hand_recrop"].read_bytes()[:-1] + b"?"):
        (tmp_path / "hand_recrop.tflite").write_bytes(content)
        with pytest.raises(ConfigError, match=r"hand_recrop\.tflite is not the model of mediapipe 0\.10\.21"):
            find_models(["hand_recrop"], tmp_path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model pose_landmark_heavy\.tflite is missing"):
        find_models(["pose_landmark_heavy"], tmp_path)
    with pytest.raises(ConfigError, match=r"--model\.model_dir .*/nothing is not a folder"):
        find_models(HOLISTIC, tmp_path / "nothing")
