"""FIFOs, devices, folders, dangling links and huge files in a run folder end a command in one line, or are ignored."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datamodules.errors import RunError
from datamodules.run.folder import Run
from preprocess.cli import main
from preprocess.commands.run import conclude
from support.run_paths import folder_of
from support.runs import make_run, work

_HANGS_SECONDS = 30
Make = Callable[[Path], object]


def _huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 30)


KINDS: dict[str, Make] = {
    "a FIFO": os.mkfifo,
    "a character device": lambda path: path.symlink_to("/dev/zero"),
    "Is a directory": Path.mkdir,
    "No such file": lambda path: path.symlink_to("nowhere"),
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
    "1,073,741,824 bytes": _huge,
}


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Opening a FIFO and reading a device have no end."""

    def fail(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(_HANGS_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def do(run: Run) -> Run:
    """`run`, with every shard committed."""
    work(folder_of(run))
    return Run(folder_of(run))


def put(path: Path, make: Make) -> None:
    """Have `make` put something in place of the file `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)


@pytest.mark.parametrize(
    ("name", "command", "kind"),
    [
        *(("records/train-000000.json", "status", kind) for kind in KINDS),
        ("tables/train-000000.parquet", "view", "a FIFO"),
        ("plan.arrow", "status", "a FIFO"),
        ("plan.arrow", "status", "Too many levels of symbolic links"),
        ("plan-001.arrow", "status", "a FIFO"),
    ],
)
def test_a_file_that_is_needed_is_named(
    tmp_path: Path, name: str, command: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(do(make_run(tmp_path / "run", 1)))
    put(folder / name, KINDS[kind])
    assert main([command, str(folder)]) == 2
    said = capsys.readouterr().err
    assert Path(name).name in said
    assert kind in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_that_is_no_file_is_damaged(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(make_run(tmp_path / "run", 1))
    put(folder / "plan-001.arrow", KINDS[kind])
    assert main(["verify", str(folder)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}/plan-001.arrow ")
    assert kind in said
    assert main(["status", str(folder)]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_repair_puts_the_shards_back_or_names_the_folder(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = do(make_run(tmp_path / "run", 3, per_shard=1))
    names = ["train-000000.tar", "tables/train-000001.parquet", "records/train-000002.json"]
    for name in names:
        put(folder_of(run) / name, KINDS[kind])
    status = main(["verify", str(folder_of(run)), "--repair"])
    said = capsys.readouterr()
    if kind == "Is a directory":
        assert status == 2
        assert "train-000002.json is a folder, but should be a file" in said.err
    else:
        assert status == 0
        assert all(Path(name).name in said.out for name in names)
        assert main(["verify", str(folder_of(do(run)))]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_rank_writes_is_ignored(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", 1)
    for name in (
        *("work/ranks/host-1-ab", "work/ranks/host-1-ab.json", "work/ranks/host-1-ab.fault"),
        *("work/leases/train-000000.000000", "work/staging/train-000000.host-1-ab.tar", "work/scratch/host-1-ab"),
        *("work/planning/plan.arrow.ab", "work/staging/plan.0123456789abcdef.zst", "README.md"),
    ):
        put(folder_of(run) / name, KINDS[kind])
    assert main(["status", str(folder_of(run))]) == 0
    started = time.monotonic()
    assert conclude(do(run), partial=False) == 0
    assert time.monotonic() - started < _HANGS_SECONDS  # what hangs may swallow the alarm's error
    assert main(["verify", str(folder_of(run))]) == 0


@pytest.mark.parametrize("kind", ["a FIFO", "a character device", "Is a directory"])
def test_a_spool_that_is_not_a_file_is_named(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", 1)
    put(run.work / "spool" / "train-000000.host-1-ab", KINDS[kind])
    with pytest.raises(RunError, match=rf"spool/train-000000\.host-1-ab cannot be read: .*{kind}"):
        do(run)
