"""The function of a Ray task, without Ray: it runs a command of `preprocess` in a subprocess."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from preprocess.cluster.rank_task import RankExit, RankTask, run_rank
from support.environment import process_environment
from support.runs import make_run, wait_for, work


@pytest.fixture
def task(tmp_path: Path) -> RankTask:
    return RankTask(["status", str(tmp_path / "run")], str(tmp_path), process_environment(), 0.5, "run", 0, True)


def test_a_task_returns_the_exit_status_and_the_error_of_its_rank(
    task: RankTask, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run_rank(task)
    message = f"{tmp_path}/run is no run: it has no plan.arrow; give the folder that was --output.dir"
    assert ended == RankExit(os.uname().nodename, 2, message)
    assert capfd.readouterr().err == f"error: {message}\n"  # Ray forwards it to the driver


def test_a_task_that_starts_late_ends_at_once_if_the_run_is_complete(
    task: RankTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", 2)
    unknown = replace(task, arguments=["no-command"])
    assert run_rank(unknown).status == 2
    work(tmp_path / "run")
    assert run_rank(unknown).status == 0
    assert run_rank(replace(unknown, may_be_late=False)).status == 2
    assert run_rank(replace(unknown, retry=1)).status == 2


def test_a_node_without_the_working_folder_is_named(task: RankTask) -> None:
    ended = run_rank(replace(task, working_folder="/nowhere"))
    assert ended.status == 2
    assert (
        ended.message
        == f"the working folder /nowhere is missing on {ended.node}. Start from a folder that all nodes have"
    )


SLEEPER = [sys.executable, "-m", "preprocess.cluster.dies_with_parent"]


def test_a_rank_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "command = [*sys.argv[1:], str(os.getpid()), '/bin/sleep', '60']\n"
        "print(subprocess.Popen(command, start_new_session=True).pid, flush=True)\n"
        "sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=process_environment()
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: child.name() == "sleep")
        parent.kill()
        child.wait(5)


def test_a_rank_whose_parent_is_already_dead_does_not_start() -> None:
    done = subprocess.run([*SLEEPER, str(os.getppid()), "/bin/sleep", "60"], env=process_environment(), timeout=30)
    assert done.returncode == 0
