"""Jobs of `preprocess sbatch` on a real SLURM."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from datamodules.run.folder import Run
from preprocess.cli import main
from preprocess.integrity import verify
from support.environment import process_environment
from support.runs import tars
from support.slurm_cluster import SlurmCluster, slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUM_VIDEOS, NUM_FRAMES = 60, 10
COMPLETE = f"{NUM_VIDEOS} planned = {NUM_VIDEOS} committed + 0 failed + 0 missing"


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with slurm_cluster() as running:
        yield running


@pytest.fixture
def command(tmp_path: Path, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run of 90 s on 2 CPUs, whose output folder is `O`; commands are run in `tmp_path`."""
    rng = np.random.default_rng(0)
    for video in range(NUM_VIDEOS):
        folder = tmp_path / "corpus" / f"v{video:02d}"
        folder.mkdir(parents=True)
        for frame in range(NUM_FRAMES):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{frame}.png")
    (tmp_path / "config.yaml").write_text(
        "model: {class_path: support.brightness.Brightness, init_args: {seconds_per_frame: 0.3, batch_size: 2}}\n"
        "data: {num_workers: 1, corpus: {class_path: support.brightness.ImageFolders, init_args: {root: corpus}}}\n"
        "output: {dir: O, shards: {max_items: 2}}\n"
        "trainer: {accelerator: cpu}\n"
    )
    for name, value in {**cluster.environment, **process_environment(PYTHONWARNINGS="")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return ["run", "--config", "config.yaml"]


def submit(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Submit a job and return its id."""
    assert main(["sbatch", "--submit", *arguments]) == 0
    return capfd.readouterr().out.strip()


def wait_for(condition: Callable[[], object], job: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        logs = {path.name: path.read_text() for path in Path().glob(f"*{job}_*.log")}
        assert time.monotonic() < deadline, logs
        time.sleep(0.2)


def log_of(job: str, task: str = "*") -> str:
    return "".join(path.read_text() for path in sorted(Path().glob(f"framemill-{job}_{task}.log")))


def ranks(folder: Path) -> dict[str, int]:
    """Return the process ids of the ranks that work in `folder`, by the index of their task."""
    words = ["-m", "preprocess", "run"]
    found = [p for p in psutil.process_iter(["cmdline", "cwd"]) if (p.info["cmdline"] or [])[1:4] == words]
    return {p.environ()["SLURM_ARRAY_TASK_ID"]: p.pid for p in found if p.info["cwd"] == str(folder)}


def test_a_job_with_a_kill_a_time_limit_and_a_preemption_gives_the_tars_of_a_plain_run(
    command: list[str], cluster: SlurmCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = submit(capfd, "--nodes", "2", "--cpus-per-rank", "1", "--time", "1:00:00", *command)
    wait_for(lambda: len(ranks(tmp_path)) == 2 and len(tars(Path("O"))) >= 2, job)
    os.kill(ranks(tmp_path)["0"], signal.SIGKILL)
    wait_for(lambda: "Killed" in log_of(job, "0"), job)

    task = cluster.tasks(job)["1"]
    assert task["JobId"] == job  # the id of the array: this task must requeue itself alone
    hours, minutes, _ = map(int, task["RunTime"].split(":"))
    cluster.call("scontrol", "update", f"JobId={job}_1", f"TimeLimit={60 * hours + minutes + 2}")
    wait_for(lambda: "stopped by SIGUSR1. Finished work is safe" in log_of(job, "1"), job)
    wait_for(lambda: cluster.tasks(job)["1"]["Restarts"] == "1", job)
    assert cluster.tasks(job)["0"]["Restarts"] == "0"
    cluster.call("scontrol", "update", f"JobId={job}_1", "TimeLimit=60")

    cluster.call("sbatch", "--partition=urgent", "--ntasks=2", "--output=urgent.log", "--wrap=sleep 3")
    wait_for(lambda: "DUE TO PREEMPTION" in log_of(job, "0"), job)

    cluster.wait_until_idle(400)
    tasks = cluster.tasks(job)
    assert {(task["JobState"], task["ExitCode"]) for task in tasks.values()} == {("COMPLETED", "0:0")}
    assert tasks["0"]["Restarts"] == "1"
    for index in "01":
        assert f"0: O: {COMPLETE}\n" in log_of(job, index)
    assert "Traceback" not in log_of(job)
    run = Run("O")
    assert list(verify(run)) == []
    assert main([*command, "--output.dir", "plain", "--model.seconds_per_frame", "0"]) == 0
    assert len(tars(Path("plain"))) > 10
    assert tars(Path("plain")) == tars(Path("O"))


def test_a_cancelled_job_does_not_come_back_and_the_same_command_resumes(
    command: list[str], cluster: SlurmCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    comment = 'it\'s a # "b" \\ $HOME'
    job = submit(capfd, "--ranks-per-node", "2", "--comment", comment, *command)
    [task] = cluster.tasks(job).values()
    assert (task["Comment"].strip(), task["Requeue"], task["NumTasks"]) == (comment, "1", "2")
    wait_for(lambda: len(tars(Path("O"))) >= 2, job)
    cluster.call("scancel", job)
    cluster.wait_until_idle(60)
    time.sleep(6)  # a requeued task would have started
    assert cluster.tasks(job)["0"]["JobState"] == "CANCELLED"
    assert not Run("O").is_complete()
    assert main([*command, "--model.seconds_per_frame", "0"]) == 0
    assert COMPLETE in capfd.readouterr().err
    assert Run("O").outcome().failed == 0


def test_what_slurm_refuses_is_told_in_its_words(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sbatch", "--submit", "--partition", "nowhere", *command]) == 2
    assert (
        "error: sbatch refuses the job: sbatch: error: invalid partition specified: nowhere" in capfd.readouterr().err
    )
    assert main(["sbatch", "--submit", "--memory=1G", *command]) == 2
    assert "unrecognized option '--memory=1G'" in capfd.readouterr().err
