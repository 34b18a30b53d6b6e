"""Runs, planning and retries with a fault at calls that change a file, and at pairs of such calls."""

import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datamodules.run.cleanup import clean_up
from datamodules.run.failures import failures
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from preprocess.integrity import verify
from support.fault_injection import KILL, attempt, in_forker, kinds_of_error, number_of_calls
from support.retry_runs import KEYS, do, make_failing_run, open_retry
from support.run_paths import path_of
from support.runs import finish, make_run, tars, work

ITEMS, PER_SHARD = 4, 2
# by default every tenth call, with another offset for kills than for errors; all calls take 71 s and are marked slow
STEPS = pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
KILLS = pytest.mark.parametrize("is_kill", [True, False], ids=["kill", "error"])
EXPLAINED = ("EnvironmentFailure", "RunError", "OSError", "FileNotFoundError")


def plan(folder: Path) -> None:
    make_run(folder, ITEMS, PER_SHARD)


def run_alone(folder: Path) -> None:
    work(folder)
    clean_up(Run(folder))


def run_as_two(folder: Path) -> None:
    run = Run(folder)
    with Rank(run) as one, Rank(run, position=0.5) as other:
        while not (one.finished() and other.finished()):
            for rank in (one, other):
                if opened := rank.lease():
                    finish(rank, opened)
    clean_up(run)


def problems_between(folder: Path, tars_without_faults: dict[str, bytes]) -> Iterator[str]:
    """Yield what is wrong between two attempts: a visible tar has a record, a table, and the bytes without faults."""
    run = Run(folder)
    for name, content in tars(folder).items():
        if not run.is_committed(name.removesuffix(".tar")):
            yield f"{name} shows without a record"
        elif content != tars_without_faults[name]:
            yield f"{name} has other bytes"
        elif not path_of(run.table_file(name.removesuffix(".tar"))).exists():
            yield f"{name} shows without its table"


def problems_at_the_end(folder: Path, tars_without_faults: dict[str, bytes]) -> Iterator[str]:
    """Yield what is wrong at the end: the run has the files of a run without faults, and no others."""
    yield from map(str, verify(Run(folder)))
    if tars(folder) != tars_without_faults:
        yield f"not the tars of a quiet run: {list(tars(folder))}"
    left = [*folder.glob(".*"), *(path for path in (folder / "work").rglob("*") if path.is_file())]
    yield from (f"left: {path}" for path in left)


def run_with_faults(planned: Path, folder: Path, tars_without_faults: dict[str, bytes], *faults: Any) -> None:
    """Attempt a run once per fault (call, kind), then once without a fault, and check it after every attempt."""
    shutil.copytree(planned, folder)
    for number, (at, fault) in enumerate(faults):
        _, raised = attempt((run_alone, run_as_two)[number % 2], folder, at=at, fault=fault)
        assert raised in ("", "killed") or raised.startswith(EXPLAINED), (faults, raised)
        assert (faults, list(problems_between(folder, tars_without_faults))) == (faults, [])
    _, raised = attempt((run_as_two, run_alone)[faults[0][0] % 2], folder)
    assert (faults, raised, list(problems_at_the_end(folder, tars_without_faults))) == (faults, "", [])
    shutil.rmtree(folder)


def quiet_run(folder: Path) -> tuple[Path, dict[str, bytes], int]:
    """Return (a planned folder, the tars of its run, the number of calls that the run makes)."""
    plan(folder / "planned")
    for name in ("quiet", "counted"):
        shutil.copytree(folder / "planned", folder / name)
    run_alone(folder / "quiet")  # in this process, so that not every attempt imports modules at first use
    return folder / "planned", tars(folder / "quiet"), number_of_calls(run_alone, folder / "counted")


def chosen(calls: int, is_kill: bool, step: int) -> range:
    """Return the numbers of every `step`-th call, from 1."""
    return range(1 + is_kill % step, calls + 1, step)


def fault_at_every_call(folder: Path, is_kill: bool, step: int) -> None:
    planned, tars_without_faults, calls = quiet_run(folder)
    assert calls > 50
    for at in chosen(calls, is_kill, step):
        run_with_faults(planned, folder / "run", tars_without_faults, (at, KILL if is_kill else kinds_of_error(at)))


