"""Merges and exports with a fault at every call that changes a file: the result is whole or missing."""

import shutil
from pathlib import Path

import pytest

from datamodules.run.folder import Run
from preprocess.commands.merge import merge
from preprocess.export.format import export
from preprocess.integrity import verify
from support.fault_injection import KILL, attempt, in_forker, kinds_of_error, number_of_calls
from support.keypoint_runs import MadeItems, make_run
from support.runs import make_run as make_empty_run
from support.runs import some_items, tars, work

SPLITS = ("train", "dev")
# by default every third call, with another offset for kills than for errors
STEPS = pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
KILLS = pytest.mark.parametrize("is_kill", [True, False], ids=["kill", "error"])


def merge_at_every_call(folder: Path, is_kill: bool, step: int) -> None:
    parts = [folder / split for split in SPLITS]
    for part in parts:
        make_empty_run(part, some_items(2, part.name), 2)
        work(part)
    merge(parts, folder / "quiet")
    whole, before = tars(folder / "quiet"), [tars(part) for part in parts]
    calls = number_of_calls(merge, parts, folder / "counted")
    assert calls > 15
    for at in range(1 + is_kill % step, calls + 1, step):
        dest = folder / str(at) / "merged"
        _, raised = attempt(merge, parts, dest, at=at, fault=KILL if is_kill else kinds_of_error(at))
        assert raised in ("", "killed") or raised.startswith("EnvironmentFailure"), (at, raised)
        if dest.exists():
            shutil.rmtree(folder / "seen", ignore_errors=True)
            dest.rename(folder / "seen")
            assert (at, list(verify(Run(folder / "seen")))) == (at, [])
        assert is_kill or not dest.parent.exists() or list(dest.parent.iterdir()) == []
        _, raised = attempt(merge, parts, dest)
        assert (at, raised, list(verify(Run(dest)))) == (at, "", [])
        assert tars(dest) == whole
        assert [tars(part) for part in parts] == before


def export_at_every_call(folder: Path, is_kill: bool, step: int) -> None:
    make_run(folder / "run", MadeItems(dict.fromkeys(SPLITS, 2)))
    whole = [path.read_bytes() for path in export(folder / "run", "parquet", folder / "quiet")]
    calls = number_of_calls(export, folder / "run", "parquet", folder / "counted")
    assert calls >= 2 * len(SPLITS)
    for at in range(1 + is_kill % step, calls + 1, step):
        dest = folder / str(at)
        args = (folder / "run", "parquet", dest)
        _, raised = attempt(export, *args, at=at, fault=KILL if is_kill else kinds_of_error(at))
        assert raised in ("", "killed") or raised.startswith("EnvironmentFailure"), (at, raised)
        shown = sorted(dest.glob("[!.]*")) if dest.exists() else []
        assert raised != "killed" or len(shown) < len(SPLITS)
        assert not raised.startswith("EnvironmentFailure") or list(dest.glob("*")) == [], (at, shown)
        for path in shown:
            assert path.read_bytes() in whole, (at, path)
            path.unlink()
        _, raised = attempt(export, *args)
        assert (at, raised) == (at, "")
        assert [(dest / f"{split}.parquet").read_bytes() for split in SPLITS] == whole


@STEPS
@KILLS
def test_a_merge_with_a_fault_at_any_call_is_whole_or_missing_and_can_be_repeated(
    tmp_path: Path, is_kill: bool, step: int
) -> None:
    in_forker(merge_at_every_call, tmp_path, is_kill, step)


@STEPS
@KILLS
def test_an_export_with_a_fault_at_any_call_leaves_whole_files_only_and_can_be_repeated(
    tmp_path: Path, is_kill: bool, step: int
) -> None:
    in_forker(export_at_every_call, tmp_path, is_kill, step)
