"""`preprocess completion bash`, in a real bash: commands, configurations, their options, and the values of these."""

import subprocess
from pathlib import Path

import pytest

from preprocess.cli import COMMANDS, main
from preprocess.configurations import summaries

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_shtab_preprocess
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        file = tmp_path_factory.mktemp("completion") / "preprocess"
        with file.open("w") as stream:
            patch.setattr("sys.stdout", stream)
            assert main(["completion", "bash"]) == 0
    return file


def completed(script: Path, *words: str) -> list[str]:
    command = ["bash", "-c", COMPLETE, "bash", str(script), "preprocess", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_commands_and_configurations_are_completed(script: Path) -> None:
    assert completed(script, "") == list(COMMANDS)
    assert completed(script, "run", "") == completed(script, "configs", "") == list(summaries())
    assert completed(script, "check", "--full", "pose") == ["pose", "pose_dwpose", "pose_openpose", "pose_vitpose"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "keypoints", "--model.l"), ["--model.layout"]),
        (("run", "keypoints", "--model.layout", ""), ["143", "75", "543", "553"]),
        (("run", "pose_openpose", "--model.backend.d"), ["--model.backend.dtype"]),
        (("run", "--config", "my.yaml", "--data.num"), ["--data.num_workers"]),
        (("run", "keypoints", "--output.log", ""), ["items", "jsonl"]),
        (("run", "keypoints", "--data.num_workers", ""), []),
        (("estimate", "tracking", "--trainer.accelerator", "g"), ["gpu"]),
        (("check", "--f"), ["--full"]),
        (("retry", "O", "--k"), ["--keys"]),
        (("export", "O", "--format", "coco"), ["coco-keypoints", "coco-video", "coco-wholebody"]),
        (("sbatch", "--n"), ["--nodes"]),
    ],
)
def test_options_and_their_values_are_completed(script: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(script, *words) == expected


@pytest.mark.parametrize("words", [("run", "keypoints", "--output.dir"), ("status",), ("run", "--config")])
def test_paths_are_completed(script: Path, words: tuple[str, ...]) -> None:
    assert completed(script, *words, str(script)[:-3]) == [str(script)]


def test_zsh_gets_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef preprocess")
    assert "--model.layout" in script
