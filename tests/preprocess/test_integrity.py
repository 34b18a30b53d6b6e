"""`verify` passes an intact run, and names each problem of a damaged one."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import CorpusError, EnvironmentFailure, RunError
from datamodules.run.folder import Run
from datamodules.run.store import Folder
from preprocess.cli import main
from preprocess.integrity import coverage, plan_problems, verify
from support.keypoint_runs import MadeItems, make_run
from support.plans import files_of
from support.run_paths import record_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", MadeItems({"train": 4, "dev": 2}))
    return tmp_path / "run"


def test_a_sound_run_has_no_problems_and_exact_coverage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(folder)
    assert list(verify(run)) == []
    covered = coverage(run)
    assert covered.is_exact
    assert covered.committed + covered.failed == covered.planned == 6
    assert main(["verify", str(folder)]) == 0
    assert "everything is as it should be" in capsys.readouterr().out


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda f: _flip(f / "train-000000.tar"), "train-000000.tar: its content has changed (sha256 differs)"),
        (lambda f: _flip(f / "tables" / "dev-000000.parquet"), "tables/dev-000000.parquet: its content has changed"),
        (lambda f: (f / "train-000000.tar").unlink(), "train-000000.tar: missing"),
        (lambda f: (f / "train-000000.tar").write_bytes(b"123"), "train-000000.tar: 3 bytes instead of"),
        (lambda f: (f / "train-000009.tar").write_bytes(b""), "train-000009.tar: a stray file"),
        (lambda f: (f / "records" / "train-000000.json").unlink(), "are not done yet; rerun the same command"),
        (lambda f: (f / "records" / "train-000000.json").write_text("{"), "train-000000.json is missing or damaged"),
        (
            lambda f: (f / "records" / "more-000000.json").write_text("{"),
            "more-000000.json: a stray file, as no planned shard has this name",
        ),
    ],
)
def test_verify_names_what_is_wrong_and_exits_with_1(
    folder: Path, damage: Callable[[Path], object], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    assert any(problem in str(result) for result in verify(Run(folder)))
    assert main(["verify", str(folder)]) == 1
    assert problem in capsys.readouterr().out


def _rewrite_record(folder: Path, shard: str, **fields: Any) -> None:
    run = Run(folder)
    record_path(run, shard).write_text(replace(run.record(shard), **fields).to_json())


@pytest.mark.parametrize(
    "fields",
    [{"planned": 7}, {"committed": 1}, {"failed": 1}, {"failed": 1, "committed": 1}, {"failure_classes": {"io": 1}}],
)
def test_a_record_whose_counts_contradict_the_plan_or_itself_fails(folder: Path, fields: dict[str, object]) -> None:
    _rewrite_record(folder, "train-000000", **fields)
    assert not coverage(Run(folder)).is_exact


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"num_frames": 99}, "but 99 in the record"),
        ({"committed": 1, "failed": 1, "failure_classes": {"io": 1}}, "committed is 2, but 1 in the record"),
        ({"superseded_classes": {"io": 1}}, "superseded is 0, but 1 in the record"),
    ],
)
def test_a_record_whose_counts_contradict_its_table_fails(
    folder: Path, fields: dict[str, object], problem: str
) -> None:
    _rewrite_record(folder, "train-000000", **fields)
    result = next(verify(Run(folder)))
    assert str(result).startswith("tables/train-000000.parquet: ")
    assert str(result).endswith(problem)


def test_any_flipped_byte_of_a_record_is_reported(folder: Path) -> None:
    path = folder / "records" / "train-000000.json"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(RunError, match="missing or damaged"):
            Run(folder).record("train-000000")


def _failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, "as told")

    return fail


def test_an_unreadable_file_is_a_problem_of_its_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocess.integrity.sha256_of", _failing(errno.EIO))
    problems = [problem for problem in verify(Run(folder)) if problem.damaged]
    assert len(problems) == 2 * len(Run(folder).plan.shards)
    assert str(problems[0]) == "train-000000.tar: cannot be read: as told"


def test_a_file_without_read_permission_stops_verify_and_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.integrity.sha256_of", _failing(errno.EACCES))
    with pytest.raises(EnvironmentFailure, match=r"train-000000\.tar cannot be read: as told\. Fix that"):
        list(verify(Run(folder)))


def test_a_tar_that_cannot_be_listed_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_tar(*_: object, **__: object) -> None:
        raise CorpusError("no tar")

    monkeypatch.setattr("preprocess.integrity.read_members", no_tar)
    assert "train-000000: its table or tar cannot be read: no tar" in map(str, verify(Run(folder)))


def test_any_flipped_byte_of_a_plan_is_reported_before_it_is_opened(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Folder(folder)
    for path in files_of(Run(folder).plan):
        content = path.read_bytes()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert plan_problems(store), place
        path.write_bytes(content[:-1])
        assert main(["verify", str(folder)]) == 1
        assert "has changed (sha256 differs)" in capsys.readouterr().out
        path.write_bytes(content)
    assert plan_problems(store) == []
