"""`preprocess models`: the table of models, what is wrong, and fetching ahead of a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from preprocess.cli import main
from preprocess.holistic.models import MODELS, find_models
from support.model_wheels import WHEEL_MODELS, hide_models, make_wheel


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, str], str]:
    """Return the exit status, the state of each model, and standard error."""
    status = main(["models", *map(str, arguments)])
    output, errors = capsys.readouterr()
    rows = [line.split("B ") for line in output.splitlines() if line.partition(" ")[0] in MODELS]
    return status, {row[0].partition(" ")[0]: row[1].strip() for row in rows}, errors


def test_each_model_is_shown_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recrop = find_models()["hand_recrop"].read_bytes()
    wheel = make_wheel(tmp_path / "copied")
    cache = hide_models(monkeypatch, tmp_path)
    status, states, errors = shown(capsys)
    assert (status, states) == (1, dict.fromkeys(MODELS, "missing"))
    assert "7 missing models are fetched when a run needs them" in errors

    status, states, _ = shown(capsys, "--fetch", "--model_dir", wheel.parent)
    in_cache = {name: "cache" if name in WHEEL_MODELS else "missing" for name in MODELS}
    assert (status, states) == (0, in_cache)

    (tmp_path / "copied" / "hand_recrop.tflite").write_bytes(recrop)
    (cache / "face_landmark_with_attention.tflite").write_bytes(b"")
    status, states, errors = shown(capsys, "--model_dir", tmp_path / "copied")
    changes = {"hand_recrop": "model_dir", "face_landmark_with_attention": "missing"}
    assert (status, states) == (0, {**in_cache, **changes})  # which a default run does not need
    assert "face_landmark_with_attention.tflite has another size or sha256 than the model of that name" in errors

    (tmp_path / "copied" / "hand_recrop.tflite").write_bytes(recrop[::-1])
    status, states, errors = shown(capsys, "--model_dir", tmp_path / "copied")
    assert (status, states["hand_recrop"]) == (1, "model_dir, but wrong")
    assert "hand_recrop.tflite has another size or sha256 than the model of that name. Runs refuse it" in errors


def test_models_that_cannot_be_fetched_fail_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_models(monkeypatch, tmp_path)
    assert main(["models", "--fetch"]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert "error: the models are missing, and pip cannot download them: No matching distribution" in errors


def test_models_are_shown_without_heavy_packages() -> None:
    find_models()  # fetched, where mediapipe is not installed
    program = (
        "import sys; from preprocess.cli import main; status = main(['models']); "
        "heavy = {'torch', 'lightning', 'mediapipe'} & set(sys.modules); assert not heavy, heavy; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