def fault_at_pairs_of_calls(folder: Path, count: int) -> None:
    planned, tars_without_faults, calls = quiet_run(folder)
    pairs = [(first, second) for first in range(1, calls + 1) for second in range(1, calls + 1)]
    for first, second in random.Random(0).sample(pairs, count or len(pairs)):
        kinds = (KILL, kinds_of_error(first)) if second % 3 == 0 else (KILL, KILL)
        run_with_faults(planned, folder / "run", tars_without_faults, (first, kinds[0]), (second, kinds[1]))


def fault_at_every_call_of_planning(folder: Path, is_kill: bool, step: int) -> None:
    quiet_run(folder)
    expected = Run(folder / "quiet").plan.listing
    calls = number_of_calls(plan, folder / "counted again")
    assert calls > 15
    for at in chosen(calls, is_kill, step):
        run = folder / str(at)
        _, raised = attempt(plan, run, at=at, fault=KILL if is_kill else kinds_of_error(at))
        assert raised in ("", "killed") or raised.startswith("EnvironmentFailure"), (at, raised)
        for function in (plan, run_alone):
            _, raised = attempt(function, run)
            assert (at, raised) == (at, "")
        assert Run(run).plan.listing == expected
        assert (at, list(problems_at_the_end(run, tars(run)))) == (at, [])


@STEPS
@KILLS
def test_a_run_with_a_fault_at_any_call_resumes_to_the_same_bytes(tmp_path: Path, is_kill: bool, step: int) -> None:
    in_forker(fault_at_every_call, tmp_path, is_kill, step)


def test_a_run_with_faults_at_two_calls_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    in_forker(fault_at_pairs_of_calls, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_with_faults_at_any_two_calls_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    in_forker(fault_at_pairs_of_calls, tmp_path, None)


@STEPS
@KILLS
def test_planning_with_a_fault_at_any_call_ends_in_the_same_plan(tmp_path: Path, is_kill: bool, step: int) -> None:
    in_forker(fault_at_every_call_of_planning, tmp_path, is_kill, step)


def retry_and_clean_up(folder: Path) -> None:
    do(open_retry(folder))
    clean_up(Run(folder))


def retry_samples_and_clean_up(folder: Path) -> None:
    do(open_retry(folder, "truncated"))
    clean_up(Run(folder))


def keys_twice(folder: Path) -> list[str]:
    """Return the keys that a stock reader would read more than once."""
    keys: Counter[str] = Counter()
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            keys.update(name for name in tar.getnames() if name.endswith(".json"))
    return [key for key, count in keys.items() if count > 1]


def retry_at_every_call(
    folder: Path, is_kill: bool, step: int, keys: Any, retry_and_clean_up: Any, classes: Any
) -> None:
    make_failing_run(folder / "failed", keys)
    clean_up(Run(folder / "failed"))
    shutil.copytree(folder / "failed", folder / "quiet")
    calls = number_of_calls(retry_and_clean_up, folder / "quiet")
    tars_without_faults = tars(folder / "quiet")
    ever = {**tars(folder / "failed"), **tars_without_faults}
    assert calls > 20, calls
    for at in chosen(calls, is_kill, step):
        run = folder / str(at)
        shutil.copytree(folder / "failed", run)
        _, raised = attempt(retry_and_clean_up, run, at=at, fault=KILL if is_kill else kinds_of_error(at))
        assert raised in ("", "killed") or raised.startswith(EXPLAINED), (at, raised)
        assert (at, list(problems_between(run, ever)), keys_twice(run)) == (at, [], [])
        if any(failures(Run(run), classes)):
            _, raised = attempt(retry_and_clean_up, run)
        assert (at, raised if raised.startswith("Run") else "") == (at, "")
        clean_up(Run(run))
        problems = list(problems_at_the_end(run, tars_without_faults))
        assert (at, problems) == (at, []), (at, problems)


@STEPS
@KILLS
def test_a_retry_with_a_fault_at_any_call_resumes_to_the_same_bytes(tmp_path: Path, is_kill: bool, step: int) -> None:
    in_forker(retry_at_every_call, tmp_path, is_kill, step, KEYS[:3], retry_and_clean_up, ())


@STEPS
@KILLS
def test_a_retry_of_samples_with_a_fault_at_any_call_resumes_to_the_same_bytes(
    tmp_path: Path, is_kill: bool, step: int
) -> None:
    keys = ["train/a", "train/b-cut-once", "train/c-bad-once"]
    in_forker(retry_at_every_call, tmp_path, is_kill, step, keys, retry_samples_and_clean_up, ("truncated",))
