"""`verify --repair` deletes damaged shards; once they are made again, each key is in one tar."""

import errno
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.errors import RunError
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.rank import Rank
from datamodules.run.shard_files import write_table
from datamodules.run.shared_attempts import ATTEMPTS
from datamodules.run.spool import Spool
from datamodules.run.store import Folder
from preprocess.cli import main
from preprocess.commands.repair import repair
from preprocess.integrity import Problem, coverage, verify
from support.plans import files_of
from support.retry_runs import KEYS, do, make_failing_run, open_retry
from support.run_paths import path_of, record_path
from support.runs import finish, listing

_LAST_LINE = "{}: 9 planned = 4 committed + 5 failed + 0 missing; everything is as it should be"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_failing_run(tmp_path / "run")


def verify_and_repair(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Return the exit status and the lines that `verify` alone does not print."""
    result = len(list(verify(Run(folder))))
    status = main(["verify", str(folder), "--repair"])
    return status, capsys.readouterr().out.splitlines()[result:]


def keys_in_tars(folder: Path) -> list[str]:
    keys = []
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            keys += [name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json")]
    return sorted(keys)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: _flip(f / "train-000000.tar"),
        lambda f: (f / "train-000000.tar").unlink(),
        lambda f: _flip(f / "tables" / "train-000000.parquet"),
        lambda f: (f / "tables" / "train-000000.parquet").unlink(),
        lambda f: (f / "records" / "train-000000.json").write_text("{"),
    ],
)
def test_a_damaged_shard_is_put_back_and_done_again_with_the_same_bytes(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    before = (folder / "train-000000.tar").read_bytes()
    damage(folder)
    status, lines = verify_and_repair(folder, capsys)
    assert status == 0
    assert lines[0] == "train-000000: deleted; rerun the same `run` command to make it again"
    assert lines[1].endswith("3 missing; 3 items have to be done again: rerun the same command")
    assert not (folder / "train-000000.tar").exists()
    assert not (folder / "tables" / "train-000000.parquet").exists()
    do(Run(folder))
    assert (folder / "train-000000.tar").read_bytes() == before
    assert list(verify(Run(folder))) == []


def test_a_repaired_shard_of_a_retry_withdraws_no_earlier_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do(open_retry(folder))
    (folder / "train-retry001-000001.tar").unlink()
    status, lines = verify_and_repair(folder, capsys)
    assert (status, lines[:-1]) == (
        0,
        ["train-retry001-000001: deleted; rerun the same `retry` command to make it again"],
    )
    do(open_retry(folder))
    assert [retry.retry for retry in Run(folder).retries] == [1]
    assert list(verify(Run(folder))) == []


def test_a_shard_whose_failures_were_retried_withdraws_that_retry_and_the_later(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        do(open_retry(folder))
    _flip(folder / "train-000001.tar")
    status, lines = verify_and_repair(folder, capsys)
    assert (status, lines[:-1]) == (
        0,
        [
            "retry 2: withdrawn; its items are as they were before, so retry them again",
            "retry 1: withdrawn; its items are as they were before, so retry them again",
            "train-000001: deleted; rerun the same `run` command to make it again",
        ],
    )
    assert [path for path in folder.rglob("*retry*") if path.is_file()] == []
    assert set(folder.glob("plan*")) == set(files_of(Run(folder).plan))
    do(Run(folder))
    do(open_retry(folder))
    do(open_retry(folder))
    assert list(verify(Run(folder))) == []
    assert keys_in_tars(folder) == sorted(set(KEYS) - {"train/e-bad-always"})


def test_a_damaged_shard_without_retried_items_withdraws_no_retry(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do(open_retry(folder, "crash"))
    _flip(folder / "train-000000.tar")
    assert verify_and_repair(folder, capsys)[1][0].startswith("train-000000: deleted")
    assert [retry.retry for retry in Run(folder).retries] == [1]


def test_a_retry_inherits_nothing_from_a_withdrawn_one_of_the_same_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Rank(open_retry(folder)) as rank:
        opened = rank.lease()
        assert opened is not None
        spool = Spool(folder / "work" / "spool", opened.shard.name, opened.shard.num_items, "dead")
        spool.close()
        rank.run.store.replace(f"{ATTEMPTS}/{opened.shard.name}.dead", b'{"active": [0]}')
    _flip(folder / "train-000000.tar")
    verify_and_repair(folder, capsys)
    assert Run(folder).store.names(ATTEMPTS) == []
    assert list((folder / "work" / "spool").iterdir()) == []
    assert list((folder / "work" / "leases").iterdir()) == []


def test_a_retry_without_results_is_withdrawn_unless_a_rank_works_on_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Rank(open_retry(folder, fingerprint={"made": "by mistake"})):
        assert verify_and_repair(folder, capsys)[1] == [_LAST_LINE.format(folder)]
    assert verify_and_repair(folder, capsys)[1][0].startswith("retry 1: withdrawn")
    do(open_retry(folder), num_shards=1)
    assert verify_and_repair(folder, capsys)[1] == [
        f"{folder}: 9 planned = 5 committed + 4 failed + 0 missing; everything is as it should be"
    ]
    assert not open_retry(folder).is_complete()


def test_a_retry_of_which_results_are_spooled_is_not_given_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Rank(open_retry(folder)) as rank:
        opened = next(opened for opened in iter(rank.lease, None) if len(opened.items) == 2)
        finish(rank, opened, rows=[0])
        opened.spool.close()
    assert verify_and_repair(folder, capsys)[1] == [_LAST_LINE.format(folder)]
    assert [retry.retry for retry in Run(folder).retries] == [1]


def test_a_rank_of_another_machine_is_at_work_for_as_long_as_its_heart_beats(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leases = Leases(open_retry(folder).store)
    assert leases.claim("train-retry001-000000")
    path = folder / "work" / "ranks" / leases.identity.rank
    path.write_text(json.dumps({"identity": {**vars(leases.identity), "machine": "another"}}))
    assert verify_and_repair(folder, capsys)[1] == [_LAST_LINE.format(folder)]
    _flip(folder / "train-000000.tar")
    assert main(["verify", str(folder), "--repair"]) == 2
    assert "a rank is at work on train-retry001-000000" in capsys.readouterr().err
    os.utime(path, (time.time() - 61,) * 2)
    assert verify_and_repair(folder, capsys)[1][0].startswith("retry 1: withdrawn")


def test_a_retry_that_a_rank_is_at_work_on_is_not_withdrawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _flip(folder / "train-000000.tar")
    with Rank(open_retry(folder)) as rank:
        assert rank.lease() is not None
        with pytest.raises(RunError, match=r"a rank is at work on train-retry001-000000: stop the retry, then repair"):
            list(repair(Run(folder), list(verify(Run(folder)))))
    assert (folder / "train-000000.tar").exists()


def test_a_run_that_lost_a_record_and_did_the_shard_again_has_no_sample_twice_after_repair(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    do(open_retry(folder))
    (folder / "records" / "train-000000.json").unlink()
    monkeypatch.setattr("support.retry_runs._failure", lambda key, retry: (None, None))  # this time it goes well
    do(Run(folder))
    assert keys_in_tars(folder).count("train/b-bad-once") == 2
    problems = [str(problem) for problem in verify(Run(folder))]
    assert problems == [
        "tables/train-retry001-000000.parquet: train/b-bad-once supersedes no failed row of train-000000, "
        "or one that is superseded already",
        "train-retry001-000000: the record counts {'decode': 2} superseded rows, but there are {'decode': 1}",
    ]
    main(["verify", str(folder), "--repair"])
    assert keys_in_tars(folder).count("train/b-bad-once") == 1
    assert list(verify(Run(folder))) == []


def test_two_rows_that_supersede_one_are_reported(folder: Path) -> None:
    do(open_retry(folder))
    do(open_retry(folder))
    run = Run(folder)
    record, rows = run.retries[1].record("train-retry002-000000"), run.retries[1].table("train-retry002-000000")
    place, path = rows.schema.get_field_index("supersedes"), folder / record.table.name
    rows = rows.set_column(place, "supersedes", [["train-000001"] * rows.num_rows]).to_pylist()
    path.unlink()
    record = replace(record, table=write_table(path, record.table.name, rows))
    record_path(run, record.shard).write_text(record.to_json())
    assert "tables/train-retry002-000000.parquet: train/d-bad-twice supersedes no failed row of train-000001, " in str(
        next(verify(Run(folder)))
    )


def test_stray_files_are_moved_and_replace_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        for name in ("train-000009.tar", "tables/train-000009.parquet", "records/train-000009.json"):
            (folder / name).write_text(f"{number}")
        status, lines = verify_and_repair(folder, capsys)
        assert status == 0
    assert lines[:-1] == [
        "records/train-000009.json: moved to stray/records/train-000009.json.1",
        "train-000009.tar: moved to stray/train-000009.tar.1",
        "tables/train-000009.parquet: moved to stray/tables/train-000009.parquet.1",
    ]
    assert (folder / "stray" / "train-000009.tar").read_text() == "0"
    assert (folder / "stray" / "train-000009.tar.1").read_text() == "1"
    assert list(verify(Run(folder))) == []


def test_a_stray_link_is_moved_and_nothing_is_written_where_it_leads(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter").write_text("dear")
    (folder / "train-000009.tar").symlink_to(tmp_path / "letter")
    (folder / "stray").mkdir()
    (folder / "stray" / "train-000009.tar").symlink_to(tmp_path / "missing")
    assert verify_and_repair(folder, capsys)[1][0] == "train-000009.tar: moved to stray/train-000009.tar.1"
    assert os.readlink(folder / "stray" / "train-000009.tar.1") == str(tmp_path / "letter")
    assert sorted(os.listdir(tmp_path)) == ["letter", "run"]


def test_a_folder_in_place_of_a_tar_is_not_deleted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = folder / "train-000000.tar"
    tar.unlink()
    tar.mkdir()
    (tar / "letter").write_text("dear")
    assert main(["verify", str(folder), "--repair"]) == 2
    assert f"{tar} is a folder, but should be a file" in capsys.readouterr().err.replace("\n", "")
    assert (tar / "letter").read_text() == "dear"


def test_what_cannot_be_repaired_is_left_and_the_exit_status_is_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Run(folder).record("train-000000")
    record_path(Run(folder), "train-000000").write_text(replace(record, fingerprint="another").to_json())
    before = listing(folder)
    assert main(["verify", str(folder), "--repair"]) == 1
    assert "made with another fingerprint" in capsys.readouterr().out
    after = listing(folder)
    assert {name: after[name] for name in before if not name.startswith("work")} == {
        name: size for name, size in before.items() if not name.startswith("work")
    }


def test_a_commit_that_is_on_its_way_is_finished_and_not_put_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = folder / "work" / "staging" / f"{Run(folder).record('train-000000').attempt}.tar"
    os.rename(folder / "train-000000.tar", staged)
    assert [str(problem) for problem in verify(Run(folder))] == [
        "train-000000.tar: complete, but not at its final name yet"
    ]
    assert staged.exists()
    assert verify_and_repair(folder, capsys)[0] == 0
    assert (folder / "train-000000.tar").exists()
    os.rename(folder / "train-000000.tar", staged)
    problem = Problem("missing", damaged=Run(folder).plan.shards[0])  # found before the record's files were renamed
    assert list(repair(Run(folder), [problem])) == []
    assert coverage(Run(folder)).is_exact


def test_a_shard_whose_record_names_a_file_elsewhere_is_done_again_and_that_file_stays(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bashrc").write_text("mine")
    run = Run(folder)
    record = run.record("train-000000")
    os.rename(path_of(run.tar_file("train-000000")), folder / run.tar_file("train-000000").staged(record.rank))
    hostile = replace(record, tar=replace(record.tar, name="../bashrc"))
    record_path(run, "train-000000").write_text(hostile.to_json())
    status, lines = verify_and_repair(folder, capsys)
    assert (status, lines[0]) == (0, "train-000000: deleted; rerun the same `run` command to make it again")
    do(Run(folder))
    assert list(verify(Run(folder))) == []
    assert (tmp_path / "bashrc").read_text() == "mine"


def test_a_merged_run_is_not_put_back(tmp_path: Path, folder: Path) -> None:
    merged = make_failing_run(tmp_path / "merged", ["train/a"], corpus={"merged": []})
    (merged / "train-000000.tar").unlink()
    with pytest.raises(RunError, match="is a merged run, and cannot make train-000000 again"):
        list(repair(Run(merged), list(verify(Run(merged)))))
    assert Run(merged).is_committed("train-000000")


@pytest.mark.parametrize("deletions", [1, 2, 3, 5, 7, 9])
def test_a_killed_repair_is_finished_by_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch, deletions: int) -> None:
    do(open_retry(folder))
    _flip(folder / "train-000000.tar")
    unlink, left = Path.unlink, 0

    def unlink_so_often(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if folder in path.parents and "ranks" not in path.parts and path.exists():
            if not left:
                raise KeyboardInterrupt
            left -= 1
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_so_often)
    kills = 0
    while True:
        left = deletions  # in each attempt
        if main(["verify", str(folder), "--repair"]) != 130:
            break
        kills += 1
    monkeypatch.undo()
    assert kills == 12 // deletions  # a plan, and three files of each of four shards
    do(Run(folder))
    do(open_retry(folder))
    assert list(verify(Run(folder))) == []
    assert keys_in_tars(folder) == sorted(set(keys_in_tars(folder)))
    assert set(KEYS) - set(keys_in_tars(folder)) == {"train/d-bad-twice", "train/e-bad-always", "train/g-crash"}


def test_a_record_that_may_not_be_read_is_not_called_damaged(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, read = listing(folder), Folder.read

    def refused(store: Folder, name: str) -> bytes:
        if name == "records/train-000000.json":
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return read(store, name)

    monkeypatch.setattr(Folder, "read", refused)
    assert main(["verify", str(folder), "--repair"]) == 3
    assert "train-000000.json cannot be read: Permission denied. Fix that" in capsys.readouterr().err
    assert listing(folder) == before
