"""`preprocess sbatch`: its script by value, and in a real bash with stand-ins for SLURM's commands."""

import os
import shlex
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.run.folder import Run
from preprocess.cli import main
from preprocess.integrity import coverage
from support.environment import process_environment

COMMANDS = {
    "srun": 'echo "$@" > srun.txt; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'echo "$@" >> scontrol.txt',
    "sleep": 'echo "$@" >> sleep.txt; [ ! -e signal ] || kill -s "$(cat signal)" "$PPID"',
    "python": 'printf "%s\\0" "$@" >> python.txt; read -r status < statuses; sed -i 1d statuses; exit "$status"',
}
ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"} | {
    f"SLURM_ARRAY_TASK_{name}": value for name, value in {"ID": "1", "MIN": "0", "MAX": "1"}.items()
}


def make_command(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def run_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return a function that runs the script of `preprocess sbatch` as task 1 of an array, in `tmp_path`."""
    for name in ("srun", "scontrol", "sleep"):
        make_command(tmp_path / "bin", name, COMMANDS[name])

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        assert main(["sbatch", *arguments]) == 0
        script = capsys.readouterr().out
        environment = process_environment(**ARRAY, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        return subprocess.run(
            ["bash"], input=script, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of this Python, a program that notes its arguments and exits with the statuses in a file, in turn."""
    monkeypatch.setattr("sys.executable", str(make_command(tmp_path / "bin", "python", COMMANDS["python"])))


def script_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["sbatch", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_script_asks_for_identical_tasks_of_one_node_that_are_requeued(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/opt/my env/bin/python")
    options = ["--nodes", "2", "--ranks-per-node", "4", "--gpus-per-rank", "1", "--time", "24:00:00", "--exclusive"]
    more = ["--mem=64G", "--comment", "it's # mine\\", "--job-name", "signs"]
    lines = script_of(capsys, *options, *more, "run", "--config", "my signs.yaml")
    assert lines[0] == "#!/bin/bash"
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=signs",
        "#SBATCH --array=0-1",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --output=%x-%A_%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR1@120",
        "#SBATCH --time=24:00:00",
        "#SBATCH --exclusive",
        "#SBATCH --mem=64G",
        r"""#SBATCH --comment='it'"'"'s # mine\\'""",
    ]
    [command] = [line for line in lines if " -m preprocess " in line]
    expected = "'/opt/my env/bin/python' -m preprocess run --output.grace_seconds=100 --config 'my signs.yaml'"
    assert command.strip() == expected


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--ranks-per-node", "4", "--gpus-per-rank", "0.5"], "#SBATCH --gpus-per-node=2"),
        (["--ranks-per-node", "10", "--gpus-per-rank", "0.1"], "#SBATCH --gpus-per-node=1"),
        (["--cpus-per-rank", "8"], "#SBATCH --cpus-per-task=8"),
        (["--output", "logs/%j.log"], "#SBATCH --output=logs/%j.log"),
    ],
)
def test_resources_and_options_of_sbatch_become_its_lines(
    capsys: pytest.CaptureFixture[str], options: list[str], line: str
) -> None:
    lines = script_of(capsys, *options, "run", "--config", "c.yaml")
    assert line in lines
    names = [line.split("=")[0] for line in lines if line.startswith("#SBATCH")]
    assert len(set(names)) == len(names)
    assert ("#SBATCH --gpus-per-node" in names) == ("--gpus-per-rank" in options)


def test_the_tasks_of_a_retry_work_on_one_retry(capsys: pytest.CaptureFixture[str]) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    [command] = [line for line in script_of(capsys, "retry", "O", "--class", "io") if " -m preprocess " in line]
    *_, preprocess, retry, grace, since, folder, option, value = shlex.split(command)
    assert (preprocess, retry, grace) == ("preprocess", "retry", "--output.grace_seconds=100")
    assert (folder, option, value) == ("O", "--class", "io")
    assert before <= datetime.fromisoformat(since.removeprefix("--since=")) <= datetime.now(timezone.utc)


@pytest.mark.usefixtures("python")
def test_arguments_reach_the_ranks_as_they_were_given(
    run_script: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    arguments = [
        "--model.prompt",
        "two words",
        "it's",
        'a "b"',
        "$HOME `id` $(id)",
        "*",
        "\\n",
        "",
        "#",
        "ü 猫",
        "-x=\x1b[1m",
        "a\nb'\\",
    ]
    arguments.append(os.fsdecode(b"not UTF-8: \xff"))
    (tmp_path / "statuses").write_text("0\n")
    done = run_script("run", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    words = os.fsdecode((tmp_path / "python.txt").read_bytes()).split("\0")[:-1]
    assert words == ["-m", "preprocess", "run", "--output.grace_seconds=100", *arguments]
    srun = (tmp_path / "srun.txt").read_bytes()
    assert srun.startswith(b"--label --wait=0 --kill-on-bad-exit=0 --cpus-per-task=3 bash -c ")


@pytest.mark.usefixtures("python")
@pytest.mark.parametrize(
    ("statuses", "is_requeued"),
    [
        ([0], False),
        ([139, 1, 137, 0], False),  # crashed by items
        ([1] * 20, False),
        ([3, 3, 0], False),  # the environment
        ([3] * 20, False),
        ([134, 138], True),  # the time limit
        ([143], True),  # a preemption
        ([130], False),
        ([2], False),
        ([4], False),
    ],
)
def test_a_rank_that_failed_starts_again_and_a_stopped_task_is_requeued(
    run_script: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    statuses: list[int],
    is_requeued: bool,
) -> None:
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in [*statuses, 0]))
    assert run_script("--nodes", "2", "run", "keypoints").returncode == statuses[-1]
    assert (tmp_path / "statuses").read_text() == "0\n"
    requeued = tmp_path / "scontrol.txt"
    assert (requeued.read_text() if requeued.exists() else "") == ("requeue 7_1\n" if is_requeued else "")


