import errno
import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Item
from datamodules.errors import EnvironmentFailure
from datamodules.loading import item_files
from datamodules.media.content import read_file
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.result import Result
from support.frame_corpora import consume, image_items
from support.runs import lease, make_run


def failing_reads(monkeypatch: pytest.MonkeyPatch, names: Any, error_for: Any) -> None:
    """Make `read_file` raise `error_for(path)`, if that is an error, for images of these names."""
    read = read_file

    def reading(path: Path) -> bytes:
        if path.name in names and (error := error_for(path)):
            raise error
        return read(path)

    monkeypatch.setattr(item_files, "read_file", reading)


def consumed(run: Run, root: Path) -> dict[str, Any]:
    """Run one rank without workers; the rows of the tables, by key."""
    consume(run, root, 0, slice_frames=1)
    tables = [run.table(shard.name).to_pylist() for shard in run.plan.shards]
    return {row["key"]: row for rows in tables for row in rows}


def test_a_file_that_cannot_be_read_for_a_while_is_tried_again_later_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 12), per_shard=12)
    tried: Counter[str] = Counter()

    def twice(path: Path) -> OSError | None:
        tried[path.name] += 1
        return OSError(errno.EIO, "Input/output error") if tried[path.name] <= 2 else None

    failing_reads(monkeypatch, {"3.png", "7.png"}, twice)
    rows = consumed(run, tmp_path / "media")
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["i/3"]["attempts"] == rows["i/7"]["attempts"] == 3
    assert rows["i/4"]["attempts"] == 1
    samples = {key: json.loads(members["json"]) for key, members in CommittedSamples(run)}
    assert samples == {f"i/{k}": [k] for k in range(12)}


def test_an_item_whose_file_never_gets_readable_fails_after_three_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 12), per_shard=4)
    failing_reads(monkeypatch, {"3.png"}, lambda _: OSError(errno.EIO, "Input/output error"))
    rows = consumed(run, tmp_path / "media")
    failed = {key: (row["reason"], row["reason_class"], row["attempts"]) for key, row in rows.items() if row["reason"]}
    assert failed == {"i/3": ("i/3.png cannot be read: Input/output error", "io", 3)}


def test_an_item_that_exhausts_memory_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 4), per_shard=4)
    failing_reads(monkeypatch, {"2.png"}, lambda _: MemoryError())
    rows = consumed(run, tmp_path / "media")
    assert [(row["reason"], row["reason_class"]) for row in rows.values() if row["reason"]] == [
        ("out of memory", "memory")
    ]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_mount_that_gives_errors_stops_the_run_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 40), per_shard=4)
    reads = itertools.count()
    with monkeypatch.context() as patch:
        names = {f"{k}.png" for k in range(40)}
        gone = OSError(number, os.strerror(number))
        failing_reads(patch, names, lambda _: gone if next(reads) >= 10 else None)
        expected = rf"items in a row failed, the last one: i/\d+\.png cannot be read: {os.strerror(number)}"
        with pytest.raises(EnvironmentFailure, match=expected):
            consume(run, tmp_path / "media", 0, slice_frames=1)
    assert next(reads) <= 10 + 3 * (21 + 3)  # not three attempts at each of all that is left
    assert all(record.failed == 0 for record in run.records())
    assert {row["status"] for row in consumed(run, tmp_path / "media").values()} == {"ok"}


def test_many_bad_files_in_a_row_fail_if_others_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 80), per_shard=80)
    bad = {f"{k}.png" for k in range(20, 60)}
    failing_reads(monkeypatch, bad, lambda _: OSError(errno.EIO, "Input/output error"))
    rows = consumed(run, tmp_path / "media")
    assert {key for key, row in rows.items() if row["reason_class"] == "io"} == {f"i/{k}" for k in range(20, 60)}


def test_the_last_items_of_a_run_fail_if_others_were_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 6), per_shard=6)
    with Rank(run) as rank:
        opened = lease(rank)
        for row in range(4):
            rank.add(0, Result(row, num_frames=1), {"json": b"[]"})
        assert opened.missing == [4, 5]
    bad = {"4.png", "5.png"}
    failing_reads(monkeypatch, bad, lambda _: OSError(errno.EIO, "Input/output error"))
    rows = consumed(run, tmp_path / "media")
    assert {key for key, row in rows.items() if row["reason_class"] == "io"} == {"i/4", "i/5"}


@pytest.mark.parametrize(("count", "bad"), [(3, 3), (12, 10), (12, 1)])
def test_a_small_corpus_that_cannot_be_read_stops_the_run_unless_some_of_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, bad: int
) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", count), per_shard=2)
    names = {f"{k}.png" for k in range(bad)}
    failing_reads(monkeypatch, names, lambda _: OSError(errno.EIO, "Input/output error"))
    if bad == count:
        with pytest.raises(EnvironmentFailure, match="3 items in a row failed"):
            consume(run, tmp_path / "media", 0, slice_frames=1)
        assert run.committed() == set()
    else:
        rows = consumed(run, tmp_path / "media")
        assert {key for key, row in rows.items() if row["reason_class"] == "io"} == {f"i/{k}" for k in range(bad)}


def test_items_that_the_listing_failed_do_not_prove_that_files_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = [Item(f"faulty/{k}", "train", "", ("0.png",), problem="it is reversed") for k in range(3)]
    run = make_run(tmp_path / "run", [*image_items(tmp_path / "media", 3), *faulty], per_shard=1)
    names = {f"{k}.png" for k in range(3)}
    failing_reads(monkeypatch, names, lambda _: OSError(errno.EIO, "Input/output error"))
    with pytest.raises(EnvironmentFailure, match="3 items in a row failed"):
        consume(run, tmp_path / "media", 0, slice_frames=1)
    assert sorted(run.committed()) == ["train-000003", "train-000004", "train-000005"]


def test_a_missing_corpus_stops_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 4), per_shard=4)
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFailure, match=r"media is gone, or empty\. Finished work is safe"):
        consume(run, tmp_path / "media", 0)


def test_a_missing_corpus_costs_no_attempt(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", image_items(tmp_path / "media", 4), per_shard=4)
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    for _ in range(3):
        with pytest.raises(EnvironmentFailure, match="is gone, or empty"):
            consume(run, tmp_path / "media", 0)
    with Rank(run) as rank:
        assert lease(rank).spool.failed_attempts == {}
