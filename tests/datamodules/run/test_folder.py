import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpora.skipped import HIDDEN_FILE
from datamodules.corpus import Item
from datamodules.errors import CorpusError, EnvironmentFailure, RunError
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.planning import discard_unfinished, write_batches
from datamodules.run.store import Folder
from support.plans import files_of, reseal
from support.runs import FINGERPRINT, Listed, listing, make_run, plan_at_once, some_items, start


def test_a_planned_folder_opens_again_and_nothing_is_written(tmp_path: Path) -> None:
    first = make_run(tmp_path, 5)
    before = listing(tmp_path)
    again = make_run(tmp_path, 5)
    assert listing(tmp_path) == before
    assert again.plan.items(0) == first.plan.items(0)
    assert again.fingerprint_digest == first.fingerprint_digest


def test_the_planner_reports_once_what_the_listing_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Listed(some_items(2))
    corpus.skipped.add(HIDDEN_FILE)
    for _ in range(2):
        open_or_plan(tmp_path, corpus, FINGERPRINT, ShardSize())
    assert caplog.messages == ["skipped: 1 hidden file"]


@pytest.mark.parametrize(
    ("fingerprint", "differences"),
    [
        ({**FINGERPRINT, "version": 2}, "version: 1 there, 2 here"),
        (
            {**FINGERPRINT, "extractor": {"class_path": "tests.Other", "threshold": 0.5}},
            r"extractor\.class_path: 'tests\.Nothing' there, 'tests\.Other' here",
        ),
        ({"extractor": FINGERPRINT["extractor"]}, "version: 1 there, None here"),
        ({**FINGERPRINT, "more": [1]}, r"more: None there, \[1\] here"),
    ],
)
def test_another_fingerprint_is_refused_with_the_differing_name(
    tmp_path: Path, fingerprint: dict[str, Any], differences: str
) -> None:
    make_run(tmp_path, 3)
    before = listing(tmp_path)
    with pytest.raises(RunError, match=differences):
        open_or_plan(tmp_path, Listed(some_items(3)), fingerprint, ShardSize())
    assert listing(tmp_path) == before


def test_a_fingerprint_with_tuples_is_the_same_once_it_was_written(tmp_path: Path) -> None:
    for _ in range(2):
        open_or_plan(tmp_path, Listed(some_items(1)), {"size": (1, 2)}, ShardSize())


def test_processes_that_plan_at_once_get_one_plan(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    ready, digests = context.Barrier(6), context.Queue()
    processes = [start(plan_at_once, tmp_path / "run", 5000, ready, digests) for _ in range(6)]
    plans = {digests.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(10)
    [(digest, num_items)] = plans
    assert num_items == 5000
    assert Run(tmp_path / "run").plan.listing == digest
    names = {path.name for path in files_of(Run(tmp_path / "run").plan)}
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name != "work"} == names
    assert list((tmp_path / "run" / "work" / "leases").iterdir()) == []


def test_planning_after_a_killed_planner_succeeds(tmp_path: Path) -> None:
    leases = Leases(Folder(tmp_path))
    leases.claim("plan")
    for path in [*(tmp_path / "work" / "ranks").iterdir(), *(tmp_path / "work" / "leases").iterdir()]:
        path.write_text(path.read_text().replace('"started": ', '"started": 1'))  # a reused process id
    assert make_run(tmp_path, 3).plan.num_items == 3


def test_a_planner_cleaned_up_as_dead_uses_the_existing_plan(tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", 8)

    class Late(Listed):
        def items(self) -> Iterator[Item]:
            yield from some_items(8)
            for path in files_of(other.plan):
                os.link(path, tmp_path / "run" / path.name)
            discard_unfinished([Plan(Folder(tmp_path / "run"))])

    run = open_or_plan(tmp_path / "run", Late([]), FINGERPRINT, ShardSize(max_items=4, min_shards=1))
    assert run.plan.listing == other.plan.listing


def test_a_corpus_that_cannot_be_listed_leaves_a_folder_in_which_the_next_can_plan(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="lists no items"):
        make_run(tmp_path, [])
    assert make_run(tmp_path, 2).plan.num_items == 2


@pytest.mark.parametrize("content", [None, "empty"])
def test_a_folder_without_a_plan_is_no_run(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "run"
    if content:
        folder.mkdir()
    with pytest.raises(RunError, match=r"is no run: it has no plan\.arrow"):
        Run(folder)


def test_a_folder_that_cannot_be_written_to_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match="cannot be written to"):
        make_run(tmp_path / "file" / "run", 1)


def test_a_shard_without_record_fails(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing or damaged"):
        make_run(tmp_path, 1).record("train-000000")


def test_a_retry_plan_that_replaces_no_earlier_shard_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1)
    for name in ("plan-000.arrow", "plan-1.arrow", "plan-x.arrow"):  # names that no retry has
        (tmp_path / name).touch()
    assert run.retries == []
    write = partial(write_batches, run.store, [run.plan.batch(0)], {"retry": {"classes": None}}, "")
    write(retry=1)
    reseal(Plan(run.store, 1), retry="2")
    with pytest.raises(RunError, match=r"plan-001\.arrow is the plan of retry 2, not of 1"):
        _ = Run(tmp_path).retries
    (tmp_path / "plan-001.arrow").unlink()
    write(retry=1, replaces=["train-000001"])
    with pytest.raises(RunError, match=r"plan-001\.arrow is damaged: it replaces train-000001, which no plan before"):
        _ = Run(tmp_path).retries
