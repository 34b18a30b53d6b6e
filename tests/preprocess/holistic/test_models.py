"""Where the model files are found, that only the right ones are used, and that pip fetches missing ones."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZIP_LZMA, ZipFile

import pytest

from datamodules.errors import ConfigError
from preprocess.holistic.models import HOLISTIC, find_models
from support.model_wheels import WHEEL_MODELS, hide_models, make_wheel


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
    assert list(found) == list(HOLISTIC)


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hand_recrop.tflite"
    for content in (b"", find_models()["hand_recrop"].read_bytes()[:-1] + b"?"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"hand_recrop\.tflite is not MediaPipe's model of that name"):
            find_models(["hand_recrop"], tmp_path)
    path.unlink()
    os.mkfifo(path)  # reading it would wait for a writer
    with pytest.raises(ConfigError, match=r"hand_recrop\.tflite is not MediaPipe's model of that name"):
        find_models(["hand_recrop"], tmp_path)


def test_a_model_that_the_wheel_does_not_have_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^pose_landmark_heavy\.tflite is missing, .* `npm pack @mediapipe/pose@0"):
        find_models(["hand_recrop", "pose_landmark_heavy"], tmp_path)
    with pytest.raises(ConfigError, match=r"--model\.model_dir .*/nothing is not a folder"):
        find_models(HOLISTIC, tmp_path / "nothing")


def test_one_of_several_processes_downloads_the_wheel_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "index")
    cache = hide_models(monkeypatch, tmp_path)
    program = (
        "import sys; sys.modules['mediapipe'] = None; from preprocess.holistic.models import find_models; "
        "print(*{path.parent for path in find_models().values()})"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate() for process in processes]
    assert [output for output, _ in outputs] == [f"{cache}\n"] * 3
    assert sorted(error for _, error in outputs) == ["", "", f"Fetching MediaPipe's models (35 MB) to {cache}\n"]
    assert {path.name for path in cache.iterdir()} == {".lock", *(f"{name}.tflite" for name in WHEEL_MODELS)}
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_damaged_file_in_the_cache_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "index")
    cache = hide_models(monkeypatch, tmp_path)
    cache.mkdir(parents=True)
    (cache / "hand_recrop.tflite").write_bytes(b"cut off")
    path = find_models(["hand_recrop"])["hand_recrop"]
    assert path == cache / "hand_recrop.tflite"
    assert path.stat().st_size == 123_792


def test_a_wheel_in_the_folder_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "copied")
    cache = hide_models(monkeypatch, tmp_path)
    assert find_models(["face_landmark"], tmp_path / "copied") == {"face_landmark": cache / "face_landmark.tflite"}
    assert set(find_models(WHEEL_MODELS)) == set(WHEEL_MODELS)  # from now on without the folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hand_recrop": b"?" * 123_792}, r"hand_recrop\.tflite is not the model of mediapipe 0\.10\.21"),
        ({"hand_recrop": b"?" * 200_000}, r"hand_recrop\.tflite does not have 123,792 bytes\. Download it again"),
        ({"hand_recrop": None}, r"damaged: There is no item named '\S+/hand_recrop\.tflite' in the archive"),
    ],
)
def test_a_wheel_with_other_files_is_refused(
    changed: dict[str, bytes | None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "index", changed)
    cache = hide_models(monkeypatch, tmp_path)
    for folder in (None, wheel.parent):  # downloaded by pip, and lying there
        with pytest.raises(ConfigError, match=message):
            find_models(folder=folder)
    assert not (cache / "hand_recrop.tflite").exists()
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_damaged_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    hide_models(monkeypatch, tmp_path)
    content = bytearray(wheel.read_bytes())
    content[1000] ^= 1  # of the first model
    with ZipFile(tmp_path / "lzma", "w", ZIP_LZMA) as archive:  # which Python's zipfile reads, with errors of its own
        archive.writestr("mediapipe/modules/pose_detection/pose_detection.tflite", b"")
    for damaged in (content, content[:-100], b"", (tmp_path / "lzma").read_bytes()):
        wheel.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"\.whl is not the wheel of mediapipe 0\.10\.21, or is damaged: "):
            find_models(folder=tmp_path)


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_models(monkeypatch, tmp_path)
    (tmp_path / "pip.py").write_text("raise SystemExit('the pip.py of the current folder was run')")
    monkeypatch.chdir(tmp_path)
    what_to_do = r"Run `pip download .* mediapipe==0\.10\.21` where that works.* `preprocess models --fetch --model_dir"
    with pytest.raises(ConfigError, match=rf"No matching distribution found for mediapipe==0\.10\.21\. {what_to_do}"):
        find_models()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ConfigError, match=rf"Failed to establish a new connection.* {what_to_do}"):
        find_models()


def test_without_pip_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_models(monkeypatch, tmp_path)
    venv.create(tmp_path / "venv", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python"))
    with pytest.raises(ConfigError, match=r"pip cannot download them: .*No module named pip\. Run `pip download "):
        find_models()


def test_a_cache_that_cannot_be_written_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_models(monkeypatch, tmp_path)
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot be kept in .*: Not a directory\. Set .* XDG_CACHE_HOME to a folder"):
        find_models()
