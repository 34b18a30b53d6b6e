import errno
import hashlib
import io
import json
import os
import random
import resource
import tarfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamodules.corpus import Item
from datamodules.errors import RunError
from datamodules.run import commit as commit_module
from datamodules.run.cleanup import clean_up
from datamodules.run.commit import commit, finalize_all
from datamodules.run.folder import Run
from datamodules.run.result import Result
from datamodules.run.spool import Spool
from datamodules.run.table import TABLE_SCHEMA
from support.run_paths import folder_of, record_path
from support.runs import make_run, members_of, tars

SHARD = "train-000000"
NUM_ROWS = 6  # or fewer


@pytest.fixture(autouse=True)
def _spools_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened, init = [], Spool.__init__

    def noting(spool: Spool, *args: Any) -> None:
        opened.append(spool)
        init(spool, *args)

    monkeypatch.setattr(Spool, "__init__", noting)
    yield
    for spool in opened:
        spool.close()


def spool_of(
    run: Run, rank: str = "rank", rows: Collection[int] | None = None, order: Sequence[int] | None = None
) -> Spool:
    """Return a spool of shard 0 with a result for every row; row 1 has failed."""
    spool = Spool(run.work / "spool", SHARD, NUM_ROWS, rank)
    items = run.plan.items(0)
    for row in order or range(len(items)):
        if rows is None or row in rows:
            if row == 1:
                spool.append(Result(row, reason="cut", reason_class="decode", attempts=2), {})
            else:
                spool.append(Result(row, num_frames=row + 1, seconds=0.25), members_of(items[row]))
    return spool


def commit_by(run: Run, rank: str, **kwargs: Any) -> Any:
    return commit(run, run.plan.shards[0], spool_of(run, rank, **kwargs), rank, 1.5)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Spool


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def read(spool: Spool, row: int) -> list[tuple[str, bytes]]:
    return [(ending, file.read(size)) for ending, size, file in spool.members(row)]


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SHARD, NUM_ROWS, "a")
    spool.append(Result(3, num_frames=2, seconds=1.0), {"json": b"{}", "npy": b"12345", "empty": b""})
    spool.append(Result(0, reason="grün", reason_class="extract"), {})
    assert read(spool, 3) == [("json", b"{}"), ("npy", b"12345"), ("empty", b"")]
    assert read(spool, 0) == []
    assert spool.results == {
        3: Result(3, num_frames=2, seconds=1.0),
        0: Result(0, reason="grün", reason_class="extract"),
    }


def test_an_open_file_is_spooled_from_its_beginning_in_blocks(tmp_path: Path) -> None:
    content = bytes(range(251)) * 9_000  # 2.3 MB, more than two blocks
    with open(tmp_path / "large", "w+b") as file:
        file.write(content)
        Spool(tmp_path / "spool", SHARD, NUM_ROWS, "a").append(Result(0), {"json": b"{}", "bin": file, "txt": b"end"})
    successor = Spool(tmp_path / "spool", SHARD, NUM_ROWS, "b")
    assert read(successor, 0) == [("json", b"{}"), ("bin", content), ("txt", b"end")]


def test_the_first_result_of_a_row_wins(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SHARD, NUM_ROWS, "a")
    spool.append(Result(0, num_frames=1), {"json": b"first"})
    spool.append(Result(0, num_frames=2), {"json": b"second"})
    assert read(spool, 0) == [("json", b"first")]
    assert spool.results[0].num_frames == 1


def test_a_successor_takes_over_everything_its_predecessors_spooled(tmp_path: Path) -> None:
    first = Spool(tmp_path, SHARD, NUM_ROWS, "a")
    first.append(Result(0, num_frames=1), {"json": b"zero"})
    second = Spool(tmp_path, SHARD, NUM_ROWS, "b")
    second.append(Result(1, num_frames=1), {"json": b"one"})
    third = Spool(tmp_path, SHARD, NUM_ROWS, "c")
    other_shard = Spool(tmp_path, f"{SHARD}0", NUM_ROWS, "c")
    assert sorted(third.results) == [0, 1]
    assert [read(third, row) for row in (1, 0)] == [[("json", b"one")], [("json", b"zero")]]
    assert other_shard.results == {}


def test_a_spool_truncated_at_any_byte_keeps_the_entries_before_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "whole", SHARD, NUM_ROWS, "a")
    ends = []
    for row in range(3):
        spool.append(Result(row, num_frames=1), {"json": b"x" * row * 9})
        ends.append((tmp_path / "whole" / f"{SHARD}.a").stat().st_size)
    content = (tmp_path / "whole" / f"{SHARD}.a").read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    for length in range(len(content) + 1):
        (cut / f"{SHARD}.a").write_bytes(content[:length])
        successor = Spool(cut, SHARD, NUM_ROWS, "b")
        assert sorted(successor.results) == [row for row in range(3) if ends[row] <= length]
        successor.close()
        (cut / f"{SHARD}.b").unlink()


