"""The summary of a finished run, and `status --watch`, which follows one that was started elsewhere."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.record import Timing
from preprocess.cli import main
from support.environment import process_environment
from support.keypoint_runs import MadeItems
from support.keypoint_runs import make_run as make_keypoint_run
from support.run_paths import record_path
from support.runs import finish, lease, make_run

KIND = {"samples": {"class_path": "datamodules.samples.keypoints.KeypointSamples"}}
PHASES = {"read": 70.0, "transform": 0.0, "wait": 60.0, "compute": 30.0, "write": 10.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three shards and four items, of which one failed, that took two ranks 80 s."""
    make_keypoint_run(tmp_path / "run", MadeItems({"train": 3, "dev": 1}), failed=("train/v1",), fingerprint=KIND)
    run = Run(tmp_path / "run")
    for number, record in enumerate(run.records()):
        rank = ("a", "b", "b")[number]
        timed = replace(
            record,
            rank=rank,
            attempt=f"{record.shard}.{rank}",
            seconds=40.0,
            timing=Timing(1000.0 + 20 * number, 2, PHASES),
        )
        record_path(run, record.shard).write_text(timed.to_json())
    return tmp_path / "run"


def test_the_status_of_a_finished_run_ends_with_what_it_took_and_how_to_go_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-8:] == [
        "  took    1 min 20 s with 2 ranks: 0.1 items/s, 0.1 frames/s",
        "  time    wait 60 %, compute 30 %, write 10 %; in workers read 3 min 30 s; bottleneck: read",
        "  failed  decode 1",
        f"  next    preprocess report {folder} --open",
        f"          preprocess failures {folder}",
        f"          preprocess retry {folder}",
        f"          preprocess export {folder} --format parquet --dest D",
        f"          training: FramesDataModule(shards='{folder}', samples=KeypointSamples()), see docs/training.md",
    ]


def test_the_status_of_a_run_that_goes_on_has_no_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, 8)
    with Rank(run) as rank:
        finish(rank, lease(rank))
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "4 of 8 items (50.0 %)" in shown
    assert "next" not in shown


def test_watching_a_finished_run_ends_at_once_with_its_summary(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(folder), "--watch"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "4 of 4 items (100.0 %) · 3 of 3 shards" in first
    assert last.endswith("see docs/training.md")


def test_watching_cannot_print_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["status", str(folder), "--watch", "--json"])
    assert "not allowed with argument --watch" in capsys.readouterr().err


def watching(folder: Path) -> "subprocess.Popen[str]":
    """Start `status --watch` in a terminal of its own, whose output comes through a pipe."""
    command = [sys.executable, "-m", "preprocess", "status", str(folder), "--watch"]
    environment = process_environment(FORCE_COLOR="1", COLUMNS="200")  # rich takes the pipe for a terminal
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watching_follows_the_ranks_until_the_run_is_complete(tmp_path: Path) -> None:
    run = make_run(tmp_path, 8)
    with Rank(run) as rank:
        finish(rank, lease(rank))
        rank.publish()
        process = watching(tmp_path)
        assert process.stdout
        read = ""
        while rank.name not in read:
            assert process.poll() is None
            read += process.stdout.readline()
        assert "4 of 8 items (50.0 %)" in read
        finish(rank, lease(rank))
    output, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (0, "")
    assert "8 of 8 items (100.0 %)" in output
    assert "preprocess report" in output


def test_watching_ends_with_ctrl_c_without_a_traceback(tmp_path: Path) -> None:
    make_run(tmp_path, 8)
    process = watching(tmp_path)
    assert process.stdout
    while "no rank at work" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "")
    assert "\x1b[?25h" in output  # the cursor is shown again
