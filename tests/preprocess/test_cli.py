"""Wrong options, folders and corpora: one clear line, the exit status of the table in cli.py, and nothing started."""

import gc
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from lightning_utilities.core.imports import RequirementCache

from preprocess.cli import main
from support.keypoint_runs import MadeItems, make_run

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "keypoints.yaml")


def run_fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit status, and standard error, which has to be one line."""
    status = main(["run", "--config", CONFIG, *arguments])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    return status, error


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--data.roott", "x"), 2, "Option 'roott' is not accepted"),
        (("--model.layout", "5"), 2, "Expected a typing.Literal[143, 75, 543, 553]. Got value: 5"),
        (("--model.model_complexity", "3"), 2, "Expected a typing.Literal[0, 1, 2]. Got value: 3"),
        (("--modell.layout", "75"), 2, "unrecognized arguments: --modell.layout"),
        (("--config", "nowhere.yaml"), 2, "File does not exist"),
        (("--output.only", "3/2"), 2, "--output.only '3/2' is not i/n with 0 <= i < n"),
        (("--output.shards.max_items", "0"), 2, "shard size max_items = 0"),
        (("--data.num_workers", "-1"), 2, "num_workers = -1 must be 0 or more"),
        (("--data.root", "/nowhere"), 2, "--data.root /nowhere is not a folder"),
        (("--data.decoding.backend", "opencv"), 2, "Expected a typing.Literal['pyav', 'torchcodec', 'decord']"),
        (("--data.decoding", "{backend: torchcodec, device: cuda}"), 2, "needs a GPU. Set --trainer.accelerator gpu"),
        (("--trainer.accelerator", "gpu", "--trainer.devices", "9"), 2, "gpu"),
    ],
)
def test_wrong_options_fail_in_one_line(
    arguments: tuple[str, ...], status: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result, error = run_fails(capsys, "--output.dir", str(tmp_path / "run"), *arguments)
    assert result == status
    assert message in error
    assert not (tmp_path / "run" / "plan.arrow").exists()


def test_a_logger_whose_package_is_not_installed_fails_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", RequirementCache("no-such-package"))
    options = ("--trainer.logger", "lightning.pytorch.loggers.WandbLogger", "--output.dir", str(tmp_path / "run"))
    assert run_fails(capsys, *options)[0] == 2
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_made_fails_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    status, error = run_fails(capsys, "--data.root", str(tmp_path), "--output.dir", str(tmp_path / "file" / "run"))
    assert status == 3
    assert "the output folder cannot be written to" in error


def test_another_release_of_mediapipe_fails_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.mediapipe_graph.version", lambda package: "0.10.35")
    status, error = run_fails(capsys, "--model.backend", "mediapipe")
    assert status == 2
    assert "mediapipe 0.10.21 is needed, but 0.10.35 is installed" in error


@pytest.mark.parametrize("command", ["status", "verify", "view", "export", "visualize"])
def test_a_folder_that_is_not_a_run_fails_in_one_line(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    more = {"export": ["--format", "parquet", "--dest", "d"], "visualize": ["--dest", "d"]}.get(command, [])
    assert main([command, str(tmp_path), *more]) == 2
    assert f"{tmp_path} is no run: it has no plan.arrow" in capsys.readouterr().err


def test_status_shows_what_is_done_and_failed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 5}), failed=("train/v1",))
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["planned_items"], status["items"], status["failed"]) == (5, 4, 1)
    assert status["is_complete"] is True
    assert sum(status["failure_classes"].values()) == 1
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "5 of 5 items (100.0 %)" in capsys.readouterr().out


def test_print_config_shows_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--config", CONFIG, "--data.root", "/data/phoenix", "--print_config"])
    shown = capsys.readouterr().out
    assert "class_path: datamodules.corpora.phoenix.Phoenix2014T" in shown
    assert "root: /data/phoenix" in shown


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        ("status", "torch lightning mediapipe pandas"),
        ("view", "torch lightning mediapipe"),
        ("verify", "torch lightning mediapipe"),
    ],
)
def test_commands_that_only_read_start_without_heavy_packages(command: str, unneeded: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 2}))
    code = (
        "import sys; from preprocess.cli import main; status = main(sys.argv[1:3]); "
        "heavy = {*sys.argv[3].split()} & set(sys.modules); assert not heavy, heavy; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(tmp_path / "run"), unneeded], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_garbage_is_collected_again_after_a_command_failed_to_import(monkeypatch: pytest.MonkeyPatch) -> None:
    enabled: list[bool] = []

    def fail(name: str) -> None:
        enabled.append(gc.isenabled())
        raise ImportError(name)

    monkeypatch.delitem(sys.modules, "preprocess.commands.configs", raising=False)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"preprocess\.commands\.configs"):
        main(["configs"])
    assert [*enabled, gc.isenabled()] == [False, True]