@pytest.mark.usefixtures("python")
@pytest.mark.parametrize(("signal", "status"), [("USR1", 138), ("TERM", 143)])
def test_a_task_that_is_stopped_while_no_rank_runs_is_requeued(
    run_script: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, signal: str, status: int
) -> None:
    (tmp_path / "statuses").write_text("3\n0\n")
    (tmp_path / "signal").write_text(signal)
    assert run_script("run", "keypoints").returncode == status
    assert (tmp_path / "statuses").read_text() == "0\n"
    assert (tmp_path / "sleep.txt").read_text() == "30\n"
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7_1\n"


def test_a_task_of_a_job_completes_a_run(
    run_script: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "corpus" / f"{number}.png")
    (tmp_path / "a config.yaml").write_text(
        "model: {class_path: support.brightness.Brightness}\n"
        "data: {num_workers: 0, corpus: {class_path: support.brightness.ImageFolders, init_args: {root: corpus}}}\n"
        "output: {dir: nowhere}\n"
        "trainer: {accelerator: cpu}\n"
    )
    done = run_script("--nodes", "2", "run", "--config", "a config.yaml", "--output.dir", "O")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("O: 4 planned = 4 committed + 0 failed + 0 missing\n  took ")
    assert coverage(Run(tmp_path / "O")).is_exact
    assert not (tmp_path / "scontrol.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "2"], "name the command that the ranks run, with its options: run … or retry …"),
        (["--partition", "run", "run"], "run run: write --OPTION=run if the first run is a value of sbatch"),
        (["--nodes", "0", "run"], "argument --nodes: '0' is not a whole number from 1"),
        (["--gpus-per-rank", "2", "run"], "--gpus-per-rank 2: a rank uses 1 GPU, a part of one (0.5) or none (0)"),
        (["--gpus-per-rank", "nan", "run"], "--gpus-per-rank nan: a rank uses"),
        (["-p", "gpu", "run"], "'-p' is not an option of sbatch in its long form, such as --partition gpu"),
        (["gpu", "run"], "'gpu' is not an option of sbatch"),
        (["--exclusive", "user", "node", "run"], "'node' is not an option of sbatch"),
        (["--mem=1G", "2G", "run"], "'2G' is not an option of sbatch"),
        (["--comment", "a\n#SBATCH --account=other", "run"], "has control characters"),
        (["--comment=a\n", "run"], "--comment 'a\\n' has control characters"),
        (["--a\nb", "c", "run"], "'--a\\nb' is not an option of sbatch"),
        (["--array", "1-9", "run"], "--array is set by the script, whose ranks rely on it. Use --nodes"),
        (["--signal=USR1@9", "run"], "--signal is set by the script"),
        (["--no-requeue", "run"], "--no-requeue is set by the script, whose ranks rely on it. Use `scancel`"),
    ],
)
def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    try:
        status = main(["sbatch", *arguments])
    except SystemExit as error:  # argparse
        status = int(str(error))
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert message in printed.err


def test_a_submitted_script_is_the_printed_one_and_the_id_of_the_job_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_command(tmp_path / "bin", "sbatch", f'echo "$@" > {tmp_path}/options; cat > {tmp_path}/script; echo 4242')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    printed = script_of(capsys, "run", "--model.prompt", "猫")
    assert script_of(capsys, "--submit", "run", "--model.prompt", "猫") == ["4242"]
    assert (tmp_path / "options").read_text() == "--parsable\n"
    submitted = (tmp_path / "script").read_text().splitlines()
    assert [line for line in submitted if line not in printed] == [
        "# preprocess sbatch --submit run --model.prompt '猫'"
    ]


def test_what_sbatch_refuses_is_told_in_its_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refusal = 'echo "sbatch: error: invalid partition specified: x" >&2; echo "sbatch: error: failed" >&2; exit 1'
    make_command(tmp_path / "bin", "sbatch", refusal)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert main(["sbatch", "--submit", "--partition", "x", "run", "pose"]) == 2
    expected = "error: sbatch refuses the job: sbatch: error: invalid partition specified: x sbatch: error: failed\n"
    assert capsys.readouterr().err == expected


def test_without_sbatch_a_message_says_where_to_submit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["sbatch", "--submit", "run", "pose"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no sbatch on this machine. Use --submit on a login node")
