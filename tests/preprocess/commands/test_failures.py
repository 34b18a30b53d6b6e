"""`preprocess failures` lists the items that failed, unless a retry succeeded, as a table, JSON and Parquet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Item
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from preprocess.cli import main
from preprocess.export.statistics import counts
from preprocess.integrity import coverage, verify
from preprocess.report.status import StatusReader, headline
from support.retry_runs import do, make_failing_run, open_retry
from support.run_paths import folder_of
from support.runs import finish, make_run, work


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_failing_run(tmp_path / "run")


def as_json(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    assert main(["failures", str(folder), "--json", *options]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_failure_is_one_json_object_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = as_json(folder, capsys)
    assert result[0] == {
        "key": "train/b-bad-once", "split": "train", "path": "train/b-bad-once/frame.png", "reason_class": "decode",
        "reason": "bad in 0", "attempts": 1, "shard": "train-000000",
    }  # fmt: skip
    assert [row["key"] for row in result[1:]] == [
        "train/d-bad-twice", "train/e-bad-always", "train/g-crash", "dev/x-bad-once",
    ]  # fmt: skip


def test_items_that_still_fail_are_listed_with_their_last_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(open_retry(folder, "decode"))
    assert [(row["key"], row["reason"], row["shard"]) for row in as_json(folder, capsys)] == [
        ("train/d-bad-twice", "bad in 1", "train-retry001-000000"),
        ("train/e-bad-always", "bad in 1", "train-retry001-000001"),
        ("train/g-crash", "crashed: SIGSEGV", "train-000002"),
    ]
    assert [row["key"] for row in as_json(folder, capsys, "--class", "crash")] == ["train/g-crash"]


def test_the_parquet_file_has_the_same_rows(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["failures", str(folder), "--parquet", str(tmp_path / "failures.parquet")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'failures.parquet'}\n5 failed: crash 1, decode 4\n"
    assert pq.read_table(tmp_path / "failures.parquet").to_pylist() == as_json(folder, capsys)


def test_a_parquet_file_that_exists_is_not_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "failures.parquet").touch()
    assert main(["failures", str(folder), "--parquet", str(tmp_path / "failures.parquet")]) == 2
    assert "exists, and is not replaced" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["failures.parquet", ".failures.parquet.{pid}.partial"])
def test_a_link_is_not_written_through(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name.format(pid=os.getpid())).symlink_to("letter")
    status = main(["failures", str(folder), "--parquet", str(tmp_path / "failures.parquet")])
    assert status == (2 if name == "failures.parquet" else 0)
    assert not (tmp_path / "letter").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [("file/x", "--parquet {}/file is not a folder"), ("file/nope/x", "--parquet {}/file/nope/x cannot be written: ")],
)
def test_a_path_where_no_parquet_file_can_be_written_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str, message: str
) -> None:
    (tmp_path / "file").touch()
    assert main(["failures", str(folder), "--parquet", str(tmp_path / place)]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err


def test_the_table_ends_with_the_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["failures", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["key", "path", "class", "attempts", "reason"]
    assert lines[1].split()[-4:] == ["1", "bad", "in", "0"]
    assert lines[-1] == "5 failed: crash 1, decode 4"
    assert main(["failures", str(folder), "--class", "crash"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 failed: crash 1"


def test_a_run_without_failures_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["failures", str(make_failing_run(tmp_path, ["train/a"]))]) == 0
    assert capsys.readouterr().out == "nothing failed\n"


def test_a_class_that_is_none_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["failures", str(folder), "--class", "craash"]) == 2
    assert "--class craash: no item of" in capsys.readouterr().err


def test_it_starts_without_torch_and_lightning(folder: Path) -> None:
    code = (
        "import sys; from preprocess.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'mediapipe'} & set(sys.modules); assert not heavy, heavy; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, "failures", str(folder)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_coverage_status_statistics_and_view_count_what_holds_after_retries(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(open_retry(folder), num_shards=1)
    assert main(["status", str(folder)]) == 0
    assert "retry 1: 2 of 5 items (40.0 %)" in capsys.readouterr().out
    assert [str(problem) for problem in verify(Run(folder))] == [
        "3 items in 2 shards of retry 1 are not done yet; rerun the same `retry` command"
    ]
    do(open_retry(folder))
    covered = coverage(Run(folder))
    assert (covered.planned, covered.committed, covered.failed, covered.missing) == (9, 6, 3, 0)
    assert covered.is_exact
    assert list(verify(Run(folder))) == []

    assert main(["status", str(folder), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["items"], status["failed"], status["failure_classes"]) == (6, 3, {"crash": 1, "decode": 2})
    assert status["is_complete"] is True
    assert [(retry["retry"], retry["items"], retry["failed"]) for retry in status["retries"]] == [(1, 2, 3)]

    statistics = counts(Run(folder), "train")
    assert (statistics["planned"], statistics["committed"], statistics["failed"], statistics["not_done"]) == (
        7,
        4,
        3,
        0,
    )
    assert statistics["failures"][0] == {"key": "train/d-bad-twice", "reason": "bad in 1"}

    assert main(["view", str(folder)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "3", "7", "4", "3", "0", "4"] in shown
    assert ["train/b-bad-once", "ok", "1"] in shown
    assert main(["view", str(folder), "train/b-bad-once"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["retried", "train-retry001-000000"] in shown
    assert ["status", "ok"] in shown


def test_what_a_retry_has_spooled_counts_for_its_retry_and_not_for_the_run(folder: Path) -> None:
    with Rank(open_retry(folder)) as rank:
        opened = next(opened for opened in iter(rank.lease, None) if len(opened.items) == 2)
        finish(rank, opened, rows=[0])
        rank.publish()
        status = StatusReader(Run(folder)).read()
    assert headline(status).startswith("9 of 9 items (100.0 %)")
    assert (status.spooled, [retry.spooled for retry in status.retries]) == (0, [1])


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_failures_are_shown_in_the_locale_c(tmp_path: Path, more: list[str]) -> None:
    run = make_run(tmp_path / "run", [Item("bad/ü", "train", "ü.mp4"), Item("a", "train", "a.mp4")])
    work(folder_of(run))
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "preprocess", "failures", str(folder_of(run)), *more]
    shown = subprocess.run(command, env=environment, capture_output=True, check=True).stdout.decode("ascii")
    assert (json.loads(shown)["key"] == "bad/ü") if more else (r"bad/\xfc" in shown)
