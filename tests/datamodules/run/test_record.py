import json
import os
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import RunError
from datamodules.run import record as record_module
from datamodules.run.commit import finalize_all
from datamodules.run.folder import Run
from datamodules.run.rank import Rank
from datamodules.run.reader import CommittedSamples
from datamodules.run.store import Store
from preprocess.integrity import strays
from support.retry_runs import do, make_failing_run, open_retry
from support.run_paths import folder_of, path_of, record_path
from support.runs import listing, make_run, tars, work

SHARD = "train-000000"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path / "run", 4)
    work(folder_of(run))
    return Run(folder_of(run))


def rewrite(run: Run, fields: Any, of: Any = SHARD) -> None:
    """Change fields of a record, with the right digest; `tar__name` is the name of the tar."""
    document = json.loads(record_path(run, of).read_text())
    del document["sha256"]
    for name, value in fields.items():
        *outer, name = name.split("__")
        (document[outer[0]] if outer else document)[name] = value
    record_path(run, of).write_text(record_module._with_digest(document))


def move_back_to_staging(run: Run, shard: Any) -> None:
    """Move the files of a shard to where a rank leaves them that dies right after the commit."""
    rank = record_module.read_record(run.store, shard).rank
    (run.work / "staging").mkdir(exist_ok=True)
    for file in (run.tar_file(shard), run.table_file(shard)):
        os.rename(path_of(file), folder_of(run) / file.staged(rank))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"shard": "train-000001"}, "shard is 'train-000001', not 'train-000000'"),
        ({"shard": "../../x"}, "shard is '../../x', not"),
        ({"tar__name": "../bashrc"}, "tar.name is '../bashrc', not 'train-000000.tar'"),
        ({"tar__name": "/etc/passwd"}, "tar.name is '/etc/passwd', not"),
        ({"tar__name": "train-000000.tar\0"}, "tar.name is 'train-000000.tar\\x00', not"),
        ({"table__name": "../bashrc"}, "table.name is '../bashrc', not 'tables/train-000000.parquet'"),
        ({"attempt": "../../x"}, "attempt is '../../x', not 'train-000000."),
        (
            {"attempt": f"{SHARD}.a/../../x", "rank": "a/../../x"},
            "rank is 'a/../../x', which is not the name of a rank",
        ),
        ({"attempt": f"{SHARD}..", "rank": "."}, "rank is '.', which is not the name"),
        ({"replaces": "../bashrc"}, "replaces '../bashrc', in the plan None"),
        ({"replaces": "train-000001"}, "replaces 'train-000001', in the plan None"),
        ({"planned": 7}, "planned is 7, not 4"),
        ({"committed": -1, "planned": -1}, "committed is -1, not int"),
        ({"committed": "4"}, "committed is '4', not int"),
        ({"statuses": {"ok": 1.5}}, "statuses.ok is 1.5, not int"),
        ({"statuses": ["ok"]}, "statuses is list, not dict"),
        ({"seconds": float("inf")}, "seconds is inf, not float"),
        ({"tar": "train-000000.tar"}, "tar is 'train-000000.tar', not an object"),
        ({"tar__sha256": "0"}, "the sha256 of train-000000.tar is '0', not 64"),
        ({"more": 1}, "more is not a known field"),
    ],
)
def test_a_record_that_contradicts_its_shard_fails_in_one_line(run: Run, fields: dict[str, Any], problem: str) -> None:
    rewrite(run, fields)
    with pytest.raises(RunError, match=r"^the record .*train-000000\.json is (missing or )?damaged") as caught:
        run.record(SHARD)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"machine": ' * 900 + "0" + "}" * 900, "[]", "1", "", "\udcff"])
def test_a_file_that_is_not_a_record_fails_in_one_line(run: Run, text: str) -> None:
    record_path(run, SHARD).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"^the record .* is missing or damaged \([^\n]*\); run `preprocess verify`$"):
        run.record(SHARD)


@pytest.mark.parametrize(
    "fields",
    [
        {"tar__name": "../victim"},
        {"table__name": "../victim"},
        {"replaces": "../victim"},
        {"rank": "x/../../../../victim", "attempt": f"{SHARD}.x/../../../../victim"},
    ],
)
def test_a_record_that_names_a_file_elsewhere_moves_nothing(run: Run, tmp_path: Path, fields: dict[str, str]) -> None:
    for name in ("victim", "victim.tar", "victim.parquet"):
        (tmp_path / name).write_text("mine")
    move_back_to_staging(run, SHARD)
    rewrite(run, fields)
    before = listing(tmp_path)
    with pytest.raises(RunError, match="damaged"):
        finalize_all(Run(folder_of(run)))
    assert listing(tmp_path) == before
    with pytest.raises(RunError, match="damaged"), Rank(Run(folder_of(run))):
        pass
    assert all((tmp_path / name).read_text() == "mine" for name in ("victim", "victim.tar", "victim.parquet"))


def test_a_record_of_an_unplanned_shard_is_ignored_and_moves_nothing(run: Run) -> None:
    os.rename(folder_of(run) / f"{SHARD}.tar", run.work / "staging" / "stranger-000000.x.tar")
    record_path(run, "stranger-000000").write_text(record_path(run, SHARD).read_text())
    names = {"shard": "stranger-000000", "tar__name": "stranger-000000.tar", "rank": "x"}
    rewrite(
        run, {**names, "table__name": "tables/stranger-000000.parquet", "attempt": "stranger-000000.x"}, names["shard"]
    )
    record_path(run, SHARD).unlink()
    assert Run(folder_of(run)).committed() == set()
    assert finalize_all(Run(folder_of(run)))
    assert not (folder_of(run) / "stranger-000000.tar").exists()
    problems = [str(problem) for problem in strays(run.store, [("records", ".json")])]
    assert problems == ["records/stranger-000000.json: a stray file, as no planned shard has this name"]


def test_samples_are_read_where_the_files_are_and_nothing_is_moved(run: Run) -> None:
    samples = list(CommittedSamples(run))
    move_back_to_staging(run, SHARD)
    before = listing(folder_of(run))
    assert list(CommittedSamples(Run(folder_of(run)))) == samples
    assert listing(folder_of(run)) == before
    assert tars(folder_of(run)) == {}


def test_samples_of_a_retry_that_was_cut_off_are_read_where_they_are(tmp_path: Path) -> None:
    folder = make_failing_run(tmp_path / "run", ["train/a", "train/b-cut-once", "train/c-bad-once"])
    do(open_retry(folder, "truncated"))
    samples = list(CommittedSamples(Run(folder)))
    move_back_to_staging(Run(folder), "train-retry001-000000")
    os.rename(folder / "superseded" / f"{SHARD}.tar", folder / f"{SHARD}.tar")
    before = listing(folder)
    assert list(CommittedSamples(Run(folder))) == samples
    assert listing(folder) == before


def test_a_file_that_is_moved_while_it_is_looked_for_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (folder_of(run) / f"{SHARD}.tar").read_bytes()
    move_back_to_staging(run, SHARD)
    read_record = record_module.read_record

    def finalized_before(store: Store, shard: Any) -> Any:
        record = read_record(store, shard)
        finalize_all(Run(store))
        return record

    monkeypatch.setattr(record_module, "read_record", finalized_before)
    with run.tar_file(SHARD).open() as tar:
        assert tar.read() == content


def test_a_missing_tar_fails(run: Run) -> None:
    (folder_of(run) / f"{SHARD}.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000000\.tar"):
        run.tar_file(SHARD).open()