def test_a_spool_with_a_flipped_byte_keeps_the_entries_before_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "whole", SHARD, NUM_ROWS, "a")
    ends = [0]
    for row in range(3):
        spool.append(Result(row, num_frames=1), {"json": f"row {row}".encode()})
        ends.append((tmp_path / "whole" / f"{SHARD}.a").stat().st_size)
    content = (tmp_path / "whole" / f"{SHARD}.a").read_bytes()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for offset in range(len(content)):
        (damaged / f"{SHARD}.a").write_bytes(content[:offset] + bytes([content[offset] ^ 0xFF]) + content[offset + 1 :])
        successor = Spool(damaged, SHARD, NUM_ROWS, "b")
        whole = [row for row in range(3) if ends[row + 1] <= offset]
        assert sorted(successor.results) == whole
        assert [read(successor, row) for row in whole] == [[("json", f"row {row}".encode())] for row in whole]
        successor.close()
        (damaged / f"{SHARD}.b").unlink()


def test_trailing_zeros_left_by_a_crashed_machine_are_ignored(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SHARD, NUM_ROWS, "a")
    spool.append(Result(0), {"json": b"x"})
    with open(tmp_path / f"{SHARD}.a", "ab") as file:
        file.write(bytes(4096))
    assert list(Spool(tmp_path, SHARD, NUM_ROWS, "b").results) == [0]


def test_an_entry_partly_zeroed_by_a_machine_crash_is_ignored(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "whole", SHARD, NUM_ROWS, "a")
    spool.append(Result(0), {"json": b"x"})
    content = (tmp_path / "whole" / f"{SHARD}.a").read_bytes()
    torn = tmp_path / "torn"
    torn.mkdir()
    for kept in range(len(content)):
        (torn / f"{SHARD}.a").write_bytes(content[:kept] + bytes(len(content) - kept))
        assert Spool(torn, SHARD, NUM_ROWS, "b").results == {}
        (torn / f"{SHARD}.b").unlink()


NESTED: list[Any] = []
for _ in range(900):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    "entry",
    [
        {"result": {"row": NUM_ROWS}, "members": []},
        {"result": {"row": -1}, "members": []},
        {"result": {"row": "1"}, "members": []},
        {"result": {"row": 1, "num_frames": 10**30}, "members": []},
        {"result": {"row": 1, "attempts": 1 << 31}, "members": []},
        {"result": {"row": 1, "reason": "cut"}, "members": []},
        {"result": {"row": 1, "status": NESTED}, "members": []},
        {"result": {"row": 1, "more": 1}, "members": []},
        {"result": {"row": 1}, "members": [["/../../x", 4]]},
        {"result": {"row": 1}, "members": [["json", 5]]},
        {"result": {"row": 1}, "members": [["json", -4], ["txt", 8]]},
        {"result": {"row": 1}, "members": {"json": 4}},
        {"failed_attempt": {"row": NUM_ROWS, "reason": "crashed", "reason_class": "crash"}},
        {"failed_attempt": {"row": 1}},
        {"active": [NUM_ROWS]},
        {"active": "all"},
        ["result"],
        NESTED,
    ],
)
def test_a_successor_takes_over_nothing_from_an_invalid_entry_on(tmp_path: Path, entry: Any) -> None:
    spool = Spool(tmp_path, SHARD, NUM_ROWS, "a")
    spool.append(Result(0), {"json": b"zero"})
    spool._write(entry, [b"1234"] if isinstance(entry, dict) and entry.get("members") else [])
    spool.append(Result(2), {"json": b"two"})
    successor = Spool(tmp_path, SHARD, NUM_ROWS, "b", lambda _: ("it died", "crash"))
    assert (list(successor.results), successor.failed_attempts) == ([0], {})
    assert read(successor, 0) == [("json", b"zero")]


def test_reading_does_not_disturb_appending(tmp_path: Path) -> None:
    spool = Spool(tmp_path, SHARD, NUM_ROWS, "a")
    for row in range(5):
        spool.append(Result(row), {"json": b"x" * 100 + str(row).encode()})
        assert [content[100:] for past in range(row + 1) for _, content in read(spool, past)] == [
            str(past).encode() for past in range(row + 1)
        ]
    assert sorted(Spool(tmp_path, SHARD, NUM_ROWS, "b").results) == [0, 1, 2, 3, 4]


def test_a_full_disk_fails_the_append_and_not_the_close(tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / f"{SHARD}.a")
    spool = Spool.__new__(Spool)
    spool.results, spool._members = {}, {}
    spool._own = open(tmp_path / f"{SHARD}.a", "wb")  # type: ignore[assignment]
    spool._files = [spool._own]
    with pytest.raises(OSError, match="No space left"):
        spool.append(Result(0), {"json": b"x"})
    assert spool.results == {}
    spool.close()


# Commit


def test_a_committed_shard_is_a_tar_a_table_and_a_record_that_agree(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    assert commit_by(run, "rank")
    assert [p for p in files_below(tmp_path) if not p.startswith("work/ranks")] == [
        run.plan.rows_name,
        "plan.arrow",
        "records/train-000000.json",
        "tables/train-000000.parquet",
        "train-000000.tar",
    ]
    record = run.record(SHARD)
    assert (record.planned, record.committed, record.failed, record.num_frames) == (4, 3, 1, 1 + 3 + 4)
    assert (record.rank, record.fingerprint) == ("rank", run.fingerprint_digest)
    assert 1.5 <= record.seconds < 10  # the given ones, and those in which the files were written
    for file in (record.tar, record.table):
        content = (tmp_path / file.name).read_bytes()
        assert (file.sha256, file.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    table = pq.read_table(tmp_path / record.table.name)
    assert table.schema.equals(TABLE_SCHEMA)
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == run.plan.keys(0)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok"]
    failed = rows.pop(1)
    del failed["key"], failed["status"]
    assert failed == {
        "reason": "cut", "reason_class": "decode", "attempts": 2, "num_frames": 0, "seconds": 0.0,
        "split_to": None, "decoder": None, "tar_offset": None, "tar_bytes": None, "supersedes": None, "device": None,
            "metrics": [],
    }  # fmt: skip
    content = (tmp_path / record.tar.name).read_bytes()
    items = {item.key: item for item in run.plan.items(0)}
    for row in rows:
        piece = io.BytesIO(content[row["tar_offset"] : row["tar_offset"] + row["tar_bytes"]])
        with tarfile.open(fileobj=piece) as tar:
            members = {member.name: content_of(tar, member) for member in tar}
        assert members == {f"{row['key']}.{end}": data for end, data in members_of(items[row["key"]]).items()}


def test_tar_headers_hold_no_owner_and_no_time(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Item("ü" * 90 + "/" + "k" * 150, "train", "a", ("f.png",)), Item("b", "train", "b")])
    commit_by(run, "rank")
    with tarfile.open(tmp_path / f"{SHARD}.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == [f"{'ü' * 90}/{'k' * 150}.{end}" for end in ("values.bin", "json")]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.mode == 0o644


def test_the_tar_does_not_depend_on_order_rank_or_interruptions(tmp_path: Path) -> None:
    contents = set()
    rows = list(range(6))
    for attempt in range(6):
        run = make_run(tmp_path / str(attempt), 6, per_shard=6)
        random.Random(attempt).shuffle(rows)
        for number in range(attempt):
            spool_of(run, f"dead{number}", order=rows, rows=set(rows[number : number + 2])).close()
        assert commit_by(run, f"rank{attempt}", order=rows)
        contents.add(tars(folder_of(run))[f"{SHARD}.tar"])
    assert len(contents) == 1


def test_the_second_to_commit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    slow = spool_of(run, "slow", order=[3, 2, 1, 0])
    assert commit_by(run, "fast")
    before = {path: (tmp_path / path).read_bytes() for path in files_below(tmp_path)}
    assert not commit(run, run.plan.shards[0], slow, "slow", 9.0)
    assert {path: (tmp_path / path).read_bytes() for path in files_below(tmp_path)} == before
    assert run.record(SHARD).rank == "fast"


def test_a_record_linked_without_confirmation_by_the_file_server_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 4)
    link = os.link

    def answered_twice(source: Any, destination: Path) -> None:
        link(source, destination)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", answered_twice)
    assert commit_by(run, "rank")
    assert list(tars(tmp_path)) == [f"{SHARD}.tar"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_commit_interrupted_between_record_and_rename_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    run, whole = make_run(tmp_path / "run", 4), make_run(tmp_path / "whole", 4)
    commit_by(whole, "rank")
    left, rename = [renames], os.rename

    def dies(source: Any, destination: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(source, destination)

    with monkeypatch.context() as replaced:
        replaced.setattr(os, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            commit_by(run, "rank")
    assert run.is_committed(SHARD)
    assert tars(folder_of(run)) == {}
    finalize_all(Run(folder_of(run)))
    assert tars(folder_of(run)) == tars(folder_of(whole))
    assert (folder_of(run) / "tables" / f"{SHARD}.parquet").exists()
    finalize_all(run)


def test_names_are_durable_before_a_record_or_tar_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, 4)
    run = Run(tmp_path)  # which knows of no folder that is durable
    fsync, link, rename = os.fsync, os.link, os.rename
    story = []

    def synced(descriptor: int) -> None:
        story.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        fsync(descriptor)

    def dies_after_renaming(source: Any, target: Any) -> None:
        rename(source, target)
        story.append(f"renamed {target.name}")
        raise KeyboardInterrupt

    def links_and_says_so(*args: Any) -> None:
        link(*args)
        story.append("linked")

    with monkeypatch.context() as replaced:
        replaced.setattr(os, "fsync", synced)
        replaced.setattr(os, "link", links_and_says_so)
        with monkeypatch.context() as dying:
            dying.setattr(os, "rename", dies_after_renaming)
            with pytest.raises(KeyboardInterrupt):
                commit_by(run, "rank")
        finalize_all(Run(tmp_path))
    folders = [step for step in story if not step.startswith("work/staging/")]
    before, after = folders[: folders.index("linked")], folders[folders.index("linked") + 1 :]
    assert set(before) == {".", "work", "work/staging"}
    assert after[:3] == ["records", ".", f"renamed {SHARD}.parquet"]
    assert after[3:] == ["records", ".", "tables", "work/staging", ".", "work/staging"]


def test_a_record_that_is_listed_but_not_yet_found_is_finalized_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 4)
    with monkeypatch.context() as replaced:
        replaced.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            commit_by(run, "rank")
    with monkeypatch.context() as replaced:
        replaced.setattr(run, "is_committed", lambda shard: False)
        assert not finalize_all(run)
        clean_up(run)
    assert finalize_all(run)
    assert list(tars(tmp_path)) == [f"{SHARD}.tar"]


def test_a_commit_interrupted_before_its_record_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, 4)
    with monkeypatch.context() as replaced:
        replaced.setattr(os, "link", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            commit_by(run, "dead")
    finalize_all(run)
    assert (run.committed(), tars(tmp_path)) == (set(), {})
    assert commit(run, run.plan.shards[0], Spool(run.work / "spool", SHARD, NUM_ROWS, "next"), "next", 1.0)
    assert run.record(SHARD).rank == "next"


@pytest.mark.parametrize("limit", [0, 100, 5_000])
def test_a_disk_that_fills_while_committing_fails_and_leaves_only_the_spool(tmp_path: Path, limit: int) -> None:
    run = make_run(tmp_path, 4)
    spool = spool_of(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            commit(run, run.plan.shards[0], spool, "rank", 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run.committed(), tars(tmp_path)) == (set(), {})
    assert list((run.work / "staging").iterdir()) == []
    assert commit(run, run.plan.shards[0], spool, "rank", 1.0)


@pytest.mark.parametrize("name", ["fsync", "link", "rename"])
def test_an_error_at_any_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = make_run(tmp_path / "whole", 4)
    real, calls = getattr(os, name), [0]

    def counting(*args: Any) -> Any:
        calls[0] += 1
        return real(*args)

    def failing(*args: Any) -> Any:
        calls[0] -= 1
        if calls[0] < 0:
            raise OSError(errno.EIO, "Input/output error")
        return real(*args)

    with monkeypatch.context() as replaced:
        replaced.setattr(os, name, counting)
        commit_by(whole, "rank")
    total = calls[0]
    assert total >= 1
    for step in range(total):
        run = make_run(tmp_path / str(step), 4)
        calls[0] = step
        with monkeypatch.context() as replaced:
            replaced.setattr(os, name, failing)
            with pytest.raises(OSError, match="Input/output"):
                commit_by(run, "rank")
        finalize_all(run)
        if not run.is_committed(SHARD):
            assert commit(run, run.plan.shards[0], Spool(run.work / "spool", SHARD, NUM_ROWS, "next"), "next", 1.0)
        assert tars(folder_of(run)) == tars(folder_of(whole))


def test_a_failed_commit_leaves_nothing_even_if_another_rank_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, 4)
    slow = spool_of(run, "slow")
    commit_by(run, "fast")
    monkeypatch.setattr(commit_module, "write_table", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        commit(run, run.plan.shards[0], slow, "slow", 1.0)
    assert list((run.work / "staging").iterdir()) == []


def test_a_record_reads_back_as_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, 4)
    commit_by(run, "rank")
    record = run.record(SHARD)
    assert type(record).from_json(record.to_json(), SHARD) == record
    assert json.loads(record.to_json())["shard"] == SHARD


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"shard": "x"}', "no json"])
def test_a_damaged_record_fails(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path, 4)
    commit_by(run, "rank")
    record_path(run, SHARD).write_text(text)
    with pytest.raises(RunError, match="missing or damaged"):
        run.record(SHARD)
